"""The product, top to bottom: a recipe becomes a proven artifact.

    model -export-> exported -optimize-> optimized -quantize-> quantized -package-> packaged
                    exported ---------- reference -----------> validate(packaged) -> Report -> delivered

A stage opens its input, does its work and commits an artifact under its key. A key that is already there is the
result: an interrupted run goes on where it stood, and single commands call the very functions that `run` calls.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor import artifact, catalog, sources
from compressor.artifact import Artifact
from compressor.data.calibration import Windows
from compressor.disk import write_json
from compressor.errors import RequestError
from compressor.graph.decoder import Decoder
from compressor.graph.session import load_model, save_model
from compressor.progress import Track, identity
from compressor.providers import backends, combinations, prediction
from compressor.providers.combinations import Wanted
from compressor.recipe.recipe import Recipe
from compressor.report import baseline
from compressor.report.baseline import Earlier
from compressor.report.report import Report
from compressor.shelf import Draft, Shelf, claim, refuse_full_disk
from compressor.sources import Source
from compressor.stages import keys, optimizing
from compressor.stages.optimizing import count_nodes

STAGES = ("export", "optimize", "quantize", "package")
Rows = list[dict[str, Any]]


def run(
    recipe: Recipe, output: Path, *, strict: bool = False, earlier: Earlier | None = None, track: Track = identity
) -> tuple[Artifact, Report]:
    """Everything a recipe promises, delivered at `output` with its report; intermediate stages lie beside it.

    earlier: the last good report, for what got worse than it is a miss.
    """
    refuse_remote_code(recipe, strict=strict)
    source = sources.find(recipe.model, remote_code=recipe.export.trust_remote_code)
    refuse_for_target(recipe, source)
    claim(output.absolute())
    stages = stages_beside(output)
    exported = export(source, recipe, stages, track)
    optimized = optimize(exported, recipe, stages, track)
    refuse_unrunnable(optimized, recipe.target)
    quantized = quantize(optimized, recipe, stages, track)
    packaged = package(optimized, quantized, recipe, stages)
    # No runtime here opens a checkpoint: in its place the graph of the same weights is measured.
    measured = packaged if recipe.as_graph() is recipe else package(optimized, quantized, recipe.as_graph(), stages)
    rounded = round_instead(optimized, recipe, stages, track)
    report = validate(
        measured, exported, recipe, rounded=rounded, made_by=(exported, optimized, quantized), track=track
    )
    report = baseline.judged(report, earlier or {})
    return deliver(packaged, report, recipe, source, quantized, output, strict=strict), report


def refuse_for_target(recipe: Recipe, source: Source) -> None:
    """A model that its target cannot run dies here, by its configuration. Raises: RequestError."""
    from compressor.export import tasks

    if source.kind == sources.CHECKPOINT:
        config = sources.whole_config(source.folder)
        task, model_type = tasks.find(config, recipe.export.task).name, str(config.get("model_type"))
        combinations.refuse(Wanted(recipe.target, recipe.export.dtype, recipe.passes, task, model_type))


def refuse_unrunnable(optimized: Artifact, target: str) -> None:
    """A graph with a node that no provider of its target has a kernel for is not worth quantizing.

    Raises: RequestError that names the node.
    """
    for path in optimized.models:
        found = prediction.predict(load_model(path), backends.home(target))
        if found.refused:
            raise RequestError(f"{path}: on {target}: {found.verdict(strict=False)}; `compress check` shows all")


def export(source: Source, recipe: Recipe, shelf: Shelf, track: Track = identity) -> Artifact:
    """A model -> one ONNX graph or the fewest, compared with torch, with its configuration and tokenizer."""
    key, options = keys.export(source.sha256, recipe)
    if done := shelf.find("export", key):
        return done
    from compressor import estimate
    from compressor.export import exporters, static
    from compressor.package import genai

    wanted = recipe.export
    refuse_full_disk(shelf.place("export", key), estimate.costs(source, recipe)["export"].disk_bytes)
    task, exported = exporters.prepare(source, wanted)
    with shelf.timed_draft("export", key, options, source.provenance) as draft:
        models, guesses = list(exported.graphs), list[str]()
        nodes, axes = 0, set[str]()
        for name, make in track(exported.graphs.items(), "export"):
            model = make()
            save_model(model, draft.folder / name)
            nodes, axes = nodes + count_nodes(model), axes | set(static.axes(model))
            if (sizes := Decoder.of(model)) and (config := sources.config(source.folder)):
                context, guesses = sources.served_context(source.folder)
                genai.write(draft.folder, config, sizes, context)
        sources.carry(source.folder, draft.folder)
        static.refuse_unknown(wanted.static, axes)
        proven = exported.prove(draft.folder)
        longest = sources.context(source.folder)
        profiles = {name: static.fix(draft.folder / name, wanted.static, longest) for name in models}
        draft.facts |= {"task": task, "models": models, "nodes": nodes, "profiles": profiles}
        draft.facts |= {**exported.facts, "fallbacks": [*guesses, *exported.facts.get("fallbacks", ())]}
        draft.measured["proof"] = [dataclasses.asdict(one) for one in proven]
    return artifact.open_artifact(shelf.place("export", key))


def optimize(exported: Artifact, recipe: Recipe, shelf: Shelf, track: Track = identity) -> Artifact:
    """Graph -> equivalent smaller graph; every pass proven on probes with ONNX Runtime's own optimizer off."""
    return optimizing.optimize(exported, recipe, shelf, track)


