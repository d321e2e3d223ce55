"""Wiktextract lines read plainly and slowly, written apart from the package: the json module and loops."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

BAD = "[]{}<>|"
PAGES = ("Thesaurus:", "Wikisaurus:", "Appendix:", "Category:", "Wikipedia:", "Reconstruction:", "http:", "https:", ":")
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}


def same(a: str, b: str) -> bool:
    def low(text: str) -> str:
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())

    return low(a) == low(b)


def why_not(word: Any, item: Any, head: str) -> str | None:
    if not isinstance(item, dict):
        return "mistyped"
    if word is None:
        return "no_word"
    if not isinstance(word, str):
        return "mistyped"
    word = word.strip()
    if word == "":
        return "no_word"
    if "#" in word and not (word.endswith("#") and word.count("#") == 1):
        return "anchor"
    if word.startswith(PAGES):
        return "page"
    if (
        any(sign in word for sign in BAD)
        or "''" in word
        or any(unicodedata.category(c) == "Cc" and c < "\x80" for c in word)
    ):
        return "markup"
    if "&" in word and ";" in word.split("&", 1)[1] and word.split("&", 1)[1].split(";")[0].lstrip("#").isalnum():
        return "markup"
    if same(word, head):
        return "self"
    return None


def numbers(index: Any) -> list[str]:
    if isinstance(index, bool) or not isinstance(index, (int, str)):
        return []
    if isinstance(index, int):
        return [str(index)]
    found = []
    for part in index.replace(";", ",").split(","):
        ends = part.replace("—", "–").replace("-", "–").split("–")
        if len(ends) == 2:
            found += [str(n) for n in range(int(ends[0].strip(" []")), int(ends[1].strip(" []")) + 1)]
        else:
            found.append(part.strip(" []"))
    return found


def texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def gloss(sense: dict[str, Any]) -> str:
    glosses = texts(sense.get("glosses"))
    return " ".join(glosses[-1].split()) if glosses else ""


def form(sense: Any) -> bool:
    return isinstance(sense, dict) and ("form-of" in texts(sense.get("tags")) or "alt-of" in texts(sense.get("tags")))


def meant(item: dict[str, Any], senses: list[Any]) -> list[tuple[dict[str, Any], float]]:
    """(sense, weight); an empty list if only forms of other words are meant."""
    senses = [sense if isinstance(sense, dict) else {} for sense in senses]
    real = [sense for sense in senses if not form(sense)]
    if senses and not real:
        return []
    wanted = numbers(item.get("sense_index"))
    numbered = [(number, sense) for sense in senses for number in numbers(sense.get("sense_index"))]
    if not numbered:
        numbered = [(str(place + 1), sense) for place, sense in enumerate(senses)]
    found = [sense for sense in senses if any(number in wanted and other is sense for number, other in numbered)]
    text = item.get("sense") if isinstance(item.get("sense"), str) else ""
    text = " ".join(text.split())
    if not found and text:
        known = [[" ".join(one.split()).casefold() for one in texts(sense.get("glosses"))] for sense in senses]
        found = [sense for sense, own in zip(senses, known, strict=True) if text.casefold() in own]
    if found:
        return [(sense, 1.0) for sense in found if not form(sense)]
    weights = [float(part) for part in item.get("_dis1", "").split()]
    if weights and len(weights) == len(senses):
        best = max(weight for weight, sense in zip(weights, senses, strict=True) if not form(sense))
        if best > 0:
            pairs = zip(weights, senses, strict=True)
            return [(sense, best / sum(weights)) for weight, sense in pairs if weight == best and not form(sense)]
    if not text and len(real) == 1:
        return [(real[0], 1.0)]
    return [({"glosses": [text]}, 1.0)]


def relations_of(line: bytes, language: str) -> tuple[str, list[tuple[Any, ...]], list[str]]:
    """What became of a line, its rows (head, tail, relation, weight, pos, gloss, tags), why linkages were dropped."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return ("malformed" if line.strip() else "blank"), [], []
    if not isinstance(entry, dict):
        return "malformed", [], []
    if "redirect" in entry:
        return "redirect", [], []
    head = entry.get("word")
    if not isinstance(head, str) or not head.strip():
        return "no_word", [], []
    if entry.get("lang_code") != language:
        return "other_language", [], []
    rows, lost, seen = [], [], 0
    pos = entry.get("pos") if isinstance(entry.get("pos"), str) else ""
    senses = entry.get("senses") if isinstance(entry.get("senses"), list) else []
    places: list[tuple[Any, Any]] = [(sense, sense) for sense in senses if isinstance(sense, dict)] + [(None, entry)]
    for sense, place in places:
        for key, relation in (("synonyms", "synonym"), ("antonyms", "antonym")):
            items = place.get(key, [])
            if not isinstance(items, list):
                lost.append("mistyped")
                seen += 1
                continue
            for item in items:
                seen += 1
                word = item.get("word") if isinstance(item, dict) else None
                reason = why_not(word, item, head)
                if reason is None:
                    pairs = meant(item, senses) if sense is None else [] if form(sense) else [(sense, 1.0)]
                    if not pairs:
                        reason = "form_of"
                if reason is not None:
                    lost.append(reason)
                    continue
                for one, weight in pairs:
                    tags = {*texts(entry.get("tags")), *texts(one.get("tags")), *texts(item.get("tags"))} - {""}
                    rows.append(
                        (head, word.strip(), relation, weight, PARTS.get(pos, pos), gloss(one), tuple(sorted(tags)))
                    )
    if rows:
        return "kept", rows, lost
    return ("nothing_usable" if seen else "without_relations"), rows, lost
