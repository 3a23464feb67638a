"""The policy as ONNX: float32 observations (batch, S) to actions (batch, A).

Graphs are written node by node: with a normalisation, a few matrix products and a tanh, that is
shorter than driving an exporter, and a file is the same bytes every time.

N rows · S observation dim · A action dim · I inputs and O outputs of a layer
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tskd_ray.export.description import Description
from tskd_ray.export.layers import constants, layers
from tskd_ray.models.policy import Policy
from tskd_ray.types import Float32Array, FloatArray

if TYPE_CHECKING:
    from onnx import NodeProto

OPSET, IR_VERSION = 17, 8
"""What runtimes of the last years all read; nothing newer is used."""
ZERO_POINT = 128


def float_onnx(policy: Policy, description: Description) -> bytes:
    """The file of the float32 graph."""
    graph = _Graph(policy)
    for number, (weight, bias) in enumerate(layers(policy)):
        graph.multiply(number, weight)
        graph.add_bias(number, bias)
    return graph.finish(description)


def int8_onnx(policy: Policy, description: Description, observations: FloatArray) -> bytes:
    """The file of the graph with 8-bit weights, and 8-bit products between hidden layers.

    Weights are symmetric, by output: 127 steps to either side of zero, kept as unsigned bytes
    around 128, since several processors saturate when they multiply unsigned by signed bytes. A
    hidden layer's activations are unsigned bytes with one scale, fixed by the largest one on
    `observations`: a row's action depends on that row alone. The first layer reads floats:
    sensors' values have long tails, and eight bits of them cost more than all else.

    Args:
        policy: What to write.
        description: For the metadata.
        observations: (N, S) recorded ones, in raw units.
    """
    graph = _Graph(policy)
    h = policy.observation.normalize(observations)
    depth = len(layers(policy))
    for number, (weight, bias) in enumerate(layers(policy)):
        bytes_, scale = quantized(weight)
        if number == 0:
            graph.multiply_dequantized(bytes_, scale)
        else:
            largest = float(h.max(initial=0.0))
            step = np.float32(largest / 255 if largest > 0 else 1.0)
            graph.multiply_integers(number, bytes_, scale, step)
        graph.add_bias(number, bias)
        h = h @ weight + bias
        h = np.maximum(h, 0) if number < depth - 1 else h
    return graph.finish(description)


def quantized(weight: Float32Array) -> tuple[np.ndarray, Float32Array]:
    """Unsigned bytes (I, O) and scales (O,) with weight ≈ (bytes − `ZERO_POINT`) · scale."""
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    steps = np.clip(np.rint(weight / scale), -127, 127)
    return (steps + ZERO_POINT).astype(np.uint8), scale


class _Graph:
    """Nodes and constants so far; the values of layer n are called x{n}."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.depth = len(layers(policy))
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = dict(constants(policy))
        # In float32 a mean far from zero is two numbers.
        self._node("Sub", ["observations", "mean"], "centred")
        self._node("Sub", ["centred", "mean_rest"], "centred_rest")
        self._node("Div", ["centred_rest", "std"], "x0")

    def multiply(self, number: int, weight: Float32Array) -> None:
        self.constants[f"weight{number}"] = weight
        self._node("MatMul", [f"x{number}", f"weight{number}"], f"product{number}")

    def multiply_dequantized(self, weight: np.ndarray, scale: Float32Array) -> None:
        self.constants |= {
            "weight0_bytes": weight,
            "weight0_scale": scale,
            "weight0_zero": np.full(len(scale), ZERO_POINT, dtype=np.uint8),
        }
        inputs = ["weight0_bytes", "weight0_scale", "weight0_zero"]
        self._node("DequantizeLinear", inputs, "weight0", axis=1)
        self._node("MatMul", ["x0", "weight0"], "product0")

    def multiply_integers(
        self, number: int, weight: np.ndarray, scale: Float32Array, step: np.float32
    ) -> None:
        x, w, sums = f"x{number}", f"weight{number}", f"sums{number}"
        self.constants |= {
            f"{x}_step": np.asarray(step),
            "zero": np.asarray(0, dtype=np.uint8),
            "middle": np.asarray(ZERO_POINT, dtype=np.uint8),
            f"{w}_bytes": weight,
            f"{sums}_step": scale * step,
        }
        self._node("QuantizeLinear", [x, f"{x}_step", "zero"], f"{x}_bytes")
        inputs = [f"{x}_bytes", f"{w}_bytes", "zero", "middle"]
        self._node("MatMulInteger", inputs, sums)
        self._node("Cast", [sums], f"{sums}_float", to=1)  # FLOAT
        self._node("Mul", [f"{sums}_float", f"{sums}_step"], f"product{number}")

    def add_bias(self, number: int, bias: Float32Array) -> None:
        self.constants[f"bias{number}"] = bias
        self._node("Add", [f"product{number}", f"bias{number}"], f"sum{number}")
        activation = "Relu" if number < self.depth - 1 else "Tanh"
        self._node(activation, [f"sum{number}"], f"x{number + 1}")

    def finish(self, description: Description) -> bytes:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        self._node("Mul", [f"x{self.depth}", "half"], "spread")
        self._node("Add", ["spread", "centre"], "unbounded")
        self._node("Max", ["unbounded", "low"], "above_low")
        self._node("Min", ["above_low", "high"], "actions")

        def port(name: str, width: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

        graph = helper.make_graph(
            self.nodes,
            "policy",
            [port("observations", len(self.policy.observation.mean_))],
            [port("actions", len(self.policy.low))],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="tskd_ray",
        )
        helper.set_model_props(model, description.items())
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: int) -> None:
        from onnx import helper

        node = helper.make_node(kind, inputs, [output])
        node.attribute.extend(helper.make_attribute(key, at) for key, at in attributes.items())
        self.nodes.append(node)
