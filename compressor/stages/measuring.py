"""Every check of an artifact against its reference, in the order in which a report tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor import sources
from compressor.artifact import Artifact
from compressor.data import calibration, samples
from compressor.data.calibration import Windows
from compressor.data.vocabulary import Vocabulary
from compressor.errors import RequestError
from compressor.graph import probe
from compressor.graph.decoder import Decoder, Feeds
from compressor.graph.session import Backend, load_model
from compressor.progress import Track, identity
from compressor.providers import backends, prediction
from compressor.recipe.recipe import Recipe
from compressor.report.report import Measurement
from compressor.validate import (
    accuracy,
    agreement,
    budget,
    latency,
    outputs,
    paged,
    perplexity,
    placement,
    size,
    speed,
    structure,
)
from compressor.validate import layers as solved
from compressor.validate.subject import Subject


@dataclass(frozen=True)
class Measured:
    """The numbers, and what a report says beside them."""

    measurements: tuple[Measurement, ...]
    fallbacks: tuple[str, ...]
    placement: tuple[Mapping[str, Any], ...]  # an overview for each graph
    windows: Windows | None = field(repr=False)


def measure(
    candidate: Artifact,
    reference: Artifact,
    recipe: Recipe,
    *,
    rounded: Artifact | None,
    layers: Sequence[Mapping[str, Any]],
    spent: Mapping[str, Any],
    provider: str | None,
    track: Track = identity,
) -> Measured:
    """Every graph of the one against its namesake in the other; of several, a name stands before its numbers.

    On a provider that has to be there; on None at the recipe's target where that loads, and else on the CPU, which the
    fallbacks say. rounded: the same weights merely rounded. layers: the solver's rows. spent: what a budget went into.
    """
    where, absent = (provider, ()) if provider else backends.at_hand(recipe.target)
    place = _Place(where, provider or backends.home(recipe.target), bool(provider) or where != "cpu")
    parts = [_graph(*pair, recipe, rounded, place, track) for pair in _namesakes(candidate, reference)]
    found = [row for part in parts for row in part.measurements]
    found += [*solved.measure(list(layers), recipe.validate_.layers), *budget.measure(spent)]
    placed = tuple(one for part in parts for one in part.placement)
    return Measured(tuple(found), tuple(absent), placed, parts[0].windows)


@dataclass(frozen=True)
class _Place:
    """Where the candidate runs, the target whose rules it is placed by, and whether its placement can be observed."""

    where: str
    target: str
    observe: bool


def _namesakes(candidate: Artifact, reference: Artifact) -> list[tuple[Artifact, Artifact]]:
    """Graph by graph. Raises: RequestError where one has several graphs and the other not the same."""
    ours, theirs = ({view.part: view for view in one.views} for one in (candidate, reference))
    if ours.keys() != theirs.keys():
        kinds = (", ".join(filter(None, one)) or "one graph" for one in (ours, theirs))
        held = " and ".join(
            f"{one.directory} ({kind})" for one, kind in zip((candidate, reference), kinds, strict=True)
        )
        raise RequestError(f"{held} do not hold the same graphs; name two files that answer to each other")
    return [(view, theirs[part]) for part, view in ours.items()]


def _graph(
    candidate: Artifact, reference: Artifact, recipe: Recipe, rounded: Artifact | None, place: _Place, track: Track
) -> Measured:
    """Structure first: a graph that does not load has no other number."""
    limits, part = recipe.validate_, candidate.part
    backend = _backend(place.where, candidate, reference)
    ours = Subject(candidate.model, backend=backend)
    theirs = Subject(reference.model, is_reference=True, backend=backend)
    windows = _heldout_windows(candidate, reference, recipe, theirs.decoder)
    found, overviews = structure.measure(ours, theirs), []
    if all(one.passed for one in found):
        folder = _with_tokenizer(candidate, reference)
        found += _answers(ours, theirs, recipe, windows, folder)
        allowed = budget.limits(limits.perplexity, recipe.quantize.budget)
        if windows is not None and allowed:
            plain = Subject(rounded.model) if rounded else None
            found += perplexity.measure(ours, theirs, windows, allowed, rounded=plain, track=track)
        placed = prediction.predict(ours.model, place.target)
        overviews = [{"graph": candidate.model_name} | placed.overview()]
        found += _costs(ours, theirs, recipe, windows)
        found += placement.measure(ours, placed, limits.placement, observe=place.observe)
        found += latency.measure(ours, limits.latency) if limits.latency else []
    named = tuple(replace(one, name=f"{part}: {one.name}") if part else one for one in found)
    return Measured(named, (), tuple(overviews), windows)


def _answers(
    ours: Subject, theirs: Subject, recipe: Recipe, windows: Windows | None, folder: Path | None
) -> list[Measurement]:
    """What the two say to the same inputs: real ones where the recipe names them."""
    limits, found = recipe.validate_, []
    labelled = samples.labelled(limits.accuracy, theirs.model, recipe.images) if limits.accuracy else None
    if ours.decoder and theirs.decoder:
        found += agreement.measure(ours, theirs, _agreement_tokens(windows, recipe), limits.agreement)
    else:
        real = labelled or samples.heldout(recipe, theirs.model, folder)
        calls, source = (real.batches, str(real.facts["source"])) if real else (_probes(theirs), "made-up inputs")
        found += outputs.measure(ours, theirs, calls[: outputs.CALLS], limits.agreement, source)
    if labelled and limits.accuracy:
        found += accuracy.measure(ours, theirs, labelled, limits.accuracy)
    return found


def _costs(ours: Subject, theirs: Subject, recipe: Recipe, windows: Windows | None) -> list[Measurement]:
    """Bytes and tokens a second, and whether the paged twin says the same."""
    limits = recipe.validate_
    found = [*paged.measure(ours, limits.paged, windows), *size.measure(ours, theirs, limits.size)]
    if limits.speed and ours.decoder:
        found += speed.measure(ours, theirs, limits.speed)
    return found


def sides(artifact: Artifact, rival: Artifact | None, provider: str) -> dict[str, dict[str, Subject]]:
    """For each graph the artifact and its rival, ready to be run on a provider, each with its own engines.

    Raises: MachineError when the provider is missing, RequestError when the two do not hold the same graphs.
    """
    rivals = [{"artifact": ours, "rival": theirs} for ours, theirs in _namesakes(artifact, rival)] if rival else []
    held = rivals or [{"artifact": view} for view in artifact.views]
    return {
        pair["artifact"].part: {
            name: Subject(one.model, backend=_backend(provider, one, one)) for name, one in pair.items()
        }
        for pair in held
    }


def _backend(where: str, candidate: Artifact, reference: Artifact) -> Backend:
    engines = backends.engines_beside(candidate.directory)
    profiles = _profiles(candidate, reference) if where == "tensorrt" else {}
    return backends.find(where, candidate.model, engines=engines, profiles=profiles)


def _profiles(candidate: Artifact, reference: Artifact) -> Mapping[str, Any]:
    """Shape profiles: those the export wrote into a manifest, or what a bare graph's axes are called."""
    from compressor.export import static

    kept: list[Mapping[str, Any]] = [one.facts["profiles"] for one in (candidate, reference) if "profiles" in one.facts]
    if kept:
        return dict(kept[0].get(candidate.model_name, {}))
    return static.profile(load_model(candidate.model))


