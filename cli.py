"""The command line: argv -> recipe -> pipeline -> tables and exit code.

    compress run RECIPE          everything a recipe promises
    compress export | optimize | quantize | validate      single stages, the same functions
    compress bench               how fast, by batch and length
    compress check               where each node will run
    compress inspect | diff | doctor | recipes            what is there
    compress generate | serve                             many requests on one artifact

With --json one document goes to standard output; progress and messages go to standard error. Exit codes: 0 done,
1 a limit was missed, 2 the request is wrong, 3 this machine cannot do it, 70 our bug.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from compressor.command import ending, terminal
from compressor.command.arguments import Argument, Commands, Option
from compressor.command.options import OPTIONS, budget, build, load, one_of, refuse_unread, static_axes
from compressor.command.places import each, refuse_itself
from compressor.errors import LimitMissedError, MachineError

commands = Commands(
    help="PyTorch and Hugging Face models to ONNX: exported, optimized, quantized, and proven to work.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Set = Annotated[list[str], Option("--set", help="Override a field: section.field=value, e.g. quantize.gptq.bits=3")]
For = Annotated[str, Option("--for", help="Where it will run: generic, cpu, cuda or tensorrt.")]
Json = Annotated[bool, Option("--json", help="One JSON document on standard output.")]
Strict = Annotated[bool, Option("--strict", help="A fallback fails too, not only a missed limit.")]
Output = Annotated[
    Path,
    Option("-o", "--output", resolve_path=True, help="Directory of the artifact; written whole or not at all."),
]
Bits = Annotated[
    str | None, Option("--budget", help="bits=4.25: bits and groups chosen for each weight, so many on average.")
]
MaxIncrease = Annotated[
    float | None, Option("--max-ppl-increase", help="As --budget, as few bits as raise perplexity no more: 0.02")
]
Baseline = Annotated[Path | None, Option("--baseline", help="The last good report.json: what got worse than it fails.")]
Junit = Annotated[Path | None, Option("--junit", help="Also write the report as JUnit XML.")]
Summary = Annotated[
    Path | None, Option("--summary", help="Append the report in Markdown, e.g. to $GITHUB_STEP_SUMMARY.")
]
Input = Annotated[Path, Argument(help="An artifact's folder, or a bare .onnx file.")]
Inputs = Annotated[
    list[Path], Argument(help="An artifact's folder, or a bare .onnx file; several: each into DIR/<its name>.")
]


@commands.add
def run(
    recipe: Annotated[str, Argument(help="A recipe file, or the name of one of ours.")],
    model: Annotated[str | None, Option("--model", help="In place of the recipe's model.")] = None,
    output: Annotated[
        Path | None, Option("-o", "--output", resolve_path=True, help="Default: artifacts/<recipe>.")
    ] = None,
    set_: Set = [],  # noqa: B006  copied
    bits: Bits = None,
    max_increase: MaxIncrease = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
    baseline: Baseline = None,
    junit: Junit = None,
    summary: Summary = None,
    strict: Strict = False,
    json_: Json = False,
) -> None:
    """Make an artifact as a recipe says, measure it, and judge it."""
    from compressor import pipeline, planning
    from compressor.command import showing
    from compressor.recipe import shipped
    from compressor.report import baseline as last_good

    path = shipped.find(recipe)
    named = [f"model={json.dumps(model)}"] if model else []
    chosen = load(path, [*named, *set_, *budget(bits, max_increase)])
    place = output or Path("artifacts") / path.stem
    earlier = last_good.read(baseline) if baseline else None
    if dry_run:
        showing.plan(planning.plan(chosen, place, strict=strict), place, json_)
        return
    made, report = pipeline.run(chosen, place, strict=strict, earlier=earlier, track=terminal.progress())
    showing.write_for_ci(report, junit, summary, strict=strict)
    showing.report(report, made, strict=strict, as_json=json_)
    ending.fail_by_verdict(report, strict=strict)


@commands.add
def export(
    model: Annotated[str, Argument(help="Hugging Face id, folder, .onnx, .pt2, torch:package.module:factory.")],
    output: Output,
    task: Annotated[str | None, Option("--task", help="What the model is for, where it does not say.")] = None,
    dtype: Annotated[str | None, Option("--dtype", help="float32, float16 or bfloat16.")] = None,
    opset: Annotated[int | None, Option("--opset", help="ONNX operator set, 21 to 23.")] = None,
    static: Annotated[str, Option("--static", help="Fix free axes: batch_size=1,sequence_length=128")] = "",
    remote_code: Annotated[
        bool, Option("--trust-remote-code", help="Run the code that the model's repository brings.")
    ] = False,
    set_: Set = [],  # noqa: B006
    strict: Strict = False,
    json_: Json = False,
) -> None:
    """Export a model to ONNX and hold it to what torch says. One graph is made, or as few as the task needs."""
    from compressor import pipeline, sources
    from compressor.command import showing
    from compressor.shelf import Shelf

    chosen = {"task": task, "dtype": dtype, "opset": opset, "trust_remote_code": remote_code or None}
    data = {"model": model, "export": {name: value for name, value in chosen.items() if value is not None}}
    recipe = build(data, [*static_axes(static), *set_])
    pipeline.refuse_remote_code(recipe, strict=strict)
    source = sources.find(recipe.model, remote_code=remote_code)
    made = pipeline.export(source, recipe, Shelf(output, exact=True), terminal.progress())
    showing.artifact(made, json_)
    ending.fail_on_fallbacks(made, strict=strict)


@commands.add
def optimize(
    inputs: Inputs,
    output: Output,
    target: For = "generic",
    dtype: Annotated[str | None, Option("--dtype", help="float16 or bfloat16 inside, where kernels are.")] = None,
    set_: Set = [],  # noqa: B006
    explain: Annotated[bool, Option("--explain", help="Say which near matches each pass left alone, and why.")] = False,
    strict: Strict = False,
    json_: Json = False,
) -> int:
    """Run the graph passes, each proven or rolled back."""
    from compressor.command import deferred

    deferred.hasten()
    from compressor import catalog, sources
    from compressor.command import showing
    from compressor.report import tables
    from compressor.shelf import Shelf
    from compressor.stages import optimizing

    deferred.settle()
    data = {"model": str(inputs[0]), "target": target, "optimize": {"dtype": dtype}}
    plain = not (set_ or dtype) and target in catalog.TARGETS  # else the recipe says what is wrong, or what was set
    wanted = optimizing.Target(target) if plain else build(data, set_)
    documents: dict[str, Any] = {}

    def one(input_: Path, place: Path) -> None:
        refuse_itself(input_, place)
        made = optimizing.optimize(sources.open_input(input_), wanted, Shelf(place, exact=True), terminal.progress())
        if json_:
            documents[str(place)] = showing.document(made)
        else:
            showing.artifact(made, as_json=False)
        if explain and not json_ and (refusals := tables.refusals(made)):  # the document has them anyway
            terminal.table("left alone", refusals)
        ending.fail_on_fallbacks(made, strict=strict)

    try:
        return each(inputs, output, one)
    finally:
        if documents:
            terminal.emit(documents if len(inputs) > 1 else documents[str(output)])


@commands.add
def quantize(
    input_: Input,
    output: Output,
    method: Annotated[
        str, Option("--method", help="gptq, rtn, static_qdq, dynamic: a name under `quantize` of a recipe.")
    ] = "gptq",
    calibration: Annotated[
        str, Option("--calibration", help="A text file, arrays (.npz), a folder of pictures, a dataset, builtin.")
    ] = "builtin",
    target: For = "cpu",
    set_: Set = [],  # noqa: B006
    bits: Bits = None,
    max_increase: MaxIncrease = None,
    strict: Strict = False,
    json_: Json = False,
) -> None:
    """Quantize the weights and package them as the engine loads them."""
    from compressor.command.deferred import defer

    defer()
    from compressor import pipeline, sources
    from compressor.command import showing
    from compressor.shelf import Shelf, claim

    text = {"source": calibration}
    data = {"model": str(input_), "target": target, "quantize": {method: {}}, "calibration": text}
    recipe = build(data, [*set_, *budget(bits, max_increase)])
    refuse_itself(input_, output)
    claim(output)
    given = sources.open_input(input_) if output.exists() else sources.open_input(input_, pipeline.get_ready)
    quantized = pipeline.quantize(given, recipe, pipeline.stages_beside(output), terminal.progress())
    made = pipeline.package(given, quantized, recipe, Shelf(output, exact=True))
    left = {name: quantized.facts.get(name, {}) for name in ("left_alone", "left_bytes")}
    showing.artifact(made, json_, {"layers": pipeline.layers(quantized, made), **left})
    ending.fail_on_fallbacks(quantized, made, strict=strict)


@commands.add
def validate(
    candidate: Annotated[Path, Argument(help="The artifact or .onnx file to examine.")],
    against: Annotated[Path, Option("--against", help="The unquantized reference.")],
    provider: Annotated[
        str | None, Option("--provider", help="Where to run it: cpu, cuda or tensorrt; missing exits 3.")
    ] = None,
    output: Annotated[
        Path | None, Option("-o", "--output", file_okay=False, help="Also write report.json, .md and .html.")
    ] = None,
    set_: Set = [],  # noqa: B006
    baseline: Baseline = None,
    junit: Junit = None,
    summary: Summary = None,
    strict: Strict = False,
    json_: Json = False,
) -> None:
    """Measure a candidate against its reference. A missed limit exits 1."""
    from compressor import pipeline, sources
    from compressor.command import showing
    from compressor.report import baseline as last_good

    data: dict[str, Any] = {"model": str(candidate)}
    if provider:
        data |= {"target": provider, "validate": {"latency": {}}}
    recipe = build(data, set_, {**OPTIONS, ("target",): "--provider"})
    ours, theirs = sources.open_input(candidate), sources.open_input(against)
    earlier = last_good.read(baseline) if baseline else {}
    report = last_good.judged(
        pipeline.validate(ours, theirs, recipe, provider=provider, track=terminal.progress()), earlier
    )
    if output:
        with ending.writing():
            output.mkdir(parents=True, exist_ok=True)
            pipeline.write_report(output, report, strict=strict)
    showing.write_for_ci(report, junit, summary, strict=strict)
    showing.report(report, None, strict=strict, as_json=json_)
    ending.fail_by_verdict(report, strict=strict)


@commands.add
def check(
    artifact: Input,
    target: Annotated[str, Option("--for", help="Where it will run: cpu, cuda or tensorrt.")] = "cpu",
    strict: Annotated[bool, Option("--strict", help="A node that the target cannot run fails.")] = False,
    json_: Json = False,
) -> None:
    """Predict where each node will run. Also the copies that costs, and what hurts; needs no GPU."""
    from compressor import sources
    from compressor.command import showing
    from compressor.graph.session import load_model
    from compressor.providers import prediction

    models = sources.open_input(artifact).models
    found = {path.name: prediction.predict(load_model(path), target) for path in models}
    if json_:
        documents = {name: one.to_json(strict=strict) for name, one in found.items()}
        terminal.emit(documents if len(models) > 1 else documents[models[0].name])
    else:
        for name, one in found.items():
            showing.prediction(name, one)
    verdicts = {name: one.verdict(strict=strict) for name, one in found.items()}
    if missed := [f"{artifact}: {name}: {one}" for name, one in verdicts.items() if one != prediction.RUNS]:
        raise LimitMissedError("\n".join(missed))


@commands.add
def bench(
    artifact: Input,
    against: Annotated[
        str | None,
        Option("--against", help="Its rival: an artifact, an .onnx, or builder:MODEL, made by onnxruntime-genai."),
    ] = None,
    provider: Annotated[str, Option("--provider", help="Where to run: cpu, cuda or tensorrt.")] = "cpu",
    batch: Annotated[list[int], Option("--batch", min=1, help="Rows of a call; repeat it. Default: 1, 4.")] = [],  # noqa: B006
    length: Annotated[list[int], Option("--length", min=1, help="Tokens of a row; repeat it. Default: 32, 128.")] = [],  # noqa: B006
    repeats: Annotated[int | None, Option("--repeats", min=1, help="Laps at each point. Default: 10.")] = None,
    serving: Annotated[
        bool, Option("--serving", help="By number of streams: throughput, first token, each token after it.")
    ] = False,
    streams: Annotated[
        list[int], Option("--streams", min=1, help="With --serving, requests at once; repeat it. Default: 1, 4, 16.")
    ] = [],  # noqa: B006
    new_tokens: Annotated[
        int | None, Option("--new-tokens", min=2, help="With --serving, of each answer. Default: 32.")
    ] = None,
    output: Annotated[
        Path | None, Option("-o", "--output", file_okay=False, help="Also write bench.json and bench.html.")
    ] = None,
    json_: Json = False,
) -> None:
    """Measure latency and throughput by batch and length. A rival takes turns; -o draws a plot."""
    from compressor import benchmark
    from compressor.command import benching

    if serving:
        refuse_unread({"--batch": batch, "--repeats": repeats}, "--serving has streams in their place; leave it out")
        found = benching.streams(artifact, against, provider, streams, length, new_tokens)
    else:
        refuse_unread({"--streams": streams, "--new-tokens": new_tokens}, "it goes with --serving")
        found = benching.calls(artifact, against, provider, batch, length, repeats)
    if output:
        with ending.writing():
            benchmark.write(output, found.rows, found.plots)
    if json_:
        terminal.emit(found.rows)
    else:
        terminal.table(found.title, found.rows)
        terminal.show(*found.bars)


@commands.add
def inspect(
    artifact: Input,
    json_: Json = False,
) -> None:
    """Show what an artifact holds, and whether its files are whole. Operators, sizes, interface, provenance."""
    from compressor import inspection, sources
    from compressor.command import showing

    facts = inspection.inspect(sources.open_input(artifact))
    showing.facts(facts, json_)
    if facts["damaged"]:
        raise LimitMissedError(f"{artifact}: {', '.join(facts['damaged'])} changed since the artifact was written")


ServedBackend = Annotated[str, Option("--backend", help="engine (onnxruntime-genai) or reference (ours).")]
MaxBatch = Annotated[int, Option("--max-batch", min=1, help="Requests that run at once.")]
CacheTokens = Annotated[
    int | None,
    Option("--cache-tokens", min=1, help="Size of the pool; default: the whole context for each place."),
]
Threads = Annotated[int, Option("--threads", min=0, help="That compute; 0: one for each core.")]
ServedFolder = Annotated[Path, Argument(help="The folder of an artifact with its paged twin.")]


@commands.add
def generate(
    artifact: ServedFolder,
    prompts: Annotated[Path, Option("--prompts", help="JSON lines: prompt or tokens, max_tokens, seed, ...")],
    output: Annotated[Path | None, Option("-o", "--output", help="Default: beside it, as <name>.out.jsonl.")] = None,
    batching: Annotated[
        str, Option("--batching", help="continuous, or static: padded batches that wait for their longest.")
    ] = "continuous",
    backend: ServedBackend = "engine",
    max_batch: MaxBatch = 8,
    cache_tokens: CacheTokens = None,
    threads: Threads = 0,
    json_: Json = False,
) -> None:
    """Answer the prompts of a file into a file. A run that was ended goes on where it stood."""
    from compressor.serve import offline
    from compressor.serve.served import BACKENDS, STATIC, Served

    one_of("--batching", batching, ("continuous", STATIC))
    one_of("--backend", backend, BACKENDS)
    name = STATIC if batching == STATIC else backend
    served = Served.open(artifact, paged=name != STATIC)
    make = served.backend(name, served.limits(max_batch, cache_tokens, threads))
    place = output or prompts.with_suffix(".out.jsonl")
    asked = offline.generate(served, make, prompts, place, terminal.progress())
    failed = [one for one in asked if one.error]
    count = len(asked) - len(failed)
    terminal.emit({"output": str(place), "answered": count}) if json_ else terminal.show(f"answered {count}: {place}")
    if failed:
        raise LimitMissedError(f"{len(failed)} prompts have no answer, as {failed[0].where}: {failed[0].error}")


@commands.add
def serve(
    artifact: ServedFolder,
    host: Annotated[str, Option("--host", help="Who may connect; 0.0.0.0 is everybody.")] = "127.0.0.1",
    port: Annotated[int, Option("--port", min=1, max=65535)] = 8000,
    name: Annotated[str | None, Option("--name", help="Of the model; default: the folder's.")] = None,
    backend: ServedBackend = "engine",
    max_batch: MaxBatch = 16,
    cache_tokens: CacheTokens = None,
    threads: Threads = 0,
    queue: Annotated[int, Option("--queue", min=0, help="Requests that may wait; one more is told 429.")] = 64,
    max_new_tokens: Annotated[int, Option("--max-new-tokens", min=1, help="Of one request.")] = 1024,
    drain_seconds: Annotated[
        int, Option("--drain-seconds", min=1, help="For what is under way when the server is told to end.")
    ] = 60,
    api_key: Annotated[str | None, Option("--api-key", envvar="COMPRESS_API_KEY", help="Clients send it.")] = None,
) -> None:
    """Serve an artifact with OpenAI's interface. Completions, chat, streaming, metrics."""
    from compressor.serve.served import BACKENDS, Served

    one_of("--backend", backend, BACKENDS)
    served = Served.open(artifact)
    try:
        from compressor.serve import http
    except ImportError as error:
        raise MachineError(f"{error.name} is not installed; `pip install 'compress-onnx[serve]'` brings it") from None
    place = http.listen(host, port)
    make = served.backend(backend, served.limits(max_batch, cache_tokens, threads))
    options = http.Options(
        name or artifact.resolve().name, api_key, max_new_tokens=max_new_tokens, drain_seconds=drain_seconds
    )
    server = http.start(served, make, options, queue)
    terminal.say(f"{options.name} at http://{host}:{port}/v1, {max_batch} at once; Ctrl-C ends it")
    http.run(server, place)