def quantize(optimized: Artifact, recipe: Recipe, shelf: Shelf, track: Track = identity) -> Artifact:
    """Graph and calibration text -> a QTensor for each linear, one file each."""
    key, options = keys.quantize(optimized.key, recipe, keys.encoder_beside(optimized, recipe))
    if done := shelf.find("quantize", key):
        return done
    from compressor.quantize.machine import ranks
    from compressor.stages import quantizing

    with shelf.timed_draft("quantize", key, options, {"key": optimized.key}) as draft:
        work = ranks.led(quantizing.quantize, optimized, recipe, draft.folder, track)
        fallen = [f"{row['layer']}: {row['fallback']}" for row in work.rows if row["fallback"]]
        draft.facts |= {"calibration": dict(work.calibrated_on)} if work.calibrated_on else {}
        draft.facts |= {"left_alone": dict(work.left_alone), "left_bytes": dict(work.left_bytes)}
        draft.facts |= {"fallbacks": [*work.fallbacks, *fallen]}
        draft.facts |= {"layers": work.rows} | ({"budget": dict(work.budget)} if work.budget else {})
        draft.facts |= {"prepared": work.prepared} if work.prepared else {}
    return artifact.open_artifact(shelf.place("quantize", key))


def get_ready(nbytes: int) -> None:
    """What `quantize` waits for otherwise, while the bytes of its graph are being hashed: its imports, compiled C."""
    from compressor.quantize.machine import compiled

    if nbytes >= 4 * compiled.WORTH_ROUNDED:  # bytes of a float32
        compiled.begin()
    from compressor.stages import quantizing  # noqa: F401  brings torch


def package(optimized: Artifact, quantized: Artifact, recipe: Recipe, shelf: Shelf) -> Artifact:
    """Graph and QTensors -> what the engine loads, with genai_config.json and tokenizer; or a quantized checkpoint."""
    key, options = keys.package(optimized.key, quantized.key, recipe)
    if done := shelf.find("package", key):
        return done
    with shelf.timed_draft("package", key, options, {"key": quantized.key}) as draft:
        if catalog.FORMATS[recipe.format].checkpoint:
            _write_checkpoint(quantized, recipe, draft)
        else:
            _write_graph(optimized, quantized, recipe, draft)
    return artifact.open_artifact(shelf.place("package", key))


def _write_graph(optimized: Artifact, quantized: Artifact, recipe: Recipe, draft: Draft) -> None:
    """The graph with its weights packed, and what onnxruntime-genai wants beside it."""
    from compressor.package import genai
    from compressor.stages import packing, quantizing

    sources.carry(optimized.directory, draft.folder)
    draft.facts |= {"nodes": 0, "weight_bytes": {}, "method": packing.describe(recipe)}
    draft.facts |= {"models": [view.carries_as for view in optimized.views]}
    for view in optimized.views:
        packed = packing.pack(view, quantized, recipe)
        packed.write(draft.folder / view.carries_as)
        if (sizes := Decoder.of(packed.model)) and (config := sources.config(draft.folder)):
            context, guesses = sources.served_context(draft.folder)
            genai.write(draft.folder, config, sizes, context)
            draft.facts["fallbacks"] = [*guesses, *_paged_twin(draft, context, recipe)]
        draft.facts["nodes"] += count_nodes(packed.model)
        draft.facts["weight_bytes"] |= quantizing.named(packed.weight_bytes, view.part)
        draft.facts["stored"] = packed.stored


