"""What the loss of a step must not depend on, and what it must depend on: trainer, models and senses together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_world import FAMILIES, VOCABULARY, edges, recipe, table, tiny
from transformers import TrainingArguments

from sensekd.training.students import make_student
from sensekd.training.supervision import SenseSupervision
from sensekd.training.trainer import Distillation, SenseDistillationTrainer
from sensekd.training.trunk import share_trunk

TERMS = ("ce", "kl", "hidden", "pull", "push")
EVERYTHING: dict[str, Any] = {"loss__mu": 0.3, "loss__margin": 6.0}
Batch = dict[str, Tensor]
Gradients = dict[str, Tensor]


@dataclass
class Step:
    """One optimiser step's loss, gradients, and what was logged of it."""

    loss: float
    gradients: Gradients
    logged: dict[str, float]


class Bench:
    """A trainer of a tiny student, for single steps."""

    def __init__(
        self, folder: Path, *, family: str = "llama", tied: bool = False, silent: bool = False,
        student: dict[str, Any] | None = None, **overrides: Any,
    ) -> None:  # fmt: skip
        more: dict[str, Any] = {"granite": {"logits_scaling": 5.0}}.get(family, {})
        teacher = tiny(family, tied=tied, **more).double()
        if silent:
            for name, weight in teacher.named_parameters():
                if "o_proj" in name:
                    weight.zero_()
        config = recipe(**{**EVERYTHING, **({"student": student} if student else {}), **overrides})
        cut = make_student(teacher, config.student)
        trunk = share_trunk(teacher, cut, tuple(range(config.student.layers)))
        if config.student.shared_trunk == "off":
            trunk = type(trunk)(cut, 0, "")
        arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True)
        senses = SenseSupervision(table(published=config.loss.targets == "published"), *edges())
        self.teacher = teacher
        self.trainer = SenseDistillationTrainer(
            trunk.model, Distillation(teacher, config.loss, senses, trunk.layers), args=arguments
        )

    def step(self, batches: list[Batch]) -> Step:
        trainer, model = self.trainer, self.trainer.model
        fetched, items = trainer.get_batch_samples(iter([dict(b) for b in batches]), len(batches), torch.device("cpu"))
        total = 0.0
        for batch in fetched:
            loss = trainer.compute_loss(model, batch, num_items_in_batch=items)
            loss.backward()
            total += float(loss.detach())
        found = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}
        model.zero_grad()
        return Step(total, found, trainer._window.read(lambda value: value))


