"""Results as a chart."""

from __future__ import annotations

from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mithril_losses.benchmarks.problems import Case
from mithril_losses.benchmarks.results import Results
from mithril_losses.benchmarks.tables import groups, time

_GAP = 1.5  # bars between two cases


def draw_chart(results: Results) -> Figure:
    """Return a figure with a bar for each median and a panel per group of cases, the large ones in their own column."""
    names = [name for name in results.candidates(results.cases) if name != "copy"]
    colors = {name: colormaps["tab20"](i) for i, name in enumerate(names)}
    shown = list(groups(results))
    columns = [[g for g in shown if g[0].startswith("large") == large] for large in (False, True)]
    columns = [column for column in columns if column]
    heights = [[sum(len(_bars(results, case, names)) + _GAP for case in g[1]) for g in column] for column in columns]
    tallest = max(sum(of_column) + 8 * len(of_column) for of_column in heights)
    figure = Figure(figsize=(9.0 * len(columns), 1.0 + 0.17 * tallest), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, len(columns))
    for i, (column, of_column) in enumerate(zip(columns, heights, strict=True)):
        cells = grid[0, i].subgridspec(len(column), 1, height_ratios=of_column)
        for j, (title, cases) in enumerate(column):
            panel = figure.add_subplot(cells[j, 0])
            _draw_group(panel, results, cases, colors)
            panel.set(xscale="log", title=title, xlabel="seconds per call")
    handles: list[Any] = [Patch(color=color, label=name) for name, color in colors.items()]
    if any(row.candidate.kind == "bound" for row in results.rows):
        handles.append(Line2D([], [], color="black", linestyle="--", label="copy of the same bytes"))
    figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=8)
    return figure


def _draw_group(panel: Any, results: Results, cases: list[Case], colors: dict[str, Any]) -> None:
    top, ticks = 0.0, []
    for case in cases:
        bars = _bars(results, case, list(colors))
        for i, (name, median) in enumerate(bars.items()):
            bar = panel.barh(top + i, median, height=0.85, color=colors[name])
            panel.bar_label(bar, [time(median)], padding=2, fontsize=6)
        copy = _bars(results, case, ["copy"]).get("copy")
        if copy is not None:
            panel.vlines(copy, top - 0.6, top + len(bars) - 0.4, color="black", linestyle="--", linewidth=1.2)
        ticks.append(top + (len(bars) - 1) / 2)
        top += len(bars) + _GAP
    panel.margins(x=0.12)  # for the numbers
    panel.set_ylim(top - _GAP + 0.2, -1.2)  # the first case is on top
    panel.set_yticks(ticks, [case.name.replace(" ", "\n") for case in cases], fontsize=8)
    panel.grid(axis="x", alpha=0.4)
    panel.set_axisbelow(True)


def _bars(results: Results, case: Case, names: list[str]) -> dict[str, float]:
    rows = [results.row(case, name) for name in names]
    return {row.candidate.name: row.median for row in rows if row is not None and row.median is not None}
