"""Accuracy: every method x bits x group on models that nobody here made; the peers' GPTQ on the same rows.

    make accuracy      or      python -m tests.bench.accuracy [--models mix10m] [--methods gptq gptqmodel] [--bits 3 2]
                                                [--groups 128 64] [--seeds 5] [--peers] [--work FOLDER] [--rows FILE]

Ours goes the product's way: exported and optimized once, quantized, packed as MatMulNBits, served by ONNX Runtime. A
peer's checkpoint is dequantized by a reader of our own (tests/readers.py) into the same graph, so that one engine and
one text measure all. Perplexity of each held-out text, KL(float || quantized) on the first, bytes of the packed
weights, seconds of quantize. Each cell is a line of results/accuracy.jsonl as soon as it is known; cells that have one
are not measured again, so a run that was stopped goes on. `accuracy_table.py` draws the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from compressor import pipeline, sources
from compressor.artifact import Artifact
from compressor.data import calibration
from compressor.data.calibration import Windows
from compressor.data.vocabulary import Vocabulary
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.session import load_model, open_session
from compressor.quantize.flow.linears import find_linears
from compressor.recipe import recipe
from compressor.recipe.limits import Perplexity
from compressor.shelf import Shelf
from compressor.validate.agreement import log_softmax
from tests import readers
from tests.bench import accuracy_table, peers

BENCH = Path(__file__).resolve().parent
ROWS = BENCH / "results" / "accuracy.jsonl"
EVAL = BENCH.parents[2] / "shared" / "eval"
BITS, GROUPS = (8, 4, 3, 2), (-1, 128, 64, 32)
ROWS_PER_CALL = 8  # windows

Row = dict[str, Any]


class Method(NamedTuple):
    """A section of a recipe, and the settings that it has."""

    section: Mapping[str, Any]  # without bits and group
    name: str  # of the method in it that takes bits and group; empty: it has none
    bits: tuple[int, ...] = BITS
    groups: tuple[int, ...] = GROUPS
    drawn: bool = True  # looks at calibration data, so that another seed is another result


METHODS = {
    "rtn absmax": Method({"rtn": {"scheme": "absmax"}}, "rtn", drawn=False),
    "rtn zero_point": Method({"rtn": {"scheme": "zero_point"}}, "rtn", drawn=False),
    "rtn": Method({"rtn": {}}, "rtn", drawn=False),
    "rtn searched": Method({"rtn": {"scale_search": True}}, "rtn", drawn=False),
    "rtn weighted": Method({"rtn": {"scale_search": "weighted"}}, "rtn"),
    "awq, rtn searched": Method({"awq": {}, "rtn": {"scale_search": True}}, "rtn"),
    "awq, gptq": Method({"awq": {}, "gptq": {}}, "gptq"),
    "rotations, rtn searched": Method(
        {"rotations": {"untie": True}, "rtn": {"scale_search": True}}, "rtn", drawn=False
    ),
    "rotations, gptq": Method({"rotations": {"untie": True}, "gptq": {}}, "gptq"),
    "gptq": Method({"gptq": {}}, "gptq"),
    "gptq corrected": Method({"gptq": {"correction": 0.5}}, "gptq"),
    "gptq zero_point": Method({"gptq": {"scheme": "zero_point"}}, "gptq"),
    "nf4": Method({"nf4": {}}, "", (4,), (64,), drawn=False),
    "fp4": Method({"fp4": {}}, "", (4,), (64,), drawn=False),
    "llm_int8": Method({"llm_int8": {}}, "", (8,), (-1,)),
    "dynamic": Method({"dynamic": {}}, "", (8,), (-1,), drawn=False),
    "smoothquant, dynamic": Method({"smoothquant": {}, "dynamic": {}}, "", (8,), (-1,)),
    "static_qdq": Method({"static_qdq": {}}, "", (8,), (-1,)),
    "smoothquant, static_qdq": Method({"smoothquant": {}, "static_qdq": {}}, "", (8,), (-1,)),
}


class Cell(NamedTuple):
    """One number of the table."""

    model: str
    method: str
    bits: int
    group: int
    seed: int


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


def ours(contest: Contest, cell: Cell) -> Row:
    """One cell of the table, the product's way."""
    method = METHODS[cell.method]
    asked = {"bits": cell.bits, "group_size": cell.group}
    section = dict(method.section) | ({method.name: {**method.section[method.name], **asked}} if method.name else {})
    options = contest.options(section, cell.seed)
    contest.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=contest.work) as folder:
        begin = time.perf_counter()
        quantized = pipeline.quantize(contest.optimized, options, Shelf(Path(folder)))
        seconds = time.perf_counter() - begin
        packed = pipeline.package(contest.optimized, quantized, options, Shelf(Path(folder)))
        row = contest.measure(runner(packed.model))
        nbytes = sum(packed.facts["weight_bytes"].values())
    return row | ({"bytes": nbytes} if nbytes else {}) | {"seconds": round(seconds, 1)}


