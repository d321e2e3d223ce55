"""Token-level figures against a naive reference that walks through the positions one by one."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from sensekd.errors import InputError
from sensekd.evaluation import intrinsic as module
from sensekd.evaluation.intrinsic import TeacherStates, intrinsic

V, T = 11, 6


class Bigram(nn.Module):
    """A model whose logits are a row of a table: row x_t at position t."""

    def __init__(self, seed: int, rows: int = V, scale: float = 2.0) -> None:
        super().__init__()
        values = torch.randn(rows, rows, generator=torch.Generator().manual_seed(seed)) * scale
        self.table = nn.Embedding(rows, rows, _weight=values)
        self.device = torch.device("cpu")

    def get_output_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids: Tensor, use_cache: bool = True) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table(input_ids))


class Blocks(Dataset[dict[str, Tensor]]):
    def __init__(self, ids: Tensor, labels: Tensor | None = None) -> None:
        self.ids, self.labels = ids, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        item = {"input_ids": self.ids[at]}
        return item if self.labels is None else {**item, "labels": self.labels[at]}


def text(rows: int = 5) -> Tensor:
    return torch.randint(0, V, (rows, T), generator=torch.Generator().manual_seed(3))


def antonyms() -> tuple[Tensor, Tensor]:
    """2 against {3, 4}, 3 against {2}, 5 against {9}."""
    lists = {2: [3, 4], 3: [2], 5: [9]}
    counts = torch.tensor([len(lists.get(v, [])) for v in range(V)])
    indptr = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    return indptr, torch.tensor([tail for v in sorted(lists) for tail in lists[v]])


def naive(student: Any, teacher: Any, ids: Tensor, whole: Tensor | None = None) -> dict[str, float]:
    indptr, tails = antonyms()
    total: dict[str, float] = dict.fromkeys(("ce", "kl", "agreement", "antonym_discrimination"), 0.0)
    positions = count = 0
    for b in range(len(ids)):
        for t in range(T - 1):
            s = student.table.weight.detach()[ids[b, t]].double()
            z = teacher.table.weight.detach()[ids[b, t]].double()
            y = int(ids[b, t + 1])
            p, q = z.exp() / z.exp().sum(), s.exp() / s.exp().sum()
            total["ce"] -= math.log(q[y])
            total["kl"] += sum(float(p[v]) * math.log(p[v] / q[v]) for v in range(V))
            total["agreement"] += float(s.argmax() == z.argmax())
            count += 1
            others = tails[indptr[y] : indptr[y + 1]].tolist()
            if others and (whole is None or bool(whole[b, t])):
                positions += 1
                total["antonym_discrimination"] += float(all(s[y] > s[v] for v in others))
    means = {name: value / count for name, value in total.items()}
    means["antonym_discrimination"] = total["antonym_discrimination"] / positions
    return {**means, "tokens": float(count), "antonym_positions": float(positions)}


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_equals_the_naive_reference(batch_size: int) -> None:
    student, teacher, ids = Bigram(0), Bigram(1), text()
    found = intrinsic(student, teacher, Blocks(ids), antonyms(), batch_size=batch_size)
    assert found == pytest.approx(naive(student, teacher, ids), rel=1e-6)
    assert 0 < found["antonym_discrimination"] < 1


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, ids = Bigram(0), Bigram(1), text()
    monkeypatch.setattr(module, "_CACHED_ELEMENTS", 3 * V)
    monkeypatch.setattr(module, "_FORWARD_ELEMENTS", 2 * T * V)
    found = intrinsic(student, teacher, Blocks(ids), antonyms(), batch_size=64)
    assert found == pytest.approx(naive(student, teacher, ids), rel=1e-6)


def test_a_model_against_itself_or_its_copy() -> None:
    student, ids = Bigram(0), text()
    for teacher in (student, Bigram(0)):
        found = intrinsic(student, teacher, Blocks(ids), None, batch_size=2)
        assert (found["kl"], found["agreement"]) == (0.0, 1.0)
        assert "antonym_discrimination" not in found
        assert found["antonym_positions"] == 0


def test_uniform_model_has_the_entropy_of_the_vocabulary() -> None:
    found = intrinsic(Bigram(0, scale=0.0), Bigram(1), Blocks(text()), antonyms(), batch_size=4)
    assert found["ce"] == pytest.approx(math.log(V), rel=1e-6)
    # An equal logit does not exceed.
    assert found["antonym_discrimination"] == 0


def test_masked_labels_do_not_count() -> None:
    student, teacher, ids = Bigram(0), Bigram(1), text()
    labels = ids.clone()
    labels[1:] = -100
    found = intrinsic(student, teacher, Blocks(ids, labels), antonyms(), batch_size=4)
    assert found == pytest.approx(intrinsic(student, teacher, Blocks(ids[:1]), antonyms(), batch_size=4), rel=1e-6)
    with pytest.raises(InputError, match="masked"):
        intrinsic(student, teacher, Blocks(ids, torch.full_like(ids, -100)), None, batch_size=4)


def test_padded_vocabularies_are_cut_to_the_tokenizer() -> None:
    student, teacher, ids = Bigram(0), Bigram(1), text()
    padded = Bigram(2, rows=V + 5)
    with torch.no_grad():
        padded.table.weight[:V, :V] = teacher.table.weight
        padded.table.weight[:, V:] = 50.0
    found = intrinsic(student, padded, Blocks(ids), antonyms(), batch_size=2, vocabulary=V)
    assert found == pytest.approx(naive(student, teacher, ids), rel=1e-6)


def test_other_vocabularies_are_refused_with_both_sides() -> None:
    student, wide = Bigram(0), Bigram(1, rows=V + 5)
    with pytest.raises(InputError, match=rf"student scores {V} tokens, the teacher {V + 5}"):
        intrinsic(student, wide, Blocks(text()), None, batch_size=2)
    with pytest.raises(InputError, match=f"at least the {V + 5} tokens"):
        intrinsic(student, wide, Blocks(text()), None, batch_size=2, vocabulary=V + 5)
    with pytest.raises(InputError, match=f"holds token {V}"):
        intrinsic(wide, wide, Blocks(text().clamp(min=V)), None, batch_size=2, vocabulary=V)
    with pytest.raises(InputError, match="antonyms are those of a vocabulary of 11"):
        intrinsic(wide, wide, Blocks(text()), antonyms(), batch_size=2)
    with pytest.raises(InputError, match="no block"):
        intrinsic(student, student, Blocks(text(0)), None, batch_size=2)


def test_whole_words_alone_count_for_antonyms() -> None:
    student, teacher, ids = Bigram(0), Bigram(1), text(40)
    # Every token begins inside a word, and 5 and 7 end outside of one: a boundary lies after those two alone.
    starts, ends = torch.ones(V, dtype=torch.bool), torch.ones(V, dtype=torch.bool)
    ends[[5, 7]] = False
    whole = torch.zeros(len(ids), T - 1, dtype=torch.bool)
    for b in range(len(ids)):
        for i in range(1, T):
            after = i + 1 < T and int(ids[b, i]) in (5, 7)
            whole[b, i - 1] = int(ids[b, i - 1]) in (5, 7) and after
    found = intrinsic(student, teacher, Blocks(ids), antonyms(), batch_size=7, whole_word_edges=(starts, ends))
    free = intrinsic(student, teacher, Blocks(ids), antonyms(), batch_size=7)
    assert 0 < found["antonym_positions"] < free["antonym_positions"]
    assert {k: v for k, v in found.items() if "antonym" not in k} == {
        k: v for k, v in free.items() if "antonym" not in k
    }
    # What follows a block's last label is unknown: it counts as cut.
    assert found["antonym_positions"] == naive(student, teacher, ids, whole)["antonym_positions"]


def test_modes_are_given_back() -> None:
    student, teacher = Bigram(0).train(), Bigram(1).eval()
    intrinsic(student, teacher, Blocks(text()), None, batch_size=2)
    assert student.training
    assert not teacher.training


def test_parts_of_the_antonyms_have_figures_of_their_own() -> None:
    student, teacher, ids = Bigram(0), Bigram(1), text(40)
    indptr = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    known, other = (indptr, torch.tensor([4])), (indptr, torch.tensor([3]))
    parts = {"known": known, "other": other, "none": (torch.zeros(V + 1, dtype=torch.long), torch.tensor([]).long())}
    found = intrinsic(student, teacher, Blocks(ids), antonyms(), batch_size=8, parts=parts)
    before, label = ids[:, :-1].flatten(), ids[:, 1:].flatten()
    scores = student.table.weight.detach()[before[label == 2]]
    assert found["known_positions"] == found["other_positions"] == len(scores) > 20
    assert found["known"] == pytest.approx((scores[:, 2] > scores[:, 4]).double().mean().item())
    assert found["other"] == pytest.approx((scores[:, 2] > scores[:, 3]).double().mean().item())
    assert found["known"] != found["other"]
    assert found["none_positions"] == 0
    assert "none" not in found
    plain = intrinsic(student, teacher, Blocks(ids), antonyms(), batch_size=8)
    assert {name: found[name] for name in plain} == plain


class Counting(Bigram):
    """Counts its forwards; with `bent` its logits are more than its output embedding makes."""

    def __init__(self, seed: int, bent: bool = False) -> None:
        super().__init__(seed)
        self.forwards, self.bent = 0, bent

    def forward(self, input_ids: Tensor, use_cache: bool = True) -> SimpleNamespace:
        self.forwards += 1
        logits = self.table(input_ids)
        return SimpleNamespace(logits=logits.tanh() if self.bent else logits)


@pytest.mark.parametrize(("bent", "limit", "again"), [(False, 1 << 20, 0), (True, 1 << 20, 3), (False, 2 * T * 8, 2)])
def test_a_teacher_is_run_once_for_all_students(bent: bool, limit: int, again: int) -> None:
    teacher, kept = Counting(1, bent), TeacherStates(limit)
    for seed, forwards in ((0, 3), (5, again), (6, again)):
        teacher.forwards = 0
        found = intrinsic(Bigram(seed), teacher, Blocks(text()), antonyms(), batch_size=2, kept=kept)
        assert teacher.forwards == forwards
        assert found == intrinsic(Bigram(seed), teacher, Blocks(text()), antonyms(), batch_size=2)
    # Other text and another teacher are not taken for the ones that are kept.
    for other, ids in ((teacher, text(5).flip(0)), (Counting(2), text())):
        found = intrinsic(Bigram(0), other, Blocks(ids), None, batch_size=2, kept=kept)
        assert found == intrinsic(Bigram(0), other, Blocks(ids), None, batch_size=2)
