"""The tables of docs/study.md out of the experiments' results: what stands between two marks is written anew."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.study.plan import RESULTS

Found = Mapping[str, Any]

# Metric, heading, factor, decimals.
COLUMNS: Final = (
    ("ce", "CE", 1, 3),
    ("kl", "KL", 1, 3),
    ("agreement", "agreement %", 100, 2),
    ("antonym_discrimination", "antonyms %", 100, 2),
    ("antonyms_trained", "antonyms trained %", 100, 2),
    ("antonyms_withheld", "antonyms withheld %", 100, 2),
    ("simlex", "SimLex", 1, 3),
    ("coarse_wsd", "CoarseWSD %", 100, 2),
)
_MARK: Final = re.compile(r"(<!-- table: ([\w+ ./@-]+) -->\n).*?(<!-- end -->)", re.S)


def load(name: str) -> dict[str, Any]:
    """The results of an experiment."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _rows(lines: Iterable[Sequence[str]]) -> str:
    head, *body = [list(line) for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)) + "\n"


def _cell(difference: Found | None, factor: float, decimals: int) -> str:
    if difference is None:
        return ""
    mean, low, high = (difference[key] * factor for key in ("mean", "low", "high"))
    text = f"{mean:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]"
    return text if difference["includes_zero"] else f"**{text}**"


def arms_table(found: Found, against: str = "kd") -> str:
    """Means of every arm, and its paired difference to the baseline with a 95 % interval (bold: without zero)."""
    metrics = [column for column in COLUMNS if any(column[0] in arm for arm in found["summary"].values())]
    differences = {(each["arm"], each["metric"]): each for each in found["differences"] if each["against"] == against}
    lines = [["arm", "n", *(part for _, heading, *_ in metrics for part in (heading, f"Δ to `{against}`"))]]
    for arm, values in sorted(found["summary"].items()):
        if arm == "teacher":
            continue
        line = [f"`{arm}`", str(max(value["n"] for value in values.values()))]
        for metric, _, factor, decimals in metrics:
            value = values.get(metric)
            line.append("" if value is None else f"{value['mean'] * factor:.{decimals}f}")
            line.append(_cell(differences.get((arm, metric)), factor, decimals))
        lines.append(line)
    return _rows(lines)


def tuned_table(found: Found) -> str:
    """What tuning chose for every arm."""
    lines = [["arm", "trials", "chosen", "development KL: first trial", "best"]]
    for arm, chosen in found["tuning"]["arms"].items():
        trials = [trial["mean"] for trial in chosen["trials"]]
        settings = ", ".join(f"{key.split('.')[-1]} {value:.3g}" for key, value in chosen["settings"].items())
        best = min(value for value in trials if value is not None)
        lines.append([f"`{arm}`", str(len(trials)), settings or "as it stands", f"{trials[0]:.4f}", f"{best:.4f}"])
    return _rows(lines)


def _render(word: str) -> str:
    kind, _, names = word.partition(" ")
    known = [name for name in names.split() if (RESULTS / f"{name}.json").exists()]
    missing = [name for name in names.split() if name not in known]
    parts = []
    for name in known:
        found = load(name)
        table = tuned_table(found) if kind == "tuned" else arms_table(found)
        title = f"`python -m benchmarks.study run {name}`, {found['cpu_seconds'] / 60:.0f} CPU minutes"
        parts.append(f"\n{title}\n\n{table}\n")
    parts.extend(f"\n`{name}`: not run.\n\n" for name in missing)
    return "".join(parts)


def write_tables(page: Path) -> None:
    """Write every marked table of a page anew."""
    text = page.read_text(encoding="utf-8")
    page.write_text(_MARK.sub(lambda match: match[1] + _render(match[2]) + match[3], text), encoding="utf-8")
