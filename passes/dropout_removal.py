"""A Dropout that does not train is the identity."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from passes.editing.constants import constant
from passes.editing.edits import Edits, named
from passes.editing.naming import Names
from passes.editing.nesting import every_node, roots
from passes.editing.refusal import Refusal

# Where the standard keeps the switch: 1-6 the attribute is_test, 7-11 nowhere (never trains), 12+ the third input.
FIRST_WITHOUT_IS_TEST = 7
FIRST_WITH_TRAINING_INPUT = 12


@dataclass
class DropoutRemoval(Edits, ir.passes.InPlacePass):
    """Dropout in inference returns its input, and a mask that is true everywhere.

        h = Relu(x); d = Dropout(h); y = MatMul(d, w)
     -> h = Relu(x); y = MatMul(h, w)

    A graph output keeps its name: there the Dropout becomes an Identity. A mask that is read becomes
    ConstantOfShape(Shape(x), True), right for every batch.
    """

    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals, self.edited = [], []
        return ir.passes.PassResult(model, any([self._sweep(root) for root in roots(model)]))

    def _sweep(self, root: ir.Graph) -> bool:
        nodes = [node for node in every_node(root) if (node.domain, node.op_type) == ("", "Dropout")]
        return any([self._remove(node, root) for node in nodes])

    def _remove(self, node: ir.Node, root: ir.Graph) -> bool:
        reason = _why_it_stays(node, root.opset_imports.get("", 1))
        if reason:
            self.refusals.append(Refusal.of(node, reason))
            return False
        if not self.may_edit:
            return False
        name = named(node)
        if _mask_is_read(node):
            _fill_mask(node, root)
        _bypass(node)
        return self.edit(name)


def _why_it_stays(node: ir.Node, opset: int) -> str | None:
    if opset < FIRST_WITHOUT_IS_TEST:
        is_test = node.attributes.get("is_test")
        return None if is_test is not None and is_test.value == 1 else "is_test is not 1: this Dropout trains"
    if opset < FIRST_WITH_TRAINING_INPUT:
        # ONNX Runtime fills it with zeros here and with ones from opset 12; the standard is silent.
        undefined = "its mask is read, and before opset 12 nothing says what an inference mask holds"
        return undefined if _mask_is_read(node) else None
    return _why_it_may_train(node)


def _why_it_may_train(node: ir.Node) -> str | None:
    _, ratio, training_mode = (*node.inputs, None, None)[:3]
    training = constant(training_mode)
    if training_mode is None or (training is not None and not training.numpy().any()):
        return None
    rate = constant(ratio)
    if rate is not None and not rate.numpy().any():  # a ratio of 0 drops nothing, in training too
        return None
    if training is None:
        return f"training_mode '{training_mode.name}' is decided at run time"
    return "training_mode is true: this Dropout trains"


def _mask_is_read(node: ir.Node) -> bool:
    return any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:])


def _fill_mask(node: ir.Node, root: ir.Graph) -> None:
    mask = node.outputs[1]
    shape = ir.node("Shape", node.inputs[:1])
    filled = ir.node("ConstantOfShape", shape.outputs, {"value": ir.tensor([True])})
    shape.outputs[0].name = Names(root).fresh(f"{mask.name}_shape")
    filled.outputs[0].name, filled.outputs[0].type, filled.outputs[0].shape = mask.name, mask.type, mask.shape
    mask.replace_all_uses_with(filled.outputs[0], replace_graph_outputs=True)
    node.prepend([shape, filled])


def _bypass(node: ir.Node) -> None:
    kept, output = node.inputs[0], node.outputs[0]
    assert kept is not None, "Dropout without data is no valid node"
    assert node.graph is not None, "the traversal yields nodes of a graph"
    if output.is_graph_output():
        node.op_type = "Identity"
        node.attributes.clear()
        node.resize_inputs(1)
        node.resize_outputs(1)
    else:
        output.replace_all_uses_with(kept)
        node.graph.remove(node, safe=True)
