"""A graph as the passes want it: a version that ONNX Runtime loads, no functions, unique names, private weights.

IR version     4 at least, 13 at most; before 4 every weight had to be a graph input, whether or not anybody
               meant to set it, so there the weights become private. From 4 on a weight among the inputs is a
               default that the caller may override, and stays one.
opset          26 at most, where no node of the graph is newer than that
functions      inlined
names          each value has its own, in the main graph and all graphs inside it
shapes         those that follow from the operators; see shape_inference.py
constants      initializers of the main graph, instead of nodes and initializers of branches
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from passes.editing.constants import FIRST_IR_WITH_PRIVATE_INITIALIZERS, add_initializer, constant
from passes.editing.naming import make_names_unique
from passes.editing.nesting import every_graph, every_node, in_order, roots
from passes.editing.refusal import Refusal
from passes.editing.replacing import drop
from passes.shapes.shape_inference import ShapeInference, forget_shapes, known_sizes, knows_more, note_symbols

# What ONNX Runtime 1.31 loads; the defaults of the onnx package are newer.
LAST_OPSET, LAST_IR = 26, 13
FIRST_IR_WITH_FUNCTIONS = 8  # and with every type up to bfloat16; older files are lifted to it


@dataclass
class ImportNormalization(ir.passes.InPlacePass):
    """Change the form of a model and nothing that it computes.

    Refused: an opset above 26 with a node that 26 does not have.
    """

    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals = []
        shapes = ShapeInference()
        modified = [
            _sort(model.graph),
            self._lower_versions(model),
            _settle_ir_version(model),
            inline(model),
            make_names_unique(model.graph),
            _lift_constants(model),
        ]
        before = known_sizes(model.graph)
        if not model.meta.get(NORMAL) and model.producer_name != OURS:
            modified.append(forget_shapes(model))
        model.meta[NORMAL] = True
        shapes(model)
        note_symbols(model.graph)
        self.refusals += shapes.refusals
        return ir.passes.PassResult(model, any(modified) or knows_more(known_sizes(model.graph), before))

    def _lower_versions(self, model: ir.Model) -> bool:
        newer = _newest(model)
        if newer is not None:
            self.refusals.append(Refusal.of(newer, f"needs a later opset; ONNX Runtime loads {LAST_OPSET} at most"))
        return lower_versions(model)


def lower_versions(model: ir.Model) -> bool:
    """What ONNX Runtime loads, of a file written with newer numbers and nothing that needs them; tells whether it was.

    IR version 14 is 13 with another number, and so is opset 27 where each operator has the form that 26 has.
    """
    version, opsets = model.ir_version, [root.opset_imports for root in roots(model)]
    high = [one for one in opsets if one.get("", 1) > LAST_OPSET] if _newest(model) is None else []
    for one in high:
        one[""] = LAST_OPSET
    model.ir_version = min(version, LAST_IR)
    return bool(high) or model.ir_version != version


def _newest(model: ir.Model) -> ir.Node | None:
    """A node that the last opset does not have in the form that its own has."""
    for root in roots(model):
        opset = root.opset_imports.get("", 1)
        for node in every_node(root) if opset > LAST_OPSET else ():
            if node.domain == "" and _since(node.op_type, opset) > LAST_OPSET:
                return node
    return None


OURS = "compress"  # our exporters write the sizes that torch.export proved, named by their axes
NORMAL = "normal"  # key in `Model.meta`: what stands between inputs and outputs was inferred, not claimed


def _since(op_type: str, opset: int, domain: str = "") -> int:
    """The opset that brought an operator in the form that `opset` has."""
    try:
        return int(onnx.defs.get_schema(op_type, opset, domain).since_version)
    except onnx.defs.SchemaError:
        return opset


def _settle_ir_version(model: ir.Model) -> bool:
    version = model.ir_version
    if version < FIRST_IR_WITH_PRIVATE_INITIALIZERS:
        weights = set(model.graph.initializers.values())
        inputs = [value for value in model.graph.inputs if value not in weights]
        model.graph.inputs.clear()
        model.graph.inputs.extend(inputs)
    model.ir_version = min(max(version, FIRST_IR_WITH_FUNCTIONS), LAST_IR)
    return model.ir_version != version


def _sort(root: ir.Graph) -> bool:
    if in_order(root):
        return False
    graphs = tuple(every_graph(root))
    before = [list(graph) for graph in graphs]
    root.sort()
    return before != [list(graph) for graph in graphs]


def inline(model: ir.Model) -> bool:
    """Functions whose operators have the form that the model's own opset gives them; the others stay."""
    if not model.functions:
        return False
    from onnx_ir.passes.common import InlinePass  # brings all passes of onnx_ir: as long as ours take to load

    agreeing = [one for one in model.functions.values() if _agrees(one, model.opset_imports)]
    for function in agreeing:
        function.opset_imports.update(
            (one, model.opset_imports.get(one, own)) for one, own in [*function.opset_imports.items()]
        )
    return InlinePass(lambda function: function in agreeing)(model).modified


def _agrees(function: ir.Function, opsets: Mapping[str, int]) -> bool:
    own = {
        domain: version for domain, version in function.opset_imports.items() if opsets.get(domain, version) != version
    }
    return all(
        _since(node.op_type, own[node.domain], node.domain) == _since(node.op_type, opsets[node.domain], node.domain)
        for node in every_node(function.graph)
        if node.domain in own
    )


def _lift_constants(model: ir.Model) -> bool:
    """A Constant that a graph outputs stays: an initializer cannot stand in its place in every runtime."""
    modified = False
    for node in list(every_node(model.graph)):
        if (node.op_type, node.domain) == ("Constant", "") and not node.outputs[0].is_graph_output():
            tensor = constant(node.outputs[0])
            if tensor is not None:
                name, result = str(node.outputs[0].name), node.outputs[0]
                result.name = None
                result.replace_all_uses_with(add_initializer(model.graph, name, tensor))
                drop(node)
                modified = True
    _, *inner = every_graph(model.graph)
    for graph in inner:
        for name, value in list(graph.initializers.items()):
            if not (value.is_graph_input() or value.is_graph_output()):
                del graph.initializers[name]
                model.graph.register_initializer(value)
                modified = True
    return modified