def tokens(rows: int, length: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def whole(ids: Tensor) -> Batch:
    return {"input_ids": ids, "labels": ids}


def distance(one: Gradients, other: Gradients) -> float:
    """Largest difference of gradients relative to the largest gradient."""
    assert one.keys() == other.keys()
    largest = max(float(value.abs().max()) for value in one.values())
    assert largest > 0
    return max(float((value - other[name]).abs().max()) for name, value in one.items()) / largest


def assert_same(one: Step, other: Step) -> None:
    assert distance(one.gradients, other.gradients) < 1e-5
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    for name in TERMS:
        assert one.logged[name] == pytest.approx(other.logged[name], rel=1e-5), name


# ---- in chunks == from whole logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_equal_whole_logits_for_every_family(family: str, tied: bool, tmp_path: Path) -> None:
    steps = []
    for chunked in ("off", "on"):
        bench = Bench(tmp_path, family=family, tied=tied, loss__chunked=chunked, loss__chunk_elements=5 * VOCABULARY)
        assert bench.trainer.logits_path.startswith("in chunks" if chunked == "on" else "whole")
        steps.append(bench.step([whole(tokens(4))]))
    assert_same(*steps)


@pytest.mark.parametrize("tied", [False, True])
def test_chunks_equal_whole_logits_where_the_output_embedding_trains(tied: bool, tmp_path: Path) -> None:
    pattern = "model.embed_tokens.weight" if tied else "lm_head.weight"
    student = {"layers": 3, "train_top": 1, "train": [pattern], "shared_trunk": "off"}
    one, other = (
        Bench(tmp_path, tied=tied, student=student, loss__chunked=chunked).step([whole(tokens(4))])
        for chunked in ("off", "on")
    )
    assert pattern in other.gradients
    assert_same(one, other)


@pytest.mark.parametrize("divergence", ["reverse", "jsd"])
def test_other_divergences_are_logged_under_their_names(divergence: str, tmp_path: Path) -> None:
    name = {"reverse": "reverse_kl", "jsd": "jsd"}[divergence]
    plain = Bench(tmp_path).step([whole(tokens(4))])
    steps = [
        Bench(tmp_path, loss__chunked=chunked, loss__divergence=divergence, loss__jsd_beta=0.2).step([whole(tokens(4))])
        for chunked in ("off", "on")
    ]
    assert "kl" not in steps[0].logged
    assert steps[0].logged[name] == pytest.approx(steps[1].logged[name], rel=1e-5)
    assert distance(steps[0].gradients, steps[1].gradients) < 1e-5
    assert distance(steps[0].gradients, plain.gradients) > 1e-3
    rest = plain.loss - 3.0 * 4 * plain.logged["kl"]
    assert steps[0].loss == pytest.approx(rest + 3.0 * 4 * steps[0].logged[name], rel=1e-6)


def test_what_is_logged_adds_up_to_what_is_differentiated(tmp_path: Path) -> None:
    for chunked in ("off", "on"):
        step = Bench(tmp_path, loss__chunked=chunked).step([whole(tokens(4))])
        weights = {"ce": 1.0, "kl": 3.0 * 4, "hidden": 0.3, "pull": 1.0, "push": 1.0}
        assert step.loss == pytest.approx(sum(weights[name] * step.logged[name] for name in TERMS), rel=1e-6)


@pytest.mark.parametrize("chunked", ["off", "on"])
def test_gradient_by_finite_differences_of_the_logged_loss(chunked: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, loss__chunked=chunked)
    batches = [whole(tokens(2)), whole(tokens(2, seed=1))]
    found = bench.step(batches)
    name, weight = next((n, p) for n, p in bench.trainer.model.named_parameters() if p.requires_grad and "mlp" in n)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype)
    # Whole logits are widened to float32, which bounds how small the step may be.
    ends, size = [], 1e-3
    for sign in (1, -2, 1):
        if len(ends) < 2:
            with torch.no_grad():
                weight.add_(direction, alpha=sign * size)
            ends.append(bench.step(batches).loss)
    wanted = (ends[0] - ends[1]) / (2 * size)
    assert (found.gradients[name] * direction).sum().item() == pytest.approx(wanted, rel=5e-3)


# ---- what it must not depend on


@pytest.mark.parametrize("chunked", ["off", "on"])
def test_accumulation_and_chunk_size_change_nothing(chunked: str, tmp_path: Path) -> None:
    rows = tokens(8)
    labels = rows.clone()
    labels[0, :9], labels[3, 4:], labels[5] = -100, -100, -100
    batch = {"input_ids": rows, "labels": labels}
    steps = []
    for parts, elements in ((1, 1 << 24), (4, 1 << 24), (8, 1 << 24), (1, VOCABULARY), (4, 7 * VOCABULARY)):
        bench = Bench(tmp_path, loss__chunked=chunked, loss__chunk_elements=elements)
        split = {key: value.chunk(parts) for key, value in batch.items()}
        steps.append(bench.step([{key: value[part] for key, value in split.items()} for part in range(parts)]))
    assert all(set(TERMS) <= step.logged.keys() for step in steps)
    for step in steps[1:]:
        assert_same(step, steps[0])


