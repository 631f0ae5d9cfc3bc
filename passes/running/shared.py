"""What passes that see the same model find out once: the first that asks pays for it, and a change ends it.

share(model)                        the runner, when it begins and after each change
shared(model).symbols               what an earlier pass found out, or found out now
unshare(model)                      at the end
"""

from __future__ import annotations

import functools

import onnx_ir as ir

from passes.editing.nesting import every_node
from passes.shapes.symbols import Symbols

SHARED = "shared"  # key in `Model.meta`


class Shared:
    """Of the main graph and the graphs inside it, as they were when they were first asked about."""

    def __init__(self, root: ir.Graph) -> None:
        self._root = root

    @functools.cached_property
    def symbols(self) -> Symbols:
        return Symbols(self._root)

    @functools.cached_property
    def nodes(self) -> tuple[ir.Node, ...]:
        return tuple(every_node(self._root))

    @functools.cached_property
    def operators(self) -> frozenset[str]:
        """The standard ones that have a node."""
        return frozenset(node.op_type for node in self.nodes if node.domain == "")


def share(model: ir.Model) -> None:
    """From now on the passes that see the model as it is share what they find out."""
    model.meta[SHARED] = Shared(model.graph)


def unshare(model: ir.Model) -> None:
    model.meta.pop(SHARED, None)


def shared(model: ir.Model) -> Shared:
    """That of earlier passes, where the model is shared and has not changed since."""
    held: Shared | None = model.meta.get(SHARED)
    return held or Shared(model.graph)
