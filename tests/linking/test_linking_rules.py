"""Case, boundaries and scripts: which tokens are heads, and where a word is whole."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import torch
from test_linking import ANTONYM, SYNONYM, byte_level, lexicon_of, links, metaspace, wrapped
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sensekd.linking import TokenRelations, link, word_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def word_level(words: list[str]) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrapped(backend)


def byte_pieces(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level, every run of letters one piece of the training at most."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(texts * 5, trainer)
    return wrapped(backend)


def unigram(pieces: list[str], scheme: str) -> PreTrainedTokenizerFast:
    scores = [("<unk>", 0.0), ("<s>", 0.0), *((piece, -1.0 - 1.0 / len(piece)) for piece in pieces)]
    backend = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return wrapped(backend)


def whole(relations: TokenRelations, tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The tokens of a text that have a boundary on both sides, pair by pair as the flags tell it."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    cuts = [True, *(not (relations.ends_word[a] & relations.starts_word[b]) for a, b in itertools.pairwise(ids)), True]
    texts = [tokenizer.backend_tokenizer.decoder.decode(["x", tokenizer.convert_ids_to_tokens(i)])[1:] for i in ids]
    return [text.strip() for text, left, right in zip(texts, cuts, cuts[1:], strict=False) if left and right]


# --- heads ----------------------------------------------------------------------------------------------------------


def heads_of(words: list[str], rows: list[tuple[str, str, str]]) -> set[str]:
    tokenizer = word_level(words)
    return {head for head, _, _ in links(link(lexicon_of(rows), tokenizer, vocabulary=len(tokenizer)), tokenizer)}


def test_case_is_taken_away_where_the_lexicon_has_no_fitting_spelling() -> None:
    rows = [("London", "Smoke", SYNONYM), ("Polish", "Slavic", SYNONYM), ("polish", "varnish", SYNONYM)]
    words = ["london", "LONDON", "polish", "Polish", "POLISH", "Smoke", "Slavic", "varnish"]
    tokenizer = word_level(words)
    found = links(link(lexicon_of(rows), tokenizer, vocabulary=10), tokenizer)
    of = {word: {pieces[0] for head, _, pieces in found if head == word} for word in words}
    assert of["london"] == of["LONDON"] == {"Smoke"}
    assert of["polish"] == {"varnish"}
    assert of["Polish"] == of["POLISH"] == {"Slavic", "varnish"}


def test_short_symbols_keep_their_case_but_in_pieces_of_words() -> None:
    rows = [("He", "helium", SYNONYM), ("WHO", "agency", SYNONYM)]
    assert heads_of(["he", "He", "HE", "who", "helium", "agency"], rows) == {"He", "HE", "helium", "who"}
    backend = byte_level()
    backend.add_tokens(["helium", " he"])
    relations = link(lexicon_of(rows[:1]), tokenizer := wrapped(backend), vocabulary=len(tokenizer), max_pieces=9)
    found = {head for head, _, _ in links(relations, tokenizer)}
    assert {"ĠHe", "he", "helium"} <= found
    assert " he" in backend.get_vocab()
    assert " he" not in found


def test_sharp_s_is_double_s_in_capitals_alone() -> None:
    rows = [("Maße", "Dimensionen", SYNONYM), ("Masse", "Gewicht", SYNONYM), ("groß", "riesig", SYNONYM)]
    words = ["Maße", "Masse", "MASSE", "gross", "GROSS", "groß", "Dimensionen", "Gewicht", "riesig"]
    tokenizer = word_level(words)
    found = links(link(lexicon_of(rows), tokenizer, vocabulary=20), tokenizer)
    of = {word: {pieces[0] for head, _, pieces in found if head == word} for word in words}
    assert of["Maße"] == {"Dimensionen"}
    assert of["Masse"] == {"Gewicht"}
    assert of["MASSE"] == {"Dimensionen", "Gewicht"}
    assert of["groß"] == of["GROSS"] == {"riesig"}
    assert of["gross"] == set()


def test_white_space_around_a_word_does_not_count() -> None:
    backend = byte_level()
    backend.add_tokens(["\tcrimson", "\u00a0scarlet", "\nvermilion"])
    tokenizer = wrapped(backend)
    rows = [(word, "red", SYNONYM) for word in ("crimson", "scarlet", "vermilion")]
    found = links(link(lexicon_of(rows), tokenizer, vocabulary=len(tokenizer)), tokenizer)
    assert {("\tcrimson", SYNONYM, ("Ġred",)), ("\u00a0scarlet", SYNONYM, ("Ġred",))} <= found
    assert ("\nvermilion", SYNONYM, ("Ġred",)) in found


def test_decomposed_letters_are_the_same_word() -> None:
    """The tokenizer writes ö as o and a combining mark; the lexicon as one letter."""
    backend = Tokenizer(
        models.WordLevel({"<unk>": 0, "<s>": 1, "scho\u0308n": 2, "hu\u0308bsch": 3}, unk_token="<unk>")
    )
    backend.normalizer = normalizers.NFD()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = wrapped(backend)
    relations = link(lexicon_of([("schön", "hübsch", SYNONYM)]), tokenizer, vocabulary=4)
    assert relations.span_pieces.tolist() == [2, 3]
    assert relations.synonym_spans.tolist() == [1, 0]


def test_words_without_a_head_are_counted_by_reason() -> None:
    rows = [("red", "scarlet", SYNONYM), ("He", "helium", SYNONYM)]
    coverage = link(lexicon_of(rows), word_level(["red", "scarlet", "he", "RED"]), vocabulary=6).coverage
    # "he" is there, but it is not helium's symbol; "helium" is no token.
    assert coverage.no_head == {"several_pieces": 1, "other_case": 1}
    assert coverage.words == coverage.words_linked + sum(coverage.no_head.values())


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_unigram_with_and_without_the_prepended_marker(scheme: str) -> None:
    pieces = ["▁", "▁red", "red", "▁crim", "son", "▁a", "a", "▁deep", "▁Red", "d", "e", "r", "1", "the"]
    tokenizer = unigram(pieces, scheme)
    rows = [("red", "crimson", SYNONYM), ("red", "deep red", SYNONYM)]
    found = links(link(lexicon_of(rows), tokenizer, vocabulary=len(tokenizer)), tokenizer)
    assert found == {
        (head, SYNONYM, neighbour)
        for head in ("▁red", "red", "▁Red")
        for neighbour in [("▁crim", "son"), ("▁deep", "▁red")]
    }


# --- boundaries ------------------------------------------------------------------------------------------------------

RED = lexicon_of([("red", "big", SYNONYM)])


def test_an_apostrophe_between_letters_is_no_boundary() -> None:
    texts = ["I don't know", "the dog's red bone", "we 'll see l'ami 'red' it's"]
    tokenizer = byte_pieces(texts, 330)
    relations = link(RED, tokenizer, vocabulary=len(tokenizer), max_pieces=30)
    assert "don" not in whole(relations, tokenizer, "I don't know")
    assert "know" in whole(relations, tokenizer, "I don't know")
    assert "ami" not in whole(relations, tokenizer, "the l'ami it")
    # An apostrophe with a space before it opens a quotation.
    assert "red" in whole(relations, tokenizer, "we 'red, see")


def test_a_lone_apostrophe_joins_what_stands_beside_it() -> None:
    tokenizer = unigram(["▁don", "'", "t", "▁I", "▁know", "’", "▁'", "▁red", "red", "▁big", "▁a", "a", "▁"], "always")
    relations = link(RED, tokenizer, vocabulary=len(tokenizer))
    for mark in ("'", "’"):
        text = f"I don{mark}t know"
        assert tokenizer.tokenize(text) == ["▁I", "▁don", mark, "t", "▁know"]
        assert whole(relations, tokenizer, text) == ["I", "know"]
    assert whole(relations, tokenizer, "I 'red") == ["I", "'", "red"]


def test_where_spaces_are_lost_an_apostrophe_cuts_the_word_before_it() -> None:
    words = ["<unk>", "<s>", "a", "red", "big", "'", "t", "##son", "."]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    tokenizer = wrapped(backend)
    assert tokenizer.tokenize("red't") == tokenizer.tokenize("red ' t")
    relations = link(RED, tokenizer, vocabulary=len(tokenizer))
    assert "red" not in whole(relations, tokenizer, "a red't")
    assert "red" in whole(relations, tokenizer, "a red.")


def test_marks_and_invisible_joiners_continue_a_word() -> None:
    tokens = ["a", "gro", "\u0308", "\u0308sse", "\u200cha", "\u00adhaus", "red", "big", "-", "·l"]
    relations = link(RED, tokenizer := unigram(["▁", "▁a", "▁red", "▁big", *tokens], "always"), vocabulary=16)
    flags = {token: bool(relations.starts_word[tokenizer.convert_tokens_to_ids(token)]) for token in tokens}
    assert [token for token, flag in flags.items() if not flag] == ["-"]


def test_byte_pieces_may_be_inside_a_word_and_are_no_heads() -> None:
    tokenizer = wrapped(metaspace())
    relations = link(lexicon_of([("é", "big", SYNONYM), ("red", "big", SYNONYM)]), tokenizer, vocabulary=900)
    half, letter, line = (tokenizer.convert_tokens_to_ids(token) for token in ("<0xC3>", "<0x61>", "<0x0A>"))
    assert relations.ends_word[[half, letter, line]].tolist() == [True, True, False]
    assert not any(head.startswith("<0x") for head, _, _ in links(relations, tokenizer))


# --- scripts without spaces ------------------------------------------------------------------------------------------

CHINESE = [
    "银行在河边",
    "他去银行取钱",
    "河岸很长",
    "高山和低谷",
    "银行 bank 很大",
    "山很高。谷很低。",
    "钱在银行,他在河岸",
]
PAIRS = [("银行", "钱庄", SYNONYM), ("高", "低", ANTONYM), ("河岸", "河边", SYNONYM)]


def test_chinese_a_token_that_equals_a_word_is_whole() -> None:
    tokenizer = byte_pieces([*CHINESE, "银行", "河岸", "河边", "高", "低"] * 4, 480)
    relations = link(lexicon_of(PAIRS), tokenizer, vocabulary=len(tokenizer), max_pieces=6)
    decoded = {
        (tokenizer.convert_tokens_to_string([head]), name, tokenizer.convert_tokens_to_string(list(pieces)))
        for head, name, pieces in links(relations, tokenizer)
    }
    # Neighbours as they stand in running text: without a space. Heads with one and without.
    assert ("银行", SYNONYM, "钱庄") in decoded
    assert ("高", ANTONYM, "低") in decoded
    assert not any(neighbour.startswith(" ") for _, _, neighbour in decoded)
    # Nothing shows where the word ends: the tokenizer's own cut is taken.
    assert "银行" in whole(relations, tokenizer, "河边银行。")
    assert {"低", "高"} <= set(whole(relations, tokenizer, "低高。"))
    words = word_tokens(tokenizer, len(tokenizer))
    assert words[tokenizer("银行", add_special_tokens=False)["input_ids"]].all()
    assert not words[tokenizer("。,", add_special_tokens=False)["input_ids"]].all()


def flags_of(tokens: list[str]) -> dict[str, tuple[bool, bool]]:
    tokenizer = unigram(["▁", "▁a", "a", "▁red", "▁big", *tokens], "never")
    relations = link(RED, tokenizer, vocabulary=len(tokenizer))
    found = {}
    for token in tokens:
        index = tokenizer.convert_tokens_to_ids(token)
        found[token] = (bool(relations.starts_word[index]), bool(relations.ends_word[index]))
    return found


def test_japanese_and_thai_edges() -> None:
    flags = flags_of(["日本", "の", "コンピュ", "ータ", "ภาษา", "ั", "한국", "GPU"])
    assert flags["日本"] == flags["の"] == (False, False)
    # Katakana stands in visible runs, Hangul between spaces: both as Latin letters do.
    assert flags["コンピュ"] == flags["ータ"] == flags["한국"] == flags["GPU"] == (True, True)
    # A Thai letter never continues a word, a mark always does, whatever stands before it.
    assert flags["ภาษา"] == (False, True)
    assert flags["ั"] == (True, True)


@pytest.mark.parametrize("name", ["日本", "ไทย"])
def test_unspaced_words_with_unigram(name: str) -> None:
    tokenizer = unigram(["▁", "▁a", "a", name, f"▁{name}", "国", "\n", "。", "."], "never")
    relations = link(lexicon_of([(name, "国", SYNONYM)]), tokenizer, vocabulary=len(tokenizer))
    assert links(relations, tokenizer) == {
        (name, SYNONYM, ("国",)), (f"▁{name}", SYNONYM, ("国",)), ("国", SYNONYM, (name,)),
    }  # fmt: skip
    assert relations.span_indptr.diff().eq(1).all()
    assert torch.equal(relations.span_pieces.sort().values, relations.span_pieces)
