"""A pass that is not loaded before a graph has an operator that it looks at: most graphs ask for half of them.

Waiting("LayerNormalizationFusion", {"Sqrt"}, load)      the runner asks `ready`; until then nothing is imported
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from passes.running.shared import shared


class Waiting(ir.passes.InPlacePass):
    """Stands for a pass in whose absence nothing is missed, as long as none of `operators` has a node."""

    def __init__(self, title: str, operators: frozenset[str], load: Callable[[], ir.passes.PassBase]) -> None:
        self.title, self.operators, self._load = title, operators, load
        self._loaded: ir.passes.PassBase | None = None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        one = self.ready(model)
        return ir.passes.PassResult(model, modified=False) if one is self else one(model)

    def ready(self, model: ir.Model) -> ir.passes.PassBase:
        """The pass itself, or this where it has nothing to do in the model."""
        if self._loaded is None and not self.operators.isdisjoint(shared(model).operators):
            self._loaded = self._load()
        return self._loaded or self


def ready(graph_pass: ir.passes.PassBase, model: ir.Model) -> ir.passes.PassBase:
    """What a runner applies and asks for edits and refusals."""
    return graph_pass.ready(model) if isinstance(graph_pass, Waiting) else graph_pass


def title(graph_pass: ir.passes.PassBase) -> str:
    return graph_pass.title if isinstance(graph_pass, Waiting) else type(graph_pass).__name__
