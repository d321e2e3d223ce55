"""Blocks, the teacher's checks, sub-sampling, and the window of what is logged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from training_world import VOCABULARY, blocks, documents, edges, table, tiny, tokenizer
from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

from sensekd.config import LossConfig, PositionsConfig, TeacherConfig
from sensekd.errors import InputError
from sensekd.training.data import TokenBlocks, collate
from sensekd.training.record import Window
from sensekd.training.supervision import SenseSupervision, annotate, random_draws, subsample
from sensekd.training.teacher import load_student, load_teacher

# ---- blocks


def test_blocks_cut_the_stream_and_drop_the_rest() -> None:
    source = documents(26)
    cut = TokenBlocks(source, 5)
    assert len(cut) == 5
    joined = torch.cat([cut[index]["input_ids"] for index in range(5)])
    assert joined.tolist() == source.tokens[:25].tolist()
    assert joined.dtype == torch.int64
    assert torch.equal(cut[2]["labels"], cut[2]["input_ids"])
    with pytest.raises(IndexError):
        cut[5]


def test_too_few_tokens_for_a_block() -> None:
    with pytest.raises(InputError, match="4 tokens, fewer than one block of 5"):
        TokenBlocks(documents(4), 5)
    with pytest.raises(InputError, match="at least 2"):
        TokenBlocks(documents(4), 1)


def test_collate_stacks_and_keeps_what_is_shared() -> None:
    source = blocks(3, 4)
    batch = collate([source[0], source[2]])
    assert batch["input_ids"].shape == (2, 4)
    assert batch["labels"] is batch["input_ids"]
    other = collate([{"a": torch.zeros(2), "b": torch.ones(2)}])
    assert other["b"].tolist() == [[1, 1]]


# ---- teacher


def saved(folder: Path, **more: int) -> TeacherConfig:
    tiny(**more).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return TeacherConfig(model=str(folder))


def test_teacher_is_frozen_and_identified(tmp_path: Path) -> None:
    model, words, identity = load_teacher(saved(tmp_path), "cpu")
    assert not model.training
    assert not any(value.requires_grad for value in model.parameters())
    assert model.dtype == torch.float32
    assert (identity.width, identity.vocabulary, len(words)) == (16, VOCABULARY, VOCABULARY)
    again = load_teacher(saved(tmp_path / "again"), "cpu")[2]
    assert again.compared() == identity.compared()
    assert load_student(tmp_path, "cpu").training is False


def test_no_such_teacher(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        load_teacher(TeacherConfig(model=str(tmp_path)), "cpu")


def test_vocabulary_mismatch_names_both_sides(tmp_path: Path) -> None:
    config = saved(tmp_path, vocab_size=VOCABULARY - 4)
    with pytest.raises(InputError, match=r"vocabulary mismatch.*64 tokens in its tokenizer, 60 in the model"):
        load_teacher(config, "cpu")


def test_weights_without_values(tmp_path: Path) -> None:
    config = saved(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"num_hidden_layers": 4', '"num_hidden_layers": 5'))
    with pytest.raises(InputError, match=r"weights without values, such as model\.layers\.4"):
        load_teacher(config, "cpu")


def test_only_decoders(tmp_path: Path) -> None:
    small = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertLMHeadModel(BertConfig(**small, intermediate_size=16, max_position_embeddings=16))
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, d_model=16, d_ff=16, num_layers=1, num_heads=2))
    for name, model, message in (("bert", bert, "not a decoder"), ("t5", t5, "no decoder loads")):
        model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
        with pytest.raises(InputError, match=message):
            load_teacher(TeacherConfig(model=str(tmp_path / name)), "cpu")


# ---- what is supervised


def test_subsampling_keeps_the_share_and_the_minimum() -> None:
    labels = torch.arange(200).reshape(2, 100)
    labels[1, 10:] = -100
    draw = torch.rand(2, 100, generator=torch.Generator().manual_seed(0))
    kept = subsample(labels, PositionsConfig(fraction=0.4, minimum=25), draw)
    assert (kept != -100).sum(1).tolist() == [40, 10]
    where = (kept[0] != -100).nonzero()[:, 0]
    assert set(where.tolist()) == set(draw[0].argsort()[:40].tolist())
    assert torch.equal(kept[0, where], labels[0, where])
    everything = subsample(labels, PositionsConfig(fraction=1.0, minimum=0), draw)
    assert torch.equal(everything, labels)


def test_draws_do_not_depend_on_accumulation_or_processes() -> None:
    def batch(rows: int) -> dict[str, torch.Tensor]:
        return {"labels": torch.zeros(rows, 6, dtype=torch.long)}

    (whole,) = random_draws([batch(8)], 3, 5, 0, 1)
    parts = random_draws([batch(2)] * 4, 3, 5, 0, 1)
    assert torch.equal(whole, torch.cat(parts))
    # Process p of two reads batches p, p + 2, …
    even, odd = (random_draws([batch(2)] * 2, 3, 5, process, 2) for process in (0, 1))
    assert torch.equal(whole, torch.cat([even[0], odd[0], even[1], odd[1]]))
    assert not torch.equal(whole, random_draws([batch(8)], 3, 6, 0, 1)[0])
    assert not torch.equal(whole, random_draws([batch(8)], 4, 5, 0, 1)[0])


def test_counts_follow_from_the_labels() -> None:
    senses = SenseSupervision(table(), *edges())
    ids = torch.tensor([[3, 6, 6, 9, 5, 3]])
    labels = ids.clone()
    labels[0, 2] = -100
    batch = {"input_ids": ids, "labels": labels}
    counts = annotate(batch, senses, LossConfig(), None)
    # Labels 6, -, 9, 5, 3. Tokens 9 and 5 go on with the word before them, so 6 (second), 9 and 5 are pieces of words;
    # the last label is never whole. Token 5 has no senses of its own. Only the first 6 is whole: it alone is pushed.
    assert batch["whole_word"].tolist() == [[True, False, False, False, False]]
    assert [int(value) for value in counts] == [4, 3, 1]
    assert batch["sense_labels"].tolist() == [[6, -100, 9, 5, 3]]


# ---- what is logged


def test_window_means() -> None:
    window = Window()
    assert window.read(lambda value: value) == {}
    for push, rows in ((2.0, 4.0), (0.0, 0.0)):
        window.begin_step(10)
        window.add("term:ce", torch.tensor(3.0))
        window.add("term:push", torch.tensor(push))
        window.add("present:push", torch.tensor(float(rows > 0)))
        window.add("active:push", torch.tensor(rows / 4))
        window.add("rows:push", torch.tensor(rows))
        window.add("count:n_labels", torch.tensor(8))
        window.add("count:n_pull", torch.tensor(2))
    found = window.read(lambda value: value)
    assert found.pop("tokens_per_second") > 0
    # The push was there in one of two steps: its mean is over that one.
    assert found == {"ce": 3.0, "push": 2.0, "push_active": 0.25, "n_labels": 8, "n_pull": 2, "own": 0.25}
    window.begin_step(1)
    window.add("term:ce", torch.tensor(1.0))
    assert math.isclose(window.read(lambda value: value * 2)["ce"], 2.0)


def test_window_leaves_out_what_was_never_there() -> None:
    window = Window()
    window.begin_step(1)
    window.add("term:push", torch.tensor(0.0))
    window.add("present:push", torch.tensor(0.0))
    assert "push" not in window.read(lambda value: value)
