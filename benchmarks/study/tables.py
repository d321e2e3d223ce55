"""The tables of docs/study.md out of the experiments' results: what stands between two marks is written anew."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from scipy.stats import t

from benchmarks.study.plan import RESULTS

Found = Mapping[str, Any]

# Metric, heading, factor, decimals.
CE, KL = ("ce", "CE", 1, 3), ("kl", "KL", 1, 3)
AGREEMENT = ("agreement", "agreement %", 100, 2)
ANTONYMS = ("antonym_discrimination", "antonyms %", 100, 2)
LEXICAL: Final = (
    KL,
    ("antonyms_trained", "antonyms, trained %", 100, 2),
    ("antonyms_withheld", "antonyms, withheld %", 100, 2),
    ("coarsewsd20", "CoarseWSD %", 100, 2),
)
Column = tuple[str, str, int, int]
_MARK: Final = re.compile(r"(<!-- table: (\w+) ([\w+ .@-]+) -->\n).*?(<!-- end -->)", re.S)


def load(name: str) -> dict[str, Any]:
    """The results of an experiment."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _rows(lines: Iterable[Sequence[str]]) -> str:
    head, *body = [list(line) for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)) + "\n"


def _difference(found: Found, arm: str, column: Column) -> str:
    against = found["recipe"]["compare"].get("baseline", "kd")
    metric, _, factor, decimals = column
    for each in found["differences"]:
        if (each["arm"], each["metric"], each["against"]) == (arm, metric, against):
            mean, low, high = (each[key] * factor for key in ("mean", "low", "high"))
            if each["n"] == 1:  # One seed has no interval.
                return f"{mean:+.{decimals}f}"
            text = f"{mean:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]"
            return text if each["includes_zero"] else f"**{text}**"
    return ""


def _mean(found: Found, arm: str, column: Column) -> str:
    value = found["summary"][arm].get(column[0])
    return "" if value is None else f"{value['mean'] * column[2]:.{column[3]}f}"


def _seeds(found: Found, arm: str) -> str:
    return str(max(value["n"] for value in found["summary"][arm].values()))


def _source(*names: str) -> str:
    minutes = sum(load(name)["cpu_seconds"] for name in names) / 60
    return f"`python -m benchmarks.study run {' '.join(names)}` ({minutes:.0f} CPU minutes)\n\n"


def arms_table(name: str) -> str:
    """Means of every arm, and its paired differences to the baseline in KL and agreement."""
    found = load(name)
    against = found["recipe"]["compare"].get("baseline", "kd")
    heads = [f"Δ {column[1]}" for column in (KL, AGREEMENT)]
    lines = [[name, "seeds", "CE", "KL", "agreement %", "antonyms %", *heads]]
    for arm in sorted(set(found["summary"]) - {"teacher"}, key=lambda arm: (arm != against, arm)):
        means = [_mean(found, arm, column) for column in (CE, KL, AGREEMENT, ANTONYMS)]
        changes = [_difference(found, arm, column) for column in (KL, AGREEMENT)]
        lines.append([f"`{arm}`", _seeds(found, arm), *means, *changes])
    return _source(name) + _rows(lines)


def lexical_table(name: str) -> str:
    """Lexical tests, and paired differences to the baseline."""
    found = load(name)
    columns = [column for column in LEXICAL if any(column[0] in values for values in found["summary"].values())]
    against = found["recipe"]["compare"].get("baseline", "kd")
    lines = [[name, "seeds", *(column[1] for column in columns)]]
    for arm in sorted(found["summary"], key=lambda arm: (arm != against, arm)):
        cells = []
        for column in columns:
            change = _difference(found, arm, column) if arm != "teacher" else ""
            cells.append(_mean(found, arm, column) + (f" ({change})" if change else ""))
        lines.append([f"`{arm}`", _seeds(found, arm), *cells])
    return _source(name) + _rows(lines)


def tuned_table(name: str) -> str:
    """What tuning chose for every arm."""
    lines = [[name, "trials", "chosen", "development KL: first trial", "best"]]
    for arm, chosen in load(name)["tuning"]["arms"].items():
        trials = [trial["mean"] for trial in chosen["trials"]]
        settings = ", ".join(f"{key.split('.')[-1]} {value:.3g}" for key, value in chosen["settings"].items())
        best = min(value for value in trials if value is not None)
        lines.append([f"`{arm}`", str(len(trials)), settings or "as it stands", f"{trials[0]:.4f}", f"{best:.4f}"])
    return _rows(lines)


def kept_table(name: str) -> str:
    """Which share of the gain of the best hidden-state arm over plain KD the others keep, seed by seed."""
    found = load(name)
    runs = {(run["arm"], run["seed"]): run["metrics"] for run in found["arms"]}
    hidden = [arm for arm in found["summary"] if arm.startswith("hidden")]
    lines = [[name, "bytes of target", "KL", "share of the KL gain kept", "share of the CE gain kept"]]
    best = min(hidden, key=lambda arm: found["summary"][arm]["kl"]["mean"])
    for arm in found["summary"]:
        seeds = sorted(seed for known, seed in runs if known == arm)
        if arm in {"teacher", "kd"}:
            continue
        shares = []
        for metric in ("kl", "ce"):
            gains = [
                (runs["kd", seed][metric] - runs[arm, seed][metric])
                / (runs["kd", seed][metric] - runs[best, seed][metric])
                for seed in seeds
            ]
            shares.append(f"{100 * fmean(gains):.0f} % ({100 * min(gains):.0f} to {100 * max(gains):.0f})")
        size = "16" if "16" in arm else "4" if "4" in arm else "768 (float32)"
        lines.append([f"`{arm}`", size, _mean(found, arm, KL), *shares])
    return _source(name) + _rows(lines)


