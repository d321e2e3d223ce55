"""From a lexicon and a tokenizer to relations between tokens and spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl
import torch

from sensekd.artefacts import fingerprint
from sensekd.lexicon.relations import ANTONYM, HYPERNYM, LINKED, SYNONYM, Lexicon, fold
from sensekd.lexicon.withholding import PAIR, unordered
from sensekd.linking.boundaries import word_flags
from sensekd.linking.coverage import Coverage
from sensekd.linking.heads import head_triples
from sensekd.linking.relations import TokenRelations
from sensekd.linking.spelling import Spelled, spell
from sensekd.linking.texts import engine, token_texts
from sensekd.provenance import tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def link(
    lexicon: Lexicon,
    tokenizer: PreTrainedTokenizerBase,
    *,
    vocabulary: int,
    max_pieces: int = 3,
    floor: float = 0.0,
    withheld: pl.DataFrame | None = None,
) -> TokenRelations:
    """Link the synonyms and antonyms of a lexicon to the tokens of a tokenizer.

    A head is a vocabulary item whose text, without the white space around it, spells a word of the lexicon; which
    cases of a spelling count is said in `sensekd.linking.heads`. A neighbour is spelled as the lexicon spells it and
    as it stands within a sentence, for heads of every form: that is where its senses have been observed.

    Args:
        lexicon: the relations; hypernyms, where it has any, are linked as synonyms, further ones are passed over.
        tokenizer: with a fast backend.
        vocabulary: V, the rows of the model's output embedding; may be more or less than the tokenizer has.
        max_pieces: m, the longest neighbour.
        floor: the smallest share of candidate heads with at least one span.
        withheld: antonym pairs that are left out (`lexicon.withheld_pairs`); which tokens spell a word does not change
            with them. `coverage.dropped` counts their triples as `withheld`.

    Raises:
        InputError: no fast backend, a tokenizer that cannot be read this way, or less linked than `floor` (or nothing).
    """
    backend = engine(tokenizer)
    tokens = token_texts(tokenizer, backend, vocabulary)
    words = lexicon.relations.filter(pl.col("relation").is_in(LINKED)).select("head", "relation", "tail")
    words = words.with_columns(pl.col("relation").replace(HYPERNYM, SYNONYM)).unique()
    words = words.with_columns(fold(words["head"]).alias("key"))
    spelling = head_triples(tokens, words)
    triples = spelling if withheld is None else _without(spelling, withheld)
    neighbours = sorted(triples["tail"].unique())
    spelled = spell(backend, neighbours, max_pieces=max_pieces, vocabulary=vocabulary)
    spans = sorted(
        {pieces for pieces in spelled if isinstance(pieces, tuple)}, key=lambda pieces: (len(pieces), pieces)
    )
    links, dropped = _links(triples, neighbours, spelled, spans)
    if withheld is not None:
        dropped["withheld"] = spelling.height - triples.height
    coverage = _coverage(words, spelling, links, spans, dropped, (max_pieces, floor), _no_head(tokens, words, spelling))
    coverage.refuse_below_floor()
    return TokenRelations(
        vocabulary,
        *_rows(links.filter(pl.col("relation") == SYNONYM), vocabulary),
        *_rows(links.filter(pl.col("relation") == ANTONYM), vocabulary),
        _indptr(torch.tensor([len(span) for span in spans], dtype=torch.int64)),
        torch.tensor([piece for span in spans for piece in span], dtype=torch.int64),
        *word_flags(tokens, vocabulary, backend),
        coverage,
        {"lexicon": lexicon.fingerprint, "tokenizer": tokenizer_fingerprint(tokenizer)},
        {
            "vocabulary": vocabulary,
            "max_pieces": max_pieces,
            **({} if withheld is None else {"withheld": fingerprint(withheld.rows())}),
        },
    )


def _without(triples: pl.DataFrame, withheld: pl.DataFrame) -> pl.DataFrame:
    """The triples without the antonyms that are withheld, in whatever direction, case or form of the head."""
    pairs = pl.concat([triples, unordered(triples["key"], triples["tail"])], how="horizontal")
    listed = withheld.with_columns(pl.lit(ANTONYM).alias("relation"))
    kept = pairs.join(listed, on=["relation", *PAIR], how="anti", maintain_order="left")
    return kept.select(triples.columns)


def _links(
    triples: pl.DataFrame,
    neighbours: Sequence[str],
    spelled: Sequence[Spelled],
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


def _no_head(tokens: pl.DataFrame, words: pl.DataFrame, triples: pl.DataFrame) -> dict[str, int]:
    """Related words that no token stands for, by reason."""
    spelled = fold(tokens.filter(~pl.col("byte"))["text"].str.strip_chars()).unique()
    left = words.select("key").unique().join(triples.select("key").unique(), on="key", how="anti")["key"]
    other_case = int(left.is_in(spelled.implode()).sum())
    return {"several_pieces": len(left) - other_case, "other_case": other_case}


def _coverage(
    words: pl.DataFrame,
    triples: pl.DataFrame,
    links: pl.DataFrame,
    spans: Sequence[tuple[int, ...]],
    dropped: Mapping[str, int],
    limits: tuple[int, float],
    no_head: Mapping[str, int],
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
        no_head=no_head,
    )


def _indptr(counts: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


def _rows(links: pl.DataFrame, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`indptr` [V+1] and spans of links that are sorted by (id, span)."""
    ids = torch.tensor(links["id"].to_list(), dtype=torch.int64)
    return _indptr(torch.bincount(ids, minlength=vocabulary)), torch.tensor(links["span"].to_list(), dtype=torch.int64)
