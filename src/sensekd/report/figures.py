"""The page's pictures as Bokeh figures: differences with whiskers, and curves of the training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from sensekd.errors import require
from sensekd.evaluation.compare import direction
from sensekd.report.labels import (
    NOT_DISTILLED,
    baseline_of,
    difference_unit,
    is_share,
    metric_label,
    ordered_arms,
    ordered_metrics,
)
from sensekd.report.verdict import Outcome, outcome

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure  # noqa: N812

# Colours that stay apart for the common kinds of colour blindness and hold on a light and on a dark ground.
OUTCOME_COLOURS: Final[Mapping[Outcome, str]] = {"better": "#1f83c9", "worse": "#d9680f", "open": "#8b9097"}
_PALETTE: Final = ("#8b9097", "#d9920a", "#3d9be0", "#0a9e76", "#cf4a85", "#8a6fd1", "#a8743b")
_DASHES: Final = ("dotted", "dashed", "dashdot", "dotdash", "solid", "dashed", "dotted")
_CURVED: Final = ("ce", "kd", "kd+hidden", "dskd-own", "dskd")
_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_POINTS: Final = 300
TERMS: Final[Mapping[str, str]] = {
    "loss": "Whole loss",
    "ce": "Cross-entropy",
    "kl": "KL from the teacher",
    "hidden": "Hidden states",
    "pull": "Pull to the senses",
    "push": "Push from the antonyms",
    "push_active": "Antonym rows inside the margin",
    "tokens_per_second": "Tokens per second",
}


@dataclass(frozen=True)
class Picture:
    """A figure, ready to be embedded: `item` is Bokeh's JSON."""

    id: str
    title: str
    note: str
    item: dict[str, Any]


@dataclass(frozen=True)
class Line:
    """How an arm is drawn."""

    arm: str
    colour: str
    dash: str


def lines(arms: Iterable[str]) -> list[Line]:
    """A colour and a dash for every arm, the built-in ones always the same."""
    known = list(_CURVED)
    known += [arm for arm in arms if arm not in known]
    return [
        Line(arm, _PALETTE[known.index(arm) % len(_PALETTE)], _DASHES[known.index(arm) % len(_DASHES)])
        for arm in ordered_arms(arms)
    ]


def _item(plot: Figure) -> dict[str, Any]:
    from bokeh.embed import json_item

    # Bokeh counts ids up over the whole process; numbered from 1 in each picture, equal pictures are equal bytes.
    text = json.dumps(json_item(plot))
    names: dict[str, str] = {}
    return dict(json.loads(re.sub(r'"p\d+"', lambda found: names.setdefault(found[0], f'"p{len(names) + 1}"'), text)))


