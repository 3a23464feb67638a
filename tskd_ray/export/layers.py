"""The numbers of a policy as an exported file holds them, all float32."""

from __future__ import annotations

import numpy as np

from tskd_ray.errors import DataError
from tskd_ray.models.policy import Policy
from tskd_ray.types import Float32Array


def layers(policy: Policy) -> list[tuple[Float32Array, Float32Array]]:
    """Weights (I, O) and biases (O,) of each layer."""
    network = policy.network
    return [
        (weight[0].detach().numpy(), bias[0, 0].detach().numpy())
        for weight, bias in zip(network.weights, network.biases, strict=True)
    ]


def constants(policy: Policy) -> dict[str, Float32Array]:
    """Normalisation and bounds; the mean as a float32 and what that leaves, another float32.

    With one float32, a mean of ten thousand would be off by a thousandth: much, if the data's
    sd is a hundredth.
    """
    mean = policy.observation.mean_.astype(np.float32)
    return {
        "mean": mean,
        "mean_rest": (policy.observation.mean_ - mean).astype(np.float32),
        "std": policy.observation.std_.astype(np.float32),
        "half": ((policy.high - policy.low) / 2).astype(np.float32),
        "centre": ((policy.low + policy.high) / 2).astype(np.float32),
        "low": policy.low.astype(np.float32),
        "high": policy.high.astype(np.float32),
    }


def require_finite(policy: Policy) -> None:
    """Refuse what no file could hold.

    Raises:
        DataError: If a weight or a constant is infinite or no number.
    """
    arrays = [
        *constants(policy).values(),
        *(part for layer in layers(policy) for part in layer),
    ]
    broken = sum(int((~np.isfinite(array)).sum()) for array in arrays)
    if broken:
        raise DataError(
            f"A policy's numbers must be finite. {broken} of this one's are not. Train it "
            "again."
        )
