"""Training by several processes: one process's weights, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusion.small_teacher import teacher_config, world
from tskd_ray.config.schema import ComputeConfig, Config, GenerateConfig, SamplerConfig
from tskd_ray.distributed import train
from tskd_ray.distributed.train import train_together
from tskd_ray.errors import StageError
from tskd_ray.models.ranks import Ranks
from tskd_ray.models.threads import torch_threads
from tskd_ray.pipeline.diffusers import fit_diffuser
from tskd_ray.progress import Progress, silent

# Ray Train copies all options of Ray Data, deprecated ones too.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
TWO = ComputeConfig(training_workers=2, max_attempts=2)
CONFIG = Config(
    teacher=teacher_config(steps=30),
    generate=GenerateConfig(sampler=SamplerConfig(name="ddim", steps=5)),
    compute=TWO,
)
TOLERANCE = 1e-4
"""Root mean square, of weights of size 0.1: halves of a batch are summed in another order, and
where a gradient is next to nothing, Adam makes a whole step of its sign."""


@pytest.fixture(autouse=True, scope="module")
def _by_value() -> Iterator[None]:
    """Workers cannot import a test module, so its functions travel whole."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def fit_and_die(*, victim: int | str | None, ranks: Ranks, **arguments: Any) -> Any:
    """`fit_diffuser` that keeps each state; once at step 20 a process is killed.

    If the victim is the driver, the first process waits there to be killed with it.
    """
    from tskd_ray.models import fit

    fit.SAVE_EVERY_SECONDS = 0.0
    mark = arguments["resume"] / "killed"
    usual = fit.learning_rate

    def rate(settings: Any, step: int) -> float:
        if step == 20 and ranks.rank == victim and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 20 and (ranks.rank, victim) == (0, "driver") and not mark.exists():
            mark.touch()
            time.sleep(600)
        return usual(settings, step)

    fit.learning_rate = rate
    return fit_diffuser(ranks=ranks, **arguments)


def together(
    folder: Path, victim: int | str | None, progress: Progress = silent
) -> tuple[Any, Any]:
    arguments = {"kind": "ddr1", "config": CONFIG, "recorded": world(), "resume": folder}
    (diffuser, curve), cpu_seconds = train_together(
        fit_and_die, {**arguments, "victim": victim}, TWO, folder=folder, progress=progress
    )
    assert cpu_seconds > 0
    return diffuser.model.state_dict(), curve


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    told: list[tuple[int, int]] = []
    result = together(
        tmp_path_factory.mktemp("two"),
        None,
        lambda done, total, **_: told.append((done, total)),
    )
    assert all(total == 30 for _, total in told)
    return result


def test_two_processes_end_with_the_weights_of_one(undisturbed: Any, tmp_path: Path) -> None:
    with torch_threads(1):
        alone, curve = fit_diffuser(
            kind="ddr1", config=CONFIG, recorded=world(), resume=tmp_path, device="cpu"
        )
    weights, losses = undisturbed
    for name, value in alone.model.state_dict().items():
        assert (weights[name] - value).square().mean().sqrt() < TOLERANCE
    np.testing.assert_allclose(losses, curve, rtol=1e-3)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_changes_no_byte(
    undisturbed: Any, victim: int, tmp_path: Path
) -> None:
    weights, losses = together(tmp_path, victim)
    assert (tmp_path / "killed").exists()
    assert losses == undisturbed[1]
    for name, value in undisturbed[0].items():
        assert torch.equal(weights[name], value)


DRIVER = """
import sys
from pathlib import Path
import ray
from distributed import test_train
from ray import cloudpickle
cloudpickle.register_pickle_by_value(test_train)
ray.init(log_to_driver=False)
test_train.together(Path(sys.argv[1]), "driver")
"""


def test_a_killed_driver_changes_no_byte_when_it_is_started_again(
    undisturbed: Any, tmp_path: Path
) -> None:
    import ray

    variables = {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], env={**os.environ, **variables}
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed").exists():
        assert driver.poll() is None, "ended before step 20"
        assert time.monotonic() < deadline, "never came to step 20"
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    assert list(tmp_path.glob("*.safetensors")), "nothing to resume from"
    weights, losses = together(tmp_path, "driver")
    assert losses == undisturbed[1]
    for name, value in undisturbed[0].items():
        assert torch.equal(weights[name], value)


def fail(*, error: str, ranks: Ranks, device: str, progress: Progress) -> None:
    raise StageError(error)


def count(*, ranks: Ranks, device: str, progress: Progress) -> int:
    for step in range(4):
        progress(step + 1, 4)
        time.sleep(0.6)
    return 7


class Dying(train._Desk):
    """A desk that is lost at its first word; started anew, it knows of it."""

    mark: Path

    def tell(self, done: int, total: int, metrics: dict[str, float]) -> None:
        if not self.mark.exists():
            self.mark.touch()
            os._exit(1)
        super().tell(done, total, metrics)


def test_a_lost_desk_loses_no_training(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(Dying, "mark", tmp_path / "lost", raising=False)
    monkeypatch.setattr(train, "_Desk", Dying)
    once = ComputeConfig(training_workers=1, max_attempts=1)
    answer, _ = train_together(
        count, {}, once, folder=tmp_path, progress=lambda done, *_, **__: told.append(done)
    )
    assert answer == 7
    assert (tmp_path / "lost").exists()
    assert told, "the one that took its place was not asked"


def test_what_fails_before_the_group_starts_is_told(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no such folder")

    monkeypatch.setattr("ray.train.torch.TorchTrainer", refuse)
    with pytest.raises(StageError, match="the last one: no such folder"):
        train_together(count, {}, TWO, folder=tmp_path, progress=silent)


def test_an_error_of_the_work_is_told_as_it_is(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the loss is infinite"):
        train_together(
            fail, {"error": "the loss is infinite"}, TWO, folder=tmp_path, progress=silent
        )
