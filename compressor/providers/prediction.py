"""`compress check`: where each node will run, what it costs to go there and back, and what hurts; no GPU needed.

prediction.predict(model, "cuda")  ->  Prediction(placed, copies, advice), verdict as data
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import onnx_ir as ir

from compressor.errors import RequestError
from compressor.providers import advice, copies, cost, graph_types, kernels
from compressor.providers.copies import Copy
from compressor.providers.kernels import PROVIDERS
from compressor.providers.placement import CHAINS, Placed, Placer

RUNS = "runs"
ROUNDS = 4  # functions within functions; ONNX has none deeper than two


@dataclass(frozen=True)
class Prediction:
    """What ONNX Runtime will do with a graph on a target, before its own optimizer rewrites it."""

    target: str
    version: str
    placed: tuple[Placed, ...] = field(repr=False)
    copies: tuple[Copy, ...] = field(repr=False)
    advice: tuple[str, ...] = field(repr=False)

    @property
    def fallbacks(self) -> list[Placed]:
        """Nodes that the target declines; those that compute shapes on the host by design are none."""
        return [one for one in self.placed if one.outcome == "falls back"]

    @property
    def refused(self) -> list[Placed]:
        """Nodes that nothing runs: the session will not open."""
        return [one for one in self.placed if one.outcome == "refused"]

    @cached_property
    def weight_bytes(self) -> Mapping[ir.Node, int]:
        return cost.weight_bytes(one.node for one in self.placed)

    def verdict(self, *, strict: bool) -> str:
        """`runs`, or the first thing that speaks against it, with its cost."""
        if self.refused:
            one = self.refused[0]
            return f"{len(self.refused)} nodes cannot run, first {one.operator} '{one.name}': {one.why}"
        if strict and self.fallbacks:
            one = self.fallbacks[0]
            return f"{len(self.fallbacks)} nodes fall back, first {self.describe(one)}"
        return RUNS

    def describe(self, placed: Placed) -> str:
        """A fallback in words: node, reason, the copies it causes and what it costs."""
        touched = [one for one in self.copies if placed.name in (one.maker, *one.readers)]
        nbytes = sum(one.nbytes for one in touched)
        return (
            f"{placed.operator} '{placed.name}' to {_short(placed.provider)}: {placed.why}; "
            f"{len(touched)} copies of {nbytes:,} bytes a run, {cost.flops(placed.node):,} FLOPs, "
            f"{self.weight_bytes[placed.node]:,} bytes of weights"
        )

    def by_provider(self) -> list[dict[str, Any]]:
        """Nodes, weight bytes and FLOPs on each provider."""
        names = dict.fromkeys(one.provider for one in self.placed)
        rows = []
        for name in names:
            nodes = [one.node for one in self.placed if one.provider == name]
            weights = sum(self.weight_bytes[node] for node in nodes)
            rows.append({"provider": _short(name), "nodes": len(nodes), "weight bytes": weights,
                         "FLOPs": sum(map(cost.flops, nodes))})  # fmt: skip
        return rows

    def elsewhere(self) -> list[dict[str, Any]]:
        """Nodes that do not run on the target, alike ones in one row."""
        away = [one for one in self.placed if one.outcome != "runs"]
        kinds = Counter((one.operator, _short(one.provider), one.outcome, one.why) for one in away)
        first = {(one.operator, _short(one.provider), one.outcome, one.why): one.name for one in reversed(away)}
        return [
            {"operator": kind[0], "nodes": count, "provider": kind[1], "outcome": kind[2], "why": kind[3],
             "first": first[kind]} for kind, count in kinds.most_common()
        ]  # fmt: skip

    def overview(self) -> dict[str, Any]:
        """What a report shows: providers, nodes in order as runs of one provider, what is elsewhere and why."""
        runs = [(name, len(list(alike))) for name, alike in groupby(_short(one.provider) for one in self.placed)]
        return {
            "target": self.target,
            "how": f"by the kernels of ONNX Runtime {self.version}",
            "providers": self.by_provider(),
            "runs": runs,
            "elsewhere": self.elsewhere(),
            "advice": list(self.advice),
        }

    def to_json(self, *, strict: bool) -> dict[str, Any]:
        nodes = [
            {"node": one.name, "operator": one.operator, "provider": one.provider, "outcome": one.outcome,
             "why": one.why, "weight_bytes": self.weight_bytes[one.node], "flops": cost.flops(one.node)}
            for one in self.placed
        ]  # fmt: skip
        crossing = [
            {"value": one.value, "direction": one.direction, "from": one.maker, "for": list(one.readers),
             "bytes": one.nbytes} for one in self.copies
        ]  # fmt: skip
        return {
            "target": self.target,
            "onnxruntime": self.version,
            "verdict": self.verdict(strict=strict),
            "providers": self.by_provider(),
            "elsewhere": self.elsewhere(),
            "copies": crossing,
            "advice": list(self.advice),
            "nodes": nodes,
        }


def predict(model: ir.Model, target: str) -> Prediction:
    """Place every node of a model for cpu, cuda or tensorrt, by the newest kernel table of ONNX Runtime.

    Raises: RequestError for another target.
    """
    if target not in CHAINS:
        raise RequestError(f"--for {target}: no provider of that name; there are {', '.join(CHAINS)}")
    table = kernels.newest()
    whole, placed = _placed(model, target, table)
    return Prediction(
        target, table.version, tuple(placed), tuple(copies.find(placed)), tuple(advice.on(target, placed, whole))
    )


def _placed(model: ir.Model, target: str, table: kernels.KernelTable) -> tuple[ir.Model, Sequence[Placed]]:
    """Operators that nothing runs and the standard defines by others are replaced by these, as ONNX Runtime does."""
    prepared = graph_types.prepared(model)
    placed = Placer(target, table, prepared.opset_imports).place(prepared.graph)
    for _ in range(ROUNDS):
        stuck = {(one.node.domain, one.node.op_type) for one in placed if one.outcome == "refused"}
        functions = {name for name in stuck if graph_types.is_function(*name, prepared.opset_imports.get(name[0], 1))}
        written_out = graph_types.inlined(prepared, functions) if functions else None
        if written_out is None:
            break
        prepared = graph_types.prepared(written_out)
        placed = Placer(target, table, prepared.opset_imports).place(prepared.graph)
    return prepared, placed


def _short(provider: str | None) -> str:
    return next((name for name, one in PROVIDERS.items() if one == provider), "nothing")
