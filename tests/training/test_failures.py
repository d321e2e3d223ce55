"""What ends a training early: where it happened is named, what to change is said, and a checkpoint is left whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training_world import edges, recipe, table, tiny, tokenizer

from sensekd.corpus import TokenDocuments
from sensekd.training.checkpoints import checkpoints, newest_checkpoint, step_of
from sensekd.training.data import TokenBlocks
from sensekd.training.distill import DistillResult, distill
from sensekd.training.failures import (
    Fault,
    Interruption,
    NonFiniteError,
    OutOfMemoryError,
    Watch,
    explain_fault,
    explain_memory,
    is_lost_peer,
    is_out_of_memory,
    probe,
    refuse_weights,
)
from sensekd.training.processes import PeerError, first_to_say

_POISON, _COUNT, _LENGTH = 63, 24, 12


class _Manifest:
    id = "test"


def blocks() -> TokenBlocks:
    """Documents as long as a block, so that block i is document i; the poisonous token stands in document 7 alone."""
    ids = np.random.default_rng(0).integers(3, _POISON, (_COUNT, _LENGTH)).astype(np.uint16)
    ids[7, 4] = _POISON
    indptr, hashes = np.arange(_COUNT + 1) * _LENGTH, np.arange(_COUNT).astype(np.uint64) + 1000
    found = TokenDocuments(Path("memory"), ids.ravel(), indptr, hashes, _Manifest())  # type: ignore[arg-type]
    return TokenBlocks(found, _LENGTH, numbered=True)


def run(
    folder: Path, steps: int, teacher: nn.Module | None = None, progress: Callable[[int, int], None] | None = None,
    **overrides: Any,
) -> DistillResult:  # fmt: skip
    return distill(
        teacher or tiny(), tokenizer(), recipe(**overrides), steps, blocks(), senses=(table(), edges()),
        folders=(folder / "student", folder / "work"), progress=progress,
    )  # fmt: skip


def batches(seed: int, size: int) -> list[list[int]]:
    """The data set's items batch by batch: their order follows from the seed alone."""
    order = torch.randperm(_COUNT, generator=torch.Generator().manual_seed(seed)).tolist()
    return [order[start : start + size] for start in range(0, _COUNT, size)]


# ---- numbers that are not finite


