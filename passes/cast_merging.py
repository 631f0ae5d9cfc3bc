"""Two changes of type in a row are one, where the type between holds every number of the first.

Cast(Cast(x: INT32, INT64), FLOAT)          ->  Cast(x, FLOAT)
Cast(Cast(x: FLOAT16, FLOAT), FLOAT16)      ->  x
Cast(Cast(x: FLOAT, FLOAT16), FLOAT)        stays: the type between rounds
CastLike(x, y: INT64)                       ->  Cast(x, INT64)
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from passes.editing.constants import release
from passes.local import LocalPass, Refused, Scope, producer_of

T = ir.DataType
# A type and those that hold all of its numbers.
HELD_BY = {
    T.BOOL: {T.INT8, T.UINT8, T.INT16, T.UINT16, T.INT32, T.UINT32, T.INT64, T.UINT64, T.FLOAT16, T.FLOAT, T.DOUBLE},
    T.INT8: {T.INT16, T.INT32, T.INT64, T.FLOAT16, T.FLOAT, T.DOUBLE},
    T.UINT8: {T.INT16, T.UINT16, T.INT32, T.UINT32, T.INT64, T.UINT64, T.FLOAT16, T.FLOAT, T.DOUBLE},
    T.INT16: {T.INT32, T.INT64, T.FLOAT, T.DOUBLE},
    T.UINT16: {T.INT32, T.UINT32, T.INT64, T.UINT64, T.FLOAT, T.DOUBLE},
    T.INT32: {T.INT64, T.DOUBLE},
    T.UINT32: {T.INT64, T.UINT64, T.DOUBLE},
    T.FLOAT16: {T.FLOAT, T.DOUBLE},
    T.BFLOAT16: {T.FLOAT, T.DOUBLE},
    T.FLOAT: {T.DOUBLE},
}


class CastMerging(LocalPass):
    """The second Cast reads what the first reads. Standard types whose rules for overflow are the same on both ways.

    A type that is known needs no value to be read from: exporters ask for that of a size before they count to it.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"Cast", "CastLike"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        return _name_type(node) if node.op_type == "CastLike" else self._merge(node, scope)

    def _merge(self, node: ir.Node, scope: Scope) -> bool:
        first = producer_of(node.inputs[0], "Cast")
        source = first.inputs[0] if first is not None else None
        if first is None or source is None or source.dtype is None:
            return False
        between, last = (T(one.attributes.get_int("to", 0)) for one in (first, node))
        if source.dtype != between and between not in HELD_BY.get(source.dtype, ()):
            raise Refused(f"{between} does not hold every {source.dtype}")
        if last == source.dtype:
            return scope.replace(node, source)
        node.replace_input_with(0, source)
        return True


def _name_type(node: ir.Node) -> bool:
    like = node.inputs[1]
    if like is None or like.dtype is None:
        return False
    node.attributes["to"] = ir.AttrInt64("to", int(like.dtype))
    node.resize_inputs(1)
    node.op_type = "Cast"
    release(like)
    return True