def _write_checkpoint(quantized: Artifact, recipe: Recipe, draft: Draft) -> None:
    """The source's shards with the quantized weights in the place of the float ones, configuration and tokenizer."""
    from compressor.package import checkpoint
    from compressor.quantize import store
    from compressor.quantize.qtensor import Choice
    from compressor.stages import packing, pieces

    source, form = sources.find(recipe.package.checkpoint or recipe.model), catalog.FORMATS[recipe.format]
    layout, symmetric = catalog.resolve(form.where), recipe.scheme != "zero_point"
    chosen = {row["layer"]: Choice(row["bits"], row["group_size"]) for row in quantized.facts["layers"]}
    places = pieces.find(source.folder, [*chosen, *quantized.facts["left_alone"]])
    held = {name: places[name] for name in chosen}
    pieces.refuse_unheld(source.folder, recipe.format, held, chosen, symmetric=symmetric)
    tensors = store.Reader(quantized.directory)
    packed = checkpoint.write(source.folder, draft.folder, layout, held, tensors.read, symmetric=symmetric)
    sources.carry(source.folder, draft.folder)
    by_piece = {piece.name: chosen[name] for name, found in held.items() for piece in found}
    left_alone = {piece.name for name in quantized.facts["left_alone"] for piece in places[name]}
    left_alone |= quantized.facts["left_alone"].keys()  # modules have these names where transformers renames them
    checkpoint.add_config(draft.folder, layout.config(by_piece, sorted(left_alone), symmetric))
    draft.facts |= {"method": packing.describe(recipe), "stored": recipe.format, "weight_bytes": packed}


def layers(quantized: Artifact, packaged: Artifact) -> Rows:
    """The table of the weights that were rounded, with the bits that each takes in its package."""
    from compressor.stages import quantizing

    rows = []
    for row in quantized.facts["layers"]:
        (name,) = quantizing.named({row["layer"]: None}, row.get("graph", ""))
        held = packaged.facts.get("weight_bytes", {}).get(name)
        rows.append(row if held is None else row | {"bits_per_weight": round(8 * held / (row["in"] * row["out"]), 3)})
    return rows


def round_instead(optimized: Artifact, recipe: Recipe, shelf: Shelf, track: Track = identity) -> Artifact | None:
    """The same weights, merely rounded to the same grid, where the recipe wants to know what the solver gained."""
    perplexity = recipe.validate_.perplexity
    if perplexity is None or perplexity.below_rounding is None or recipe.quantize.gptq is None:
        return None
    alone = recipe.package.model_copy(update={"paged": False})
    plain = recipe.model_copy(update={"quantize": recipe.quantize.rounded(), "package": alone})
    return package(optimized, quantize(optimized, plain, shelf, track), plain.as_graph(), shelf)


def validate(
    candidate: Artifact,
    reference: Artifact,
    recipe: Recipe,
    *,
    rounded: Artifact | None = None,
    made_by: Sequence[Artifact] = (),
    provider: str | None = None,
    track: Track = identity,
) -> Report:
    """Measure the candidate against the unquantized reference and put each number under its limit.

    On a provider that has to be there; on None at the recipe's target where that loads, and else on the CPU, which
    the report says.
    """
    from compressor.stages import measuring

    begin = time.perf_counter()
    stages = (*made_by, candidate)
    rounding = next((one for one in stages if "layers" in one.facts), None)
    layer_rows = layers(rounding, candidate) if rounding else []
    spent: Mapping[str, Any] = next((one.facts["budget"] for one in stages if "budget" in one.facts), {})
    said = [line for one in stages for line in one.facts.get("fallbacks", ())]  # two stages may say the same
    found = measuring.measure(
        candidate, reference, recipe, rounded=rounded, layers=layer_rows, spent=spent, provider=provider, track=track
    )
    return Report(
        found.measurements,
        fallbacks=tuple(dict.fromkeys([*found.fallbacks, *said])),
        stages=tuple(_stage_rows(stages, time.perf_counter() - begin)),
        passes=tuple(row for one in stages for row in one.measured().get("passes", ())),
        layers=tuple(layer_rows),
        tradeoff=tuple(spent.get("tradeoff", ())),
        placement=found.placement,
        left_alone=next((one.facts["left_alone"] for one in stages if "left_alone" in one.facts), {}),
        left_bytes=next((one.facts["left_bytes"] for one in stages if "left_bytes" in one.facts), {}),
        facts=_report_facts(recipe, stages, found.windows),
    )


