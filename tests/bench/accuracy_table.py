"""The lines of `accuracy.py` as a table: means over the seeds, and whether ours is at most a peer's.

The rows of one seed are the same for everybody, so ours and a peer's are compared seed by seed:

    d_s = ours_s - theirs_s        no worse where  mean(d) <= 2 * stdev(d) / sqrt(seeds)
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Setting = tuple[Any, ...]  # model, method, bits, group
OURS, PEERS = "gptq", ("gptqmodel", "llmcompressor")
COLUMNS = ("model", "bits", "group", "method", "seeds", "perplexity", "standard error", "KL, nats", "MB", "seconds")


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def markdown(rows: Sequence[Row]) -> str:
    """One line a setting; then one a setting that a peer was measured at."""
    found: dict[Setting, list[Row]] = {}
    for row in rows:
        found.setdefault(setting(row), []).append(row)
    lines = [line(key, found[key]) for key in sorted(found, key=order)]
    against = [verdict(key, found) for key in sorted(found, key=order) if key[1] in PEERS]
    text = _table(COLUMNS, lines)
    names = ("model", "bits", "group", "peer", "seeds", "ours - theirs", "standard error", "no worse")
    return text + ("\n" + _table(names, [one for one in against if one]) if any(against) else "")


def setting(row: Row) -> Setting:
    return row["model"], row["method"], row["bits"], row["group"]


def order(key: Setting) -> Setting:
    model, method, bits, group = key
    return model, -bits, group if group > 0 else 10**6, method


def line(key: Setting, rows: Sequence[Row]) -> list[str]:
    model, method, bits, group = key
    if refused := next((row["refused"] for row in rows if "refused" in row), ""):
        return [model, bits, group, method, "", "refused", refused.replace("|", "/"), "", "", ""]
    values = perplexities(rows)
    return [
        model,
        *((bits, group) if method != "float" else ("", "")),
        method,
        len(rows),
        f"{statistics.fmean(values.values()):.4f}",
        f"{error(list(values.values())):.4f}" if len(values) > 1 else "",
        f"{statistics.fmean(row['kl_nats'] for row in rows):.4g}",
        f"{rows[0]['bytes'] / 1e6:.2f}" if "bytes" in rows[0] else "",
        f"{statistics.fmean(row['seconds'] for row in rows):.1f}" if "seconds" in rows[0] else "",
    ]


def verdict(key: Setting, found: Mapping[Setting, Sequence[Row]]) -> list[str] | None:
    """Ours against a peer, seed by seed; None where the two share no seed."""
    model, peer, bits, group = key
    ours, theirs = perplexities(found.get((model, OURS, bits, group), ())), perplexities(found[key])
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not differences:
        return None
    mean, spread = statistics.fmean(differences), error(differences) if len(differences) > 1 else 0.0
    cells = [model, bits, group, peer, len(differences), f"{mean:+.4f}", f"{spread:.4f}" if spread else ""]
    return [*cells, "yes" if mean <= 2 * spread else "NO"]


def perplexities(rows: Sequence[Row]) -> dict[int, float]:
    """Of the model's own first text, by seed."""
    names = [next((name for name in row if name.startswith("perplexity")), "") for row in rows]
    return {row["seed"]: row[name] for row, name in zip(rows, names, strict=True) if name}


def error(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    return statistics.stdev(values) / math.sqrt(len(values))


def _table(names: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    whole = [names, ["---"] * len(names), *([str(cell) for cell in one] for one in lines)]
    return "\n".join("| " + " | ".join(one) + " |" for one in whole) + "\n"