@pytest.mark.parametrize(("accumulation", "log_every"), [(1, 1), (2, 1), (1, 5)])
def test_a_teacher_that_is_not_finite_names_the_documents_of_the_batch(
    accumulation: int, log_every: int, tmp_path: Path
) -> None:
    teacher = tiny()
    teacher.get_input_embeddings().weight.data[_POISON] = torch.inf
    chosen = {"training__accumulation": accumulation, "training__log_every": log_every, "training__save_every": 1}
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, _COUNT // (4 * accumulation), teacher, **chosen)
    at = next(number for number, batch in enumerate(batches(3, 4)) if 7 in batch)
    step, micro = at // accumulation + 1, at % accumulation + 1
    message = str(caught.value)
    where = f"step {step}, batch {micro} of 2" if accumulation == 2 else f"step {step}"
    assert message.splitlines()[0] == f"a state of the teacher is not finite at {where}"
    named = ", ".join(f"{number} ({1000 + number:016x})" for number in sorted(batches(3, 4)[at]))
    assert f"documents of the batch, number (hash): {named}\n" in message
    assert not (tmp_path / "student").exists()
    left = [step_of(path) for path in checkpoints(tmp_path / "work")]
    assert left == list(range(1, step))[-2:]
    for path in checkpoints(tmp_path / "work"):
        assert all(bool(torch.isfinite(value).all()) for value in load_file(path / "model.safetensors").values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    # The loss of step 1 is finite; its update is not.
    chosen = {"learning_rate": 3.4e38, "weight_decay": 1.0, "warmup": 0.0, "max_grad_norm": 0.0, "save_every": 1}
    with pytest.raises(NonFiniteError, match=r"trained tensors are not finite after step 1, the first is model\."):
        run(tmp_path, 6, **{f"training__{name}": value for name, value in chosen.items()})
    assert not checkpoints(tmp_path / "work")


def test_a_watch_over_two_processes_finds_the_first_fault_of_either() -> None:
    mine, theirs = Watch(torch.device("cpu")), Watch(torch.device("cpu"))
    good, bad = torch.tensor(1.0), torch.tensor(torch.nan)
    rows = [(1, good), (1, good), (2, good), (2, bad)], [(1, good), (1, good), (2, bad), (2, good)]
    for watch, row, shift in ((mine, rows[0], 0), (theirs, rows[1], 100)):
        for number, (step, loss) in enumerate(row):
            watch.note(step, torch.tensor([2 * number, 2 * number + 1]) + shift, None, loss)

    def gather(value: Tensor) -> Tensor:
        other = theirs._first if value.dtype == torch.float64 else torch.tensor([104, 105])
        return torch.cat([value, other])

    # Batch 2 (from 0) is the first that is faulty, in the other process alone.
    assert mine.read(gather) == Fault("loss", 2, 1, (104, 105))
    assert mine.read(lambda value: value) is None


def test_the_teacher_is_named_before_the_loss_that_it_spoils() -> None:
    watch, nan = Watch(torch.device("cpu")), torch.tensor(torch.nan)
    watch.note(5, None, nan, nan)
    fault = watch.read(lambda value: value)
    assert fault == Fault("teacher", 5, 1, ())
    assert "documents of the batch" not in str(explain_fault(fault, object(), 1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_probe_sees_supervised_states_alone(value: float) -> None:
    states, mask = torch.randn(2, 5, 8).bfloat16(), torch.ones(2, 5, dtype=torch.bool)
    assert torch.isfinite(probe(states, mask))
    states[1, 3, 2] = value
    assert not torch.isfinite(probe(states, mask))
    mask[1, 3] = False
    assert torch.isfinite(probe(states, mask))


def test_refused_weights_may_stand_in_another_process() -> None:
    fine = {"a": torch.ones(2), "b": torch.zeros(3)}
    refuse_weights(fine, 1, lambda flag: flag)
    refuse_weights({}, 1, lambda flag: flag + 1)
    with pytest.raises(NonFiniteError, match="some trained tensors are not finite after step 4"):
        refuse_weights(fine, 4, lambda flag: flag + 1)


# ---- want of memory


def test_want_of_memory_says_what_to_change_from_what(tmp_path: Path) -> None:
    teacher = tiny()
    calls = []

    def greedy(*_: object) -> None:
        calls.append(1)
        if len(calls) > 12:
            torch.empty(1 << 60, dtype=torch.uint8)

    teacher.model.register_forward_pre_hook(greedy)
    with pytest.raises(OutOfMemoryError) as caught:
        run(tmp_path, 6, teacher, training__accumulation=3)
    message = str(caught.value)
    assert message.startswith("out of memory: ")
    assert "allocate" in message.splitlines()[0]
    assert "training.batch_size: 4 -> 2 with training.accumulation: 3 -> 6" in message
    assert "training.trainer.gradient_checkpointing: false -> true" in message
    assert "teacher.device" in message
    assert len(calls) == 13


def test_advice_leaves_out_what_is_done_already() -> None:
    config = recipe(
        training__batch_size=1, training__trainer={"gradient_checkpointing": True},
        teacher={"model": "none", "offload": True}, loss__chunked="on", loss__chunk_elements=4096,
    )  # fmt: skip
    message = str(explain_memory(torch.OutOfMemoryError("CUDA out of memory. Tried"), config))
    assert "training.sequence_length: 12 -> 6" in message
    assert "loss.chunk_elements: 4096 -> 1024" in message
    for done in ("batch_size:", "gradient_checkpointing", "teacher.", "loss.chunked"):
        assert done not in message


@pytest.mark.parametrize(("error", "wanted"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
    (MemoryError(), True),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    (ValueError("out of memory"), False),
])  # fmt: skip
def test_what_counts_as_want_of_memory(error: Exception, wanted: bool) -> None:
    assert is_out_of_memory(error) is wanted


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("gloo of another kind")

    with pytest.raises(RuntimeError, match="gloo of another kind"):
        run(tmp_path, 2, progress=fail)


# ---- processes


def test_lost_peers_are_known_by_what_gloo_says_and_only_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]")
    assert not is_lost_peer(lost)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_lost_peer(lost)
    assert not is_lost_peer(RuntimeError("shapes cannot be multiplied"))
    assert not first_to_say(PeerError("the process of rank 0 failed", reported=True))


# ---- interruptions


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 3), (signal.SIGTERM, 5), (signal.SIGINT, 8)])
def test_a_signal_ends_after_the_step_with_a_checkpoint(number: signal.Signals, step: int, tmp_path: Path) -> None:
    whole = run(tmp_path / "a", 8)

    def interrupt(done: int, _: int) -> None:
        if done == step:
            os.kill(os.getpid(), number)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A runner in the background may have SIGINT ignored.
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", 8, progress=interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is handlers[1]
    finally:
        signal.signal(signal.SIGINT, handlers[0])
    assert not (tmp_path / "b" / "student").exists()
    (left,) = checkpoints(tmp_path / "b" / "work")
    assert step_of(left) == step
    assert newest_checkpoint(tmp_path / "b" / "work", {}) == left
    resumed = run(tmp_path / "b", 8)
    assert (resumed.resumed_from, resumed.steps, resumed.tokens) == (step, 8, whole.tokens)
    one, other = (load_file(tmp_path / name / "student" / "model.safetensors") for name in "ab")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_second_signal_does_not_wait() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.asked
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_a_shell_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
        assert not interruption.asked
    finally:
        signal.signal(signal.SIGINT, before)
