"""Where a word begins and ends between tokens: two flags a token, by the characters at its edges.

The rule is that of Unicode's default word boundaries (UAX #29), as far as two neighbouring tokens can show it:

- letters, marks and digits continue a word, and so do the invisible joiners and part of a character (U+FFFD);
- an apostrophe between letters does too ("don't", "l'ami"), one at the outer edge of a token with a space before it
  does not (" 'red"). A token that is nothing but an apostrophe may stand on either side of a letter, so it counts as
  continuing: a word beside it is taken for cut rather than for whole by guess;
- between two letters of a script that is written without spaces nothing tells a word's end. There the tokenizer's own
  cut is taken for one, so that a token that equals a word of the lexicon is a whole word; a mark still belongs to the
  letter before it. Katakana, which is written in visible runs, stays with the letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl
import torch

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Scripts whose words stand side by side; in the second group, marks of the next token may complete the last letter.
_IDEOGRAPHIC: Final = r"\p{Han}\p{Hiragana}"
_RUNNING: Final = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}"
_JOINERS: Final = r"\x{200C}\x{200D}\x{2060}\x{00AD}"
# U+FFFD: part of a character that other tokens complete, so it may be inside a word.
_INSIDE: Final = rf"\p{{L}}\p{{M}}\p{{N}}{_JOINERS}\x{{FFFD}}"
_APOSTROPHE: Final = r"['’＇·״]"
_LETTER: Final = r"[\p{L}\p{N}]"

_STARTS: Final = rf"^[{_INSIDE}--[\p{{L}}&&[{_IDEOGRAPHIC}{_RUNNING}]]]|^{_APOSTROPHE}{_LETTER}|^{_APOSTROPHE}$"
_ENDS: Final = rf"[{_INSIDE}--[\p{{L}}&&[{_IDEOGRAPHIC}]]]$|{_LETTER}{_APOSTROPHE}$|^{_APOSTROPHE}$"
_SPACED_APOSTROPHE: Final = rf"^ {_APOSTROPHE}$"
_UNSPACED: Final = rf"[\p{{L}}&&[{_IDEOGRAPHIC}{_RUNNING}\p{{Katakana}}]]"
_WORDLIKE: Final = rf"[{_INSIDE}]$"


def word_flags(tokens: pl.DataFrame, vocabulary: int, backend: Tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """(starts_word, ends_word), [V] bool each: a boundary lies between a, b unless `ends_word[a] and starts_word[b]`.

    Args:
        tokens: `id` and `text` of every token but the special ones, which have no word at their edges.
        vocabulary: V.
        backend: the tokenizer's engine.
    """
    starts, ends = pl.col("text").str.contains(_STARTS), pl.col("text").str.contains(_ENDS)
    if _blind(backend):
        # Every apostrophe is told to have a space before it: whether it has one cannot be seen.
        starts |= pl.col("text").str.contains(_SPACED_APOSTROPHE)
    return _flag(tokens, starts, vocabulary), _flag(tokens, ends, vocabulary)


def wordlike(tokens: pl.DataFrame, vocabulary: int) -> torch.Tensor:
    """[V] bool: the token's text ends with a letter, mark, digit or part of a character, in any script."""
    return _flag(tokens, pl.col("text").str.contains(_WORDLIKE), vocabulary)


def unspaced(words: pl.Series) -> pl.Series:
    """Which words are written in a script that puts no spaces between words."""
    return words.str.contains(_UNSPACED)


def _blind(backend: Tokenizer) -> bool:
    """Whether the tokenizer writes an apostrophe between letters and one between spaces alike."""
    joined, apart = (backend.encode(text, add_special_tokens=False).ids for text in ("a'a", "a ' a"))
    return bool(joined == apart)


def _flag(tokens: pl.DataFrame, condition: pl.Expr, vocabulary: int) -> torch.Tensor:
    found = tokens.filter(condition)["id"].to_list()
    flag = torch.zeros(vocabulary, dtype=torch.bool)
    flag[torch.tensor(found, dtype=torch.int64)] = True
    return flag
