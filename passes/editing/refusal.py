"""A pass that leaves a node alone says why; silence is kept for nodes that were never candidates."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Refusal:
    """One node a pass could have changed, and the reason it did not.

    `BatchNormalization bn1: training_mode is 1, so Y depends on the batch`
    """

    node: str
    op_type: str
    reason: str

    @classmethod
    def of(cls, node: ir.Node, reason: str) -> Refusal:
        """Name the node; exporters leave many nameless, so its first output's name stands in."""
        return cls(node.name or (node.outputs[0].name if node.outputs else None) or "", node.op_type, reason)

    def __str__(self) -> str:
        return f"{self.op_type} {self.node}: {self.reason}"
