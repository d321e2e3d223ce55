"""Several runs side by side: what they found, what they cost, and in what their recipes differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

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
from sensekd.report.verdict import MARKS, findings

Results = Mapping[str, Any]
# Where a run stands is no part of what it is.
_PLACES: Final = frozenset({"output", "name"})


@dataclass(frozen=True)
class SideCell:
    """What one run says in one row."""

    text: str = "—"
    spread: str = ""
    outcome: str = ""
    mark: str = ""


@dataclass(frozen=True)
class SideRow:
    """One row: a cell for every run."""

    name: str
    cells: tuple[SideCell, ...]


@dataclass(frozen=True)
class SideTable:
    """A table whose columns are runs."""

    title: str
    corner: str
    rows: tuple[SideRow, ...]
    note: str = ""


def _difference(results: Results, metric: str) -> SideCell:
    subject, baseline = subject_of(results), baseline_of(results)
    found = findings(results, subject, baseline) if subject and baseline else ()
    for each in found:
        if each.metric == metric:
            change = f"{signed(each.mean, metric, results)} {difference_unit(metric, results)}".rstrip()
            low, high = (signed(side, metric, results) for side in (each.low, each.high))
            spread = f"{low} to {high}" if each.runs > 1 else "one seed"
            return SideCell(change, spread, each.outcome, MARKS[each.outcome])
    return SideCell()


def _value(results: Results, arm: str, metric: str) -> SideCell:
    value = results["summary"].get(arm, {}).get(metric)
    if value is None:
        return SideCell()
    mark = {"%": "\N{NO-BREAK SPACE}%"}.get(unit(metric, results), "")
    spread = ""
    if value.get("n", 1) > 1:
        spread = f"{number(value['low'], metric, results)}–{number(value['high'], metric, results)}"
    return SideCell(number(value["mean"], metric, results) + mark, spread)


def _share(results: Results, key: str) -> SideCell:
    positions = (results.get("coverage") or {}).get("positions") or {}
    if not positions.get("labels") or key not in positions:
        return SideCell()
    return SideCell(f"{100 * positions[key] / positions['labels']:.1f}\N{NO-BREAK SPACE}%")


def _tokens(results: Results) -> SideCell:
    found = {run["tokens"] for run in results.get("arms", []) if run["arm"] == subject_of(results)}
    return SideCell(", ".join(f"{tokens:,}" for tokens in sorted(found))) if found else SideCell()


def _seconds(results: Results, key: str) -> SideCell:
    found = (results.get("times") or {}).get(key) or {}
    return SideCell(f"{sum(found.values()):,.0f} s") if found else SideCell()


def _quality(results: Results) -> SideCell:
    value = (results.get("senses") or {}).get("ami")
    return SideCell(f"{value:.3f}") if isinstance(value, int | float) else SideCell()


def _compared(results: Results) -> SideCell:
    subject, baseline = subject_of(results), baseline_of(results)
    return SideCell(f"{subject} against {baseline}") if subject and baseline else SideCell()


_COSTS: Final[tuple[tuple[str, Callable[[Results], SideCell]], ...]] = (
    ("teacher", lambda r: SideCell(str(((r.get("provenance") or {}).get("teacher") or {}).get("model", "—")))),
    ("seeds", lambda r: SideCell(", ".join(str(s) for s in sorted({run["seed"] for run in r.get("arms", [])})))),
    ("training tokens", _tokens),
    ("labels with own senses", lambda r: _share(r, "own")),
    ("labels with synonyms", lambda r: _share(r, "synonym")),
    ("labels with antonyms", lambda r: _share(r, "antonym")),
    ("senses against gold (AMI)", _quality),
    ("all stages together", lambda r: _seconds(r, "stages")),
    ("training of all students", lambda r: _seconds(r, "arms")),
)


def _leaves(tree: object, path: str = "") -> dict[str, str]:
    """Dotted key -> value, of every leaf of a recipe."""
    if isinstance(tree, Mapping) and tree:
        found: dict[str, str] = {}
        for key, value in tree.items():
            found |= _leaves(value, f"{path}.{key}" if path else str(key))
        return found
    return {path: "none" if tree is None else str(tree)}


def _recipes(runs: Sequence[Results]) -> tuple[SideRow, ...]:
    leaves = [_leaves((run.get("provenance") or {}).get("recipe") or {}) for run in runs]
    keys = sorted({key for each in leaves for key in each if key and key not in _PLACES})
    return tuple(
        SideRow(key, tuple(SideCell(each.get(key, "—")) for each in leaves))
        for key in keys
        if len({each.get(key) for each in leaves}) > 1
    )


def side_tables(runs: Sequence[Results]) -> list[SideTable]:
    """The tables of a page with several runs; those without rows are left out."""
    metrics = list(dict.fromkeys(metric for run in runs for metric in ordered_metrics(run)))
    arms = ordered_arms(dict.fromkeys(arm for run in runs for arm in run["summary"]))
    named = SideRow("compared", tuple(_compared(run) for run in runs))
    found = [
        SideTable(
            "What each found",
            "difference in",
            (named, *_rows({metric_label(m): [_difference(run, m) for run in runs] for m in metrics})),
            "Each run's own comparison with its 95 % interval. Runs that differ in teacher, texts or questions are not "
            "measured on one scale; nothing is tested between them.",
        ),
        SideTable("What each is and took", "", _rows({name: [read(run) for run in runs] for name, read in _COSTS})),
        SideTable("Where the recipes differ", "key", _recipes(runs)),
    ]
    for metric in metrics:
        rows = _rows({arm: [_value(run, arm, metric) for run in runs] for arm in arms})
        found.append(SideTable(f"{metric_label(metric)} of every arm", "arm", rows))
    return [table for table in found if table.rows]


def _rows(found: Mapping[str, Sequence[SideCell]]) -> tuple[SideRow, ...]:
    """Rows of which at least one cell says something."""
    return tuple(
        SideRow(name, tuple(cells)) for name, cells in found.items() if any(cell.text != "—" for cell in cells)
    )
