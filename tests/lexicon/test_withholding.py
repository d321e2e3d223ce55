"""Which antonym pairs are withheld, and that linking leaves out these and nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import polars as pl
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from sensekd.lexicon import ANTONYM, SYNONYM, Lexicon, merge, relation_frame, withheld_pairs
from sensekd.linking import TokenRelations, link, single_token_antonyms, without_neighbours

WORDS = ["hot", "Hot", "cold", "warm", "cool", "café", "cafe", "home", "Polish", "polish", "dirty", "up", "down"]


def lexicon(rows: list[tuple[str, str, str]]) -> Lexicon:
    heads, tails, relations = ([row[i] for row in rows] for i in range(3))
    return merge([relation_frame({"head": heads, "tail": tails, "relation": relations, "language": "en"})])


def pairs_of(count: int) -> list[tuple[str, str, str]]:
    return [(f"a{n}", f"b{n}", ANTONYM) for n in range(count)]


def chosen(rows: list[tuple[str, str, str]], share: float, seed: int = 0) -> set[tuple[str, str]]:
    return set(withheld_pairs(lexicon(rows), share, seed).iter_rows())


def test_the_share_is_met_and_only_antonyms_are_drawn() -> None:
    rows = pairs_of(2000)
    found = chosen([*rows, *((f"s{n}", f"t{n}", SYNONYM) for n in range(50))], 0.2)
    # Binomial: 400 with a standard deviation of 18.
    assert 330 < len(found) < 470
    assert all(low.startswith("a") and high.startswith("b") for low, high in found)
    assert chosen(rows, 0.0) == set()
    assert len(chosen(rows, 1.0)) == 2000


def test_a_pair_is_chosen_by_itself_alone() -> None:
    rows = pairs_of(400)
    found = chosen(rows, 0.2)
    turned = [(tail.title(), head.upper(), relation) for head, tail, relation in reversed(rows)]
    assert chosen(turned, 0.2) == found
    assert chosen(rows[:200], 0.2) == {pair for pair in found if int(pair[0][1:]) < 200}
    assert found < chosen(rows, 0.3)
    other = chosen(rows, 0.2, seed=1)
    assert other != found
    assert len(other & found) < 40  # 16 by chance.


def wrapped(accents: bool = True) -> Any:
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<unk>": 0} | {word: n for n, word in enumerate(WORDS, 1)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if not accents:
        core.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


def linked(
    rows: list[tuple[str, str, str]], withheld: list[tuple[str, str]] | None, accents: bool = True
) -> TokenRelations:
    frame = None if withheld is None else pl.DataFrame(withheld, schema=["low", "high"], orient="row")
    return link(lexicon(rows), wrapped(accents), vocabulary=len(WORDS) + 1, withheld=frame)


def edges(csr: tuple[torch.Tensor, torch.Tensor]) -> set[tuple[str, str]]:
    indptr, ids = (part.tolist() for part in csr)
    return {
        (WORDS[head - 1], WORDS[tail - 1])
        for head, (start, stop) in enumerate(itertools.pairwise(indptr))
        for tail in ids[start:stop]
    }


def both(*pairs: tuple[str, str]) -> set[tuple[str, str]]:
    return {pair for a, b in pairs for pair in ((a, b), (b, a))}


ROWS = [("hot", "cold", ANTONYM), ("warm", "cool", ANTONYM), ("hot", "warm", SYNONYM), ("up", "down", ANTONYM)]


def test_every_form_and_both_directions_of_a_withheld_pair_go() -> None:
    whole, training = linked(ROWS, None), linked(ROWS, [("cold", "hot")])
    known, everything = single_token_antonyms(training), single_token_antonyms(whole)
    assert edges(everything) >= both(("hot", "cold"), ("warm", "cool"), ("up", "down")) | {("Hot", "cold")}
    assert edges(known) == both(("warm", "cool"), ("up", "down"))
    assert edges(without_neighbours(everything, known)) == edges(everything) - edges(known)
    assert torch.equal(training.synonym_indptr, whole.synonym_indptr)
    dropped = training.coverage.dropped["withheld"]
    assert dropped == 3  # hot, Hot and cold as heads.
    kept = sum(training.coverage.antonyms_by_pieces) + sum(training.coverage.synonyms_by_pieces)
    assert kept + sum(training.coverage.dropped.values()) == training.coverage.relations == whole.coverage.relations


def test_nothing_withheld_is_the_linking_without() -> None:
    plain, empty = linked(ROWS, None), linked(ROWS, [("down", "hot")])
    assert all(
        torch.equal(getattr(plain, n), getattr(empty, n)) for n in ("antonym_indptr", "antonym_spans", "span_pieces")
    )
    assert "withheld" not in plain.coverage.dropped
    assert plain.config != empty.config


def test_what_a_token_spells_does_not_change_with_what_is_withheld() -> None:
    # `polish` fits a lexicon word as it is; were that word forgotten with its pair, the token would become `Polish`.
    rows = [("polish", "dirty", ANTONYM), ("Polish", "home", ANTONYM)]
    training = linked(rows, [("dirty", "polish")])
    assert ("polish", "home") not in edges(single_token_antonyms(training))
    assert ("Polish", "home") in edges(single_token_antonyms(training))


def test_a_token_pair_that_another_word_pair_gives_counts_as_trained() -> None:
    # Without accents, café is written with the token of cafe: the pair of tokens is known from either.
    rows = [("café", "home", ANTONYM), ("cafe", "home", ANTONYM)]
    whole, training = (single_token_antonyms(linked(rows, held, accents=False)) for held in (None, [("café", "home")]))
    assert ("home", "cafe") in edges(training)
    assert ("home", "cafe") not in edges(without_neighbours(whole, training))


def test_a_withheld_antonym_does_not_bring_its_synonym_back() -> None:
    rows = [*ROWS, ("hot", "cold", SYNONYM)]
    for held in (None, [("cold", "hot")]):
        relations = linked(rows, held)
        spans = relations.synonym_spans[relations.synonym_indptr[1] : relations.synonym_indptr[2]]
        pieces = relations.span_pieces[relations.span_indptr[spans]].tolist()
        assert [WORDS[piece - 1] for piece in pieces] == ["warm"]
