"""What a comparison says beside its main table, as plain tables: the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sensekd.evaluation.compare import direction
from sensekd.report.labels import (
    baseline_of,
    difference_unit,
    metric_label,
    number,
    ordered_arms,
    ordered_metrics,
    signed,
    subject_of,
    unit,
)
from sensekd.report.verdict import MARKS, findings, outcome, sentence


@dataclass(frozen=True)
class View:
    """A titled table of texts and a line on how to read it; the first column names the row."""

    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _metric_heads(results: Mapping[str, Any], metrics: Sequence[str]) -> tuple[str, ...]:
    arrows = ["↑" if direction(metric) == "higher" else "↓" for metric in metrics]
    pairs = zip(metrics, arrows, strict=True)
    return tuple(
        f"{metric_label(metric)} {unit(metric, results)} {arrow}".replace("  ", " ") for metric, arrow in pairs
    )


def _cells(results: Mapping[str, Any], arm: str, metrics: Sequence[str], marks: Mapping[str, str]) -> tuple[str, ...]:
    cells = []
    for metric in metrics:
        value = results["summary"][arm].get(metric)
        text = "" if value is None else f"{number(value['mean'], metric, results)} {marks.get(metric, '')}".rstrip()
        cells.append(text)
    return tuple(cells)


def _mean_seconds(times: Mapping[str, float], arm: str) -> str:
    own = [seconds for name, seconds in times.items() if name.rpartition("-")[0] == arm]
    return f"{fmean(own):.1f}" if own else ""


def equal_time(results: Mapping[str, Any]) -> View | None:
    """The comparison at equal wall time; None where there is none."""
    found = results.get("equal_time")
    if not found:
        return None
    shown = {**found, "chance": results.get("chance"), "provenance": results.get("provenance")}
    times = results.get("times") or {}
    timed = times.get("equal_time") or {}
    baseline, subject, metrics = baseline_of(shown), subject_of(shown), ordered_metrics(shown)
    tokens = {run["arm"]: run["tokens"] for run in found["arms"]}
    rows = []
    for arm in ordered_arms(found["steps"]):
        marks = {each.metric: MARKS[each.outcome] for each in findings(shown, arm, baseline or "")}
        cost = (timed.get("costs") or {}).get(arm)
        budget = (
            "" if cost is None else f"{cost:.2f}",
            f"{found['steps'][arm]:,}",
            f"{tokens.get(arm, 0):,}",
            _mean_seconds(times.get("arms") or {}, arm),
            _mean_seconds(timed.get("arms") or {}, arm),
        )
        rows.append((arm, *budget, *_cells(shown, arm, metrics, marks)))
    compared = findings(shown, subject, baseline) if subject and baseline else ()
    said = f" {sentence(compared)}" if compared else ""
    note = (
        f"Every arm trains as long as {found['slowest']}, the slowest one, does in the table above: "
        f"its steps follow from the cost of one.{said}"
    )
    heads = ("arm", "cost of a step", "steps", "tokens", "s at equal tokens", "s at equal time")
    return View("At equal wall time", note, (*heads, *_metric_heads(shown, metrics)), tuple(rows))


def items(results: Mapping[str, Any]) -> View | None:
    """Differences question by question; None where nothing was resampled."""
    found = results.get("items")
    if not found:
        return None
    rows = []
    for row in found:
        metric = row["metric"]
        mean, low, high, least, most = (
            signed(row[key], metric, results) for key in ("mean", "low", "high", "crossed_low", "crossed_high")
        )
        holm = f"{row['p_holm']:.3f}" if "p_holm" in row else ""
        rows.append((
            row["arm"], row["against"], metric_label(metric), f"{mean} {MARKS[outcome(row)]}", f"{low} to {high}",
            f"{least} to {most}", f"{row['p']:.3f}", holm, str(row["items"]), str(row["runs"]),
        ))  # fmt: skip
    note = (
        f"Paired item by item, {found[0]['resamples']:,} resamples. `questions`: what other questions of the same kind "
        "would change, the models as they are; p goes by it. `both`: other questions and other seeds."
    )
    heads = ("arm", "against", "set", "points", "95 % questions", "95 % both", "p", "p Holm", "items", "seeds")
    return View("Question by question", note, heads, tuple(rows))


def corrected(results: Mapping[str, Any]) -> View | None:
    """What is left of the differences after the correction for their number; None without one."""
    found = results.get("multiplicity")
    if not found:
        return None
    left = [row for row in results["differences"] if row.get("p_holm", 1.0) <= 1 - found["differences"]["level"]]
    rows = [
        (
            row["arm"], row["against"], metric_label(row["metric"]), signed(row["mean"], row["metric"], results),
            difference_unit(row["metric"], results), f"{row['p']:.2g}", f"{row['p_holm']:.2g}",
        )
        for row in left
    ]  # fmt: skip
    facts = found["differences"]
    note = (
        f"Of {facts['family']} differences between trained arms {facts['without_zero']} exclude zero one by one, and "
        f"{facts['after_holm']} still do when their number is taken into account (Holm)."
    )
    heads = ("arm", "against", "measure", "difference", "unit", "p", "p Holm")
    return View("After the correction for many comparisons", note, heads, tuple(rows))


def tuning(results: Mapping[str, Any]) -> View | None:
    """What every arm was tuned to; None without tuning."""
    found = results.get("tuning")
    if not found:
        return None
    rows = []
    for arm, own in found["arms"].items():
        trials = own["trials"]
        start, best = (trials[at]["mean"] for at in (0, own["chosen"]))
        chosen = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                           for key, value in own["settings"].items())  # fmt: skip
        failed = sum(trial["failed"] is not None for trial in trials)
        cells = ("failed" if value is None else number(value, found["metric"], results) for value in (start, best))
        rows.append((arm, str(len(trials)), str(failed), chosen or "as the recipe has it", *cells))
    openings = found["test_openings"]
    opened = "once, for these models" if openings == 1 else f"{openings} times: other models were tested on it before"
    note = (
        f"{found['trials']} trials for every arm, judged by {metric_label(found['metric'])} on the development split. "
        f"The test split was opened {opened}."
    )
    heads = ("arm", "trials", "failed", "chosen", "untuned (development)", "chosen (development)")
    return View("Tuning", note, heads, tuple(rows))


def views(results: Mapping[str, Any]) -> tuple[View, ...]:
    """Everything that this comparison has beside its main table."""
    found = (equal_time(results), items(results), corrected(results), tuning(results))
    return tuple(view for view in found if view is not None)


def sensitivity(results: Mapping[str, Any]) -> View:
    """One factor at a time: the measures at every value, marked against the recipe's own values."""
    default, metrics = results["default_arm"], ordered_metrics(results)
    marks: dict[str, dict[str, str]] = {}
    for row in results["from_default"]:
        marks.setdefault(row["arm"], {})[row["metric"]] = MARKS[outcome(row)]
    rows = []
    baseline = results["baseline"]
    if baseline != default:
        rows.append(("", baseline, "", *_cells(results, baseline, metrics, {})))
    for point in results["factors"]:
        value = point["value"] if isinstance(point["value"], str) else f"{point['value']:g}"
        raw = "" if point["raw"] is None else f"{point['raw']:.3g}"
        name = f"{value} (recipe)" if point["default"] else value
        known = point["arm"] in results["summary"]
        cells = _cells(results, point["arm"], metrics, marks.get(point["arm"], {})) if known else ("failed",)
        rows.append((point["factor"], name, raw, *cells, *[""] * (len(metrics) - len(cells))))
    left = "".join(f" Left out: {factor} ({why})." for factor, why in results["skipped"].items())
    note = (
        f"{default}, one factor at a time; ▲ better, ▼ worse than the recipe's values (95 % interval of the paired "
        f"differences without zero), ≈ open. Split: {results['split']}. σ² = {results['sigma2']:.4g}.{left}"
    )
    heads = ("factor", "value", "raw units", *_metric_heads(results, metrics))
    return View("Sensitivity", note, heads, tuple(rows))


def plain_sensitivity(results: Mapping[str, Any], width: int = 120) -> str:
    """The sensitivity as text."""
    from sensekd.report.table import plain_views

    return plain_views([sensitivity(results)], width)
