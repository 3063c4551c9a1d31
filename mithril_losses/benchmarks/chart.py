"""Results as a chart."""

from __future__ import annotations

from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mithril_losses.benchmarks.problems import Case
from mithril_losses.benchmarks.results import Results
from mithril_losses.benchmarks.tables import groups, time

_MARKERS = {"ours": "o", "peer": "X", "plain": "s", "bound": "|"}


def draw_chart(results: Results) -> Figure:
    """Return a figure with a line for each case and a mark for each candidate: its median divided by that of ours."""
    compared = [group for group in groups(results) if any(results.best_peer(case) for case in group[1])]
    shown = compared or list(groups(results))
    names = results.candidates(results.cases)
    colors = dict(zip(names, colormaps["tab20"].colors, strict=False))  # type: ignore[attr-defined]  # of listed ones
    tallest = max(len(cases) for _, cases in shown)
    figure = Figure(figsize=(7.0 * len(shown), 1.5 + 0.26 * tallest), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    marks: dict[str, Any] = {}
    for panel, (title, cases) in zip(panels, shown, strict=True):
        for line, case in enumerate(cases):
            marks |= _draw_case(panel, results, case, line, colors)
        panel.axvline(1.0, color="black", linewidth=0.8)
        panel.set(xscale="log", title=title, xlabel="time over that of the fastest of ours")
        panel.set_yticks(range(len(cases)), [_label(results, case) for case in cases], fontsize=8)
        panel.set_ylim(tallest - 0.3, -0.7)  # the first case is on top, and a line is as high in every panel
        panel.grid(alpha=0.4)
        panel.set_axisbelow(True)
    figure.legend([marks[name] for name in names], names, loc="outside upper center", ncols=7, fontsize=9)
    return figure


def _draw_case(panel: Any, results: Results, case: Case, line: int, colors: dict[str, Any]) -> dict[str, Any]:
    """Draw the marks of a case, and return them by candidate."""
    reference = _reference(results, case)
    marks = {}
    for row in results.of(case):
        if row.median is not None and reference is not None:
            name = row.candidate.name
            look = {"marker": _MARKERS[row.candidate.kind], "color": colors[name], "markersize": 7, "linestyle": "none"}
            (marks[name],) = panel.plot(row.median / reference, line, **look)
    return marks


def _reference(results: Results, case: Case) -> float | None:
    """Return the median of the fastest of ours, or, if ours is not among the candidates, of all."""
    rows = [row for row in results.of(case) if row.median is not None]
    ours = [row for row in rows if row.candidate.kind == "ours"]
    return min((row.median for row in ours or rows if row.median is not None), default=None)


def _label(results: Results, case: Case) -> str:
    reference = _reference(results, case)
    return case.name if reference is None else f"{case.name}   {time(reference)}"
