"""What a tokenizer's own engine says about its tokens: the text that each stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import polars as pl

from sensekd.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# In front of a token's text: any character that every decoder passes on.
_BEFORE: Final = "x"
_BYTE_TOKEN: Final = r"^<0x[0-9A-Fa-f]{2}>$"


def engine(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer's engine, with neither truncation nor padding and able to show a token's text.

    Raises:
        InputError: there is no fast engine, or it cannot decode.
    """
    from tokenizers import Tokenizer, models

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError(
            f"{type(tokenizer).__name__} has no fast backend", "a tokenizer with a tokenizer.json",
            "convert it once: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )  # fmt: skip
    if backend.decoder is None and not isinstance(backend.model, models.WordLevel):
        raise InputError(
            f"the {type(backend.model).__name__} tokenizer has no decoder, so the text of its tokens is unknown",
            "a decoder in tokenizer.json (ByteLevel, Metaspace, WordPiece, …)",
            "set the backend's decoder and save it again",
        )  # fmt: skip
    if backend.truncation is not None or backend.padding is not None:
        backend = Tokenizer.from_str(backend.to_str())
        backend.no_truncation()
        backend.no_padding()
    return backend


def text_of(backend: Tokenizer, tokens: Sequence[str]) -> str:
    """The text of a run of tokens behind something else, leading space included."""
    if backend.decoder is None:
        # Words one by one: the tokenizer's own way to write them is a space between any two.
        return "".join(f" {token}" for token in tokens)
    return str(backend.decoder.decode([_BEFORE, *tokens]))[len(_BEFORE) :]


def tokens_of(backend: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The tokens of ids; the fast encoding leaves its own list of them empty."""
    return [backend.id_to_token(index) or "" for index in ids]


def token_texts(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer, vocabulary: int) -> pl.DataFrame:
    """`id`, `text` (NFC) of every item below V that is no special token, and whether it is a single `byte`; by id."""
    added = backend.get_added_tokens_decoder()
    special = {index for index, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    items = sorted((index, token) for token, index in backend.get_vocab().items() if index < vocabulary)
    texts = [
        # An added token stands for itself; the decoder's alphabet does not apply to it.
        (index, token, token if index in added else text_of(backend, [token]))
        for index, token in items
        if index not in special
    ]
    frame = pl.DataFrame(texts, schema={"id": pl.Int64, "token": pl.String, "text": pl.String}, orient="row")
    byte = pl.col("token").str.contains(_BYTE_TOKEN) & (pl.col("token") != pl.col("text"))
    return frame.select("id", pl.col("text").str.normalize("NFC"), byte.alias("byte"))
