"""Opset 21 and 22 are opset 23 without its new operators.

    opset 21 or 22 -> 23        nodes untouched

From 21 to 23 the standard only let more types in and added Attention, RMSNormalization, RotaryEmbedding and Swish;
every node means what it meant. https://github.com/onnx/onnx/blob/main/docs/Changelog.md
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from passes.editing.refusal import Refusal

SAME_MEANING = frozenset({21, 22})
TARGET = 23


@dataclass
class OpsetRaising(ir.passes.InPlacePass):
    """Let graphs of opset 21 and 22 use the operators of 23."""

    refusals: list[Refusal] = field(default_factory=list, init=False)  # always empty: no node can object

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        raised = model.opset_imports.get("") in SAME_MEANING and not model.functions
        if raised:
            model.opset_imports[""] = TARGET
        return ir.passes.PassResult(model, raised)
