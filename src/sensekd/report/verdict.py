"""What the differences say, in words, and no more than they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sensekd.evaluation.compare import direction
from sensekd.report.labels import (
    PERCENT,
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

Outcome = Literal["better", "worse", "open"]
MARKS: Final[Mapping[Outcome, str]] = {"better": "▲", "worse": "▼", "open": "≈"}


@dataclass(frozen=True)
class Finding:
    """One difference: how it reads, and whether zero is ruled out."""

    arm: str
    against: str
    metric: str
    outcome: Outcome
    mean: float
    low: float
    high: float
    runs: int
    text: str


@dataclass(frozen=True)
class Verdict:
    """A headline, one line for every measure, how the rivals compare, and what to keep in mind."""

    headline: str
    findings: tuple[Finding, ...]
    rivals: tuple[str, ...]
    caveats: tuple[str, ...]


def outcome(row: Mapping[str, Any]) -> Outcome:
    """`open` where zero lies inside the interval or where there is none, else the side it lies on."""
    zero = row.get("includes_zero", row["low"] <= 0 <= row["high"])
    if zero:
        return "open"
    return "better" if (row["mean"] > 0) == (direction(row["metric"]) == "higher") else "worse"


def _text(row: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    arm, against, metric = row["arm"], row["against"], row["metric"]
    summary = results["summary"]
    values = [number(summary[side][metric]["mean"], metric, results) for side in (arm, against)]
    mark = PERCENT if unit(metric, results) == "%" else ""
    measured = f"{arm} {values[0]}{mark}, {against} {values[1]}{mark}"
    change = f"{signed(row['mean'], metric, results)} {difference_unit(metric, results)}".rstrip()
    if row.get("n", 2) < 2 and outcome(row) == "open":
        return f"{measured}: {change}, one seed, no interval"
    if row["low"] == row["high"]:
        return f"{measured}: {change}, the same for every seed"
    low, high = (signed(row[side], metric, results) for side in ("low", "high"))
    return f"{measured}: {change} (95{PERCENT} interval {low} to {high})"


def findings(results: Mapping[str, Any], arm: str, against: str) -> tuple[Finding, ...]:
    """The differences of two arms, in the order of the metrics."""
    rows = {
        row["metric"]: row for row in results.get("differences", []) if (row["arm"], row["against"]) == (arm, against)
    }
    return tuple(
        Finding(
            arm, against, metric, outcome(row), row["mean"], row["low"], row["high"], int(row.get("n", 0)),
            _text(row, results),
        )
        for metric in ordered_metrics(results)
        if (row := rows.get(metric)) is not None
    )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _names(found: Sequence[Finding], wanted: Outcome) -> list[str]:
    return [metric_label(each.metric).lower().replace("kl ", "KL ") for each in found if each.outcome == wanted]


def sentence(found: Sequence[Finding]) -> str:
    """Who beats whom on what, in one sentence."""
    arm, against = found[0].arm, found[0].against
    better, worse, undecided = (_names(found, side) for side in ("better", "worse", "open"))
    if max(each.runs for each in found) == 1 and not better and not worse:
        return (
            f"{arm} and {against} were run with one seed each: their differences have no interval and decide nothing."
        )
    if not better and not worse:
        return f"No measure tells {arm} from {against}: zero lies inside every interval."
    rest = f" The other {len(undecided)} of {len(found)} leave it open." if undecided else ""
    if better and worse:
        return f"{arm} beats {against} on {_listed(better)}, and loses to it on {_listed(worse)}.{rest}"
    if worse:
        return f"{arm} beats {against} on nothing, and loses to it on {_listed(worse)}.{rest}"
    return f"{arm} beats {against} on {_listed(better)}.{rest}"


def _caveats(results: Mapping[str, Any], found: Sequence[Finding]) -> tuple[str, ...]:
    seeds = max(each.runs for each in found)
    lines = []
    if seeds > 1:
        corrected = (results.get("multiplicity") or {}).get("differences")
        lines.append(
            f"Intervals are 95{PERCENT} of Student's t over {seeds} seeds, paired: both arms of a pair saw the same "
            "data in the same order. A seed changes that order alone: what another teacher, other texts or other "
            "questions would change is not in the interval."
        )
        uncorrected = (
            f"They are not corrected for their number: if the two arms did not differ at all, each of the {len(found)} "
            f"measures would still exclude zero once in twenty times."
        )
        if corrected:
            uncorrected += (
                f" With Holm's correction over all {corrected['family']} differences of trained arms "
                f"{corrected['after_holm']} of the {corrected['without_zero']} that exclude zero are left."
            )
        lines.append(uncorrected)
    if 1 < seeds < 5:
        lines.append(
            f"With {seeds} seeds an interval is wide: a real difference may well stay open. More seeds narrow it."
        )
    tokens = {run["tokens"] for run in results.get("arms", []) if run["arm"] in {found[0].arm, found[0].against}}
    if len(tokens) == 1:
        lines.append(f"Both arms were trained on the same {tokens.pop():,} tokens.")
    elif len(tokens) > 1:
        lines.append("The two arms did not see equally many tokens: this is no comparison at equal budget.")
    return tuple(lines)


def verdict(results: Mapping[str, Any]) -> Verdict:
    """The verdict over `dskd` (or the last distilled arm) against the baseline."""
    subject, baseline = subject_of(results), baseline_of(results)
    found = findings(results, subject, baseline) if subject and baseline else ()
    if not found:
        return Verdict("Nothing was compared: there is no second distilled arm.", (), (), ())
    others = [row["against"] for row in results["differences"] if row["arm"] == subject and row["against"] != baseline]
    pairs = [findings(results, str(subject), arm) for arm in ordered_arms(dict.fromkeys(others))]
    rivals = tuple(sentence(pair) for pair in pairs if any(each.runs != 1 for each in pair))
    return Verdict(sentence(found), found, rivals, _caveats(results, found))
