"""The edits of one run of a pass, counted, so that the runner can stop it after any number of them.

Halving that number finds the first edit with which a model is no longer right; see runner.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir


@dataclass
class Edits:
    """What a pass inherits whose edits can be had one by one: `if self.may_edit: ...; self.edit(name)`."""

    edited: list[str] = field(default_factory=list, init=False)  # what was rewritten, in order
    limit: int | None = field(default=None, init=False)  # stop after so many; None: never

    @property
    def may_edit(self) -> bool:
        return self.limit is None or len(self.edited) < self.limit

    def edit(self, name: str) -> bool:
        """Note one; always true, as what a sweep answers that found something."""
        self.edited.append(name)
        return True


def named(node: ir.Node) -> str:
    """A node as a reader finds it: by its name, or by that of its result where it has none."""
    return f"{node.op_type} {node.name or (node.outputs[0].name if node.outputs else '')}"