def _prefixed(item: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Ids of one picture made different from those of every other on the page."""
    return dict(json.loads(re.sub(r'"(p\d+)"', rf'"{prefix}-\1"', json.dumps(item))))


def _plot(height: int, **keywords: Any) -> Figure:
    from bokeh.plotting import figure

    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        min_width=120,
        toolbar_location=None,
        tools="",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
        **keywords,
    )
    for axis in plot.axis:
        axis.axis_line_color = None
        axis.major_tick_line_color = None
        axis.minor_tick_line_color = None
        axis.major_label_text_font = _FONT
        axis.major_label_text_font_size = "12px"
    return plot


def _ticks(plot: Figure, *, x: int, y: int | None = None) -> None:
    """About how many ticks the axes have; without y the vertical one is left alone (it names arms)."""
    from bokeh.models import BasicTicker

    plot.xaxis.ticker = BasicTicker(desired_num_ticks=x)
    if y is not None:
        plot.yaxis.ticker = BasicTicker(desired_num_ticks=y)


def _whiskers(rows: Sequence[Mapping[str, Any]], scale: float, arms: Sequence[str]) -> Figure:
    from bokeh.models import ColumnDataSource, HoverTool

    data: dict[str, Any] = {
        "arm": [row["arm"] for row in rows],
        **{side: [scale * row[side] for row in rows] for side in ("mean", "low", "high")},
        "colour": [OUTCOME_COLOURS[outcome(row)] for row in rows],
        "fill": [0.0 if outcome(row) == "open" else 1.0 for row in rows],
    }
    source = ColumnDataSource(data)
    # Zero is always in view, so that the eye can judge.
    ends = [0.0, *data["low"], *data["high"]]
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    plot = _plot(36 + 26 * len(arms), y_range=list(reversed(arms)), x_range=(min(ends) - margin, max(ends) + margin))
    plot.vspan(x=[0], line_width=1.5, line_color=OUTCOME_COLOURS["open"])
    plot.segment("low", "arm", "high", "arm", source=source, color="colour", line_width=2.5)
    dots = plot.scatter(
        "mean", "arm", source=source, size=10, line_color="colour", line_width=2, fill_color="colour",
        fill_alpha="fill",
    )  # fmt: skip
    plot.add_tools(
        HoverTool(
            renderers=[dots],
            tooltips=[("arm", "@arm"), ("mean", "@mean{+0.000}"), ("95 %", "@low{+0.000} to @high{+0.000}")],
        )
    )
    plot.ygrid.visible = False
    _ticks(plot, x=4)
    return plot


def difference_pictures(results: Mapping[str, Any], prefix: str = "") -> list[Picture]:
    """One picture for every metric: each arm's difference from the baseline with its interval; `prefix` starts its id.

    The teacher and the arms without it would set the scale and hide the rest: they stay in the tables.
    """
    require("bokeh", "report")
    baseline = baseline_of(results)
    rows = [
        row for row in results.get("differences", []) if row["against"] == baseline and row["arm"] not in NOT_DISTILLED
    ]
    arms = ordered_arms(dict.fromkeys(row["arm"] for row in rows))
    pictures: list[Picture] = []
    for metric in ordered_metrics(results):
        found = [row for row in rows if row["metric"] == metric]
        if not found:
            continue
        plot = _whiskers(found, 100.0 if is_share(metric, results) else 1.0, arms)
        side = "right" if direction(metric) == "higher" else "left"
        note = f"{difference_unit(metric, results)}, better to the {side}".removeprefix(", ")
        name = f"{prefix}difference-{len(pictures)}"
        pictures.append(Picture(name, metric_label(metric), note, _prefixed(_item(plot), name)))
    return pictures


def arm_of(run: str) -> str:
    """`dskd-own-0` -> `dskd-own`; a name without a seed is the arm itself."""
    arm, _, seed = run.rpartition("-")
    return arm if arm and seed.isdigit() else run


def mean_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], term: str) -> dict[str, dict[int, float]]:
    """Step -> mean over the seeds of an arm, for every arm whose log has the term."""
    points: dict[str, dict[int, list[float]]] = {}
    for run in sorted(histories):
        for record in histories[run]:
            if term in record and "step" in record:
                points.setdefault(arm_of(run), {}).setdefault(int(record["step"]), []).append(float(record[term]))
    return {arm: {step: fmean(steps[step]) for step in sorted(steps)} for arm, steps in points.items()}


def _thinned(curve: Mapping[int, float]) -> tuple[list[int], list[float]]:
    stride = max(1, -(-len(curve) // _POINTS))
    steps = list(curve)[::-stride][::-1]
    return steps, [curve[step] for step in steps]


def _curves(curves: Mapping[str, Mapping[int, float]], term: str, scale: float, styles: Mapping[str, Line]) -> Figure:
    from bokeh.models import ColumnDataSource, HoverTool

    top = max(max(curve.values()) for curve in curves.values())
    # A share is read from zero; a loss has no zero to be read from.
    plot = _plot(210, y_range=(0, 1.08 * scale * top or 1.0)) if scale != 1 else _plot(210)
    for arm in ordered_arms(curves):
        steps, values = _thinned(curves[arm])
        source = ColumnDataSource(
            {"step": steps, "value": [scale * value for value in values], "arm": [arm] * len(steps)}
        )
        style = styles[arm]
        line = plot.line("step", "value", source=source, color=style.colour, line_dash=style.dash, line_width=2)
        text = [("arm", "@arm"), ("step", "@step"), (term, "@value{0.000}")]
        plot.add_tools(HoverTool(renderers=[line], tooltips=text, line_policy="nearest"))
    plot.xgrid.visible = False
    _ticks(plot, x=4, y=5)
    return plot


def curve_pictures(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], prefix: str = ""
) -> tuple[list[Picture], list[Line]]:
    """One picture for every term that was logged, and the key to the lines; `prefix` starts the pictures' ids."""
    require("bokeh", "report")
    arms = list(dict.fromkeys(arm_of(run) for run in histories))
    styles = {line.arm: line for line in lines(arms)}
    pictures: list[Picture] = []
    drawn = set()
    for term, title in TERMS.items():
        curves = mean_curves(histories, term)
        if not curves:
            continue
        name, scale = f"{prefix}curve-{term}", 100.0 if term == "push_active" else 1.0
        plot = _curves(curves, term, scale, styles)
        note = "%, by training step" if term == "push_active" else "by training step"
        pictures.append(Picture(name, title, note, _prefixed(_item(plot), name)))
        drawn |= set(curves)
    return pictures, [styles[arm] for arm in ordered_arms(arms) if arm in drawn]
