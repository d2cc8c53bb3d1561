"""The operators of operators.py as nodes of an ONNX graph (opset 18)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

OPSET, IR_VERSION = 18, 8  # read by every runtime since early 2023


class OnnxValue:
    """The name of a tensor in the graph, and its type: "float", "int" (64 bits) or "bool"."""

    def __init__(self, operators: OnnxOperators, name: str, kind: str):
        self.operators, self.name, self.kind = operators, name, kind

    def __add__(self, other):
        return self.operators.node("Add", self, other)

    def __sub__(self, other):
        return self.operators.node("Sub", self, other)

    def __rsub__(self, other):
        return self.operators.node("Sub", self.operators.number(other, self.kind), self)

    def __mul__(self, other):
        return self.operators.node("Mul", self, other)

    def __truediv__(self, other):
        return self.operators.node("Div", self, other)

    def __rtruediv__(self, other):
        return self.operators.node("Div", self.operators.number(other, self.kind), self)

    def __matmul__(self, other):
        return self.operators.node("MatMul", self, other)

    def __lt__(self, other):
        return self.operators.node("Less", self, other, kind="bool")

    def __le__(self, other):
        return self.operators.node("LessOrEqual", self, other, kind="bool")

    def __gt__(self, other):
        return self.operators.node("Greater", self, other, kind="bool")

    def __and__(self, other):
        return self.operators.node("And", self, other)

    def __or__(self, other):
        return self.operators.node("Or", self, other)

    def __invert__(self):
        return self.operators.node("Not", self)

    def __neg__(self):
        return self.operators.node("Neg", self)

    __radd__, __rmul__ = __add__, __mul__


class OnnxOperators:
    """Collects nodes and weights; methods as of `TorchOperators`.

    Attributes:
        nodes, initializers, inputs: of the graph that was written so far.
    """

    def __init__(self):
        import onnx

        self._onnx = onnx
        self._types = {"float": onnx.TensorProto.FLOAT, "int": onnx.TensorProto.INT64}
        self._types["bool"] = onnx.TensorProto.BOOL
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.inputs: list[Any] = []
        self._names: dict[Any, str] = {}  # of weights and numbers that are there already
        self._held: list[Tensor] = []  # weights whose addresses are keys above: alive as long as this is
        self._count = 0

    def input(self, name: str, kind: str, sizes: Sequence[int]) -> OnnxValue:
        """An input of the graph, (batch, *sizes)."""
        shape = ["batch", *sizes]
        self.inputs.append(self._onnx.helper.make_tensor_value_info(name, self._types[kind], shape))
        return OnnxValue(self, name, kind)

    def output(self, value: OnnxValue, name: str, sizes: Sequence[int]) -> Any:
        """An output of the graph, (batch, *sizes), to be given to `graph`."""
        self.nodes.append(self._onnx.helper.make_node("Identity", [value.name], [name]))
        return self._onnx.helper.make_tensor_value_info(name, self._types[value.kind], ["batch", *sizes])

    def graph(self, name: str, outputs: Sequence[Any]) -> Any:
        """The GraphProto."""
        make = self._onnx.helper.make_graph
        return make(self.nodes, name, self.inputs, list(outputs), self.initializers)

    def node(self, kind_of_node: str, *inputs: Any, kind: str | None = None, **attributes: Any) -> OnnxValue:
        """A node with one output; numbers among its inputs get the type of the first value beside them."""
        like = next(x.kind for x in inputs if isinstance(x, OnnxValue))
        values = [x if isinstance(x, OnnxValue) else self.number(x, like) for x in inputs]
        name = self._fresh(kind_of_node)
        make = self._onnx.helper.make_node
        self.nodes.append(make(kind_of_node, [v.name for v in values], [name], name=name, **attributes))
        return OnnxValue(self, name, kind or values[-1].kind)

    def number(self, value: float | int, kind: str) -> OnnxValue:
        """A scalar."""
        return self._store(np.asarray(value, {"float": np.float32, "int": np.int64}[kind]), kind, "number")

    def sizes(self, *values: int) -> OnnxValue:
        """A vector of whole numbers, as Reshape, Slice and reductions take it."""
        return self._store(np.asarray(values, np.int64), "int", "sizes")

    def constant(self, tensor: Tensor) -> OnnxValue:
        tensor = tensor.detach()
        kind = "float" if tensor.is_floating_point() else "bool" if tensor.dtype == torch.bool else "int"
        key = ("weight", tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if key not in self._names:
            self._held.append(tensor)
            wanted = {"float": torch.float32, "int": torch.int64, "bool": torch.bool}[kind]
            self._names[key] = self._add(tensor.cpu().to(wanted).contiguous().numpy(), "weight")
        return OnnxValue(self, self._names[key], kind)

    def linear(self, x: OnnxValue, weight: Tensor, bias: Tensor | None) -> OnnxValue:
        product = x @ self.constant(weight.t())
        return product if bias is None else product + self.constant(bias)

    def linear_backward(self, gradient: OnnxValue, weight: Tensor) -> OnnxValue:
        return gradient @ self.constant(weight)

    def layer_norm(self, x: OnnxValue, weight: Tensor | None, bias: Tensor | None, eps: float) -> OnnxValue:
        centred = x - self.mean(x)
        y = centred / self.sqrt(self.mean(centred * centred) + eps)
        y = y if weight is None else y * self.constant(weight)
        return y if bias is None else y + self.constant(bias)

    def rows_of(self, table: Tensor, indices: OnnxValue) -> OnnxValue:
        return self.node("Gather", self.constant(table), indices, kind="float", axis=0)

    def pick(self, x: OnnxValue, at: OnnxValue) -> OnnxValue:
        return self.node("GatherND", x, at, kind=x.kind, batch_dims=1)

    def reshape(self, x: OnnxValue, *sizes: int) -> OnnxValue:
        return self.node("Reshape", x, self.sizes(*sizes), kind=x.kind)

    def transpose(self, x: OnnxValue, *axes: int) -> OnnxValue:
        return self.node("Transpose", x, perm=list(axes))

    def concat(self, parts: Sequence[OnnxValue], axis: int) -> OnnxValue:
        return self.node("Concat", *parts, axis=axis)

    def slice(self, x: OnnxValue, axis: int, start: int, stop: int) -> OnnxValue:
        where = (self.sizes(start), self.sizes(stop), self.sizes(axis))
        return self.node("Slice", x, *where, kind=x.kind)

    def where(self, condition: OnnxValue, x: Any, y: Any) -> OnnxValue:
        kind = next((v.kind for v in (x, y) if isinstance(v, OnnxValue)), "float")
        x, y = (v if isinstance(v, OnnxValue) else self.number(v, kind) for v in (x, y))
        return self.node("Where", condition, x, y, kind=kind)

    def relu(self, x: OnnxValue) -> OnnxValue:
        return self.node("Relu", x)

    def softmax(self, x: OnnxValue) -> OnnxValue:
        return self.node("Softmax", x, axis=-1)

    def sum(self, x: OnnxValue) -> OnnxValue:
        return self.node("ReduceSum", x, self.sizes(-1), kind=x.kind, keepdims=1)

    def mean(self, x: OnnxValue) -> OnnxValue:
        return self.node("ReduceMean", x, self.sizes(-1), kind=x.kind, keepdims=1)

    def largest(self, x: OnnxValue) -> OnnxValue:
        return self.node("ReduceMax", x, self.sizes(-1), kind=x.kind, keepdims=1)

    def where_largest(self, x: OnnxValue) -> OnnxValue:
        return self.node("ArgMax", x, kind="int", axis=-1, keepdims=1)

    def minimum(self, x: OnnxValue, y: Any) -> OnnxValue:
        return self.node("Min", x, y)

    def maximum(self, x: OnnxValue, y: Any) -> OnnxValue:
        return self.node("Max", x, y)

    def is_nan(self, x: OnnxValue) -> OnnxValue:
        return self.node("IsNaN", x, kind="bool")

    def is_finite(self, x: OnnxValue) -> OnnxValue:
        return ~(self.is_nan(x) | self.node("IsInf", x, kind="bool"))

    def equal(self, x: OnnxValue, y: Any) -> OnnxValue:
        return self.node("Equal", x, y, kind="bool")

    def sqrt(self, x: OnnxValue) -> OnnxValue:
        return self.node("Sqrt", x)

    def exp(self, x: OnnxValue) -> OnnxValue:
        return self.node("Exp", x)

    def log(self, x: OnnxValue) -> OnnxValue:
        return self.node("Log", x)

    def tanh(self, x: OnnxValue) -> OnnxValue:
        return self.node("Tanh", x)

    def erf(self, x: OnnxValue) -> OnnxValue:
        return self.node("Erf", x)

    def sigmoid(self, x: OnnxValue) -> OnnxValue:
        return self.node("Sigmoid", x)

    def abs(self, x: OnnxValue) -> OnnxValue:
        return self.node("Abs", x)

    def _store(self, array: np.ndarray, kind: str, what: str) -> OnnxValue:
        key = (what, array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = self._add(array, what)
        return OnnxValue(self, self._names[key], kind)

    def _add(self, array: np.ndarray, what: str) -> str:
        name = self._fresh(what)
        self.initializers.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _fresh(self, what: str) -> str:
        self._count += 1
        return f"{what}_{self._count}"
