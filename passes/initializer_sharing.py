"""Equal weights are one weight, and a weight that is another one transposed is stored once.

w1 = [...]; w2 = the same bytes                   ->  readers of w2 read w1
table [V, H]; head [H, V] = the table transposed  ->  head = Transpose(table)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from passes.editing.edits import Edits
from passes.editing.nesting import every_graph
from passes.editing.refusal import Refusal
from passes.local import Scope

# A Transpose for each call is worth a copy less from here on; ONNX Runtime folds it into the MatMul that reads it.
SMALLEST_RETIED = 1 << 20  # bytes
SAMPLE = 64  # entries read of a weight before all of it is
ROWS = 256  # compared at a time
CORNER = 8  # rows and columns that tell matrices apart before all of them is read

Shape = tuple[ir.DataType, int, int]
Corner = tuple[Shape, bytes]  # of a table: what lies at its beginning


@dataclass
class InitializerSharing(Edits, ir.passes.InPlacePass):
    """Same type, same shape, same bytes (0.0 and -0.0 differ); the one that stands first stays.

    Weights that are graph inputs or outputs have names that others rely on, and stay, and so does what a
    BatchNormalization that trains writes to. Weights are compared where they
    lie; those of one shape are told apart by a sample, so that a large file is not read for nothing.
    """

    refusals: list[Refusal] = field(default_factory=list, init=False)  # always empty: equal is equal

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.edited = []
        for graph in every_graph(model.graph):
            _share(_private(graph), self)
        _retie(_private(model.graph), Scope(model), self)
        return ir.passes.PassResult(model, bool(self.edited))


def _private(graph: ir.Graph) -> list[ir.Value]:
    values = graph.initializers.values()
    owned = (v for v in values if v.const_value is not None and not (v.is_graph_input() or v.is_graph_output()))
    return [value for value in owned if not any(_is_written(*use) for use in value.uses())]


def _is_written(reader: ir.Node, place: int) -> bool:
    """Mean and variance of a BatchNormalization that trains: ONNX Runtime moves them where they lie."""
    return (reader.op_type, reader.domain) == ("BatchNormalization", "") and place > 2 and len(reader.outputs) > 1


def _share(weights: Iterable[ir.Value], edits: Edits) -> None:
    kept: defaultdict[object, list[ir.Value]] = defaultdict(list)
    for weight in weights:
        tensor = _tensor(weight)
        alike = kept[tensor.dtype, tuple(tensor.shape), _sample(tensor)]
        first = next((one for one in alike if _equal(_tensor(one), tensor)), None)
        if first is None:
            alike.append(weight)
        elif edits.may_edit:
            weight.replace_all_uses_with(first)
            assert weight.graph is not None, "an initializer has its graph"
            del weight.graph.initializers[str(weight.name)]
            edits.edit(f"weight {weight.name}")


def _tensor(weight: ir.Value) -> ir.TensorProtocol:
    assert weight.const_value is not None, "held by _private"
    return weight.const_value


def _sample(tensor: ir.TensorProtocol) -> bytes:
    """Some entries of a large tensor, all of a small one; a string's entries are objects, and counted alone."""
    if tensor.dtype == ir.DataType.STRING:
        return b""
    flat = tensor.numpy().reshape(-1)
    return flat[:: max(1, flat.size // SAMPLE)].tobytes()


def _equal(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    if a is b:
        return True
    if a.dtype == ir.DataType.STRING:
        return bool(np.array_equal(a.numpy(), b.numpy()))
    x, y = (np.atleast_1d(one.numpy()) for one in (a, b))
    return all(x[at : at + ROWS].tobytes() == y[at : at + ROWS].tobytes() for at in range(0, len(x), ROWS))


def _retie(weights: Iterable[ir.Value], scope: Scope, edits: Edits) -> None:
    """Large matrices alone: the one with more rows, an embedding's table, stays."""
    large = [one for one in weights if len(_tensor(one).shape) == 2 and _tensor(one).nbytes >= SMALLEST_RETIED]
    shapes = {_shape(one) for one in large}
    tables, heads = defaultdict[Corner, list[ir.Value]](list), list[tuple[ir.Value, Corner]]()
    for weight in large:
        dtype, rows, columns = _shape(weight)
        if rows == columns or (dtype, columns, rows) not in shapes:
            continue
        corner = _tensor(weight).numpy()[:CORNER, :CORNER]  # once: some are computed each time that they are read
        if rows > columns:
            tables[(dtype, rows, columns), corner.tobytes()].append(weight)
        else:
            heads.append((weight, ((dtype, columns, rows), corner.T.tobytes())))
    for head, corner_of_table in heads:
        twin = next((one for one in tables[corner_of_table] if _is_transposed(_tensor(head), _tensor(one))), None)
        if twin is not None and edits.may_edit:
            _write_as_transpose(head, twin, scope)
            edits.edit(f"weight {head.name}")


def _shape(matrix: ir.Value) -> Shape:
    rows, columns = _tensor(matrix).shape.numpy()
    return _tensor(matrix).dtype, rows, columns


def _is_transposed(head: ir.TensorProtocol, table: ir.TensorProtocol) -> bool:
    x, y = head.numpy(), table.numpy()
    blocks = range(0, y.shape[0], ROWS)
    return all(x[:, at : at + ROWS].tobytes() == y[at : at + ROWS].T.tobytes() for at in blocks)


def _write_as_transpose(head: ir.Value, table: ir.Value, scope: Scope) -> None:
    graph, first = scope.model.graph, scope.model.graph[0]
    result = scope.insert(first, "Transpose", [table], {"perm": [1, 0]}, like=head, shape=head.shape)
    head.replace_all_uses_with(result)
    del graph.initializers[str(head.name)]
