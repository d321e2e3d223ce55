"""Rows of whole documents: the layout against naive references, and loss and gradients packed == unpacked."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from training_world import VOCABULARY, _Manifest, edges, recipe, table, tiny, tokenizer

from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError
from sensekd.targets import whole_words
from sensekd.training.arguments import training_arguments
from sensekd.training.data import TokenBlocks, collate
from sensekd.training.distill import distill
from sensekd.training.packing import PackedBlocks, cut, make_blocks, pack, refuse_mixing
from sensekd.training.students import chosen_layers, make_student
from sensekd.training.supervision import SenseSupervision
from sensekd.training.trainer import Distillation, SenseDistillationTrainer
from sensekd.training.trunk import share_trunk

LENGTHS = (5, 12, 1, 7, 3, 9, 2, 4, 12, 6, 8)
Ints = np.ndarray[Any, np.dtype[np.int64]]


def corpus(lengths: tuple[int, ...] = LENGTHS, masked: bool = False, seed: int = 0) -> TokenDocuments:
    """Random documents; with `masked` about half of the tokens belong to completions."""
    generator = np.random.default_rng(seed)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = generator.integers(3, VOCABULARY, indptr[-1]).astype(np.uint16)
    mask = generator.random(len(ids)) < 0.5 if masked else None
    hashes = np.arange(100, 100 + len(lengths), dtype=np.uint64)
    return TokenDocuments(Path("memory"), ids, indptr, hashes, _Manifest(), mask)  # type: ignore[arg-type]


# ---- the layout


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[int]:
    """Room left in every bin, one piece after the other."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [left for left in room if left >= length]
        if fits:
            room[room.index(min(fits))] -= length
        else:
            room.append(capacity - length)
    return sorted(room)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(2, 24).flatmap(lambda t: st.tuples(st.just(t), st.lists(st.integers(1, t), min_size=1, max_size=60)))
)
def test_packing_is_best_fit_decreasing(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    bins = pack(np.array(lengths), capacity)
    loads = np.bincount(bins, weights=np.array(lengths))
    assert set(bins) == set(range(len(loads)))
    assert sorted(capacity - loads) == best_fit_decreasing(lengths, capacity)
    assert np.array_equal(bins, pack(np.array(lengths), capacity))


def pieces_by_hand(lengths: list[int], capacity: int, mask: list[bool] | None) -> list[tuple[int, int, int]]:
    found, offset = [], 0
    for number, length in enumerate(lengths):
        inside = list(range(offset, offset + length))
        offset += length
        parts = []
        while inside:
            take = capacity if mask is None else (len(inside) - 1) % capacity + 1
            parts.append(inside[:take])
            inside = inside[take:]
        for part in parts:
            if any(mask is None or mask[position] for position in part[1:]):
                found.append((part[0], len(part), number))
    return found


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 13), min_size=1, max_size=12), st.integers(2, 6), st.booleans(), st.integers(0, 99))
def test_long_documents_are_cut(lengths: list[int], capacity: int, masked: bool, seed: int) -> None:
    mask = np.random.default_rng(seed).random(sum(lengths)) < 0.3 if masked else None
    found = cut(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), capacity, mask)
    triples = [*zip(found.start.tolist(), found.length.tolist(), found.document.tolist(), strict=True)]
    assert triples == pieces_by_hand(lengths, capacity, None if mask is None else mask.tolist())


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_every_label_of_the_corpus_stands_in_one_row(together: bool, left: bool) -> None:
    source = corpus(masked=True)
    rows = PackedBlocks(source, 12, together=together, left=left, numbered=True)
    assert source.supervised is not None
    wanted = sorted(
        (int(source.tokens[i - 1]), int(source.tokens[i]))
        for start, end in zip(source.indptr[:-1], source.indptr[1:], strict=True)
        for i in range(start + 1, end)
        if source.supervised[i]
    )
    found = []
    for number in range(len(rows)):
        item = rows[number]
        assert int(item["block"]) == number
        assert {len(item[key]) for key in ("input_ids", "labels", "position_ids")} == {12}
        ids, labels, positions = (item[key].tolist() for key in ("input_ids", "labels", "position_ids"))
        for t in range(1, 12):
            if labels[t] != -100:
                assert positions[t] == positions[t - 1] + 1
                found.append((ids[t - 1], labels[t]))
    assert sorted(found) == wanted
    labelled = sum(bool(source.supervised[a + 1 : b].any()) for a, b in pairwise(source.indptr))
    assert len(rows) == labelled if not together else len(rows) < labelled