def _heldout_windows(candidate: Artifact, reference: Artifact, recipe: Recipe, sizes: Decoder | None) -> Windows | None:
    """Held-out text, where there is a decoder, a tokenizer and a wish to measure it."""
    options = recipe.validate_.perplexity
    folder = _with_tokenizer(candidate, reference)
    if options is None or sizes is None or folder is None:
        return None
    return calibration.heldout_windows(options, Vocabulary.of(folder), sources.context(folder))


def _with_tokenizer(*artifacts: Artifact) -> Path | None:
    return next((one.directory for one in artifacts if sources.has_tokenizer(one.directory)), None)


def _probes(reference: Subject) -> tuple[Feeds, ...]:
    """Made-up inputs, for a graph that nobody named data for; none when it runs on none of ours."""
    found = probe.find(reference.model)
    return found.calls if found else ()


def _agreement_tokens(windows: Windows | None, recipe: Recipe) -> NDArray[np.int64] | None:
    """Two rows of real text, long enough for prompt and decode steps; None when there is none."""
    options = recipe.validate_.agreement
    length = options.length + options.decode_steps
    if windows is None:
        return None
    stream = windows.ids[windows.mask.astype(bool)]
    return stream[: 2 * length].reshape(2, length) if stream.size >= 2 * length else None