def theirs(contest: Contest, cell: Cell) -> Row:
    """The same cell by a peer: the same rows, its own defaults, its weights in our float graph."""
    peer, output = peers.PEERS[cell.method], contest.work / f"{cell.method}-{cell.bits}-{cell.group}-{cell.seed}"
    rows = contest.work / f"rows-{cell.seed}.npy"
    vocabulary, data = Vocabulary.of(contest.folder), contest.options({"gptq": {}}, cell.seed).calibration
    np.save(rows, calibration.calibration_windows(data, vocabulary, None).ids)
    command = [peers.environment(peer), peer.runner, contest.folder, rows, output, cell.bits, cell.group, "defaults"]
    environment = os.environ | dict(peer.variables) | {"PYTHONPATH": ""}
    ended = subprocess.run(
        [str(part) for part in command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=contest.work,
    )
    if ended.returncode:
        return {"refused": ended.stderr.strip().splitlines()[-1][:200]}
    model, weights = load_model(contest.optimized.model), readers.weights(output)
    linears, _ = find_linears(model, ["lm_head"])
    for linear in linears:
        weight = weights.pop(linear.name)
        linear.weight.const_value = ir.tensor(np.ascontiguousarray(weight.T if linear.transposed else weight))
    assert not weights, f"{peer.name} quantized {sorted(weights)}, which the graph does not know"
    seconds = json.loads(ended.stdout.strip().splitlines()[-1])["quantize_seconds"]
    return contest.measure(runner(model)) | {"seconds": round(seconds, 1)}


def cells(asked: argparse.Namespace) -> Iterator[Cell]:
    """Every cell that was asked for and that its method has, the float model first."""
    rivals = {name: Method({}, "", BITS, GROUPS) for name in peers.PEERS} if asked.peers else {}
    known = METHODS | rivals
    for model in asked.models:
        yield Cell(model, "float", 32, 0, 0)
        for bits, group, seed in itertools.product(asked.bits, asked.groups, range(asked.seeds)):
            for name in asked.methods or known:
                method = known[name]
                if bits in method.bits and group in method.groups and (method.drawn or seed == 0):
                    yield Cell(model, name, bits, group, seed)


def measure(contest: Contest, cell: Cell) -> Row:
    if cell.method == "float":
        return contest.measure(runner(contest.optimized.model))
    return (theirs if cell.method in peers.PEERS else ours)(contest, cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["stories260K", "mix10m"])
    parser.add_argument("--methods", nargs="+", help=f"of {', '.join(METHODS)}; none: all")
    parser.add_argument("--bits", nargs="+", type=int, default=list(BITS))
    parser.add_argument("--groups", nargs="+", type=int, default=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", action="store_true", help="GPTQModel and llm-compressor too, minutes for each cell")
    parser.add_argument("--work", type=Path, help="where graphs are exported; none: a temporary folder")
    parser.add_argument("--rows", type=Path, default=ROWS)
    asked = parser.parse_args()
    done = {tuple(row[name] for name in Cell._fields) for row in accuracy_table.read(asked.rows)}
    with tempfile.TemporaryDirectory(prefix="compress-accuracy-") as folder:
        known = contests((asked.work or Path(folder)).resolve())
        for cell in cells(asked):
            if cell in done:
                continue
            row = cell._asdict() | measure(known[cell.model], cell)
            print(json.dumps(row), file=sys.stderr, flush=True)
            with asked.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    table = accuracy_table.markdown(accuracy_table.read(asked.rows))
    asked.rows.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
