from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sensekd.errors import InputError
from sensekd.lexicon import ANTONYM, HYPERNYM, SYNONYM, Lexicon, merge, relation_frame
from sensekd.linking import TokenRelations, link, single_token_antonyms

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXT = [
    "the red car and the crimson car were big. Red paint is scarlet, RED paint is deep red.",
    "a big house is a large house; a small house is little. He is happy, glad, sad and unhappy.",
    "hundred hundreds reddish redder bigger larger smaller unhappily 1 2 10 Größe groß façade",
] * 4
LEXICON = [
    ("red", "crimson", SYNONYM),
    ("red", "deep red", SYNONYM),
    ("red", "extraordinarily vermilion", SYNONYM),
    ("big", "large", SYNONYM),
    ("big", "small", ANTONYM),
    ("small", "little", SYNONYM),
    ("large", "little", ANTONYM),
    ("happy", "glad", SYNONYM),
    ("happy", "sad", ANTONYM),
    ("happy", "unhappy", ANTONYM),
    ("He", "car", SYNONYM),
]


def lexicon_of(rows: list[tuple[str, str, str]]) -> Lexicon:
    heads, tails, relations = ([row[i] for row in rows] for i in range(3))
    return merge([relation_frame({"head": heads, "tail": tails, "relation": relations, "language": "en"})])


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


def byte_level(size: int = 420) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>"]
    backend.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    return backend