def test_documents_of_names_what_stands_in_a_block() -> None:
    source = corpus((4, 3, 5))
    blocks = TokenBlocks(source, 6)
    assert [each.number for each in blocks.documents_of([0])] == [0, 1]
    assert [each.number for each in blocks.documents_of([1])] == [1, 2]
    assert blocks.documents_of([0, 1])[2] == (2, "0000000000000066")
    packed = PackedBlocks(source, 8)
    named = [{each.number for each in packed.documents_of([row])} for row in range(len(packed))]
    assert sorted(map(sorted, named)) == [[0], [1, 2]]
    with pytest.raises(IndexError):
        blocks.documents_of([2])


def test_supervision_of_completions_or_of_all() -> None:
    source = corpus((12, 12), masked=True)
    assert source.supervised is not None
    masked, plain = TokenBlocks(source, 8)[1], TokenBlocks(source, 8, supervise="all")[1]
    assert torch.equal(masked["labels"] != -100, torch.from_numpy(source.supervised[8:16]))
    assert torch.equal(plain["labels"], plain["input_ids"])
    assert TokenBlocks(source, 8).identity != TokenBlocks(source, 8, supervise="all").identity


def test_a_corpus_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="no document with a label"):
        PackedBlocks(corpus((1, 1)), 8)


def test_a_million_documents_are_laid_out_in_seconds() -> None:
    import time

    lengths = np.random.default_rng(0).integers(1, 1025, 1_000_000)
    start = time.process_time()
    bins = pack(lengths, 1024)
    seconds = time.process_time() - start
    loads = np.bincount(bins, weights=lengths)
    assert loads.max() <= 1024
    assert loads.mean() > 0.995 * 1024
    assert seconds < 5


# ---- senses do not see across documents


def test_whole_words_stop_at_a_document() -> None:
    starts, ends = edges()
    documents = [[3, 6, 6, 9, 5, 3], [9, 5, 4], [8]]
    row = torch.tensor([[token for document in documents for token in document]])
    positions = torch.cat([torch.arange(len(document)) for document in documents])[None]
    packed = whole_words(row, starts, ends, positions)[0]
    offset = 0
    for document in documents:
        alone = whole_words(torch.tensor([document]), starts, ends)[0]
        assert torch.equal(packed[offset : offset + len(document) - 1], alone)
        offset += len(document)
    # Token 9 goes on with the word before it: without positions the 3 before it would be cut, and 9 a piece.
    assert not torch.equal(packed, whole_words(row, starts, ends)[0])


# ---- loss and gradients


