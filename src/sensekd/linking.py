"""Words to tokens: which vocabulary items spell a word of the lexicon, and how its neighbours are spelled in pieces.

Nothing here knows a family of tokenizers. The text of a token is what the tokenizer's own decoder makes of it behind
another token, which shows the space that a marker stands for (`Ġred`, `▁red`: " red"; `red`: "red") whatever the marker
is; and the pieces of a neighbour are what the tokenizer makes of it behind another word, verified by decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import torch

from sensekd.artefacts import Manifest, atomic_directory, check_made_from, read_manifest, write_manifest
from sensekd.errors import InputError
from sensekd.lexicon.relations import ANTONYM, SYMMETRIC, SYNONYM, Lexicon, fold, fold_word
from sensekd.provenance import tokenizer_fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_KIND: Final = "relations"
_FORMAT: Final = 1
_TENSORS: Final = "relations.safetensors"
# What stands before a neighbour when it is spelled: the next one is tried where the first grows together with it.
_CARRIERS: Final = ("a", "the", "1")
# In front of a token's text: any character that every decoder passes on.
_BEFORE: Final = "x"
_BYTE_TOKEN: Final = r"^<0x[0-9A-Fa-f]{2}>$"
# U+FFFD: part of a character that other tokens complete, so it may be inside a word.
_WORD_CHARACTER: Final = r"[\p{L}\p{M}\p{N}\x{FFFD}]"


@dataclass(frozen=True)
class Coverage:
    """How much of the lexicon reached the tokens.

    Attributes:
        words: words (in any case one) of the lexicon with a synonym or antonym.
        words_linked: of these, those with a linked head.
        candidates: token ids that spell such a word: the denominator of `floor`.
        heads: of these, those with at least one neighbour span.
        synonym_heads, antonym_heads: heads with a span of that relation.
        relations: (head, relation, neighbour) triples before anything was dropped.
        synonyms_by_pieces, antonyms_by_pieces: (head, span) pairs kept; entry i counts spans of i + 1 pieces.
        spans_by_pieces: different spans, likewise.
        dropped: triples by reason: `too_long` (more than `max_pieces`), `not_spelled` (the tokenizer cannot write the
            neighbour), `outside_vocabulary` (a piece beyond V), `same_token` (the span is the head), `same_span` (the
            head has that span already, from another spelling). All of them and the kept pairs add up to `relations`.
        floor: the smallest heads / candidates that was accepted.
    """

    words: int
    words_linked: int
    candidates: int
    heads: int
    synonym_heads: int
    antonym_heads: int
    relations: int
    synonyms_by_pieces: tuple[int, ...]
    antonyms_by_pieces: tuple[int, ...]
    spans_by_pieces: tuple[int, ...]
    dropped: Mapping[str, int]
    floor: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Coverage:
        """The inverse of `as_dict`."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)


