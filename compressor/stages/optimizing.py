"""Graph -> equivalent smaller graph: which passes run, what of their outcome is told, and under which key.

Read by the pipeline, and by `compress optimize` alone where nothing but the target was named: it waits for no recipe
to be checked, nor for the libraries that do so.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import onnx_ir as ir

from compressor import artifact, catalog, sources
from compressor.artifact import Artifact
from compressor.graph import probe
from compressor.graph.session import compute, load_model, save_model
from compressor.progress import Track, identity
from compressor.shelf import Draft, Shelf, refuse_full_disk

if TYPE_CHECKING:
    from passes import PassOutcome


# Bytes of a model from which on all cores compute its probes: threads cost more to wait for than they save before.
SHARED_OUT = 1 << 24


class Wanted(Protocol):
    """What of a recipe this stage reads."""

    @property
    def target(self) -> str: ...
    @property
    def passes(self) -> tuple[str, ...]: ...
    @property
    def inner_dtype(self) -> str | None: ...


@dataclass(frozen=True)
class Target:
    """A recipe that says where the graph will run and nothing else."""

    target: str
    inner_dtype: None = None

    @property
    def passes(self) -> tuple[str, ...]:
        return catalog.passes_for(self.target)


def key(exported: str, wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """What the result depends on, hashed, and the options in it."""
    options: dict[str, Any] = {"passes": wanted.passes}
    if wanted.inner_dtype:
        options |= {"dtype": wanted.inner_dtype, "target": wanted.target}
    return artifact.key("optimize", exported, options), options


def optimize(exported: Artifact, wanted: Wanted, shelf: Shelf, track: Track = identity) -> Artifact:
    """Every pass proven on probes with ONNX Runtime's own optimizer off, or rolled back.

    Raises: RequestError where the target has no kernels for the numbers that were asked for.
    """
    known_as, options = key(exported.key, wanted)
    if done := shelf.find("optimize", known_as):
        return done
    if wanted.inner_dtype:
        from compressor.providers import half

        half.require(wanted.target, wanted.inner_dtype)
    refuse_full_disk(shelf.place("optimize", known_as), exported.nbytes)
    with shelf.timed_draft("optimize", known_as, options, {"key": exported.key}) as draft:
        draft.facts |= {"models": [view.carries_as for view in exported.views], "nodes": 0, "fallbacks": []}
        draft.measured["passes"] = []
        for view in exported.views:
            _optimize_one(view, wanted, draft, track)
        sources.carry(exported.directory, draft.folder)
    return artifact.open_artifact(shelf.place("optimize", known_as))


def _optimize_one(view: Artifact, wanted: Wanted, draft: Draft, track: Track) -> None:
    import passes
    from passes.editing.naming import name_nodes_apart
    from passes.import_normalization import lower_versions

    model = load_model(view.model)
    lower_versions(model)  # else ONNX Runtime could not tell what the file answers
    name_nodes_apart(model.graph)
    chosen = [_made(one) for one in wanted.passes]
    threads = 1 if view.nbytes < SHARED_OUT else 0
    inputs = probe.find(model, threads=threads) or probe.Probe(())  # no call: all there is to see is that it loads
    model, outcomes = passes.run_passes(model, chosen, inputs, track)
    if wanted.inner_dtype:
        model, halved = _halve(model, wanted.inner_dtype, wanted.target, inputs)
        outcomes += halved
    save_model(model, draft.folder / view.carries_as)
    draft.facts["nodes"] += count_nodes(model)
    draft.facts["fallbacks"] += [
        *_weakly_compared(inputs),
        *(_rolled_back(one) for one in outcomes if one.rolled_back),
    ]
    graph = {"graph": view.part} if view.part else {}
    draft.measured["passes"] += [graph | _row(dataclasses.asdict(one)) for one in outcomes]


def _made(name: str) -> ir.passes.PassBase:
    """A pass, or what stands for it until the graph needs it.

    What folds constants asks ONNX Runtime for the operators that it cannot compute itself.
    """
    from passes.constant_folding import ConstantFolding
    from passes.running.waiting import Waiting

    row = catalog.PASSES[name]
    if row.needs:
        return Waiting(row.where.partition(":")[2], frozenset(row.needs.split()), functools.partial(_load, row.where))
    made = _load(row.where)
    if isinstance(made, ConstantFolding):
        made.run = compute
    return made


def _load(where: str) -> ir.passes.PassBase:
    made: ir.passes.PassBase = catalog.resolve(where)()
    return made


def _halve(model: ir.Model, dtype: str, target: str, inputs: probe.Probe) -> tuple[ir.Model, tuple[PassOutcome, ...]]:
    """Proven like the passes, within what the type can tell.

    In float32 and rounded: the CPU has no kernels in these types, and what ONNX Runtime does instead rounds less.
    """
    import passes
    from compressor.graph import narrow
    from compressor.providers import half
    from passes.half.half_precision import HalfPrecision

    to = half.TYPES[dtype]
    calls = inputs.where_rows_see()
    halving = HalfPrecision(to, half.kernels_in(dtype, target, model.opset_imports))

    def rounded(candidate: ir.Model) -> Mapping[str, Any]:
        return calls(narrow.runnable(candidate.clone(), to))

    return passes.run_passes(model, [halving], rounded if calls.calls else None, rounds=1, coarsest=to)


def count_nodes(model: ir.Model) -> int:
    """Of the main graph and all graphs inside it."""
    return sum(1 for _ in model.graph.all_nodes())


def _weakly_compared(inputs: probe.Probe) -> list[str]:
    if not inputs.calls:
        return ["passes: outputs not compared, for the graph runs on no input we can make up"]
    line = "passes: outputs compared at one size of the free axes, for the graph runs at no other of ours"
    return [line] if inputs.one_size else []


def _rolled_back(outcome: PassOutcome) -> str:
    guilty = f", first with {outcome.guilty}" if outcome.guilty else ""
    return f"pass {outcome.name} rolled back: {outcome.rolled_back}{guilty}"


def _row(outcome: dict[str, Any]) -> dict[str, Any]:
    """A pass outcome as a row; refusals that differ in the names of values alone are one line with their number."""
    alike: dict[str, list[str]] = {}
    for refusal in outcome.pop("refusals"):
        reason = f"{refusal['op_type']}: {refusal['reason']}"
        alike.setdefault(re.sub(r"'[^']*'", "''", reason), []).append(f"{reason} ({refusal['node']})")
    lines = [f"{first}{f' and {len(more)} more' if more else ''}" for first, *more in alike.values()]
    return outcome | {"refusals": lines}
