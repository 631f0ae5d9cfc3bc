"""Every check of an artifact against its reference, in the order in which a report tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compressor import calibration, probe, samples, sources
from compressor.artifact import MODEL, Artifact
from compressor.calibration import Vocabulary, Windows
from compressor.decoder import Decoder, Feeds
from compressor.progress import Track, identity
from compressor.providers import backends, prediction
from compressor.recipe import Recipe
from compressor.report import Measurement
from compressor.session import Backend, load_model
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
    placement: Mapping[str, Any]
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
    """Structure first: a graph that does not load has no other number.

    On a provider that has to be there; on None at the recipe's target where that loads, and else on the CPU, which the
    fallbacks say. rounded: the same weights merely rounded. layers: the solver's rows. spent: what a budget went into.
    """
    limits = recipe.validate_
    where, absent = (provider, ()) if provider else backends.at_hand(recipe.target)
    backend = _backend(where, candidate, reference)
    ours = Subject(candidate.model, backend=backend)
    theirs = Subject(reference.model, is_reference=True, backend=backend)
    windows = _heldout_windows(candidate, reference, recipe, theirs.decoder)
    found, predicted = structure.measure(ours, theirs), {}
    if not found[0].value:
        found += _answers(ours, theirs, recipe, windows)
        allowed = budget.limits(limits.perplexity, recipe.quantize.budget)
        if windows is not None and allowed:
            plain = Subject(rounded.model) if rounded else None
            found += perplexity.measure(ours, theirs, windows, allowed, rounded=plain, track=track)
        placed = prediction.predict(ours.model, provider or backends.home(recipe.target))
        predicted = placed.overview()
        found += _costs(ours, theirs, recipe)
        found += placement.measure(ours, placed, limits.placement, observe=bool(provider) or where != "cpu")
        found += latency.measure(ours, limits.latency) if limits.latency else []
    found += [*solved.measure(list(layers), limits.layers), *budget.measure(spent)]
    return Measured(tuple(found), tuple(absent), predicted, windows)


def _answers(ours: Subject, theirs: Subject, recipe: Recipe, windows: Windows | None) -> list[Measurement]:
    """What the two say to the same inputs: real ones where the recipe names them."""
    limits, found = recipe.validate_, []
    labelled = samples.labelled(limits.accuracy, theirs.model, recipe.images) if limits.accuracy else None
    if ours.decoder and theirs.decoder:
        found += agreement.measure(ours, theirs, _agreement_tokens(windows, recipe), limits.agreement)
    else:
        calls = labelled.batches[: outputs.CALLS] if labelled else _probes(theirs)
        found += outputs.measure(ours, theirs, calls, limits.agreement)
    if labelled and limits.accuracy:
        found += accuracy.measure(ours, theirs, labelled, limits.accuracy)
    return found


def _costs(ours: Subject, theirs: Subject, recipe: Recipe) -> list[Measurement]:
    """Bytes and tokens a second, and whether the paged twin says the same."""
    limits = recipe.validate_
    found = [*paged.measure(ours, limits.paged), *size.measure(ours, theirs, limits.size)]
    if limits.speed and ours.decoder:
        found += speed.measure(ours, theirs, limits.speed)
    return found


def sides(artifacts: Mapping[str, Artifact], provider: str) -> dict[str, Subject]:
    """Artifacts ready to be run on a provider, each with its own engines. Raises: MachineError when it is missing."""
    return {name: Subject(one.model, backend=_backend(provider, one, one)) for name, one in artifacts.items()}


def _backend(where: str, candidate: Artifact, reference: Artifact) -> Backend:
    engines = backends.engines_beside(candidate.directory)
    profiles = _profiles(candidate, reference) if where == "tensorrt" else {}
    return backends.find(where, candidate.model, engines=engines, profiles=profiles)


def _profiles(candidate: Artifact, reference: Artifact) -> Mapping[str, Any]:
    """Shape profiles: those the export wrote into a manifest, or what a bare graph's axes are called."""
    from compressor.export import static

    kept: list[Mapping[str, Any]] = [one.facts["profiles"] for one in (candidate, reference) if "profiles" in one.facts]
    found: Mapping[str, Any] = kept[0].get(MODEL, {}) if kept else static.profile(load_model(candidate.model))
    return found


def _heldout_windows(candidate: Artifact, reference: Artifact, recipe: Recipe, sizes: Decoder | None) -> Windows | None:
    """Held-out text, where there is a decoder, a tokenizer and a wish to measure it."""
    options = recipe.validate_.perplexity
    folder = next((one.directory for one in (candidate, reference) if sources.has_tokenizer(one.directory)), None)
    if options is None or sizes is None or folder is None:
        return None
    return calibration.heldout_windows(options, Vocabulary.of(folder), sources.context(folder))


def _probes(reference: Subject) -> tuple[Feeds, ...]:
    """Made-up inputs, for a graph that nobody named data for; none when it runs on none of ours."""
    found = probe.find(reference.model)
    return found.calls if found else ()


def _agreement_tokens(windows: Windows | None, recipe: Recipe) -> Any:
    """Two rows of real text, long enough for prompt and decode steps; None when there is none."""
    options = recipe.validate_.agreement
    length = options.length + options.decode_steps
    if windows is None:
        return None
    stream = windows.ids[windows.mask.astype(bool)]
    return stream[: 2 * length].reshape(2, length) if stream.size >= 2 * length else None