@dataclass(frozen=True, eq=False)
class TokenRelations:
    """Relations between tokens (heads) and spans of pieces (neighbours). All tensors are on the CPU.

    Attributes:
        vocabulary: V.
        synonym_indptr, antonym_indptr: [V+1] int64; spans of head v are `*_spans[indptr[v]:indptr[v+1]]`, ascending.
        synonym_spans, antonym_spans: int64 span ids.
        span_indptr: [S+1] int64; the pieces of span s are `span_pieces[span_indptr[s]:span_indptr[s+1]]`.
        span_pieces: int64 token ids. Spans are unique and ordered by (length, pieces).
        starts_word, ends_word: [V] bool: the token's text begins / ends with a letter, mark or digit, or with part of a
            character. Between tokens a, b lies a boundary unless `ends_word[a] and starts_word[b]`. False for special
            tokens and for ids that the tokenizer does not have.
        coverage: what was linked and what was lost.
        made_from: identities of lexicon and tokenizer.
        config: `vocabulary` and `max_pieces`.
    """

    vocabulary: int
    synonym_indptr: torch.Tensor
    synonym_spans: torch.Tensor
    antonym_indptr: torch.Tensor
    antonym_spans: torch.Tensor
    span_indptr: torch.Tensor
    span_pieces: torch.Tensor
    starts_word: torch.Tensor
    ends_word: torch.Tensor
    coverage: Coverage
    made_from: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def save(
        self, folder: Path, made_from: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write the tensors and the manifest; `made_from` and `config` add to what `link` noted itself."""
        from safetensors.torch import save_file

        tensors = {name: value for name, value in self.__dict__.items() if isinstance(value, torch.Tensor)}
        made_from, config = {**self.made_from, **(made_from or {})}, {**self.config, **(config or {})}
        facts = {"vocabulary": self.vocabulary, "coverage": self.coverage.as_dict()}
        with atomic_directory(folder) as temporary:
            save_file(tensors, str(temporary / _TENSORS))
            return write_manifest(temporary, Manifest(_KIND, _FORMAT, made_from, config, facts))

    @classmethod
    def load(cls, folder: Path, expect: Mapping[str, Any] | None = None) -> TokenRelations:
        """Read what `save` wrote.

        Args:
            folder: the artefact.
            expect: entries of `made_from` that must be equal, such as `tokenizer`.

        Raises:
            InputError: missing, damaged, of another format, or made from anything else than `expect`.
        """
        from safetensors.torch import load_file

        manifest = read_manifest(folder, _KIND, _FORMAT, verify=True)
        check_made_from(manifest, expect or {}, command="sensekd run RECIPE links the lexicon again")
        return cls(
            vocabulary=int(manifest.facts["vocabulary"]),
            coverage=Coverage.from_dict(manifest.facts["coverage"]),
            made_from=manifest.made_from,
            config=manifest.config,
            **load_file(str(folder / _TENSORS)),
        )


def single_token_neighbours(relations: TokenRelations, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbours that are one token each: `indptr` [V+1] and token ids, ascending per head (both int64).

    Args:
        relations: the linked lexicon.
        kind: `synonym` or `antonym`.
    """
    indptr, spans = getattr(relations, f"{kind}_indptr"), getattr(relations, f"{kind}_spans")
    single = relations.span_indptr.diff()[spans] == 1
    kept_before = torch.cat([torch.zeros(1, dtype=torch.int64), single.cumsum(0)])
    return kept_before[indptr], relations.span_pieces[relations.span_indptr[spans[single]]]


def single_token_antonyms(relations: TokenRelations) -> tuple[torch.Tensor, torch.Tensor]:
    """Antonyms that are one token each: `indptr` [V+1] and token ids, ascending per head (both int64)."""
    return single_token_neighbours(relations, "antonym")


def link(
    lexicon: Lexicon,
    tokenizer: PreTrainedTokenizerBase,
    *,
    vocabulary: int,
    max_pieces: int = 3,
    floor: float = 0.0,
) -> TokenRelations:
    """Link the synonyms and antonyms of a lexicon to the tokens of a tokenizer.

    A head is a vocabulary item whose text, without one leading space, spells a word of the lexicon. Case may be added
    to the lexicon's spelling but not taken away: `red` links "red", "Red" and "RED", `Polish` links "Polish" and
    "POLISH"; "in" is not `In` (indium). Where no token has an upper-case letter, case does not count.
    A neighbour is spelled as the lexicon spells it and as it stands within a sentence, behind a space, for heads of
    every form: that is where its senses have been observed.

    Args:
        lexicon: the relations; others than synonyms and antonyms are passed over.
        tokenizer: with a fast backend.
        vocabulary: V, the rows of the model's output embedding; may be more or less than the tokenizer has.
        max_pieces: m, the longest neighbour.
        floor: the smallest share of candidate heads with at least one span.

    Raises:
        InputError: no fast backend, a tokenizer that cannot be read this way, or less linked than `floor` (or nothing).
    """
    backend = _backend(tokenizer)
    tokens = _token_texts(tokenizer, backend, vocabulary)
    words = lexicon.relations.filter(pl.col("relation").is_in(SYMMETRIC)).select("head", "relation", "tail").unique()
    words = words.with_columns(fold(words["head"]).alias("key"))
    triples = _head_triples(tokens, words)
    neighbours = sorted(triples["tail"].unique())
    spelled = _spell(backend, neighbours, max_pieces=max_pieces, vocabulary=vocabulary)
    spans = sorted(
        {pieces for pieces in spelled if isinstance(pieces, tuple)}, key=lambda pieces: (len(pieces), pieces)
    )
    links, dropped = _links(triples, neighbours, spelled, spans)
    coverage = _coverage(words, triples, links, spans, dropped, (max_pieces, floor))
    _check(coverage)
    flags = _word_flags(tokens, vocabulary)
    return TokenRelations(
        vocabulary,
        *_rows(links.filter(pl.col("relation") == SYNONYM), vocabulary),
        *_rows(links.filter(pl.col("relation") == ANTONYM), vocabulary),
        _indptr(torch.tensor([len(span) for span in spans], dtype=torch.int64)),
        torch.tensor([piece for span in spans for piece in span], dtype=torch.int64),
        *flags,
        coverage,
        {"lexicon": lexicon.fingerprint, "tokenizer": tokenizer_fingerprint(tokenizer)},
        {"vocabulary": vocabulary, "max_pieces": max_pieces},
    )


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer's engine, with neither truncation nor padding and able to show a token's text."""
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


def _text(backend: Tokenizer, tokens: Sequence[str]) -> str:
    """The text of a run of tokens behind something else, leading space included."""
    if backend.decoder is None:
        # Words one by one: the tokenizer's own way to write them is a space between any two.
        return "".join(f" {token}" for token in tokens)
    return str(backend.decoder.decode([_BEFORE, *tokens]))[len(_BEFORE) :]


def _tokens(backend: Tokenizer, ids: Sequence[int]) -> list[str]:
    # The fast encoding leaves its own list of tokens empty.
    return [backend.id_to_token(index) or "" for index in ids]


def _token_texts(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer, vocabulary: int) -> pl.DataFrame:
    """id, text of every item below V that is no special token, and whether it is a single byte; ordered by id."""
    added = backend.get_added_tokens_decoder()
    special = {index for index, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    items = sorted((index, token) for token, index in backend.get_vocab().items() if index < vocabulary)
    texts = [
        # An added token stands for itself; the decoder's alphabet does not apply to it.
        (index, token, token if index in added else _text(backend, [token]))
        for index, token in items
        if index not in special
    ]
    frame = pl.DataFrame(texts, schema={"id": pl.Int64, "token": pl.String, "text": pl.String}, orient="row")
    byte = pl.col("token").str.contains(_BYTE_TOKEN) & (pl.col("token") != pl.col("text"))
    return frame.select("id", pl.col("text").str.normalize("NFC"), byte.alias("byte"))


def _head_triples(tokens: pl.DataFrame, words: pl.DataFrame) -> pl.DataFrame:
    """id, key, relation, tail: what the lexicon says of each token, once."""
    heads = tokens.filter(~pl.col("byte")).select("id", pl.col("text").str.strip_prefix(" ").alias("spelling"))
    heads = heads.with_columns(fold(heads["spelling"]).alias("key"))
    joined = heads.join(words, on="key")
    spelling, head = pl.col("spelling"), pl.col("head")
    if not (heads["spelling"] == heads["spelling"].str.to_lowercase()).all():
        lower = head == head.str.to_lowercase()
        joined = joined.filter(lower | (spelling == head) | (spelling == head.str.to_uppercase()))
    return joined.select("id", "key", "relation", "tail").unique().sort("id", "relation", "tail")


def _spell(
    backend: Tokenizer, words: Sequence[str], *, max_pieces: int, vocabulary: int
) -> list[tuple[int, ...] | str]:
    """The pieces of each word behind a space within a sentence, or the reason why there are none."""
    results: list[tuple[int, ...] | str] = ["not_spelled"] * len(words)
    pending = list(range(len(words)))
    for carrier in _CARRIERS:
        before = backend.encode(carrier, add_special_tokens=False).ids
        batch = backend.encode_batch_fast([f"{carrier} {words[i]}" for i in pending], add_special_tokens=False)
        rest = []
        for index, encoding in zip(pending, batch, strict=True):
            pieces = tuple(encoding.ids[len(before) :])
            if encoding.ids[: len(before)] != before or not pieces:
                rest.append(index)
            elif len(pieces) > max_pieces:
                results[index] = "too_long"
            elif fold_word(_text(backend, _tokens(backend, pieces))) != fold_word(f" {words[index]}"):
                rest.append(index)
            else:
                results[index] = pieces if max(pieces) < vocabulary else "outside_vocabulary"
        pending = rest
    return results


def _links(
    triples: pl.DataFrame,
    neighbours: Sequence[str],
    spelled: Sequence[tuple[int, ...] | str],
    spans: Sequence[tuple[int, ...]],
) -> tuple[pl.DataFrame, dict[str, int]]:
    """id, relation, span, pieces, key of the links that stay, and the triples dropped by reason."""
    number = {pieces: index for index, pieces in enumerate(spans)}
    rows = [
        (word, None, None, None, pieces)
        if isinstance(pieces, str)
        else (word, number[pieces], len(pieces), pieces[0], None)
        for word, pieces in zip(neighbours, spelled, strict=True)
    ]
    schema = {"tail": pl.String, "span": pl.Int64, "pieces": pl.Int64, "first": pl.Int64, "reason": pl.String}
    same = (pl.col("pieces") == 1) & (pl.col("first") == pl.col("id"))
    reason = pl.when(same).then(pl.lit("same_token")).otherwise(pl.col("reason")).alias("reason")
    joined = triples.join(pl.DataFrame(rows, schema=schema, orient="row"), on="tail").with_columns(reason)
    kept = joined.filter(pl.col("reason").is_null())
    links = kept.unique(["id", "relation", "span"], keep="any").select("id", "relation", "span", "pieces", "key")
    counts = dict(joined.drop_nulls("reason").group_by("reason").len().iter_rows())
    reasons = ("too_long", "not_spelled", "outside_vocabulary", "same_token")
    dropped = {name: int(counts.get(name, 0)) for name in reasons}
    return links.sort("id", "relation", "span"), {**dropped, "same_span": kept.height - links.height}


def _coverage(
    words: pl.DataFrame,
    triples: pl.DataFrame,
    links: pl.DataFrame,
    spans: Sequence[tuple[int, ...]],
    dropped: Mapping[str, int],
    limits: tuple[int, float],
) -> Coverage:
    max_pieces, floor = limits

    def by_pieces(lengths: Sequence[int]) -> tuple[int, ...]:
        return tuple(torch.bincount(torch.tensor(lengths, dtype=torch.int64), minlength=max_pieces + 1)[1:].tolist())

    synonyms = links.filter(pl.col("relation") == SYNONYM)
    antonyms = links.filter(pl.col("relation") == ANTONYM)
    return Coverage(
        words=words["key"].n_unique(),
        words_linked=links["key"].n_unique(),
        candidates=triples["id"].n_unique(),
        heads=links["id"].n_unique(),
        synonym_heads=synonyms["id"].n_unique(),
        antonym_heads=antonyms["id"].n_unique(),
        relations=triples.height,
        synonyms_by_pieces=by_pieces(synonyms["pieces"].to_list()),
        antonyms_by_pieces=by_pieces(antonyms["pieces"].to_list()),
        spans_by_pieces=by_pieces([len(span) for span in spans]),
        dropped=dropped,
        floor=floor,
    )


def _check(coverage: Coverage) -> None:
    share = coverage.heads / coverage.candidates if coverage.candidates else 0.0
    if coverage.heads == 0 or share < coverage.floor:
        raise InputError(
            f"{coverage.heads} of {coverage.candidates} tokens that spell one of the {coverage.words} related words "
            f"have a neighbour ({share:.1%}); of {coverage.relations} relations were dropped: {dict(coverage.dropped)}",
            f"at least {coverage.floor:.1%}, and not nothing",
            "check the lexicon's language against the tokenizer's, raise linking.max_pieces, or lower linking.floor",
        )


def _word_flags(tokens: pl.DataFrame, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor(tokens["id"].to_list(), dtype=torch.int64)
    flags = []
    for pattern in (rf"^{_WORD_CHARACTER}", rf"{_WORD_CHARACTER}$"):
        flag = torch.zeros(vocabulary, dtype=torch.bool)
        flag[ids] = torch.tensor(tokens["text"].str.contains(pattern).to_list(), dtype=torch.bool)
        flags.append(flag)
    return flags[0], flags[1]


def _indptr(counts: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


def _rows(links: pl.DataFrame, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`indptr` [V+1] and spans of links that are sorted by (id, span)."""
    ids = torch.tensor(links["id"].to_list(), dtype=torch.int64)
    return _indptr(torch.bincount(ids, minlength=vocabulary)), torch.tensor(links["span"].to_list(), dtype=torch.int64)
