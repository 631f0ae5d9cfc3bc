"""Accuracy: every method x bits x group on models that nobody here made; the peers' GPTQ on the same rows.

    make accuracy      or      python -m tests.bench.accuracy [--models mix10m] [--bits 3 2] [--groups 128 64]
                                                              [--seeds 5] [--peers] [--work FOLDER]

Ours goes the product's way: exported and optimized once, quantized, packed as MatMulNBits, served by ONNX Runtime. A
peer's checkpoint is dequantized by a reader of our own (tests/readers.py) into the same graph, so that one engine and
one text measure all. Perplexity of each held-out text, KL(float || quantized) on the first, bytes of the packed
weights, seconds of quantize. Written to results/.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compressor import calibration, pipeline, recipe, sources
from compressor.artifact import Artifact, Shelf
from compressor.calibration import Vocabulary, Windows
from compressor.decoder import Decoder, DecoderSession
from compressor.quantize import graph
from compressor.recipe import Perplexity
from compressor.session import load_model, open_session
from compressor.validate.agreement import log_softmax
from tests import readers
from tests.bench import peers

BENCH = Path(__file__).resolve().parent
RESULTS = BENCH / "results" / "accuracy.json"
EVAL = BENCH.parents[2] / "shared" / "eval"
BITS, GROUPS = (8, 4, 3, 2), (-1, 128, 64, 32)
ROWS_PER_CALL = 8  # windows

Row = dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """A model, what it is calibrated on, and the texts it is measured on."""

    name: str
    calibrated_on: Mapping[str, Any]
    measured_on: Mapping[str, Perplexity]
    work: Path

    @property
    def folder(self) -> Path:
        return EVAL / self.name

    @cached_property
    def optimized(self) -> Artifact:
        """Exported and optimized once for the whole table."""
        options, shelf = self.options({"rtn": {}}, 0), Shelf(self.work)
        return pipeline.optimize(pipeline.export(sources.find(str(self.folder)), options, shelf), options, shelf)

    @cached_property
    def windows(self) -> dict[str, Windows]:
        vocabulary = Vocabulary.of(self.folder)
        return {name: calibration.heldout_windows(one, vocabulary, None) for name, one in self.measured_on.items()}

    @cached_property
    def float_log_p(self) -> np.ndarray:
        """Of the float model, at each predicted token of the first text."""
        return np.concatenate(list(log_p(runner(self.optimized.model), next(iter(self.windows.values())))))

    def options(self, quantize: Mapping[str, Any], seed: int) -> recipe.Recipe:
        return recipe.build(
            {
                "model": str(self.folder),
                "target": "cpu",
                "calibration": {**self.calibrated_on, "seed": seed},
                "quantize": dict(quantize),
                "package": {"paged": False},
            }
        )

    def measure(self, session: DecoderSession) -> Row:
        """Perplexity of every text, and the divergence from the float model on the first."""
        row: Row = {}
        for at, (name, windows) in enumerate(self.windows.items()):
            nats, divergence, seen = 0.0, 0.0, 0
            for values, chosen in zip(log_p(session, windows), targets(windows), strict=True):
                nats -= float(np.take_along_axis(values, chosen[:, None], -1).astype(np.float64).sum())
                if at == 0:
                    p = self.float_log_p[seen : seen + len(values)]
                    divergence += float((np.exp(p) * (p - values)).sum(dtype=np.float64))
                seen += len(values)
            row[f"perplexity {name}"] = round(math.exp(nats / seen), 4)
            if at == 0:
                row["kl_nats"] = float(f"{divergence / seen:.4g}")
        return row


def contests(work: Path) -> dict[str, Contest]:
    stories = json.loads((EVAL / "text" / "tinystories_1000.json").read_text(encoding="utf-8"))
    work.mkdir(parents=True, exist_ok=True)
    for name, part in (("first.json", stories[:900]), ("last.json", stories[900:])):
        (work / name).write_text(json.dumps(part), encoding="utf-8")
    told = Perplexity(source=str(work / "last.json"), windows="documents", length=512, tokens=10**6)
    wiki = Perplexity(source=str(EVAL / "text" / "wiki.test.raw"), windows="packed", length=256, tokens=20480)
    valid = {"source": str(EVAL / "text" / "wiki.valid.raw"), "samples": 64, "length": 512}
    small = {"source": str(work / "first.json"), "samples": 64, "length": 512}
    return {
        "mix10m": Contest("mix10m-hf", valid, {"wiki.test": wiki, "stories": told}, work / "mix10m"),
        "stories260K": Contest("stories260K-hf", small, {"stories": told}, work / "stories260K"),
    }


def runner(model: Path | ir.Model) -> DecoderSession:
    sizes = Decoder.of(model if isinstance(model, ir.Model) else load_model(model))
    assert sizes is not None
    return DecoderSession(sizes, open_session(model, "served"))


def log_p(session: DecoderSession, windows: Windows) -> Iterator[np.ndarray]:
    """log p [predicted, vocab] of every real token, some windows at a time."""
    for at in range(0, len(windows.ids), ROWS_PER_CALL):
        ids, mask = windows.ids[at : at + ROWS_PER_CALL], windows.mask[at : at + ROWS_PER_CALL]
        yield log_softmax(session.logits(ids, mask)[:, :-1][mask[:, 1:].astype(bool)])


def targets(windows: Windows) -> Iterator[np.ndarray]:
    for at in range(0, len(windows.ids), ROWS_PER_CALL):
        ids, mask = windows.ids[at : at + ROWS_PER_CALL], windows.mask[at : at + ROWS_PER_CALL]
        yield ids[:, 1:][mask[:, 1:].astype(bool)]


def ours(contest: Contest, method: str, bits: int, group_size: int, seed: int) -> Row:
    """One cell of the table, the product's way."""
    options = contest.options({method: {"bits": bits, "group_size": group_size}}, seed)
    place = Shelf(contest.work / "cells")
    begin = time.perf_counter()
    quantized = pipeline.quantize(contest.optimized, options, place)
    seconds = quantized.measured()["seconds"] if quantized.reused else time.perf_counter() - begin
    packed = pipeline.package(contest.optimized, quantized, options, place)
    row = contest.measure(runner(packed.model))
    return row | {"bytes": sum(packed.facts["weight_bytes"].values()), "seconds": round(seconds, 1)}


