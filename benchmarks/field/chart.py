"""An SVG chart of the comparison: one panel of bars for each figure, in the reader's light or dark theme."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.field.adapters import EVERYBODY, KINDS, OWN
from benchmarks.field.numbers import spread
from benchmarks.field.rows import with_net_cpu
from benchmarks.field.runner import Sample
from benchmarks.field.table import number


@dataclass(frozen=True)
class Panel:
    title: str
    better: str
    measure: str
    figure: str
    unit: str


PANELS: Sequence[Panel] = (
    Panel("Time a step takes from the caller", "less is better", "paced", "all_in", "µs"),
    Panel("CPU time an event", "less is better", "burst", "cpu", "µs"),
    Panel("Events a second, end to end", "more is better", "burst", "per_second", "/s"),
    Panel("Lost of a burst of 20 000, four threads", "less is better", "burst4", "lost", "%"),
    Panel("Exit while the backend hangs", "less is better", "exit_hang", "exit_seconds", "s"),
    Panel("Import", "less is better", "import", "import_ms", "ms"),
)

_WIDTH, _COLUMNS, _MARGIN = 880, 2, 24
_PANEL = (_WIDTH - 3 * _MARGIN) // _COLUMNS
_NAME, _VALUE, _BAR, _STEP = 120, 72, 14, 22
_TOP = 66
_ROLE = 'role="img" aria-labelledby="title description"'
_STYLE = """
svg { --back: #ffffff; --text: #1f2328; --quiet: #59636e; --own: #0969da; --peer: #afb8c1; --line: #d1d9e0 }
@media (prefers-color-scheme: dark) {
  svg { --back: #0d1117; --text: #f0f6fc; --quiet: #9198a1; --own: #4493f8; --peer: #4d5560; --line: #3d444d }
}
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--text) }
.head { font-size: 18px; font-weight: 600 }
.panel { font-weight: 600 }
.quiet { fill: var(--quiet); font-size: 12px }
.back { fill: var(--back); stroke: var(--line) }
.own { fill: var(--own) }
.peer { fill: var(--peer) }
"""


def values_of(panel: Panel, samples: Iterable[Sample]) -> dict[str, float]:
    """The medians of the measured SDKs, in drawing order."""
    found: dict[str, list[float]] = {}
    for sample in samples:
        if sample.measure == panel.measure and panel.figure in sample.figures:
            found.setdefault(sample.subject, []).append(sample.figures[panel.figure])
    medians = {name: spread(found[name]) for name in EVERYBODY if name in found}
    return {name: median.median for name, median in medians.items() if median is not None}


def picture(samples: Iterable[Sample], subtitle: str) -> str:
    """The SVG text. All bars of a panel have one scale from zero. Raises `ValueError` if there is nothing to draw."""
    given = with_net_cpu(samples)
    shown = [(panel, values) for panel in PANELS if (values := values_of(panel, given))]
    if not shown:
        raise ValueError("no figure of the picture was measured")
    parts: list[str] = []
    y = _TOP
    for begin in range(0, len(shown), _COLUMNS):
        row = shown[begin : begin + _COLUMNS]
        for column, (panel, values) in enumerate(row):
            parts += _panel(panel, values, _MARGIN + column * (_PANEL + _MARGIN), y)
        y += 40 + _STEP * max(len(values) for _, values in row) + 18
    said = "; ".join(f"{panel.title}: {_in_words(panel, values)}" for panel, values in shown)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" {_ROLE}>',
            '<title id="title">AgentScope and its peers at the same work</title>',
            f'<desc id="description">{escape(said)}.</desc>',
            f"<style>{_STYLE}</style>",
            f'<rect class="back" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{y - 1}" rx="6"/>',
            _text(_MARGIN, 32, "AgentScope and its peers at the same work", "head"),
            _text(_MARGIN, 51, subtitle, "quiet"),
            *parts,
            "</svg>\n",
        )
    )


def _panel(panel: Panel, values: Mapping[str, float], x: float, y: float) -> list[str]:
    parts = [
        _text(x, y + 22, panel.title, "panel"),
        _text(x + _PANEL, y + 22, panel.better, "quiet", anchor="end"),
    ]
    room = _PANEL - _NAME - _VALUE
    largest = max(values.values()) or 1.0
    for place, (name, value) in enumerate(values.items()):
        top = y + 36 + place * _STEP
        length = room * value / largest
        kind = "own" if name in OWN else "peer"
        parts += [
            _text(x, top + 11.5, KINDS[name].label),
            f'<rect class="{kind}" x="{x + _NAME}" y="{top}" width="{length:.1f}" height="{_BAR}" rx="2"/>',
            _text(x + _NAME + length + 6, top + 11.5, number(value, panel.unit), "quiet"),
        ]
    return parts


def _in_words(panel: Panel, values: Mapping[str, float]) -> str:
    return ", ".join(f"{KINDS[name].label} {number(value, panel.unit)}" for name, value in values.items())


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    style = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:g}" y="{y:g}"{style}>{escape(text)}</text>'
