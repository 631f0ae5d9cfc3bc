"""A pass is believed when the model it made cannot be told from the original; else it never happened.

    copy -> apply -> compare -> keep the copy, or go on with the model that was there before

What "cannot be told" means stands in `proof.py`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from passes.nesting import roots
from passes.proof import DisproofError, Probe, Reference, require_finite, weights
from passes.refusal import Refusal

Track = Callable[[Iterable[ir.passes.PassBase], str], Iterable[ir.passes.PassBase]]


@dataclass(frozen=True)
class PassOutcome:
    """What one pass did to the model, in numbers; `rolled_back` says why, where it did nothing that lasted."""

    name: str
    modified: bool
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    seconds: float  # of applying and proving
    worst_difference: float | None  # largest |difference| over the output's largest |value|; None: nothing compared
    refusals: tuple[Refusal, ...]
    rolled_back: str | None


def untracked(passes: Iterable[ir.passes.PassBase], text: str) -> Iterable[ir.passes.PassBase]:
    """Progress that nobody watches."""
    del text
    return passes


def run_passes(
    model: ir.Model,
    passes: Sequence[ir.passes.PassBase],
    probe: Probe | None = None,
    track: Track = untracked,
) -> tuple[ir.Model, tuple[PassOutcome, ...]]:
    """Apply each pass to a copy and keep what holds.

    `probe` runs a model on inputs that are always the same and returns its outputs by name; without it, only the
    interface and the new weights are checked. The model handed in keeps its content; its nodes are put in topological
    order, which copying needs. Tensors are shared between the copies.
    """
    for root in roots(model):
        root.sort()
    reference = Reference.of(model, probe)
    outcomes = []
    for graph_pass in track(passes, "passes"):
        model, outcome = _attempt(graph_pass, model, reference)
        outcomes.append(outcome)
    return model, tuple(outcomes)


def _attempt(graph_pass: ir.passes.PassBase, before: ir.Model, reference: Reference) -> tuple[ir.Model, PassOutcome]:
    start, after, difference, rolled_back = time.perf_counter(), before, None, None
    try:
        result = graph_pass(_copy(before))
        if result.modified:
            require_finite(result.model, before)
            difference = reference.compare(result.model)
            after = result.model
    except DisproofError as reason:
        rolled_back = str(reason)
    except Exception as error:  # a pass, or the runtime given its result, may fail in any way; the model survives it
        rolled_back = f"{type(error).__name__}: {error}".splitlines()[0]
    return after, PassOutcome(
        name=type(graph_pass).__name__,
        modified=after is not before,
        nodes_before=_count_nodes(before),
        nodes_after=_count_nodes(after),
        bytes_before=_count_bytes(before),
        bytes_after=_count_bytes(after),
        seconds=time.perf_counter() - start,
        worst_difference=difference,
        refusals=tuple(getattr(graph_pass, "refusals", ())),  # onnx_ir's own passes have none
        rolled_back=rolled_back,
    )


def _copy(model: ir.Model) -> ir.Model:
    """Shares the tensors and nothing else: `clone` shares types too, and `value.dtype = ...` writes into them."""
    twin = model.clone()
    for root in roots(twin):
        for graph in (root, *root.subgraphs()):
            for value in (*graph.inputs, *graph.initializers.values(), *(o for node in graph for o in node.outputs)):
                value.type = copy.copy(value.type)
    return twin


def _count_bytes(model: ir.Model) -> int:
    return sum(tensor.nbytes for tensor in weights(model))


def _count_nodes(model: ir.Model) -> int:
    return sum(1 for root in roots(model) for _ in root.all_nodes())
