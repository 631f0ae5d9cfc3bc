"""Charts as inline SVG: text in, text out; no fonts, scripts or files from anywhere.

    lines("latency", {"artifact": [(1, 2.0), (8, 9.5)]}, x="batch", y="ms")     one polyline a series
    bars("error by layer", [("layers.0.q", 0.01, "")], unit="")                 one bar a row, widest first as given
    shares("placement", [("cuda", 437), ("cpu", 128)])                          one bar cut by provider
    strip("nodes", [("cuda", 12), ("cpu", 3), ("cuda", 40)])                    the same, in the order of the graph

Colours are told apart by people who confuse red and green (Okabe and Ito 2008); each series is also labelled in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
WIDTH, LEFT, RIGHT, TOP, ROW = 720, 70, 150, 34, 20
PLOT = 240  # height of the plane of a line chart
LABEL = 260  # width kept for the names of bars
CHARACTERS = 36  # of a name that fits there

Points = Sequence[tuple[float, float]]


def lines(title: str, series: Mapping[str, Points], *, x: str, y: str) -> str:
    """A line chart with axes from 0; points are marked and carry their numbers as a tooltip."""
    points = [point for one in series.values() for point in one if all(map(math.isfinite, point))]
    wide, high = (_ceiling(max((point[axis] for point in points), default=1)) for axis in (0, 1))
    plane = WIDTH - LEFT - RIGHT

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + plane * point[0] / wide, TOP + PLOT * (1 - point[1] / high)

    body = [*_grid(wide, high), _text(LEFT + plane / 2, TOP + PLOT + 38, x, "middle"),
            _text(LEFT, TOP - 10, y, "middle")]  # fmt: skip
    for at, (name, one) in enumerate(series.items()):
        colour = COLOURS[at % len(COLOURS)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in map(place, one))
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"><title>{escape(name)}: {point[0]:g}, '
            f"{point[1]:.4g}</title></circle>"
            for point in one for px, py in [place(point)]
        ]  # fmt: skip
        body.append(_swatch(WIDTH - RIGHT + 12, TOP + ROW * at, colour, name))
    return _svg(title, TOP + PLOT + 50, body)


def bars(title: str, rows: Sequence[tuple[str, float, str]], *, unit: str = "") -> str:
    """Horizontal bars (name, value, note); a value that is not finite has no bar and says what it is."""
    finite = [value for _, value, _ in rows if math.isfinite(value)]
    most = max([*finite, 0.0]) or 1.0
    body = []
    for at, (name, value, note) in enumerate(rows):
        top = TOP + ROW * at
        length = (WIDTH - LABEL - RIGHT) * max(value, 0.0) / most if math.isfinite(value) else 0.0
        colour = COLOURS[5] if note else COLOURS[0]
        body += [
            _text(LABEL - 8, top + 13, _cut(name), "end", name),
            f'<rect x="{LABEL}" y="{top + 3}" width="{length:.1f}" height="{ROW - 7}" fill="{colour}"/>',
            _text(LABEL + length + 6, top + 13, f"{value:.3g} {unit} {note}".strip(), "start"),
        ]
    return _svg(title, TOP + ROW * max(len(rows), 1) + 10, body)


def shares(title: str, parts: Sequence[tuple[str, float]]) -> str:
    """One bar, cut in proportion; each part with its number and its share."""
    total = sum(value for _, value in parts) or 1.0
    body, left = [], float(LEFT)
    for at, (name, value) in enumerate(parts):
        width = (WIDTH - LEFT - 20) * value / total
        colour = COLOURS[at % len(COLOURS)]
        told = f"{name}: {value:,.0f} ({value / total:.1%})"
        body.append(f'<rect x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="24" fill="{colour}">'
                    f"<title>{escape(told)}</title></rect>")  # fmt: skip
        body.append(_swatch(LEFT, TOP + 34 + ROW * at, colour, told))
        left += width
    return _svg(title, TOP + 44 + ROW * len(parts), body)


def strip(title: str, runs: Sequence[tuple[str, int]]) -> str:
    """A map of things in order: runs of alike neighbours as blocks of one bar, a legend of the kinds below."""
    total = sum(count for _, count in runs) or 1
    kinds = list(dict.fromkeys(name for name, _ in runs))
    body, left = [], float(LEFT)
    for name, count in runs:
        width = (WIDTH - LEFT - 20) * count / total
        colour = COLOURS[kinds.index(name) % len(COLOURS)]
        body.append(f'<rect x="{left:.2f}" y="{TOP}" width="{width:.2f}" height="24" fill="{colour}">'
                    f"<title>{escape(name)}: {count}</title></rect>")  # fmt: skip
        left += width
    for at, name in enumerate(kinds):
        body.append(_swatch(LEFT + 160 * at, TOP + 34, COLOURS[at % len(COLOURS)], name))
    return _svg(title, TOP + 60, body)


def _grid(wide: float, high: float) -> list[str]:
    """Axes with five marks each."""
    plane, marks = WIDTH - LEFT - RIGHT, []
    for step in range(6):
        px, py = LEFT + plane * step / 5, TOP + PLOT * (1 - step / 5)
        marks += [
            f'<line x1="{LEFT}" x2="{LEFT + plane}" y1="{py:.1f}" y2="{py:.1f}" stroke="#ddd"/>',
            _text(LEFT - 8, py + 4, f"{high * step / 5:.4g}", "end"),
            _text(px, TOP + PLOT + 18, f"{wide * step / 5:.4g}", "middle"),
        ]
    return marks


def _svg(title: str, height: float, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12" width="{WIDTH}">'
        f"<title>{escape(title)}</title>{_text(LEFT, 16, title, 'start', bold=True)}{''.join(body)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str, full: str = "", *, bold: bool = False) -> str:
    tooltip = f"<title>{escape(full)}</title>" if full else ""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}{tooltip}</text>'


def _swatch(x: float, y: float, colour: str, name: str) -> str:
    return f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>{_text(x + 18, y + 11, name, "start")}'


def _cut(name: str) -> str:
    """The end of a long name tells layers apart."""
    return name if len(name) <= CHARACTERS else f"...{name[-CHARACTERS + 3 :].lstrip('.')}"


def _ceiling(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten: an axis that ends on a round number."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 5, 10) if value <= power * step * (1 + 1e-12))
