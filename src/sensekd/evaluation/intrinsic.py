"""Token-level figures on held-out text: cross-entropy, divergence from the teacher, labels against their antonyms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sensekd.errors import InputError
from sensekd.numeric import argmax

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Elements of one [rows, T, V] tensor of logits, and of one chunk that is upcast to float32: on a CPU as many as stay in
# its cache while they are read a dozen times over.
_FORWARD_ELEMENTS: Final = 1 << 26
_CHUNK_ELEMENTS: Final = 1 << 23
_CACHED_ELEMENTS: Final = 1 << 18
_IGNORED: Final = -100
_KEPT_BYTES: Final = 1 << 28
_ALL: Final = "antonym_discrimination"


@dataclass
class _Sums:
    """Float64 sums over positions, on the model's device so that no step waits for the host."""

    ce: Tensor
    kl: Tensor
    agreement: Tensor
    labels: Tensor
    antonyms: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def zeros(cls, device: torch.device) -> _Sums:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        ce, kl, agreement, labels = (torch.zeros((), dtype=dtype, device=device) for _ in range(4))
        return cls(ce, kl, agreement, labels)

    def add_antonyms(self, name: str, wins: Tensor, positions: Tensor) -> None:
        """Add what one set of antonyms won, and of how many."""
        won, asked = self.antonyms.get(name, (0, 0))
        self.antonyms[name] = won + wins, asked + positions


@dataclass(frozen=True)
class _Antonyms:
    """Single-token antonyms of every token: `ids[indptr[v]:indptr[v + 1]]`."""

    indptr: Tensor
    ids: Tensor

    def beaten(self, logits_NV: Tensor, labels_N: Tensor, allowed_N: Tensor) -> tuple[Tensor, Tensor]:
        """How many labels with antonyms outscore all of them, and how many labels have any."""
        start = self.indptr[labels_N]
        count = torch.where(allowed_N, self.indptr[labels_N + 1] - start, 0)
        at = count.nonzero().squeeze(1)
        if at.numel() == 0:
            return count.new_zeros(()), count.new_zeros(())
        start, count = start[at], count[at]
        offset = torch.arange(int(count.max()), device=at.device)
        inside = offset < count[:, None]
        ids = self.ids[torch.where(inside, start[:, None] + offset, 0)]
        best = logits_NV[at[:, None], ids].float().masked_fill(~inside, -torch.inf).amax(1)
        return (logits_NV[at, labels_N[at]].float() > best).sum(), inside.any(1).sum()


class TeacherStates:
    """The states that enter a teacher's output embedding, kept while one student after the other is compared with it.

    They are kept only where that embedding makes the very logits of the model out of them, to the last bit; where a
    family bends or scales its logits, the teacher is run each time.

    Args:
        limit: bytes of states; batches beyond are run each time.
    """

    def __init__(self, limit: int = _KEPT_BYTES) -> None:
        self._room, self._plain = limit, True
        self._teacher: PreTrainedModel | None = None
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def logits(self, number: int, teacher: PreTrainedModel, ids: Tensor, vocabulary: int) -> Tensor:
        """As `_logits`, of the batch of this number."""
        if teacher is not self._teacher:
            self._teacher, self._kept, self._plain = teacher, {}, True
        known, head = self._kept.get(number), teacher.get_output_embeddings()
        if known is not None and torch.equal(known[0], ids):
            return _labelled(head(known[1]), vocabulary)
        caught: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            logits = teacher(input_ids=ids, use_cache=False).logits
        finally:
            handle.remove()
        if known is None and self._plain and len(caught) == 1 and caught[0].nbytes <= self._room:
            self._plain = bool(self._kept) or torch.equal(head(caught[0]), logits)
            if self._plain:
                self._room -= caught[0].nbytes
                self._kept[number] = ids, caught[0]
        return _labelled(logits, vocabulary)


def _common_vocabulary(student: int, teacher: int, vocabulary: int | None) -> int:
    if vocabulary is None:
        if student != teacher:
            raise InputError(
                f"the student scores {student} tokens, the teacher {teacher}",
                "one vocabulary for both",
                "compare models of one tokenizer; where they differ by padding only, pass vocabulary=len(tokenizer)",
            )
        return student
    if min(student, teacher) < vocabulary:
        raise InputError(
            f"the student scores {student} tokens, the teacher {teacher}",
            f"at least the {vocabulary} tokens of the tokenizer in both",
            "evaluate with the tokenizer that both models were trained with",
        )
    return vocabulary


