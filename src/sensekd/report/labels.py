"""Names, order and number formats that the page and the terminal table share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

_METRICS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "facts": "Facts",
        "senses": "Senses",
        "relations": "Relations",
        "antonym_discrimination": "Antonym discrimination",
        "antonyms_trained": "Antonyms, trained pairs",
        "antonyms_withheld": "Antonyms, withheld pairs",
        "coarsewsd20": "CoarseWSD-20",
        "coarsewsd20_words": "CoarseWSD-20, mean of words",
        "simlex999": "SimLex-999, Spearman",
        "simlex999_centred": "SimLex-999, centred",
        "agreement": "Agreement with the teacher",
        "ce": "Cross-entropy",
        "kl": "KL from the teacher",
    }
)
_SHARES: Final = frozenset(_METRICS) - {"ce", "kl", "simlex999", "simlex999_centred"}
_NATS: Final = frozenset({"ce", "kl"})
_ARMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "teacher": "the full model",
        "pruned": "layers cut, not trained",
        "ce": "trained on the text alone",
        "kd": "text + teacher's distribution",
        "kd+hidden": "kd + teacher's hidden states",
        "dskd-own": "kd + own senses",
        "dskd": "kd + senses, synonyms, antonyms",
    }
)
PERCENT: Final = "\N{NO-BREAK SPACE}%"
MINUS: Final = "\N{MINUS SIGN}"
NOT_DISTILLED: Final = frozenset({"teacher", "pruned", "ce"})


def ordered_arms(arms: Iterable[str]) -> list[str]:
    """The built-in arms in their order, then others as given."""
    given = list(arms)
    return [arm for arm in _ARMS if arm in given] + [arm for arm in given if arm not in _ARMS]


def ordered_metrics(results: Mapping[str, Any]) -> list[str]:
    """The metrics of a summary: question sets first, then the known figures, then others by name."""
    found = {metric for values in results.get("summary", {}).values() for metric in values}
    sets = sorted(found & set(results.get("chance") or {}) - _METRICS.keys())
    known = [metric for metric in _METRICS if metric in found]
    split = next((at for at, metric in enumerate(known) if metric not in {"facts", "senses", "relations"}), len(known))
    return [*known[:split], *sets, *known[split:], *sorted(found - set(known) - set(sets))]


def metric_label(metric: str) -> str:
    return _METRICS.get(metric, metric)


def arm_note(arm: str) -> str:
    """A few words on a built-in arm; nothing for others."""
    return _ARMS.get(arm, "")


def is_share(metric: str, results: Mapping[str, Any]) -> bool:
    """Whether a metric is a share, shown in percent."""
    return metric in _SHARES or metric in (results.get("chance") or {})


def unit(metric: str, results: Mapping[str, Any]) -> str:
    return "%" if is_share(metric, results) else "nats" if metric in _NATS else ""


def number(value: float, metric: str, results: Mapping[str, Any]) -> str:
    """A value without its unit: 61.2 for a share, 1.234 otherwise."""
    text = f"{100 * value:.1f}" if is_share(metric, results) else f"{value:.3f}"
    return text.replace("-", MINUS)


def signed(value: float, metric: str, results: Mapping[str, Any]) -> str:
    """A difference with its sign, in percentage points for a share; a difference that rounds to zero has none."""
    text = f"{100 * value:+.1f}" if is_share(metric, results) else f"{value:+.3f}"
    if not text.strip("+-0."):
        text = text[1:]
    return text.replace("-", MINUS)


def difference_unit(metric: str, results: Mapping[str, Any]) -> str:
    return "points" if is_share(metric, results) else unit(metric, results)


def baseline_of(results: Mapping[str, Any]) -> str | None:
    """The arm that the others were compared with: the recipe's, or else the commonest `against`."""
    recipe = (results.get("provenance") or {}).get("recipe") or {}
    named = (recipe.get("compare") or {}).get("baseline")
    against = [row["against"] for row in results.get("differences", [])]
    if named in against:
        return str(named)
    return max(dict.fromkeys(against), key=against.count) if against else None


def subject_of(results: Mapping[str, Any]) -> str | None:
    """The arm that the page speaks of: `dskd`, or else the last distilled arm that was compared with the baseline."""
    baseline = baseline_of(results)
    compared = list(dict.fromkeys(row["arm"] for row in results.get("differences", []) if row["against"] == baseline))
    if "dskd" in compared:
        return "dskd"
    candidates = [arm for arm in ordered_arms(compared) if arm not in NOT_DISTILLED]
    return candidates[-1] if candidates else None


# What coverage counts, in words that need no manual.
_PHRASES: Final = {
    "too_long": "neighbour of too many pieces",
    "not_spelled": "neighbour that cannot be written",
    "outside_vocabulary": "piece beyond the model's vocabulary",
    "same_token": "neighbour that is the head",
    "same_span": "neighbour found already",
    "withheld": "antonym withheld from training",
    "several_pieces": "no single token spells the word",
    "other_case": "a token in another case alone",
    "related": "token with linked neighbours",
    "cut": "of these inside a longer word",
    "without_senses": "of these no neighbour has senses",
    "whole": "whole words",
    "own_words": "whole words with own senses",
    "either": "synonym or antonym",
}


def humanise(key: str) -> str:
    """`kept_by_pieces` -> `kept by pieces`; what coverage counts has phrases of its own."""
    return _PHRASES.get(str(key), str(key).replace("_", " "))