def theirs(contest: Contest, peer: peers.Peer, bits: int, group_size: int, seed: int) -> Row:
    """The same cell by a peer: the same rows, its own defaults, its weights in our float graph."""
    output = contest.work / f"{peer.name}-{bits}-{group_size}-{seed}"
    document = output / "laps.json"
    if not document.is_file():
        rows = contest.work / f"rows-{seed}.npy"
        vocabulary, data = Vocabulary.of(contest.folder), contest.options({"gptq": {}}, seed).calibration
        np.save(rows, calibration.calibration_windows(data, vocabulary, None).ids)
        command = [peers.environment(peer), peer.runner, contest.folder, rows, output, bits, group_size]
        environment = os.environ | dict(peer.variables) | {"PYTHONPATH": ""}
        ended = subprocess.run(
            [str(part) for part in command],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=contest.work,
        )
        document.write_text(ended.stdout.strip().splitlines()[-1], encoding="utf-8")
    model, weights = load_model(contest.optimized.model), readers.weights(output)
    linears, _ = graph.find_linears(model, ["lm_head"])
    for linear in linears:
        weight = weights.pop(linear.name)
        linear.weight.const_value = ir.tensor(np.ascontiguousarray(weight.T if linear.transposed else weight))
    assert not weights, f"{peer.name} quantized {sorted(weights)}, which the graph does not know"
    seconds = json.loads(document.read_text(encoding="utf-8"))["quantize_seconds"]
    return contest.measure(runner(model)) | {"seconds": round(seconds, 1)}


def table(contest: Contest, bits: Sequence[int], groups: Sequence[int], seeds: int, rivals: Sequence[str]) -> list[Row]:
    """A row for each method and setting; over several seeds the mean, with its standard error."""
    rows = [{"model": contest.name, "method": "float"} | contest.measure(runner(contest.optimized.model))]
    for b, g in ((b, g) for b in bits for g in groups):
        makers = {
            "rtn": lambda b, g, s: ours(contest, "rtn", b, g, s),
            "gptq": lambda b, g, s: ours(contest, "gptq", b, g, s),
        }
        makers |= {name: lambda b, g, s, name=name: theirs(contest, peers.PEERS[name], b, g, s) for name in rivals}
        for name, make in makers.items():
            found = [make(b, g, seed) for seed in range(1 if name == "rtn" else seeds)]
            rows.append({"model": contest.name, "method": name, "bits": b, "group": g} | mean(found))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def mean(rows: list[Row]) -> Row:
    merged: Row = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        merged[name] = round(statistics.fmean(values), 5) if len(values) > 1 else values[0]
        if len(values) > 1 and name.startswith("perplexity"):
            merged[f"{name} error"] = round(statistics.stdev(values) / math.sqrt(len(values)), 5)
    return merged


def markdown(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([str(row.get(column, "")) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mix10m", "stories260K"])
    parser.add_argument("--bits", nargs="+", type=int, default=list(BITS))
    parser.add_argument("--groups", nargs="+", type=int, default=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", action="store_true", help="GPTQModel and llm-compressor too, minutes for each cell")
    parser.add_argument("--work", type=Path, help="kept, and taken up again; none: a temporary folder")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compress-accuracy-") as folder:
        known = contests((asked.work or Path(folder)).resolve())
        rivals = list(peers.PEERS) if asked.peers else []
        rows = [
            row for name in asked.models for row in table(known[name], asked.bits, asked.groups, asked.seeds, rivals)
        ]
    facts = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(["python -m tests.bench.accuracy", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "peers": {peer.name: peer.requirements[0] for peer in peers.PEERS.values()} if asked.peers else {},
    }
    asked.output.parent.mkdir(exist_ok=True)
    asked.output.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
    asked.output.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")
    print(markdown(rows))


if __name__ == "__main__":
    main()
