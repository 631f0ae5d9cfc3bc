"""Types with a map in them, as ZipMap gives and DictVectorizer takes: onnx_ir has no form for them.

They wait beside the graph under the names of its inputs and outputs, which keep their names whatever becomes of the
graph, and are written where the graph is. Those of the values between follow from the operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

TYPES = "types with a map"  # key in `Graph.meta`, which clones keep: name -> the type as bytes of its message


def take_out(graph: Any, inner: Iterable[Any]) -> Mapping[str, bytes]:
    """Leave such types out of the messages of a graph and of all graphs inside it. Returns: those of its interface."""
    interface = {
        one.name: one.type.SerializeToString() for one in (*graph.input, *graph.output) if _holds_map(one.type)
    }
    for values in ((*one.input, *one.output, *one.value_info) for one in inner):
        for value in values:
            if _holds_map(value.type):
                value.ClearField("type")
    return interface


def put_back(proto: Any, model: ir.Model) -> None:
    types: Mapping[str, bytes] = model.graph.meta.get(TYPES, {})
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name in types:
            value.type.ParseFromString(types[value.name])


def put_back_into(path: Path, model: ir.Model) -> None:
    """As `put_back`, in the file that the graph was written to."""
    if model.graph.meta.get(TYPES):
        import onnx

        proto = onnx.load(path, load_external_data=False)
        put_back(proto, model)
        path.write_bytes(proto.SerializeToString(deterministic=True))


def _holds_map(type_: Any) -> bool:
    kind = type_.WhichOneof("value")
    nested = kind in ("sequence_type", "optional_type")
    return kind == "map_type" or (nested and _holds_map(getattr(type_, kind).elem_type))
