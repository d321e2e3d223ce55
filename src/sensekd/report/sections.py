"""The sections of a run on the page: tables, bars and lists of facts from the tree of its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sensekd.evaluation.compare import direction
from sensekd.report.figures import Picture, arm_of
from sensekd.report.labels import (
    arm_note,
    baseline_of,
    difference_unit,
    humanise,
    metric_label,
    number,
    ordered_arms,
    ordered_metrics,
    signed,
    unit,
)
from sensekd.report.verdict import MARKS, findings, outcome, verdict
from sensekd.report.views import views


@dataclass(frozen=True)
class Cell:
    """One number of the table: its interval in words, and what it says against the baseline."""

    text: str
    spread: str = ""
    outcome: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Bar:
    """One row of a bar list; `share` of the longest, 0 to 1."""

    name: str
    text: str
    share: float


@dataclass(frozen=True)
class Facts:
    """A titled list of names and numbers."""

    title: str
    rows: tuple[tuple[str, str], ...]


def _cell(results: Mapping[str, Any], arm: str, metric: str, mark: str) -> Cell:
    value = results["summary"][arm].get(metric)
    if value is None:
        return Cell("")
    spread = ""
    if value.get("n", 1) > 1:
        spread = f"{number(value['low'], metric, results)}–{number(value['high'], metric, results)}"
    return Cell(number(value["mean"], metric, results), spread, mark, MARKS.get(mark, ""))  # type: ignore[call-overload]


def _table(results: Mapping[str, Any]) -> dict[str, Any]:
    baseline, metrics = baseline_of(results), ordered_metrics(results)
    chance = results.get("chance") or {}
    rows = []
    for arm in ordered_arms(results["summary"]):
        found = findings(results, arm, baseline) if baseline else ()
        marks = {each.metric: each.outcome for each in found}
        cells = [_cell(results, arm, metric, marks.get(metric, "")) for metric in metrics]
        rows.append({"arm": arm, "note": arm_note(arm), "cells": cells, "baseline": arm == baseline})
    return {
        "heads": [
            {"label": metric_label(m), "unit": unit(m, results), "better": direction(m), "name": m} for m in metrics
        ],
        "rows": rows,
        "chance": [number(chance[m], m, results) if m in chance else "" for m in metrics] if chance else [],
    }


def _difference_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for row in results.get("differences", []):
        metric, side = row["metric"], outcome(row)
        numbers = {key: signed(row[key], metric, results) for key in ("mean", "low", "high")}
        measure = difference_unit(metric, results)
        names = {"arm": row["arm"], "against": row["against"], "metric": metric_label(metric), "unit": measure}
        rows.append({**names, **numbers, "n": str(row.get("n", "")), "outcome": side, "mark": MARKS[side]})
    return rows


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "—"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{humanise(key)} {_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _by_pieces(value: object) -> object:
    """[1204, 311] -> {"1 piece": 1204, "2 pieces": 311}."""
    if not isinstance(value, list):
        return value
    return {f"{at} piece{'s' if at > 1 else ''}": count for at, count in enumerate(value, 1)}


def _facts(title: str, tree: Mapping[str, Any]) -> list[Facts]:
    """The numbers of a tree: those of the top in one list, and one list for every branch."""
    tree = {key: _by_pieces(value) if key.endswith("_by_pieces") else value for key, value in tree.items()}
    here = tuple((humanise(key), _plain(value)) for key, value in tree.items() if not isinstance(value, Mapping))
    branches = [
        Facts(f"{title}: {humanise(key)}", tuple((humanise(name), _plain(item)) for name, item in value.items()))
        for key, value in tree.items()
        if isinstance(value, Mapping) and value
    ]
    return [Facts(title, here), *branches] if here else branches


def _supervised(positions: Mapping[str, Any]) -> list[Bar]:
    """Shares of the labels that the senses supervise; counts and shares are both understood."""
    labels = float(positions.get("labels") or 0)
    names = {"own": "own senses", "synonym": "synonyms' senses", "antonym": "antonyms' senses"}
    bars = []
    for key, name in names.items():
        if key not in positions or labels <= 0:
            continue
        value = float(positions[key])
        share = value if value <= 1 < labels else value / labels
        bars.append(Bar(name, f"{100 * share:.1f} %", min(1.0, share)))
    return bars


def _seconds(value: float) -> str:
    if value < 100:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _bars(times: Mapping[str, float]) -> list[Bar]:
    longest = max(times.values(), default=0.0) or 1.0
    return [Bar(name, _seconds(float(value)), float(value) / longest) for name, value in times.items()]


def _senses(senses: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not senses:
        return None
    pairs = [
        ("Agreement with the gold senses (AMI)", "ami", "shuffled labels", "ami_shuffled"),
        ("Where the left context tells it (AMI)", "ami_left", "shuffled labels", "ami_left_shuffled"),
        ("Purity", "purity", "most frequent sense", "purity_most_frequent"),
    ]
    boxes = [
        {"label": label, "value": f"{senses[key]:.2f}", "name": name, "other": f"{senses[other]:.2f}"}
        for label, key, name, other in pairs
        if isinstance(senses.get(key), int | float) and isinstance(senses.get(other), int | float)
    ]
    shown = {key for _, key, _, other in pairs for key in (key, other)}
    rest = {key: value for key, value in senses.items() if key not in shown}
    return {"boxes": boxes, "rest": _facts("Gold senses", rest)}


def _yaml(tree: object) -> str:
    import yaml

    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)


def _throughput(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Bar]:
    """Tokens per second of every arm, the median over the log of all its students."""
    found: dict[str, list[float]] = {}
    for run, history in histories.items():
        logged = [float(row["tokens_per_second"]) for row in history if "tokens_per_second" in row]
        found.setdefault(arm_of(run), []).extend(logged)
    middle = {arm: median(found[arm]) for arm in ordered_arms(found) if found[arm]}
    longest = max(middle.values(), default=0.0) or 1.0
    return [Bar(arm, f"{value:,.0f}", value / longest) for arm, value in middle.items()]


def _memory(memory: Mapping[str, Mapping[str, float]]) -> list[Bar]:
    """Peak memory of every stage, on the host and where there was one on the GPU."""
    rows = [
        (f"{name} (GPU)" if place == "gpu" else name, float(peak[place]))
        for name, peak in memory.items()
        for place in ("host", "gpu")
        if peak.get(place)
    ]
    longest = max((value for _, value in rows), default=0.0) or 1.0
    return [Bar(name, size_text(value), value / longest) for name, value in rows]


def size_text(size: float) -> str:
    """412 MB, 1.3 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def run_context(
    results: Mapping[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    pictures: tuple[Sequence[Picture], Sequence[Picture], Sequence[Any]],
    prefix: str,
) -> dict[str, Any]:
    """What the template of one run is filled with.

    Args:
        results: the tree of `results.json`.
        histories: log records by run.
        pictures: of the differences, of the curves, and the key to the lines of these.
        prefix: of every id in the section; a page may hold several runs.
    """
    differences, curves, key = pictures
    provenance = results.get("provenance") or {}
    coverage = results.get("coverage") or {}
    times = results.get("times") or {}
    recipe = provenance.get("recipe") or {}
    return {
        "p": prefix,
        "heading": "h2" if prefix else "h1",
        "teacher": provenance.get("teacher") or {},
        "verdict": verdict(results),
        "baseline": baseline_of(results),
        "table": _table(results),
        "marks": MARKS,
        "differences": differences,
        "difference_rows": _difference_rows(results),
        "views": views(results),
        "curves": curves,
        "key": key,
        "coverage": [
            fact
            for part in ("lexicon", "linking", "positions")
            for fact in _facts(part.title(), coverage.get(part) or {})
        ],
        "supervised": _supervised(coverage.get("positions") or {}),
        "labels": _plain((coverage.get("positions") or {}).get("labels")),
        "senses": _senses(results.get("senses")),
        "examples": results.get("examples") or [],
        "stages": _bars(times.get("stages") or {}),
        "arm_times": _bars({name: value for name, value in (times.get("arms") or {}).items() if value > 0}),
        "throughput": _throughput(histories),
        "memory": _memory(times.get("memory") or {}),
        "gpu": any(peak.get("gpu") for peak in (times.get("memory") or {}).values()),
        "command": provenance.get("command") or "",
        "recipe": _yaml(recipe) if recipe else "",
        "inputs": _facts("Inputs", provenance.get("inputs") or {}),
        "versions": provenance.get("versions") or {},
    }
