"""Writing a graph of two types: constants of the narrower one, and a cast wherever a value crosses the border."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from passes.editing.constants import add_initializer, constant, release
from passes.editing.naming import Names
from passes.half.halved_ranges import is_float, large

FIRST_CLIP_WITH_INPUTS = 11
LARGE_BFLOAT16 = 1.6e38  # half of the largest bfloat16


class Converter:
    """Writes the casts and the constants; `half` are the nodes of the new type."""

    def __init__(self, model: ir.Model, dtype: ir.DataType, half: set[ir.Node]) -> None:
        self.graph, self.dtype, self.half = model.graph, dtype, half
        self.names = Names(model.graph)
        self.opset = model.opset_imports.get("", 1)
        self.large = large(model.graph, half, dtype) if half else set[ir.Value]()

    def convert(self) -> None:
        if not self.half:
            return
        nodes = list(self.graph)
        read = [value for node in nodes if node in self.half for value in node.inputs]
        for value in dict.fromkeys(value for value in read if is_float(value)):
            if value is not None and value.producer() not in self.half:
                self._give_half(value)
        for node in nodes:
            if node in self.half:
                self._make_half(node)

    def _give_half(self, value: ir.Value) -> None:
        """What is made in float32, for the readers of the new type: a constant of it, or one cast."""
        tensor = constant(value)
        stem = f"{value.name}_{self.dtype.name.lower()}"
        if tensor is not None:
            twin = add_initializer(self.graph, self.names.fresh(stem), _halved(tensor, self.dtype))
        else:
            twin = self._cast(self._limited(value) if value in self.large else value, stem)
        self._read_by_half(value, twin)
        release(value)

    def _read_by_half(self, value: ir.Value, twin: ir.Value) -> None:
        for reader, place in list(value.uses()):
            if reader in self.half:
                reader.replace_input_with(place, twin)

    def _make_half(self, node: ir.Node) -> None:
        """Its results have the new type; who wants float32 reads a cast, which keeps the name."""
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", self.dtype)
        for output in node.outputs:
            if not is_float(output):
                continue
            if output.is_graph_output() or any(reader not in self.half for reader in output.consumers()):
                self._keep_float(node, output)
            else:
                output.type = ir.TensorType(self.dtype)

    def _keep_float(self, node: ir.Node, output: ir.Value) -> None:
        name, place = output.name, node.outputs.index(output)
        output.name = self.names.fresh(f"{name}_{self.dtype.name.lower()}")
        back = ir.node("Cast", [output], {"to": ir.DataType.FLOAT})
        kept = back.outputs[0]
        kept.name, kept.type, kept.shape = name, output.type, output.shape
        readers = [(one, at) for one, at in output.uses() if one is not back and one not in self.half]
        if output.is_graph_output():
            self.graph.outputs[:] = [kept if one is output else one for one in self.graph.outputs]
        for reader, at in readers:
            reader.replace_input_with(at, kept)
        node.outputs[place].type = ir.TensorType(self.dtype)
        node.append(back)

    def _limited(self, value: ir.Value) -> ir.Value:
        """Half of the range leaves room for what is added to it."""
        limit = float(np.finfo(self.dtype.numpy()).max) / 2 if self.dtype == ir.DataType.FLOAT16 else LARGE_BFLOAT16
        stem = f"{value.name}_limited"
        if self.opset < FIRST_CLIP_WITH_INPUTS:
            return self._behind(value, ir.node("Clip", [value], {"min": -limit, "max": limit}), ir.DataType.FLOAT, stem)
        bounds = [
            add_initializer(self.graph, self.names.fresh(f"{stem}_{side}"), ir.Tensor(np.array(bound, np.float32)))
            for side, bound in (("low", -limit), ("high", limit))
        ]
        return self._behind(value, ir.node("Clip", [value, *bounds]), ir.DataType.FLOAT, stem)

    def _cast(self, value: ir.Value, stem: str) -> ir.Value:
        return self._behind(value, ir.node("Cast", [value], {"to": self.dtype}), self.dtype, stem)

    def _behind(self, value: ir.Value, node: ir.Node, dtype: ir.DataType, stem: str) -> ir.Value:
        """The result of a new node, which stands right behind the one that makes `value`."""
        result = node.outputs[0]
        result.name, result.type, result.shape = self.names.fresh(stem), ir.TensorType(dtype), value.shape
        maker = value.producer()
        if maker is not None:
            maker.append(node)
        else:
            self.graph.insert_before(self.graph[0], node)
        return result


def _halved(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    """Computed when it is read, so that the weights are never all in memory."""
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(lambda: ir.Tensor(tensor.numpy().astype(dtype.numpy()), dtype), dtype, shape)
