"""A student that remembers: TorchRL's Decision Transformer, on the last steps of an episode.

B batch · E episodes · K steps of context · S observation dim · A action dim
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from tskd_ray.data.extensions import require_packages
from tskd_ray.models.checkpoint import open_model, save_model
from tskd_ray.models.policy import unscale_actions
from tskd_ray.models.randomness import own_generator
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.types import Float32Array, FloatArray, IntArray

KIND = "sequence-policy"
METHOD = "dt"


class Transformer(nn.Module):
    """Actions in [−1, 1] that follow states, earlier actions and returns to go."""

    def __init__(
        self, states: int, actions: int, *, context: int, width: int, layers: int, heads: int,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        """Draw weights from torch's global generator, as the library does.

        Raises:
            ConfigError: Without TorchRL or Transformers.
        """
        require_packages(METHOD)
        super().__init__()
        config = {
            "n_embd": width,
            "n_layer": layers,
            "n_head": heads,
            "n_inner": 4 * width,
            "activation": "relu",
            "n_positions": 3 * context,
            "resid_pdrop": dropout,
            "attn_pdrop": dropout,
        }
        modules: Any = import_module("torchrl.modules")
        import_module("transformers.models.gpt2.modeling_gpt2")  # sets its logger up
        # GPT-2's defaults name tokens that the vocabulary of one word here lacks.
        logger = logging.getLogger("transformers")
        before = logger.level
        logger.setLevel(logging.ERROR)
        try:
            self.actor: nn.Module = modules.DTActor(states, actions, transformer_config=config)
        finally:
            logger.setLevel(before)
        for part in self.actor.modules():
            if isinstance(part, nn.Dropout):  # TorchRL leaves that of embeddings at 0.1
                part.p = dropout

    def forward(self, observation: Tensor, action: Tensor, return_to_go: Tensor) -> Tensor:
        """Actions (B, K, A) for states (B, K, S), (B, K, A) and (B, K, 1).

        The action of a step follows from that step's return and state and from what is before.
        """
        return torch.tanh(self.actor(observation, action, return_to_go))


@dataclass(frozen=True, eq=False)
class SequencePolicy:
    """Acts on the last K steps and on the return that is still to be earned."""

    network: Transformer
    context: int  # K
    heads: int
    observation: Standardizer
    low: Float32Array  # (A,)
    high: Float32Array  # (A,)
    target: float  # return to ask for at the start, raw units
    scale: float  # of returns, for the network
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    """As a `Policy`'s."""

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def begin(self, episodes: int) -> Memory:
        """Start so many episodes side by side."""
        return Memory(self, episodes)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`."""
        tensors = {
            **{f"network.{name}": part for name, part in self.network.state_dict().items()},
            **self.observation.tensors("observation"),
            "low": self.low,
            "high": self.high,
        }
        about = {"context": self.context, "heads": self.heads, "details": self.details}
        save_model(
            folder, tensors, {"kind": KIND, "target": self.target, "scale": self.scale, **about}
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a checkpoint folder.

        Raises:
            DataError: If it holds no such policy.
            ConfigError: Without TorchRL or Transformers.
        """
        with open_model(folder, KIND) as (tensors, config):
            observation = Standardizer.from_tensors(tensors, "observation")
            low, high = (tensors[name].numpy() for name in ("low", "high"))
            parts = {
                name.removeprefix("network."): part
                for name, part in tensors.items()
                if name.startswith("network.")
            }
            context, heads = int(config["context"]), int(config["heads"])
            network = _network(parts, context, heads)
            if not (
                parts["actor.transformer.embed_state.weight"].shape[1] == len(observation.mean_)
                and (parts["actor.action_layer.weight"].shape[0],) == low.shape == high.shape
            ):
                raise ValueError("network, normalisation and bounds have other widths")
            numbers = float(config["target"]), float(config["scale"])
            return cls(
                network, context, heads, observation, low, high, *numbers, config["details"]
            )


def _network(parts: Mapping[str, Tensor], context: int, heads: int) -> Transformer:
    """Of a checkpoint's tensors, whose shapes tell the sizes."""
    width, states = parts["actor.transformer.embed_state.weight"].shape
    actions = len(parts["actor.action_layer.weight"])
    names = {name.split(".")[4] for name in parts if ".transformer.h." in name}
    if parts["actor.transformer.transformer.wpe.weight"].shape[0] != 3 * context:
        raise ValueError(f"a context of {context} steps has {3 * context} positions")
    with own_generator(0):
        network = Transformer(
            states, actions, context=context, width=width, layers=len(names), heads=heads
        )
    network.load_state_dict(parts)
    return network.eval()


class Memory:
    """What a `SequencePolicy` remembers of episodes side by side."""

    def __init__(self, policy: SequencePolicy, episodes: int) -> None:
        shape = (episodes, policy.context)
        self._policy = policy
        self._states = np.zeros((*shape, len(policy.observation.mean_)), dtype=np.float32)
        self._actions = np.zeros((*shape, len(policy.low)), dtype=np.float32)
        self._to_go = np.zeros((*shape, 1), dtype=np.float32)
        self._left = np.full(episodes, policy.target)

    def act(
        self, observations: FloatArray, rewards: FloatArray, episodes: IntArray
    ) -> Float32Array:
        """Actions (n, A) of some episodes; the same call gives the same bytes.

        Args:
            observations: (n, S), raw units.
            rewards: (n,) of the step before; 0 at the first.
            episodes: (n,) their numbers.
        """
        policy, rows = self._policy, episodes
        self._left[rows] -= rewards
        for memory in (self._states, self._actions, self._to_go):
            memory[rows] = np.roll(memory[rows], -1, axis=1)
        self._states[rows, -1] = policy.observation.normalize(observations)
        self._actions[rows, -1] = 0.0  # which the network is asked for
        self._to_go[rows, -1, 0] = self._left[rows] / policy.scale
        seen = (self._states, self._actions, self._to_go)
        with torch.no_grad():
            planned = policy.network(*(torch.from_numpy(one[rows]) for one in seen))
        self._actions[rows, -1] = planned[:, -1].numpy()
        return unscale_actions(self._actions[rows, -1], policy.low, policy.high)
