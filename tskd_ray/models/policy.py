"""The student: a small policy that carries its own normalisation (docs/algorithm.md).

N rows · S observation dim · A action dim
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tskd_ray.errors import StageError
from tskd_ray.models.checkpoint import open_model, save_model
from tskd_ray.models.mlp import BatchedMLP, predict
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float32Array, FloatArray

KIND = "policy"
ONNX_TOLERANCE = 1e-4
"""Largest difference from torch that an exported file may show, in units of the action."""


@dataclass(frozen=True, eq=False)
class Policy:
    """An MLP from standardised observations through tanh to the action bounds."""

    network: BatchedMLP  # of one member
    observation: Standardizer
    low: Float32Array  # (A,)
    high: Float32Array  # (A,)
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    """What made it, such as its dataset, seed and step; JSON."""

    def act(self, observations: FloatArray) -> Float32Array:
        """Actions (N, A) within the bounds for observations (N, S) in raw units.

        A row's action depends on that row alone, to the last bit.
        """
        scaled = np.tanh(predict(self.network, self.observation.normalize(observations))[0])
        return unscale_actions(scaled, self.low, self.high)

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`."""
        tensors = {
            **self.network.tensors("network."),
            **self.observation.tensors("observation"),
            "low": self.low,
            "high": self.high,
        }
        save_model(folder, tensors, {"kind": KIND, "details": self.details})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a checkpoint folder.

        Raises:
            DataError: If it holds no policy.
        """
        with open_model(folder, KIND) as (tensors, config):
            network = BatchedMLP.from_tensors(tensors, "network.")
            observation = Standardizer.from_tensors(tensors, "observation")
            low, high = (tensors[name].numpy() for name in ("low", "high"))
            if not (
                network.n_members == 1
                and network.widths[0] == len(observation.mean_)
                and (network.widths[-1],) == low.shape == high.shape
            ):
                raise ValueError("network, normalisation and bounds have other widths")
            return cls(network, observation, low, high, config["details"])


def students_forward(network: BatchedMLP, observations: Tensor) -> Tensor:
    """Actions in [−1, 1], (M, B, A), of M students on standardised observations (M, B, S)."""
    return torch.tanh(network(observations))


def unscale_actions(scaled: FloatArray, low: FloatArray, high: FloatArray) -> Float32Array:
    """From [−1, 1] to the bounds, which rounding may not leave."""
    actions = scaled * ((high - low) / 2) + (low + high) / 2
    return np.clip(actions, low, high).astype(np.float32)


def export_onnx(policy: Policy, path: Path) -> float:
    """Write the policy as one ONNX file: float32 observations (batch, S) to actions (batch, A).

    The graph is written node by node: with a normalisation, a few matrix products and a tanh,
    that is shorter than driving an exporter, and the file is the same bytes every time.

    Returns:
        The largest difference from `act` on a thousand observations from the training range.

    Raises:
        StageError: If the file's actions differ by more than `ONNX_TOLERANCE`.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    constants: dict[str, FloatArray] = {
        "mean": policy.observation.mean_,
        "std": policy.observation.std_,
        "half": (policy.high - policy.low) / 2,
        "centre": (policy.low + policy.high) / 2,
    }
    nodes = [
        helper.make_node("Sub", ["observations", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["x0"]),
    ]
    depth = len(policy.network.weights)
    for layer in range(depth):
        constants[f"weight{layer}"] = policy.network.weights[layer][0].detach().numpy()
        constants[f"bias{layer}"] = policy.network.biases[layer][0, 0].detach().numpy()
        activation = "Relu" if layer < depth - 1 else "Tanh"
        nodes += [
            helper.make_node("MatMul", [f"x{layer}", f"weight{layer}"], [f"product{layer}"]),
            helper.make_node("Add", [f"product{layer}", f"bias{layer}"], [f"sum{layer}"]),
            helper.make_node(activation, [f"sum{layer}"], [f"x{layer + 1}"]),
        ]
    nodes += [
        helper.make_node("Mul", [f"x{depth}", "half"], ["spread"]),
        helper.make_node("Add", ["spread", "centre"], ["actions"]),
    ]

    def port(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

    observation_dim, action_dim = len(policy.observation.mean_), len(policy.low)
    graph = helper.make_graph(
        nodes,
        "policy",
        [port("observations", observation_dim)],
        [port("actions", action_dim)],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in constants.items()],
    )
    # IR 8 and opset 17 are what runtimes of the last years all read; nothing newer is used.
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="tskd_ray",
    )
    onnx.checker.check_model(model, full_check=True)
    rng = numpy_rng(0, "onnx-check")
    rows = policy.observation.unnormalize(rng.normal(size=(1000, observation_dim)))
    rows = rows.astype(np.float32)
    outputs: Any = ReferenceEvaluator(model).run(None, {"observations": rows})
    difference = float(np.abs(outputs[0] - policy.act(rows)).max())
    if not difference <= ONNX_TOLERANCE * max(1.0, float(constants["half"].max())):
        raise StageError(
            f"An exported policy must act as the original within {ONNX_TOLERANCE}. {path} is "
            f"off by {difference:.2g}. Nothing was written; please report this."
        )
    path.write_bytes(model.SerializeToString())
    return difference
