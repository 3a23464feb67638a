"""What Tune calls back: our listener, our budget, our folder of TensorBoard logs."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.tune import Callback, Stopper
from ray.tune.logger import TBXLoggerCallback

from tskd_ray.distributed.outcome import Failure
from tskd_ray.distributed.tune import Listener

_TELL_SECONDS = 1.0

Decode = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From a trial's Tune config to its settings."""


class _Unkept:
    """Tune pickles all that it calls, for a restore of its own, which we have no use for."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Relay(_Unkept, Callback):
    """Passes on what happens to trials; how one ended, once."""

    def __init__(self, listener: Listener, decode: Decode, shop: Any) -> None:
        self._listener, self._decode, self._shop = listener, decode, shop
        self._ended: set[str] = set()
        self._told = 0.0

    def on_trial_start(
        self, iteration: int, trials: list[Any], trial: Any, **info: Any
    ) -> None:
        self._listener.started(self._decode(trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if trial.trial_id not in self._ended:
            if result["last"]:
                self._ended.add(trial.trial_id)
            self._listener.reported(self._decode(trial.config), result)

    def on_trial_complete(
        self, iteration: int, trials: list[Any], trial: Any, **info: Any
    ) -> None:
        if trial.trial_id not in self._ended and not self._listener.spent():
            self._ended.add(trial.trial_id)
            self._listener.stopped(self._decode(trial.config))

    def on_trial_error(
        self, iteration: int, trials: list[Any], trial: Any, **info: Any
    ) -> None:
        failure = _state(self._shop)[2].get(trial.trial_id)
        self._listener.failed(self._decode(trial.config), failure)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() >= self._told + _TELL_SECONDS:
            self._told = time.monotonic()
            made, running, _ = _state(self._shop)
            self._listener.tick(made, running)


def _state(shop: Any) -> tuple[int, list[str], dict[str, Failure]]:
    try:
        found: Any = ray.get(shop.state.remote(), timeout=10)
    except RayError:
        return 0, [], {}  # it restarts, or the machine is busy: told later
    return found


class Budget(_Unkept, Stopper):
    """Stops all trials once the listener says so."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._listener.spent()


class TensorBoard(_Unkept, TBXLoggerCallback):
    """Tune's logger, writing where a person finds it and not into Tune's scratch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def log_trial_start(self, trial: Any) -> None:
        if trial in self._trial_writer:
            self._trial_writer[trial].close()
        config = json.dumps(trial.config, sort_keys=True)
        target = self._folder / f"trial-{uuid.uuid5(uuid.NAMESPACE_OID, config).hex[:8]}"
        shutil.rmtree(target, ignore_errors=True)  # of a command that was killed
        self._trial_writer[trial] = self._summary_writer_cls(str(target), flush_secs=30)
        self._trial_result[trial] = {}
