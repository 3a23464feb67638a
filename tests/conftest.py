"""What tests of several folders share: a local Ray cluster, a whole run to compare with."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before torch is loaded, which reads it once. The networks of tests are too small for two
# threads, which would wait for each other: for minutes, where other work holds a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from pipeline.tiny import tiny_config
from tskd_ray.config.schema import ComputeConfig
from tskd_ray.pipeline.run import RunResult, run

# A test that names a dataset that does not exist must not ask the network, and retry, for it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# An example that takes long tells of a busy machine, not of a bug.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A cluster of three CPUs, whatever the machine has; `session` finds it and leaves it."""
    from tskd_ray.distributed.session import quiet_environment, start_options

    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("RAY_ADDRESS", raising=False)
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