@commands.add
def diff(
    before: Input,
    after: Annotated[Path, Argument(help="What became of it.")],
    json_: Json = False,
) -> None:
    """Show what two graphs differ in. Interface, versions, operators, weights."""
    from compressor import difference, sources
    from compressor.command import showing

    facts = difference.compare(sources.open_input(before), sources.open_input(after))
    showing.facts(facts, json_)


@commands.add
def doctor(json_: Json = False) -> None:
    """Show what this machine has, and which providers really load. Versions, memory, disk."""
    from compressor.command import showing
    from compressor.providers import environment

    showing.facts(environment.examine(), json_)


@commands.add
def recipes(
    schema: Annotated[bool, Option("--schema", help="Print the JSON schema of a recipe.")] = False,
    json_: Json = False,
) -> None:
    """List the recipes that come with compress. Each says for whom it is."""
    from compressor.recipe import recipe, shipped

    if schema:
        terminal.emit(recipe.schema())
        return
    found = {path.stem: shipped.purpose(path) for path in shipped.ours()}
    terminal.emit(found) if json_ else terminal.table(
        "recipes", [{"recipe": name, "for": text} for name, text in found.items()]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs a command and ends the process with the code its outcome has."""
    words = sys.argv[1:] if arguments is None else arguments

    def command() -> object:
        return commands.run(words)

    ranked = "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"  # torchrun's, of several processes
    if arguments is None and not ranked:
        ending.unwind_when_terminated()
    kept = ending.KEPT.get(words[0], "") if words else ""
    code = (ending.among_ranks if ranked else ending.guarded)(command, kept)
    if arguments is None and not ranked:
        ending.leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