def _check_antonyms(antonyms: tuple[Tensor, Tensor], vocabulary: int, device: torch.device) -> _Antonyms:
    indptr, ids = antonyms
    if indptr.numel() - 1 < vocabulary or (ids.numel() and int(ids.max()) >= vocabulary):
        raise InputError(
            f"the antonyms are those of a vocabulary of {indptr.numel() - 1} tokens",
            f"antonyms within the {vocabulary} tokens that are compared",
            "link the lexicon with this model's tokenizer",
        )
    return _Antonyms(indptr.to(device), ids.to(device))


def _chunks(count: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    size = max(1, (_CACHED_ELEMENTS if device.type == "cpu" else _CHUNK_ELEMENTS) // vocabulary)
    return (slice(start, start + size) for start in range(0, count, size))


def _add_chunk(sums: _Sums, student_NV: Tensor, teacher_NV: Tensor | None, labels_N: Tensor) -> None:
    """Add cross-entropy, KL(teacher || student) and top-1 agreement of one float32 chunk."""
    kept = labels_N != _IGNORED
    log_s = student_NV.log_softmax(1)
    picked = log_s.gather(1, labels_N.clamp(min=0)[:, None]).squeeze(1)
    sums.ce -= torch.where(kept, picked, 0).double().sum()
    sums.labels += kept.sum()
    if teacher_NV is None:
        sums.agreement += kept.sum()
        return
    log_t = teacher_NV.log_softmax(1)
    p_t = log_t.exp()
    divergence = log_t.sub_(log_s).mul_(p_t).sum(1)
    sums.kl += torch.where(kept, divergence, 0).double().sum()
    sums.agreement += ((argmax(student_NV) == argmax(teacher_NV)) & kept).sum()


def _rows(blocks: Dataset[Any], batch_size: int, vocabulary: int) -> DataLoader[Any]:
    length = int(blocks[0]["input_ids"].shape[-1])
    rows = max(1, min(batch_size, _FORWARD_ELEMENTS // (length * vocabulary)))
    return DataLoader(blocks, batch_size=rows, shuffle=False)


def _width(model: PreTrainedModel) -> int:
    """V, as the logits have it: rows of the output embedding."""
    return int(model.get_output_embeddings().weight.shape[0])


def _labels(batch: dict[str, Tensor], device: torch.device) -> Tensor:
    return batch.get("labels", batch["input_ids"])[:, 1:].to(device)


def _check_labels(labels: Tensor, vocabulary: int) -> None:
    if int(labels.max()) >= vocabulary:
        raise InputError(
            f"the text holds token {int(labels.max())}",
            f"tokens below {vocabulary}, the vocabulary that is compared",
            "tokenise the text again with this model's tokenizer",
        )


@torch.no_grad()
def intrinsic(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    blocks: Dataset[Any],
    antonyms: tuple[Tensor, Tensor] | None,
    *,
    batch_size: int,
    whole_word_edges: tuple[Tensor, Tensor] | None = None,
    vocabulary: int | None = None,
    parts: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    kept: TeacherStates | None = None,
) -> dict[str, float]:
    """Compare a model with its teacher, token by token, at temperature 1.

    Args:
        model: the student z^S, or the teacher itself (then one forward serves both and `kl` is exactly 0).
        teacher: the teacher z^T, with the same tokenizer.
        blocks: map-style; each item {"input_ids": int64 [T]} and, where some labels do not count, {"labels": [T]} with
            -100 there. All items have one length.
        antonyms: single-token antonyms of every token as (indptr [V+1], ids [*]), or None.
        batch_size: rows of one forward; fewer where logits [rows, T, V] would exceed 64M elements.
        whole_word_edges: (starts_word [V], ends_word [V]); with them a label counts for `antonym_discrimination` only
            where it is a whole word in its text.
        vocabulary: number of tokens of the tokenizer. Rows beyond it (padding of the embedding) are cut from both
            sides before the softmax. Without it the two models must have equally many rows.
        parts: further sets of antonyms, such as those that training knew, each with a figure under its name.

        kept: the teacher's states on these blocks, where further students are compared with it; same figures.

    Returns:
        `ce` (mean over the labels y_t, nats), `kl` (mean KL(softmax z^T || softmax z^S), nats), `agreement` (share of
        labels where both have the same top token), `antonym_discrimination` (share of the labels with a single-token
        antonym where the label's logit exceeds all of theirs; absent where there is none), `antonym_positions` and
        `tokens` (the two denominators); of each part its own share under its name, and `<name>_positions`.

    Raises:
        InputError: the vocabularies, the antonyms or the text do not fit together, or nothing is to be scored.
    """
    if len(blocks) == 0:  # type: ignore[arg-type]
        raise InputError("no block of held-out text", "at least one", "give a longer text or a shorter block length")
    common = _common_vocabulary(_width(model), _width(teacher), vocabulary)
    given = {**({} if antonyms is None else {_ALL: antonyms}), **(parts or {})}
    tables = {name: _check_antonyms(each, common, model.device) for name, each in given.items()}
    edges = None
    if whole_word_edges is not None:
        edges = (whole_word_edges[0].to(model.device), whole_word_edges[1].to(model.device))
    sums = _Sums.zeros(model.device)
    modes = [(each, each.training) for each in (model, teacher)]
    try:
        for each, _ in modes:
            each.eval()
        kept = TeacherStates(limit=0) if kept is None else kept
        for number, batch in enumerate(_rows(blocks, batch_size, max(_width(model), _width(teacher)))):
            ids = batch["input_ids"]
            by_teacher = partial(kept.logits, number, teacher, ids.to(teacher.device), common)
            _add_batch(sums, model, None if teacher is model else by_teacher, batch, tables, edges, common)
    finally:
        for each, mode in modes:
            each.train(mode)
    return _means(sums)


def _add_batch(
    sums: _Sums,
    model: PreTrainedModel,
    by_teacher: Callable[[], Tensor] | None,
    batch: dict[str, Tensor],
    antonyms: Mapping[str, _Antonyms],
    edges: tuple[Tensor, Tensor] | None,
    vocabulary: int,
) -> None:
    ids = batch["input_ids"].to(model.device)
    labels = _labels(batch, model.device)
    _check_labels(labels, vocabulary)
    whole = torch.ones_like(labels, dtype=torch.bool)
    if edges is not None:
        from sensekd.targets import whole_words

        whole = whole_words(ids, *edges)
    allowed = ((labels != _IGNORED) & whole).flatten()
    labels = labels.flatten()
    student_NV = _logits(model, ids, vocabulary)
    teacher_NV = None if by_teacher is None else by_teacher()
    for name, each in antonyms.items():
        sums.add_antonyms(name, *each.beaten(student_NV, labels.clamp(min=0), allowed))
    for part in _chunks(labels.numel(), vocabulary, student_NV.device):
        scores = student_NV[part].float()
        _add_chunk(sums, scores, None if teacher_NV is None else teacher_NV[part].to(scores), labels[part])


def _logits(model: PreTrainedModel, ids: Tensor, vocabulary: int) -> Tensor:
    """Logits of every position that has a label, [B * (T-1), vocabulary], in the model's own dtype."""
    return _labelled(model(input_ids=ids, use_cache=False).logits, vocabulary)


def _labelled(logits: Tensor, vocabulary: int) -> Tensor:
    return logits[:, :-1, :vocabulary].flatten(0, 1)


def _means(sums: _Sums) -> dict[str, float]:
    labels = float(sums.labels)
    if labels == 0:
        raise InputError("every label of the held-out text is masked", "labels to score", "check the labels")
    means = {
        "ce": float(sums.ce) / labels,
        "kl": float(sums.kl) / labels,
        "agreement": float(sums.agreement) / labels,
        "tokens": labels,
        "antonym_positions": 0.0,
    }
    for name, (wins, positions) in sums.antonyms.items():
        means["antonym_positions" if name == _ALL else f"{name}_positions"] = float(positions)
        if positions > 0:
            means[name] = float(wins) / float(positions)
    return means
