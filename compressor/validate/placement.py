"""Placement: how much of the candidate runs on its target, and what it copies to get there.

Observed in ONNX Runtime where the target is at hand; predicted from its kernel tables where it is not, or where nobody
asked (on a CPU the two are the same), and the note says which.
"""

from __future__ import annotations

from compressor.graph import probe
from compressor.providers import cost, observed
from compressor.providers.kernels import PROVIDERS
from compressor.providers.prediction import Prediction
from compressor.recipe.limits import Placement
from compressor.report.report import Measurement
from compressor.validate.subject import Subject

NAMED = 3  # nodes that a note names


def measure(candidate: Subject, predicted: Prediction, options: Placement, *, observe: bool) -> list[Measurement]:
    """Shares of nodes and FLOPs on the target's provider, and copies a run."""
    target = predicted.target
    if not observe or candidate.backend.name != PROVIDERS[target]:
        return _predicted(predicted, options)
    found = observed.assignment(candidate.path, candidate.backend)
    provider = candidate.backend.name
    note = f"elsewhere: {', '.join(found.elsewhere[:NAMED])}" if found.elsewhere else ""
    shares = _shares(found.nodes.get(provider, 0), sum(found.nodes.values()), found.flops.get(provider, 0),
                     sum(found.flops.values()))  # fmt: skip
    rows = _rows(target, shares, found.copies, options, note)
    inputs = probe.find(candidate.model)
    if inputs is None:
        return rows
    ran = observed.executed(candidate.path, candidate.backend, inputs.calls[0])
    share = ran[provider] / max(ran.total(), 1)
    note = f"{ran.total()} in the profile of one call"
    return [*rows, Measurement(f"share of kernels run on {target}", share, sense="at least", note=note)]


def _predicted(found: Prediction, options: Placement) -> list[Measurement]:
    ours = [one for one in found.placed if one.provider == PROVIDERS[found.target]]
    flops = {one: cost.flops(one.node) for one in found.placed}
    shares = _shares(len(ours), len(found.placed), sum(flops[one] for one in ours), sum(flops.values()))
    refused = [f"cannot run: {one.name}" for one in found.refused[:NAMED]]
    note = "; ".join(["predicted", *refused])
    return _rows(found.target, (0.0, 0.0) if refused else shares, len(found.copies), options, note)


def _shares(nodes: int, all_nodes: int, flops: int, all_flops: int) -> tuple[float, float]:
    """A graph without nodes, or one that only moves data, is wholly where it should be."""
    return nodes / all_nodes if all_nodes else 1.0, flops / all_flops if all_flops else 1.0


def _rows(target: str, shares: tuple[float, float], copies: int, options: Placement, note: str) -> list[Measurement]:
    nodes, flops = shares
    return [
        Measurement(
            f"share of nodes on {target}", nodes, limit=options.min_nodes_on_provider, sense="at least", note=note
        ),
        Measurement(f"share of FLOPs on {target}", flops, limit=options.min_flops_on_provider, sense="at least"),
        Measurement("copies between devices", copies, limit=options.max_copies),
    ]
