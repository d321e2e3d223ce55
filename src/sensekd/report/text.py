"""Text of tokens on a page: nothing in it becomes markup, and nothing in it works in secret."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from markupsafe import Markup

# Controls, formats (bidirectional marks among them), lone surrogates, private use, line and paragraph separators.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# Joiners shape letters of Arabic, Persian and Indic scripts, and the soft hyphen is one.
_KEPT: Final = frozenset("\n\t\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}\N{SOFT HYPHEN}")


def visible(text: str) -> str:
    """The text with every character that would act unseen (reorder, hide, end a line) written out as ⟨U+202E⟩."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(character):04X}⟩"
        if character not in _KEPT and unicodedata.category(character) in _HIDDEN
        else character
        for character in text
    )


def flat(text: str, width: int) -> str:
    """The end of a text in one line of at most `width` characters, as `visible` shows them."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= width else "…" + line[-(width - 1) :]


def shown(tree: Any) -> Any:
    """A tree of JSON with `visible` applied to every string of it, keys included."""
    if isinstance(tree, str):
        return visible(tree)
    if isinstance(tree, dict):
        return {visible(str(key)): shown(value) for key, value in tree.items()}
    if isinstance(tree, Sequence):
        return [shown(value) for value in tree]
    return tree


def data_json(tree: Any) -> Markup:
    """JSON for a script element: no string in it can end the element or open a tag."""
    from markupsafe import Markup

    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
