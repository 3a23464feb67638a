#!/usr/bin/env python
"""Extend recorded gait data to any size by rolling out noisy clones of its behaviour.

    python scripts/make_gait.py walker2d-medium.hdf5 walker2d-expert.hdf5 --output gait-1m
        --environment Walker2d-v5 --environment-kwargs '{"xml_file": "walker2d.xml"}'
        --states 1000000

Copies of recorded states with added noise would fill all dimensions evenly, and real motion
does not: so every state here is simulated. Each episode has a clone and a noise level of its
own, from the clone's best gait to early falls. Written as .npy arrays for
`benchmark.py stitch --dataset FOLDER`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
    from tskd_ray.models.policy import Policy

NOISE = (0.0, 0.8)
"""Range of the standard deviation of action noise, uniform over episodes."""

SIDE_BY_SIDE = 64
"""Environments that share a call of the policy."""

CLONES = 4
"""Clones of each dataset, from different seeds and each trained twice as long as the last."""


def main() -> None:
    """Parse the command line, clone, roll out, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--environment", required=True)
    parser.add_argument("--environment-kwargs", type=json.loads, default={})
    parser.add_argument("--states", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    began = time.perf_counter()
    made = extend(arguments)
    seconds = time.perf_counter() - began
    from tskd_ray.data.arrays import save_arrays

    arguments.output.mkdir(parents=True, exist_ok=True)
    save_arrays(made, arguments.output)
    print(
        f"{arguments.output}: {made.n_states} states, {made.n_episodes} episodes, returns "
        f"{made.returns.mean():.0f} ± {made.returns.std():.0f}, in {seconds:.0f} s"
    )


def extend(arguments: argparse.Namespace) -> Trajectories:
    """Rolled-out episodes with at least `--states` states."""
    import torch

    from tskd_ray.data.environments import environment_spec
    from tskd_ray.data.trajectories import Trajectories

    torch.set_num_threads(1)
    spec = environment_spec(arguments.environment, arguments.environment_kwargs)
    policies = [
        policy
        for name in arguments.datasets
        for policy in _clones(name, arguments.environment, arguments.environment_kwargs)
    ]
    share = -(-arguments.states // arguments.processes)
    with ProcessPoolExecutor(arguments.processes) as pool:
        jobs = [
            pool.submit(roll_out, policies, spec, share, (arguments.seed, number))
            for number in range(arguments.processes)
        ]
        parts = [job.result() for job in jobs]
    return Trajectories.concatenate(parts)


def _clones(name: str, environment: str, kwargs: dict[str, Any]) -> list[Policy]:
    from tskd_ray.config.schema import DistillConfig, FitConfig
    from tskd_ray.data.load import load_trajectories
    from tskd_ray.training.distill import distill

    recorded = load_trajectories(name, environment=environment, environment_kwargs=kwargs)
    fit = FitConfig(steps=4000, batch_size=256, learning_rate=1e-3, ema_decay=0.0)
    settings = DistillConfig(seeds=CLONES, fit=fit)
    trained = distill({"clone": recorded}, settings, 0, checkpoints=CLONES)["clone"]
    return [policies[seed] for seed, policies in enumerate(trained.policies)]


def roll_out(
    policies: list[Policy], spec: EnvironmentSpec, n_states: int, seed: tuple[int, int]
) -> Trajectories:
    """Episodes of random clones at random noise levels, at least `n_states` states in all."""
    import numpy as np
    import torch

    from tskd_ray.data.environments import make_environment
    from tskd_ray.data.trajectories import Trajectories

    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    environments = [make_environment(spec) for _ in range(SIDE_BY_SIDE)]
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    clone = rng.integers(len(policies), size=SIDE_BY_SIDE)
    noise = rng.uniform(*NOISE, size=SIDE_BY_SIDE)
    current = np.stack([e.reset(seed=int(rng.integers(2**31)))[0] for e in environments])
    logs: list[dict[str, list[Any]]] = [{"s": [s], "a": [], "r": []} for s in current]
    episodes: list[Any] = []
    states = 0
    while states < n_states:
        actions = np.empty((SIDE_BY_SIDE, len(low)))
        for number in np.unique(clone):
            rows = clone == number
            actions[rows] = policies[number].act(current[rows])
        actions += rng.normal(size=actions.shape) * noise[:, None]
        actions = np.clip(actions, low, high).astype(np.float32)
        for i, environment in enumerate(environments):
            state, reward, terminated, truncated, _ = environment.step(actions[i])
            log = logs[i]
            log["s"].append(state.astype(np.float32))
            log["a"].append(actions[i])
            log["r"].append(reward)
            current[i] = state
            if not (terminated or truncated):
                continue
            if len(log["r"]) > 1:
                episodes.append(
                    {
                        "observations": np.array(log["s"], dtype=np.float32),
                        "actions": np.array(log["a"], dtype=np.float32),
                        "rewards": np.array(log["r"], dtype=np.float32),
                        "terminated": bool(terminated),
                    }
                )
                states += len(log["s"])
            clone[i], noise[i] = rng.integers(len(policies)), rng.uniform(*NOISE)
            current[i] = environment.reset(seed=int(rng.integers(2**31)))[0]
            logs[i] = {"s": [current[i].astype(np.float32)], "a": [], "r": []}
    made = Trajectories.from_episodes(episodes, environment=spec)
    return dataclasses.replace(made, episode_id=made.episode_id + seed[1] * 2**32)


if __name__ == "__main__":
    main()
