"""The two ONNX graphs against arithmetic written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.small_policy import ABOUT, HIGH, LOW, rows, small_policy, written_out
from tskd_ray.export.layers import constants, layers
from tskd_ray.export.onnx_graph import float_onnx, int8_onnx, quantized
from tskd_ray.export.runtimes import Act, onnx_policy
from tskd_ray.models.policy import Policy


def run_float(policy: Policy, folder: Path) -> Act:
    (folder / "policy.onnx").write_bytes(float_onnx(policy, ABOUT))
    return onnx_policy(folder / "policy.onnx")


def run_int8(policy: Policy, folder: Path) -> Act:
    (folder / "policy.onnx").write_bytes(int8_onnx(policy, ABOUT, rows(500)))
    return onnx_policy(folder / "policy.onnx")


@pytest.mark.parametrize("hidden", [(), (16,), (16, 24)])
@pytest.mark.parametrize("n", [1, 5])
def test_onnx_takes_raw_observations_in_any_batch(
    hidden: tuple[int, ...], n: int, tmp_path: Path
) -> None:
    policy, x = small_policy(hidden), rows(n)
    actions = run_float(policy, tmp_path)(x)
    np.testing.assert_allclose(actions, written_out(policy, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [run_float, run_int8])
def test_actions_stay_within_the_bounds_and_no_number_stays_none(
    make: object, tmp_path: Path
) -> None:
    policy = small_policy()
    with torch.no_grad():
        policy.network.weights[-1].mul_(1e4)
    act = run_float(policy, tmp_path) if make is run_float else run_int8(policy, tmp_path)
    actions = act(rows(50))
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()
    assert (actions == LOW).any()
    if make is run_float:
        assert np.isnan(act(np.full((1, 3), np.nan))).all()


@pytest.mark.parametrize("eight_bits", [False, True])
def test_a_file_is_the_same_bytes_every_time_and_says_where_it_is_from(
    eight_bits: bool,
) -> None:
    policy = small_policy()

    def made() -> bytes:
        if eight_bits:
            return int8_onnx(policy, ABOUT, rows(50))
        return float_onnx(policy, ABOUT)

    assert made() == made()
    model = onnx.load_from_string(made())
    assert {prop.key: prop.value for prop in model.metadata_props} == ABOUT.items()
    assert [opset.version for opset in model.opset_import] == [17]
    (port,) = model.graph.input
    assert port.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_eight_bits_are_the_arithmetic_of_integers_written_out(tmp_path: Path) -> None:
    policy, x = small_policy(), rows(40)
    act, seen = run_int8(policy, tmp_path), policy.observation.normalize(rows(500))
    h = policy.observation.normalize(x).astype(np.float64)
    for number, (weight, bias) in enumerate(layers(policy)):
        stored, scale = quantized(weight)
        signed = stored.astype(np.int64) - 128
        if number == 0:
            h = h @ (signed * scale.astype(np.float64)) + bias
        else:
            step = float(np.float32(seen.max() / 255))
            whole = np.clip(np.rint(h / step), 0, 255).astype(np.int64)
            h = (whole @ signed) * (step * scale.astype(np.float64)) + bias
        h = np.maximum(h, 0) if number < 2 else np.tanh(h)
        seen = np.maximum(seen @ weight + bias, 0)
    half, centre = (HIGH - LOW) / 2, (HIGH + LOW) / 2
    different = np.abs(act(x) - (h * half + centre)) / half
    # An activation at the middle between two bytes may go either way.
    assert np.quantile(different, 0.8) < 1e-5
    assert different.max() < 0.02
    assert np.abs(act(x) - written_out(policy, x)).max() < 0.05


def test_eight_bits_of_a_row_do_not_depend_on_the_others(tmp_path: Path) -> None:
    act, x = run_int8(small_policy(), tmp_path), rows(20)
    alone = np.concatenate([act(row[None]) for row in x])
    np.testing.assert_allclose(act(x), alone, rtol=0, atol=1e-6)


def test_a_layer_that_never_fires_is_kept(tmp_path: Path) -> None:
    policy = small_policy((8, 8))
    with torch.no_grad():
        policy.network.biases[0].fill_(-1e6)
        policy.network.weights[1].zero_()
    np.testing.assert_allclose(
        run_int8(policy, tmp_path)(rows(5)), written_out(policy, rows(5)), atol=0.05
    )


def test_weights_are_within_half_a_step_and_zero_stays_zero() -> None:
    weight = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    weight[:, 3], weight[5] = 0, 0
    stored, scale = quantized(weight)
    back = (stored.astype(np.float64) - 128) * scale
    assert stored.dtype == np.uint8
    assert (np.abs(back - weight) <= 0.5001 * scale).all()
    assert (np.abs(stored.astype(int) - 128).max(axis=0)[[0, 1, 2, 4, 5, 6]] == 127).all()
    assert (back[:, 3] == 0).all()
    assert (back[5] == 0).all()


def test_a_mean_far_from_zero_keeps_its_digits() -> None:
    parts = constants(small_policy())
    total = parts["mean"].astype(np.float64) + parts["mean_rest"]
    assert (parts["mean_rest"] != 0).any()
    np.testing.assert_allclose(total, small_policy().observation.mean_, rtol=1e-13)