def metaspace(size: int = 260) -> Tokenizer:
    """As LLaMA 2 and Mistral have it: a "▁" is put before the text, so that " red" becomes "▁▁red"."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = itertools.chain(TEXT, [text.replace("a", " ") for text in TEXT], [f" {text}" for text in TEXT])
    backend.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=258 + size, special_tokens=special, show_progress=False)
    )
    backend = _bytes_as_ordinary_tokens(backend)
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def _bytes_as_ordinary_tokens(backend: Tokenizer) -> Tokenizer:
    import json

    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


def metaspace_pieces() -> Tokenizer:
    """The other way to say the same: the marker is put by the pre-tokenizer and removed by its own decoder."""
    backend = metaspace()
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    return backend


def word_level() -> Tokenizer:
    words = ["<unk>", "<s>", "red", "crimson", "deep", "big", "large", "small", ".", "Red", "He", "happy", "sad"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def word_piece() -> Tokenizer:
    words = ["<unk>", "<s>", "a", "red", "crim", "##son", "##red", "big", "large", "small", "hund", "deep", "."]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


ENGINES = {
    "byte": byte_level,
    "metaspace": metaspace,
    "metaspace-pieces": metaspace_pieces,
    "words": word_level,
    "pieces": word_piece,
}


def links(relations: TokenRelations, tokenizer: PreTrainedTokenizerFast) -> set[tuple[str, str, tuple[str, ...]]]:
    """(head token, relation, pieces) triples, read back from the tensors."""
    found = set()
    for name in (SYNONYM, ANTONYM):
        indptr, spans = getattr(relations, f"{name}_indptr"), getattr(relations, f"{name}_spans")
        assert indptr.shape == (relations.vocabulary + 1,)
        for head in range(relations.vocabulary):
            for span in spans[indptr[head] : indptr[head + 1]].tolist():
                start, end = relations.span_indptr[span : span + 2].tolist()
                pieces = tokenizer.convert_ids_to_tokens(relations.span_pieces[start:end].tolist())
                found.add((tokenizer.convert_ids_to_tokens(head), name, tuple(pieces)))
    return found


def test_words_one_by_one_by_hand() -> None:
    tokenizer = wrapped(word_level())
    relations = link(lexicon_of(LEXICON), tokenizer, vocabulary=13)
    assert links(relations, tokenizer) == {
        ("red", SYNONYM, ("crimson",)), ("Red", SYNONYM, ("crimson",)), ("crimson", SYNONYM, ("red",)),
        ("red", SYNONYM, ("deep", "red")), ("Red", SYNONYM, ("deep", "red")),
        ("big", SYNONYM, ("large",)), ("large", SYNONYM, ("big",)),
        ("big", ANTONYM, ("small",)), ("small", ANTONYM, ("big",)),
        ("happy", ANTONYM, ("sad",)), ("sad", ANTONYM, ("happy",)),
    }  # fmt: skip
    # Spans by (length, pieces): red 2, crimson 3, big 5, large 6, small 7, happy 11, sad 12, (deep 4, red 2).
    assert relations.span_pieces.tolist() == [2, 3, 5, 6, 7, 11, 12, 4, 2]
    assert relations.span_indptr.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    coverage = relations.coverage
    # "He" ~ "car" and small ~ little, large ⊣ little, happy ~ glad, happy ⊣ unhappy, (red, Red) ~ … vermilion.
    assert coverage.dropped == {
        "too_long": 0, "not_spelled": 7, "outside_vocabulary": 0, "same_token": 0, "same_span": 0,
    }  # fmt: skip
    assert (coverage.relations, coverage.candidates, coverage.heads) == (18, 9, 8)
    assert (coverage.words, coverage.words_linked) == (14, 7)
    assert (coverage.synonym_heads, coverage.antonym_heads) == (5, 4)
    assert coverage.synonyms_by_pieces == (5, 2, 0)
    assert coverage.antonyms_by_pieces == (4, 0, 0)
    assert coverage.spans_by_pieces == (7, 1, 0)
    indptr, antonyms = single_token_antonyms(relations)
    assert antonyms.tolist() == [7, 5, 12, 11]
    assert indptr.tolist() == [0] * 6 + [1, 1, 2, 2, 2, 2, 3, 4]
    assert not relations.starts_word.any()
    assert relations.ends_word.tolist() == [False, False, *[True] * 6, False, *[True] * 4]


def test_a_hypernym_is_a_synonym_of_its_head_alone() -> None:
    tokenizer = wrapped(word_level())
    lexicon = lexicon_of([("red", "big", HYPERNYM), ("happy", "sad", ANTONYM)])
    assert links(link(lexicon, tokenizer, vocabulary=13), tokenizer) == {
        ("red", SYNONYM, ("big",)), ("Red", SYNONYM, ("big",)),
        ("happy", ANTONYM, ("sad",)), ("sad", ANTONYM, ("happy",)),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["byte", "metaspace", "metaspace-pieces"])
def test_against_a_naive_reading(name: str) -> None:
    """Brute force over tokens and rows, the pieces of a word found from what stands behind a full stop."""
    tokenizer = wrapped(ENGINES[name]())
    marker = "Ġ" if name == "byte" else "▁"
    vocabulary = len(tokenizer)
    lexicon = lexicon_of(LEXICON)
    expected = set()
    for token, index in tokenizer.get_vocab().items():
        if index < 2:
            continue
        text = token.removeprefix(marker)
        for head, tail, relation in lexicon.relations.select("head", "tail", "relation").iter_rows():
            # A lower-case piece that continues a word may lack the capital that "He" has.
            if text not in {head, head.capitalize(), head.upper()} and not token == text == head.lower():
                continue
            pieces = tokenizer.tokenize(f". {tail}")
            pieces = pieces[pieces.index(".") + 1 :] if "." in pieces else pieces[1:]
            if len(pieces) <= 3:
                expected.add((token, relation, tuple(pieces)))
    relations = link(lexicon, tokenizer, vocabulary=vocabulary)
    assert links(relations, tokenizer) == expected
    heads = {head for head, _, _ in expected}
    assert {f"{marker}red", "red", f"{marker}big", f"{marker}happy"} <= heads
    assert (f"{marker}red", SYNONYM, (f"{marker}deep", f"{marker}red")) in expected


@pytest.mark.parametrize("name", list(ENGINES))
def test_what_holds_for_every_tokenizer(name: str) -> None:
    tokenizer = wrapped(ENGINES[name]())
    relations = link(lexicon_of(LEXICON), tokenizer, vocabulary=len(tokenizer) + 3)
    found = links(relations, tokenizer)
    coverage = relations.coverage
    assert coverage.relations == len(found) + sum(coverage.dropped.values())
    assert sum(coverage.synonyms_by_pieces) + sum(coverage.antonyms_by_pieces) == len(found)
    assert {head for head, _, _ in found}.isdisjoint(tokenizer.all_special_tokens)
    lengths = relations.span_indptr.diff().tolist()
    spans = [tuple(part.tolist()) for part in relations.span_pieces.split(lengths)]
    assert spans == sorted(set(spans), key=lambda span: (len(span), span))
    assert set(lengths) <= {1, 2, 3}
    assert not relations.starts_word[-3:].any()
    assert not relations.ends_word[-3:].any()
    assert relations.synonym_indptr.dtype == relations.span_pieces.dtype == torch.int64


def test_word_pieces() -> None:
    tokenizer = wrapped(word_piece())
    relations = link(lexicon_of(LEXICON), tokenizer, vocabulary=13)
    assert ("red", SYNONYM, ("crim", "##son")) in links(relations, tokenizer)
    inside = [tokenizer.convert_ids_to_tokens(i) for i in relations.starts_word.nonzero().flatten().tolist()]
    assert inside == ["##son", "##red"]


def test_boundaries_of_byte_level_tokens() -> None:
    backend = byte_level()
    tokenizer = wrapped(backend)
    relations = link(lexicon_of(LEXICON), tokenizer, vocabulary=len(tokenizer))
    flags = {
        token: (bool(relations.starts_word[index]), bool(relations.ends_word[index]))
        for token, index in backend.get_vocab().items()
    }
    assert flags["Ġred"] == (False, True)
    assert flags["red"] == (True, True)
    assert flags["."] == (False, False)
    assert flags["1"] == (True, True)
    assert flags["<s>"] == (False, False)
    # Half of "ß" (0xC3 0x9F): what it belongs to is unknown, so it may be inside a word.
    assert flags["Ã"] == (True, True)
    # The naive reading of whole words: what stands left and right of each token of a text.
    text = "a hundred red cars, redder! Größe: red."
    ids, offsets = (tokenizer(text, return_offsets_mapping=True)[key] for key in ("input_ids", "offset_mapping"))
    for (left, (_, end)), (right, _) in itertools.pairwise(zip(ids, offsets, strict=True)):
        if "ö" in text[end - 1 : end + 1] or "ß" in text[end - 1 : end + 1]:
            continue
        joined = bool(relations.ends_word[left] & relations.starts_word[right])
        assert joined == (text[end - 1].isalnum() and text[end].isalnum()), text[:end]


def test_a_byte_token_is_no_head_and_a_marker_is_no_word_character() -> None:
    backend = metaspace()
    tokenizer = wrapped(backend)
    relations = link(lexicon_of([*LEXICON, ("A", "big", SYNONYM), ("a", "big", SYNONYM)]), tokenizer, vocabulary=600)
    heads = {head for head, _, _ in links(relations, tokenizer)}
    assert "▁a" in heads
    assert "<0x41>" not in heads
    flags = {token: bool(relations.starts_word[index]) for token, index in backend.get_vocab().items()}
    assert (flags["▁"], flags["▁red"], flags["red"], flags["<0xC3>"]) == (False, False, True, True)


def test_case_may_be_added_but_not_taken_away() -> None:
    words = ["<unk>", "<s>", "in", "In", "IN", "indium", "polish", "Polish", "varnish", "POLISH"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = wrapped(backend)
    lexicon = lexicon_of([("In", "indium", SYNONYM), ("polish", "varnish", SYNONYM)])
    heads = {head for head, _, pieces in links(link(lexicon, tokenizer, vocabulary=10), tokenizer)}
    assert heads == {"In", "IN", "indium", "polish", "Polish", "POLISH", "varnish"}


def test_where_tokens_have_no_case_it_does_not_count() -> None:
    words = ["<unk>", "<s>", "may", "month", "a"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = wrapped(backend)
    relations = link(lexicon_of([("May", "month", SYNONYM)]), tokenizer, vocabulary=5)
    assert links(relations, tokenizer) == {("may", SYNONYM, ("month",)), ("month", SYNONYM, ("may",))}


def test_longer_spans_come_with_more_pieces() -> None:
    tokenizer = wrapped(byte_level(340))
    kept = [
        sum(link(lexicon_of(LEXICON), tokenizer, vocabulary=340, max_pieces=m).coverage.synonyms_by_pieces)
        for m in (2, 3, 30)
    ]
    assert kept[0] < kept[1] < kept[2]


def test_a_piece_beyond_the_model_drops_the_span() -> None:
    tokenizer = wrapped(word_level())
    relations = link(lexicon_of([("red", "crimson", SYNONYM), ("red", "sad", SYNONYM)]), tokenizer, vocabulary=12)
    assert links(relations, tokenizer) == {
        ("red", SYNONYM, ("crimson",)), ("crimson", SYNONYM, ("red",)), ("Red", SYNONYM, ("crimson",)),
    }  # fmt: skip
    assert relations.coverage.dropped["outside_vocabulary"] == 2


def test_spellings_that_become_one_span_are_counted() -> None:
    words = ["<unk>", "<s>", "a", "red", "crimson"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    merged = lexicon_of([("red", "crimson", SYNONYM), ("red", "Crimson", SYNONYM)])
    # A table that `merge` has not seen may relate a word to itself.
    own = relation_frame({"head": ["red"], "tail": ["RED"], "relation": ANTONYM})
    coverage = link(Lexicon(pl.concat([merged.relations, own])), wrapped(backend), vocabulary=5).coverage
    assert coverage.dropped["same_span"] == 1
    assert coverage.dropped["same_token"] == 1
    assert coverage.synonyms_by_pieces[0] == 2
    assert coverage.antonyms_by_pieces[0] == 0


def test_the_floor_and_nothing_at_all() -> None:
    tokenizer = wrapped(word_level())
    link(lexicon_of(LEXICON), tokenizer, vocabulary=13, floor=0.88)
    with pytest.raises(InputError, match="8 of 9 tokens") as caught:
        link(lexicon_of(LEXICON), tokenizer, vocabulary=13, floor=0.9)
    assert "90.0%" in str(caught.value)
    with pytest.raises(InputError, match="0 of 0 tokens"):
        link(lexicon_of([("rot", "karmin", SYNONYM)]), tokenizer, vocabulary=13)
    with pytest.raises(InputError, match="0 of 0 tokens"):
        link(merge([]), tokenizer, vocabulary=13)


def test_a_tokenizer_that_cannot_be_read_is_refused() -> None:
    backend = byte_level()
    backend.decoder = None
    with pytest.raises(InputError, match="no decoder"):
        link(lexicon_of(LEXICON), wrapped(backend), vocabulary=420)
    with pytest.raises(InputError, match="no fast backend"):
        link(lexicon_of(LEXICON), object(), vocabulary=420)  # type: ignore[arg-type]


def test_padding_and_truncation_change_nothing() -> None:
    plain, padded = byte_level(), byte_level()
    padded.enable_padding(length=9, pad_id=5)
    padded.enable_truncation(2)
    left, right = (link(lexicon_of(LEXICON), wrapped(backend), vocabulary=420) for backend in (plain, padded))
    assert all(torch.equal(getattr(left, n), getattr(right, n)) for n in ("synonym_spans", "span_pieces"))
    assert padded.truncation is not None


def test_added_words_are_their_own_text_and_special_ones_have_none() -> None:
    backend = byte_level()
    backend.add_tokens([AddedToken("vermilion"), AddedToken("Ġzebra"), AddedToken("  ruby")])
    backend.add_special_tokens([AddedToken("scarlet", special=True)])
    tokenizer = wrapped(backend)
    words = ["vermilion", "zebra", "ruby", "scarlet"]
    rows = [(word, "big", SYNONYM) for word in words]
    relations = link(lexicon_of(rows), tokenizer, vocabulary=len(tokenizer))
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("vermilion", "Ġzebra", "  ruby", "scarlet")]
    # Behind "Ġ" as a letter of its own stands no word; a special token is none; white space does not count.
    assert [int(relations.synonym_indptr[i + 1] - relations.synonym_indptr[i]) for i in ids] == [1, 0, 1, 0]
    assert relations.starts_word[ids].tolist() == [True, True, False, False]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    tokenizer = wrapped(byte_level())
    lexicon = lexicon_of(LEXICON)
    relations = link(lexicon, tokenizer, vocabulary=430)
    relations.save(tmp_path / "relations", {"lexicon_id": "abc"})
    loaded = TokenRelations.load(tmp_path / "relations", {"lexicon": lexicon.fingerprint, "lexicon_id": "abc"})
    for name, value in relations.__dict__.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(loaded, name)), name
    assert loaded.coverage == relations.coverage
    assert (loaded.vocabulary, loaded.config) == (430, {"vocabulary": 430, "max_pieces": 3})
    with pytest.raises(InputError, match="made from tokenizer"):
        TokenRelations.load(tmp_path / "relations", {"tokenizer": "another"})
    link(lexicon, tokenizer, vocabulary=430).save(tmp_path / "again", {"lexicon_id": "abc"})
    for file in (tmp_path / "relations").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


_ENGINE = byte_level(340)
_WORD = st.sampled_from(["red", "big", "small", "Größe", "He", "the car", "hundred", "façade", "is", "IS", "zebra"])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(_WORD, _WORD, st.sampled_from([SYNONYM, ANTONYM])), min_size=1, max_size=10), st.integers(1, 5)
)
def test_every_span_spells_a_neighbour_of_its_head(rows: list[tuple[str, str, str]], max_pieces: int) -> None:
    tokenizer = wrapped(_ENGINE)
    lexicon = lexicon_of(rows)
    try:
        relations = link(lexicon, tokenizer, vocabulary=340, max_pieces=max_pieces)
    except InputError:
        return
    known = {
        (head.casefold(), tail, name)
        for head, tail, name in lexicon.relations.select("head", "tail", "relation").rows()
    }
    for head, name, pieces in links(relations, tokenizer):
        word = tokenizer.convert_tokens_to_string([head]).removeprefix(" ").casefold()
        tail = tokenizer.convert_tokens_to_string(list(pieces))
        assert len(pieces) <= max_pieces
        assert tail.startswith(" ")
        assert (word, tail[1:], name) in known