def gradients(family: str, rows: TokenBlocks, trunk: bool, folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one global batch that holds every row."""
    teacher = tiny(family, tied=True).double()
    settings_ = recipe(loss={"kappa": 2, "mu": 0.3, "push": "relative"}, student={"layers": 3, "train_top": 1})
    student = make_student(teacher, settings_.student)
    shared = share_trunk(teacher, student, chosen_layers(4, settings_.student)) if trunk else None
    layers = 0 if shared is None else shared.layers
    if trunk and family != "granite":
        assert layers == 2
    model = student if shared is None else shared.model
    senses = SenseSupervision(table(), *edges())
    trainer = SenseDistillationTrainer(
        model,
        Distillation(teacher, settings_.loss, senses, layers),
        args=training_arguments(settings_, 1, folder, torch.device("cpu")),
        train_dataset=rows,
        data_collator=collate,
    )
    batches, count = trainer.get_batch_samples(iter([collate([rows[i] for i in range(len(rows))])]), 1, model.device)
    loss = trainer.compute_loss(model, batches[0], num_items_in_batch=count)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("masked", [False, True])
def test_packed_is_unpacked(family: str, masked: bool, tmp_path: Path) -> None:
    source = corpus(masked=masked)
    right = PackedBlocks(source, 12, together=False)
    loss, wanted = gradients(family, right, False, tmp_path)
    assert wanted
    others = {
        "left": (PackedBlocks(source, 12, together=False, left=True), False),
        "packed": (PackedBlocks(source, 12), False),
        "wider": (PackedBlocks(source, 31), False),
        "trunk": (PackedBlocks(source, 31), True),
    }
    assert len(others["wider"][0]) < len(others["packed"][0]) < len(right)
    for name, (rows, trunk) in others.items():
        other, found = gradients(family, rows, trunk, tmp_path)
        assert other == pytest.approx(loss, rel=1e-6), name
        # The tail counts its layers from 0.
        for one, value in zip(wanted.values(), found.values(), strict=True):
            assert torch.allclose(one, value, rtol=1e-4, atol=1e-6), name


def test_without_positions_packed_documents_would_mix(tmp_path: Path) -> None:
    class Blind(PackedBlocks):
        def _item(self, index: int) -> dict[str, torch.Tensor]:
            item = super()._item(index)
            del item["position_ids"]
            return item

    apart, mixed = (gradients("llama", kind(corpus(), 31), False, tmp_path)[0] for kind in (PackedBlocks, Blind))
    assert abs(apart - mixed) > 1e-2 * apart


def test_cross_entropy_of_packed_rows_is_that_of_each_document_alone(tmp_path: Path) -> None:
    teacher, source = tiny().double(), corpus(masked=True)
    assert source.supervised is not None
    student = make_student(teacher, recipe().student)
    total, count = 0.0, 0
    for number in range(len(source)):
        ids = torch.from_numpy(source.document(number))[None]
        kept = torch.from_numpy(source.supervised[source.indptr[number] : source.indptr[number + 1]])[1:]
        logits = student(ids, use_cache=False).logits[0, :-1][kept]
        total += float(F.cross_entropy(logits.detach(), ids[0, 1:][kept], reduction="sum"))
        count += int(kept.sum())
    settings_ = recipe(loss={"alpha": 0.0, "lambda": 0.0})
    rows = PackedBlocks(source, 24)
    trainer = SenseDistillationTrainer(
        student,
        Distillation(None, settings_.loss, None),
        args=training_arguments(settings_, 1, tmp_path, torch.device("cpu")),
        train_dataset=rows,
    )
    batches, _ = trainer.get_batch_samples(iter([collate([rows[i] for i in range(len(rows))])]), 1, student.device)
    loss = trainer.compute_loss(student, batches[0])
    assert isinstance(loss, torch.Tensor)
    assert float(loss.detach()) == pytest.approx(total / count, rel=1e-6)


def test_a_model_that_mixes_documents_is_refused() -> None:
    rows = PackedBlocks(corpus(), 12)
    for family in ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"):
        # Gemma 2 has no sdpa.
        for attention in ("eager",) if family == "gemma2" else ("sdpa", "eager"):
            model = tiny(family)
            model.set_attn_implementation(attention)
            refuse_mixing(rows, model)
            refuse_mixing(rows, model.bfloat16())
    for deaf in (tiny(), tiny().bfloat16()):
        forward = deaf.forward
        deaf.forward = lambda input_ids, position_ids, forward=forward, **rest: forward(input_ids=input_ids, **rest)
        with pytest.raises(InputError, match="see each other"):
            refuse_mixing(rows, tiny(), deaf)
        refuse_mixing(PackedBlocks(corpus(), 12, together=False), deaf)


@pytest.mark.parametrize("packing", ["documents", "none"])
def test_a_packed_training_learns_and_resumes_to_the_same_bits(packing: str, tmp_path: Path) -> None:
    source = corpus(tuple(range(2, 20)) * 3, masked=True)
    training = {"steps": 6, "batch_size": 2, "sequence_length": 20, "packing": packing, "log_every": 2, "save_every": 2}
    names = []
    for name, stops in (("whole", False), ("resumed", True)):
        settings_ = recipe(training=training, loss={"kappa": 2})
        rows = make_blocks(source, settings_.training)
        arguments = (tiny(tied=True), tokenizer(), settings_, 6, rows)
        folders = (tmp_path / name / "student", tmp_path / name / "work")

        def stop(step: int, steps: int) -> None:
            if step == 5:
                raise KeyboardInterrupt

        senses = (table(), edges())
        if stops:
            with pytest.raises(KeyboardInterrupt):
                distill(*arguments, senses=senses, folders=folders, progress=stop)
        result = distill(*arguments, senses=senses, folders=folders)
        assert result.resumed_from == (4 if stops else 0)
        assert result.shared_layers == 2
        names.append((folders[0] / "model.safetensors").read_bytes())
    assert names[0] == names[1]
