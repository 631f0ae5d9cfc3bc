"""Passes are believed when the model they made cannot be told from the original; else they never happened.

    copy -> all passes, until none finds anything -> compare -> done
    else, one by one: copy -> apply -> compare -> keep the copy, or go on with the model that was there before

What "cannot be told" means stands in `proof.py`. One comparison is enough where all is well; where it is not, the
second way finds the guilty pass, and halving the number of its edits finds the guilty node.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import onnx_ir as ir

from passes.editing.edits import Edits
from passes.editing.nesting import every_graph, in_order, roots
from passes.editing.refusal import Refusal
from passes.running.proof import DisproofError, Probe, Reference, require_finite, weights
from passes.running.shared import share, unshare
from passes.running.waiting import Waiting, ready, title

Track = Callable[[Iterable[ir.passes.PassBase], str], Iterable[ir.passes.PassBase]]


ROUNDS = 50  # each may tell the next block of a network what sizes it gets; two passes that undo each other end here


@dataclass(frozen=True)
class PassOutcome:
    """What one pass did to the model, in numbers; `rolled_back` says why, where it did nothing that lasted."""

    name: str
    modified: bool
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    seconds: float  # of applying, and of proving where the pass was proven by itself
    worst_difference: float | None  # largest |difference| over the output's largest |value|; None: nothing compared
    refusals: tuple[Refusal, ...]
    rolled_back: str | None
    guilty: str | None = None  # the first edit with which the model is no longer right


def untracked(passes: Iterable[ir.passes.PassBase], text: str) -> Iterable[ir.passes.PassBase]:
    """Progress that nobody watches."""
    del text
    return passes


def run_passes(
    model: ir.Model,
    passes: Sequence[ir.passes.PassBase],
    probe: Probe | None = None,
    track: Track = untracked,
    rounds: int = ROUNDS,
    coarsest: ir.DataType | None = None,
) -> tuple[ir.Model, tuple[PassOutcome, ...]]:
    """Apply the passes to a copy, again and again until nothing changes, and keep what holds.

    `probe` runs a model on inputs that are always the same and returns its outputs by name; without it, only the
    interface and the new weights are checked. `coarsest`: a type whose rounding the passes may bring in. The model
    handed in keeps its content; its nodes are put in topological order, which copying needs. Tensors are shared between
    the copies. The outcomes are those of the first round, then those of later rounds that did something.
    """
    for root in roots(model):
        if not in_order(root):
            root.sort()
    reference = Reference.of(model, probe, coarsest)
    together = _Together(model, reference)
    try:
        return _until_nothing_changes(together, passes, track, rounds)
    except Exception:  # a pass, or the runtime given its result, may fail in any way; the next line finds out which
        return _until_nothing_changes(_OneByOne(model, reference), passes, track, rounds)


class _Way(Protocol):
    """How a pass is applied, and when it is compared."""

    model: ir.Model

    def apply(self, graph_pass: ir.passes.PassBase) -> PassOutcome: ...

    def finish(self, outcomes: list[PassOutcome]) -> tuple[PassOutcome, ...]: ...


def _until_nothing_changes(
    way: _Way, passes: Sequence[ir.passes.PassBase], track: Track, rounds: int
) -> tuple[ir.Model, tuple[PassOutcome, ...]]:
    """Rounds of passes, until the model is one in which none finds anything; rolled back is not tried again."""
    outcomes = [way.apply(graph_pass) for graph_pass in track(passes, "passes")]
    good = deque(one for one, outcome in zip(passes, outcomes, strict=True) if not outcome.rolled_back)
    kept = [outcome.modified for outcome in outcomes if not outcome.rolled_back]
    behind = max((place for place, modified in enumerate(kept, start=1) if modified), default=0)
    for _ in range((rounds - 1) * len(good)):
        if not behind:  # every pass has seen the model as it is now
            break
        outcome = way.apply(good[0])
        good.rotate(-1)
        if outcome.rolled_back:
            good.pop()
        behind = len(good) if outcome.modified else behind - 1
        outcomes += [outcome] if outcome.modified or outcome.rolled_back else []
    proven = way.finish(outcomes)
    return way.model, proven


class _Together:
    """All passes on one copy, compared once at the end; an exception where the result does not hold."""

    def __init__(self, model: ir.Model, reference: Reference) -> None:
        self.original, self.reference = model, reference
        self.model, self.count = _copy(model), _Count.of(model)
        share(self.model)

    def apply(self, graph_pass: ir.passes.PassBase) -> PassOutcome:
        start, before = time.perf_counter(), self.count
        graph_pass = ready(graph_pass, self.model)
        result = graph_pass(self.model)
        self.model = result.model
        # Edits and Waiting change nothing but what they count.
        if result.modified or not isinstance(graph_pass, (Edits, Waiting)):
            share(self.model)
        if result.modified:
            self.count = _Count.of(self.model)
        return _outcome(graph_pass, result.modified, before, self.count, time.perf_counter() - start)

    def finish(self, outcomes: list[PassOutcome]) -> tuple[PassOutcome, ...]:
        """What the last comparison says, said of each pass that did something."""
        unshare(self.model)
        if not any(outcome.modified for outcome in outcomes):
            self.model = self.original
            return tuple(outcomes)
        require_finite(self.model, self.original)
        difference = self.reference.compare(self.model)
        return tuple(dataclasses.replace(one, worst_difference=difference) if one.modified else one for one in outcomes)


class _OneByOne:
    """Each pass on a copy of its own, kept if it holds."""

    def __init__(self, model: ir.Model, reference: Reference) -> None:
        self.model, self.reference = model, reference

    def apply(self, graph_pass: ir.passes.PassBase) -> PassOutcome:
        start, before, count = time.perf_counter(), self.model, _Count.of(self.model)
        after, modified, difference, rolled_back, guilty = before, False, None, None, None
        graph_pass = ready(graph_pass, before)
        try:
            result = graph_pass(_copy(before))
            if result.modified:
                difference = self._prove(result.model, before)
                after, modified = result.model, True
        except Exception as error:
            rolled_back = _reason(error)
            guilty = self._guilty(graph_pass, before)
        self.model = after
        outcome = _outcome(graph_pass, modified, count, _Count.of(after), time.perf_counter() - start)
        return dataclasses.replace(outcome, worst_difference=difference, rolled_back=rolled_back, guilty=guilty)

    def finish(self, outcomes: list[PassOutcome]) -> tuple[PassOutcome, ...]:
        return tuple(outcomes)

    def _prove(self, after: ir.Model, before: ir.Model) -> float | None:
        require_finite(after, before)
        return self.reference.compare(after)

    def _guilty(self, graph_pass: ir.passes.PassBase, before: ir.Model) -> str | None:
        """The least number of edits that does harm; the last of them is the one."""
        edited = list(getattr(graph_pass, "edited", ()))
        harmless, harmful = 0, len(edited)
        while harmful - harmless > 1:
            middle = (harmless + harmful) // 2
            harmless, harmful = (middle, harmful) if self._holds(graph_pass, before, middle) else (harmless, middle)
        graph_pass.__dict__["limit"] = None
        return edited[harmful - 1] if edited else None

    def _holds(self, graph_pass: ir.passes.PassBase, before: ir.Model, limit: int) -> bool:
        graph_pass.__dict__["limit"] = limit
        try:
            self._prove(graph_pass(_copy(before)).model, before)
        except Exception:
            return False
        return True


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, DisproofError) else f"{type(error).__name__}: {error}"
    return (text.splitlines() or [text])[0]


class _Count(NamedTuple):
    nodes: int
    nbytes: int

    @classmethod
    def of(cls, model: ir.Model) -> _Count:
        nodes = sum(len(graph) for root in roots(model) for graph in every_graph(root))
        return cls(nodes, sum(tensor.nbytes for tensor in weights(model)))


def _outcome(graph_pass: ir.passes.PassBase, modified: bool, was: _Count, now: _Count, seconds: float) -> PassOutcome:
    return PassOutcome(
        name=title(graph_pass),
        modified=modified,
        nodes_before=was.nodes,
        nodes_after=now.nodes,
        bytes_before=was.nbytes,
        bytes_after=now.nbytes,
        seconds=seconds,
        worst_difference=None,
        refusals=tuple(getattr(graph_pass, "refusals", ())),  # onnx_ir's own passes have none
        rolled_back=None,
    )


def _copy(model: ir.Model) -> ir.Model:
    """Shares the tensors and nothing else: `clone` shares types too, and `value.dtype = ...` writes into them."""
    twin = model.clone()
    for root in roots(twin):
        for graph in every_graph(root):
            for value in (*graph.inputs, *graph.initializers.values(), *(o for node in graph for o in node.outputs)):
                value.type = copy.copy(value.type)
    return twin
