"""What tests of several folders share: a local Ray cluster, a whole run to compare with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Before torch is loaded, which reads it once. The networks of tests are too small for two
# threads, which would wait for each other: for minutes, where other work holds a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from pipeline.tiny import tiny_config
from tskd_ray.config.schema import ComputeConfig
from tskd_ray.pipeline.run import RunResult, run

# A test that names a dataset that does not exist must not ask the network, and retry, for it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# An example that takes long tells of a busy machine, not of a bug.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


DEFAULT = "not slow and not cluster and not gpu"  # -m, as pyproject.toml has it
SHARED = re.compile(r"\b(ray_cluster|three_workers|undisturbed)\b")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The default suite is shared by processes; what is chosen from it has this one, at once.

    Three at most: those of the cluster take one as long as all others together take two. And
    tests that kill nodes or take minutes want the machine for themselves.
    """
    whole = config.args == config.getini("testpaths") and config.option.markexpr == DEFAULT
    cores = len(os.sched_getaffinity(0))
    return min(3, cores) if whole and cores > 1 else 0


class ByFile(LoadFileScheduling):
    """A file's tests have one process, and so have all that share the cluster or the run."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "shared" if shares(file) else file


@cache
def shares(file: str) -> bool:
    """Whether its tests use what is dear to make, below."""
    return SHARED.search((Path(__file__).parents[1] / file).read_text()) is not None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A cluster of three CPUs, whatever the machine has; `session` finds it and leaves it."""
    from tskd_ray.distributed.session import quiet_environment, start_options

    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("RAY_ADDRESS", raising=False)
        # by default workers have what other work leaves, and waits that are bounded pass
        environment.setenv("RAY_worker_niceness", "0")
        quiet_environment()
        import ray

        ray.init(num_cpus=3, object_store_memory=200 << 20, **start_options())
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A local run of the tiny configuration, never killed."""
    return run(tiny_config(tmp_path_factory.mktemp("local")))


@pytest.fixture
def three_workers(ray_cluster: None) -> ComputeConfig:
    return ComputeConfig(mode="ray", workers=3, max_attempts=3, ready_timeout=60.0)