def test_published_targets_divide_by_what_is_picked(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {
        "loss__targets": "published", "loss__positions": {"fraction": 0.4, "minimum": 1}, "loss__pull": "absolute",
    }  # fmt: skip
    rows = tokens(8)
    steps = [
        Bench(tmp_path, **chosen).step([whole(part) for part in rows.chunk(parts)]) for parts in (1, 4, 8)
    ]  # fmt: skip
    for step in steps[1:]:
        assert_same(step, steps[0])
    logged = steps[0].logged
    assert logged["n_pull"] == logged["n_push"]
    # Of 11 labels in each of 8 rows at most 40 % of those with relations, rounded up, and as many again.
    assert 8 * 2 <= logged["n_pull"] <= 8 * 2 * 5
    plain = Bench(tmp_path).step([whole(rows)])
    assert distance(plain.gradients, steps[0].gradients) > 1e-3


def padded(documents: list[Tensor], length: int, side: str) -> Batch:
    batch = {
        "input_ids": torch.zeros(len(documents), length, dtype=torch.long),
        "labels": torch.full((len(documents), length), -100),
        "attention_mask": torch.zeros(len(documents), length, dtype=torch.long),
    }
    for row, document in enumerate(documents):
        place = slice(0, len(document)) if side == "right" else slice(length - len(document), length)
        batch["input_ids"][row, place], batch["attention_mask"][row, place] = document, 1
        batch["labels"][row, place] = supervised(document)
    return batch


def supervised(document: Tensor) -> Tensor:
    """Labels of a document: nothing predicts its first token, and the text after its last one is unknown."""
    labels = document.clone()
    labels[0] = labels[-1] = -100
    return labels


@pytest.mark.parametrize("chunked", ["off", "on"])
def test_padding_side_changes_nothing(chunked: str, tmp_path: Path) -> None:
    documents = [tokens(1, length, seed=length)[0] for length in (12, 7, 9, 5)]
    steps = [
        Bench(tmp_path, loss__chunked=chunked).step([padded(documents, length, side)])
        for side, length in (("right", 12), ("left", 12), ("right", 17))
    ]
    assert steps[0].logged["n_labels"] == sum(len(document) - 2 for document in documents)
    for step in steps[1:]:
        assert_same(step, steps[0])


@pytest.mark.parametrize("chunked", ["off", "on"])
def test_packing_changes_nothing(chunked: str, tmp_path: Path) -> None:
    # In a model without attention a state depends on its token alone: what is left is the loss's own part in packing.
    documents = [tokens(1, length, seed=length)[0] for length in (10, 8, 11, 7)]
    packed = {
        "input_ids": torch.cat(documents).reshape(2, 18),
        "labels": torch.cat([supervised(document) for document in documents]).reshape(2, 18),
    }
    student = {"layers": 3, "train_top": 0, "train": ["model.layers.2.mlp.*"]}
    steps = [
        Bench(tmp_path, silent=True, student=student, loss__chunked=chunked).step([batch])
        for batch in (packed, padded(documents, 12, "right"))
    ]
    assert steps[0].logged["n_labels"] == steps[1].logged["n_labels"]
    assert_same(*steps)


# ---- what it must depend on: the shift and the mask


def test_prompt_rows_move_nothing_and_the_edges_of_the_answer_do(tmp_path: Path) -> None:
    # Tokens 6, 12 and 24 are whole words with own senses and with antonyms that have senses.
    ids = torch.tensor([[3, 8, 10, 6, 12, 24, 14, 20]])
    labels = torch.full_like(ids, -100)
    labels[0, 3:6] = ids[0, 3:6]
    for chunked in ("off", "on"):
        for which in ("student", "teacher"):
            for position, moves in ((0, False), (1, False), (2, True), (3, True), (4, True), (5, False), (6, False)):
                before, after = (
                    _disturbed(tmp_path, chunked, which, at, {"input_ids": ids, "labels": labels})
                    for at in (None, position)
                )
                if not moves:
                    assert after.logged | {"tokens_per_second": 0} == before.logged | {"tokens_per_second": 0}
                    assert all(torch.equal(value, after.gradients[name]) for name, value in before.gradients.items())
                    continue
                # The teacher's state has no part in CE, and a part in the sense terms by what it selects alone.
                for name in TERMS if which == "student" else ("kl", "hidden"):
                    assert after.logged[name] != before.logged[name], (chunked, which, position, name)


def _disturbed(folder: Path, chunked: str, which: str, position: int | None, batch: Batch) -> Step:
    """A step in which one row of states is another one before it enters the loss."""
    bench = Bench(folder, loss__chunked=chunked, loss__margin=30.0, loss__kappa=1)
    model = bench.trainer.model if which == "student" else bench.teacher
    noise = torch.randn(16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def disturb(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = arguments[0]
        if position is None or position >= states.shape[1]:
            return arguments
        moved = torch.zeros_like(states)
        moved[:, position] = 3 * noise
        return (states + moved,)

    model.get_output_embeddings().register_forward_pre_hook(disturb)
    return bench.step([batch])