def deliver(
    packaged: Artifact,
    report: Report,
    recipe: Recipe,
    source: Source,
    quantized: Artifact,
    output: Path,
    *,
    strict: bool,
) -> Artifact:
    """The packaged files with manifest and report, at the place that the user named."""
    shelf = Shelf(output, exact=True)
    provenance = {**source.provenance, "calibration": quantized.facts.get("calibration"), "package": packaged.key}
    key = artifact.key("run", packaged.key, recipe.resolved())
    refuse_full_disk(output, packaged.nbytes)
    with shelf.draft("run", key, recipe.resolved(), provenance) as draft:
        for name in packaged.manifest["files"]:  # copied: the ONNX checker refuses data that is hard-linked
            shutil.copyfile(packaged.directory / name, draft.folder / name)
        draft.facts = {name: quantized.facts.get(name, {}) for name in ("left_alone", "left_bytes")}
        draft.facts |= packaged.facts
        write_report(draft.folder, report, strict=strict)
    return artifact.open_artifact(output)


def refuse_remote_code(recipe: Recipe, *, strict: bool) -> None:
    """Code that nobody here has read may run only where somebody asked for it and nobody asked to be strict."""
    if strict and recipe.export.trust_remote_code:
        raise RequestError("export.trust_remote_code: not with --strict; drop one of the two")


def write_report(folder: Path, report: Report, *, strict: bool) -> None:
    """report.json for machines, report.md and report.html for people."""
    from compressor.report import page

    write_json(folder / "report.json", report.to_json(strict=strict))
    (folder / "report.md").write_text(report.to_markdown(strict=strict), encoding="utf-8")
    (folder / "report.html").write_text(page.render(report, strict=strict), encoding="utf-8")


def stages_beside(output: Path) -> Shelf:
    """`artifacts/a` keeps its stages in `artifacts/a.stages`; deleting them costs nothing but time."""
    return Shelf(output.with_name(f"{output.name}.stages"))


def _paged_twin(draft: Draft, context: int, recipe: Recipe) -> list[str]:
    """The paged graph beside the contiguous one; where an attention cannot be paged, the reason."""
    from compressor.package import paged
    from compressor.stages import cache_calibration

    if not recipe.paged:
        return []
    text = cache_calibration.read(draft.folder, recipe)
    try:
        cache = cache_calibration.kept(draft.folder, recipe, text)
        paged.write(draft.folder, context, "cuda" if recipe.target == "cuda" else "cpu", cache)
    except RequestError as error:
        return [f"{error}; `compress generate --batching static` answers without pages"]
    draft.facts |= {"cache_calibration": text.facts} if text else {}
    return []


def _stage_rows(stages: Sequence[Artifact], validating: float) -> Rows:
    rows = [
        {
            "stage": one.stage,
            "seconds": one.measured().get("seconds"),
            "reused": one.reused,
            "bytes": one.nbytes,
            "key": one.key[:12],
        }
        for one in stages
    ]
    return [*rows, {"stage": "validate", "seconds": validating, "reused": False, "bytes": None, "key": ""}]


def _report_facts(recipe: Recipe, stages: Sequence[Artifact], windows: Windows | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"model": recipe.model}
    facts |= {name: one.facts[name] for one in stages for name in ("method", "stored") if name in one.facts}
    if windows is not None:
        facts["held-out text"] = ", ".join(f"{name} {value}" for name, value in windows.facts.items())
    return facts | {"made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
