"""Which affixes negate, by language; and a word's parts as its etymology states them.

The table holds affixes that turn a word into its opposite or its absence, and leaves out those that mostly say
something else (`de-`, `mis-`, `anti-`, `a-`). Spellings of one affix stand together: `im-` is `in-` before a labial.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

# language -> affixes, each a tuple of its spellings; the first names it.
PREFIXES: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "en": (("un",), ("non",), ("in", "im", "il", "ir", "ig"), ("dis",)),
    "de": (("un",), ("nicht",), ("in", "im", "il", "ir")),
    "nl": (("on",), ("niet",)),
    "sv": (("o",), ("icke",)),
    "da": (("u",), ("ikke",)),
    "nb": (("u",), ("ikke",)),
    "nn": (("u",), ("ikkje",)),
    "is": (("ó",),),
    "fr": (("in", "im", "il", "ir"), ("non",)),
    "es": (("in", "im", "i"), ("des", "dis"), ("no",)),
    "pt": (("in", "im", "i"), ("des",), ("não",)),
    "it": (("in", "im", "il", "ir"), ("dis",), ("non",)),
    "ca": (("in", "im", "il", "ir"), ("des",), ("no",)),
    "ro": (("ne",), ("in", "im")),
    "la": (("in", "im", "il", "ir", "ig"),),
    "ru": (("не",), ("без", "бес")),
    "uk": (("не",), ("без",)),
    "pl": (("nie",), ("bez",)),
    "cs": (("ne",), ("bez",)),
    "sk": (("ne",), ("bez",)),
    "bg": (("не",), ("без",)),
    "lt": (("ne",),),
    "lv": (("ne",), ("bez",)),
    "fi": (("epä",), ("ei",)),
    "et": (("eba",), ("mitte",)),
    "eo": (("mal",), ("ne",)),
    "ga": (("neamh",), ("mí",)),
    "cy": (("an",), ("di",)),
    "hi": (("अ", "अन"),),
    "fa": (("نا",), ("بی",)),
    "ja": (("不",), ("無",), ("非",), ("未",)),
    "zh": (("不",), ("無", "无"), ("非",), ("未",)),
}
SUFFIXES: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "en": (("less",),),
    "de": (("los",), ("frei",)),
    "nl": (("loos",),),
    "sv": (("lös",),),
    "da": (("løs",),),
    "nb": (("løs",),),
    "nn": (("laus",),),
    "fi": (("ton", "tön"),),
    "et": (("tu",),),
    "hu": (("talan", "telen", "tlan", "tlen"),),
    "tr": (("siz", "sız", "suz", "süz"),),
}
_PREFIX_NAMES: Final = frozenset({"prefix", "pre"})
_SUFFIX_NAMES: Final = frozenset({"suffix", "suf"})
_CONFIX_NAMES: Final = frozenset({"confix", "con"})
_AFFIX_NAMES: Final = frozenset({"af", "affix", "surf", "surface analysis", "surface af"})
TEMPLATES: Final = _PREFIX_NAMES | _SUFFIX_NAMES | _CONFIX_NAMES | _AFFIX_NAMES
_HYPHENS: Final = "-‐‑־ـ"
_INLINE: Final = re.compile(r"<[^>]*>")
_MOST_PARTS: Final = 8


class Parts(NamedTuple):
    """A word as affixes around stems, in the order of the word, without hyphens."""

    prefixes: tuple[str, ...]
    stems: tuple[str, ...]
    suffixes: tuple[str, ...]


def negating(affix: str, language: str, *, prefix: bool) -> tuple[str, ...]:
    """The spellings of a negating affix; empty if this one does not negate."""
    table = PREFIXES if prefix else SUFFIXES
    return next((group for group in table.get(language, ()) if affix.casefold() in group), ())


def parts_of_template(template: Mapping[str, Any], language: str) -> Parts | None:
    """What an affix template of Wiktionary says a word of `language` is made of.

    None for other templates, other languages (a template may speak of an ancestor), and parts that are empty or
    reconstructed.
    """
    name, arguments = template.get("name"), template.get("args")
    if not isinstance(name, str) or name not in TEMPLATES or not isinstance(arguments, dict):
        return None
    if arguments.get("1") != language:
        return None
    numbers = [str(number) for number in range(2, 2 + _MOST_PARTS)]
    raw = [arguments[number] for number in numbers if number in arguments]
    if len(raw) < 2 or not all(isinstance(part, str) for part in raw):
        return None
    parts = [_INLINE.sub("", part).strip() for part in raw]
    if not all(part.strip(_HYPHENS) and not part.startswith("*") for part in parts):
        return None
    return _sorted(name, parts)


def _sorted(name: str, parts: Sequence[str]) -> Parts | None:
    last = len(parts) - 1
    prefixes: list[str] = []
    stems: list[str] = []
    suffixes: list[str] = []
    for number, part in enumerate(parts):
        is_prefix = part[-1] in _HYPHENS or (name in _PREFIX_NAMES and number < last)
        is_suffix = part[0] in _HYPHENS or (name in _SUFFIX_NAMES and number > 0)
        if name in _CONFIX_NAMES:
            is_prefix, is_suffix = is_prefix or number == 0, is_suffix or number == last
        if is_prefix and is_suffix:
            return None  # an interfix, or a template filled in oddly
        (prefixes if is_prefix else suffixes if is_suffix else stems).append(part.strip(_HYPHENS))
    return Parts(tuple(prefixes), tuple(stems), tuple(suffixes))


_MORPHEME: Final = re.compile(r"<([^<>{}()]+)<|\(([^<>{}()]+)\)|>([^<>{}()]+)>")


def parts_of_segmentation(segmentation: str) -> Parts:
    """A segmentation of MorphoLex: `<un<{(accept)}>able>` is un + accept + able.

    An affix inside the braces belongs to a base that no longer comes apart (`{<in<(tent)}`): it is no affix of the
    word, and counts as a further stem without a spelling.
    """
    depth = 0
    found: dict[str, list[str]] = {"prefix": [], "stem": [], "suffix": []}
    position = 0
    while position < len(segmentation):
        match = _MORPHEME.match(segmentation, position)
        if match is None:
            depth += {"{": 1, "}": -1}.get(segmentation[position], 0)
            position += 1
            continue
        prefix, stem, suffix = match.groups()
        if stem is not None:
            found["stem"].append(stem)
        elif depth:
            found["stem"].append("")
        else:
            found["prefix" if prefix is not None else "suffix"].append(prefix if prefix is not None else suffix)
        position = match.end()
    return Parts(tuple(found["prefix"]), tuple(found["stem"]), tuple(found["suffix"]))