def variants_table(*names: str) -> str:
    """One arm with senses of each of several experiments, against plain KD of the same."""
    lines = [["variant", "arm", "seeds", "KL", "Δ KL", "Δ CE", "Δ agreement %", "Δ antonyms %"]]
    for name in names:
        found = load(name)
        for arm in (arm for arm in found["summary"] if arm not in {"teacher", "kd", "ce", "pruned"}):
            changes = [_difference(found, arm, column) for column in (KL, CE, AGREEMENT, ANTONYMS)]
            lines.append([name, f"`{arm}`", _seeds(found, arm), _mean(found, arm, KL), *changes])
    return _source(*names) + _rows(lines)


def fewer_table(*names: str) -> str:
    """An arm with fewer tokens against plain KD with all of them: pairs of (fewer, all)."""
    lines = [["fewer tokens", "arm", "its KL", "plain KD, all tokens", "difference", "plain KD, fewer tokens"]]
    for few, whole in zip(names[::2], names[1::2], strict=True):
        found, other = load(few), load(whole)
        for arm in (arm for arm in found["summary"] if arm not in {"kd", "teacher"}):
            means = [_mean(found, arm, KL), _mean(other, "kd", KL)]
            lines.append([few, f"`{arm}`", *means, _across(found, arm, other), _mean(found, "kd", KL)])
    return _source(*names[::2]) + _rows(lines)


def _across(found: Found, arm: str, other: Found) -> str:
    """KL of an arm minus KL of plain KD in another experiment, paired by seed: mean and Student's interval of 95 %."""
    theirs = {run["seed"]: run["metrics"]["kl"] for run in other["arms"] if run["arm"] == "kd"}
    gaps = [run["metrics"]["kl"] - theirs[run["seed"]] for run in found["arms"]
            if run["arm"] == arm and run["seed"] in theirs]  # fmt: skip
    half = float(t.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / len(gaps) ** 0.5
    low, high = fmean(gaps) - half, fmean(gaps) + half
    text = f"{fmean(gaps):+.3f} [{low:+.3f}, {high:+.3f}]"
    return text if low <= 0 <= high else f"**{text}**"


def time_table(name: str) -> str:
    """An arm against plain KD that had as much time instead of as many tokens."""
    found = load(name)
    equal = {**found["equal_time"], "recipe": found["recipe"]}
    lines = [[name, "seeds", "steps", "CE", "KL", "agreement %", "Δ KL", "Δ agreement %"]]
    for arm in ("kd", *(arm for arm in equal["summary"] if arm not in {"teacher", "kd"})):
        means = [_mean(equal, arm, column) for column in (CE, KL, AGREEMENT)]
        changes = [_difference(equal, arm, column) for column in (KL, AGREEMENT)]
        lines.append([f"`{arm}`", _seeds(equal, arm), str(equal["steps"][arm]), *means, *changes])
    return _source(name) + _rows(lines)


def sensitivity_table(*names: str) -> str:
    """KL on development text minus plain KD's, one factor at a time from the default, which is marked."""
    results = [load(name) for name in names]
    # Where the recipe is in raw units already, there is nothing to convert.
    both = any(entry["raw"] is not None for found in results for entry in found["factors"])
    heads = ["Δ KL", "in raw units"][: 1 + both]
    lines = [
        ["factor", "value", *(f"{name}: {head}" if head == heads[0] else head for name in names for head in heads)]
    ]
    for number, known in enumerate(results[0]["factors"]):
        cells = []
        for found in results:
            entry = found["factors"][number]
            raw = "" if entry["raw"] is None else f"{entry['raw']:.3g}"
            gain = found["summary"][entry["arm"]]["kl"]["mean"] - found["summary"]["kd"]["kl"]["mean"]
            cells += [f"{gain:+.3f}", raw][: 1 + both]
        mark = " (default)" if known["default"] else ""
        lines.append([known["factor"], f"{known['value']:g}{mark}", *cells])
    return _source(*names) + _rows(lines)


_KINDS: Final[Mapping[str, Callable[..., str]]] = {
    "arms": arms_table,
    "lexical": lexical_table,
    "tuned": tuned_table,
    "kept": kept_table,
    "variants": variants_table,
    "fewer": fewer_table,
    "time": time_table,
    "sensitivity": sensitivity_table,
}
_EACH: Final = {"arms", "lexical", "tuned", "kept", "time"}


def _render(kind: str, names: Sequence[str]) -> str:
    groups = [[name] for name in names] if kind in _EACH else [list(names)]
    parts = []
    for group in groups:
        missing = [name for name in group if not (RESULTS / f"{name}.json").exists()]
        if missing and kind == "variants":
            group = [name for name in group if name not in missing]
        text = f"Not run: {', '.join(f'`{name}`' for name in missing)}.\n" if missing else ""
        if group and (not missing or kind == "variants"):
            text = _KINDS[kind](*group) + ("\n" + text if text else "")
        parts.append("\n" + text + "\n")
    return "".join(parts)


def write_tables(page: Path) -> None:
    """Write every marked table of a page anew."""
    text = page.read_text(encoding="utf-8")
    text = _MARK.sub(lambda match: match[1] + _render(match[2], match[3].split()) + match[4], text)
    page.write_text(text, encoding="utf-8")
