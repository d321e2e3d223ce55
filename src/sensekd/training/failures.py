"""What ends a training early: numbers that are not finite, want of memory, a process that is lost, an interruption."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from sensekd.errors import SenseKDError
from sensekd.training import processes
from sensekd.training.processes import PeerError

if TYPE_CHECKING:
    from types import FrameType

    from sensekd.config import Recipe

_NEVER: Final = 1 << 53
_SHOWN: Final = 8
_NO_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")
_LOST: Final = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")


class NonFiniteError(SenseKDError):
    """A number became NaN or infinite."""


class OutOfMemoryError(SenseKDError):
    """The training does not fit into memory."""


# ---- numbers that are not finite


@dataclass(frozen=True)
class Fault:
    """Where a number was first not finite.

    Attributes:
        what: `loss` or `teacher`.
        step: optimiser step, from 1.
        micro: number of the batch inside its step, from 1.
        blocks: items of the data set in that batch, of the processes where it happened; empty where they have
            no numbers.
    """

    what: str
    step: int
    micro: int
    blocks: tuple[int, ...]


@dataclass
class Watch:
    """Notes, on the device and without waiting for it, which batch first had a number that is not finite.

    Args:
        device: of the training.
    """

    device: torch.device
    _batches: list[tuple[int, Tensor | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._batches.clear()
        # Ordinals of the first faulty batch since the last reading: [teacher, loss].
        self._first = torch.full((2,), _NEVER, dtype=torch.float64, device=self.device)

    def note(self, step: int, blocks: Tensor | None, teacher: Tensor | None, loss: Tensor) -> None:
        """One batch.

        Args:
            step: optimiser step, from 1.
            blocks: [B] numbers of its items in the data set.
            teacher: a scalar that is finite where every state of the teacher is, None without a teacher.
            loss: its part of the loss.
        """
        seen = torch.stack([loss if teacher is None else teacher, loss]).detach()
        ordinal = torch.full_like(self._first, len(self._batches))
        if teacher is None:
            ordinal[0] = _NEVER
        self._batches.append((step, blocks))
        self._first = torch.where(torch.isfinite(seen), self._first, self._first.minimum(ordinal))

    def read(self, gather: Callable[[Tensor], Tensor]) -> Fault | None:
        """The first fault since the last reading, over all processes; waits for the device.

        Args:
            gather: concatenates a vector of every process; pads what differs in length with -1.
        """
        firsts = gather(self._first).reshape(-1, 2).cpu()
        ordinal = int(firsts.min())
        if ordinal >= _NEVER:
            self._clear()
            return None
        # The loss of a faulty teacher is faulty too: the cause is named.
        what = "teacher" if bool((firsts[:, 0] == ordinal).any()) else "loss"
        step, blocks = self._batches[ordinal]
        micro = 1 + sum(other == step for other, _ in self._batches[:ordinal])
        found: tuple[int, ...] = ()
        if blocks is not None:
            every = gather(blocks).cpu().reshape(len(firsts), -1)
            faulty = every[(firsts == ordinal).any(1)].reshape(-1)
            found = tuple(int(block) for block in faulty if block >= 0)
        self._clear()
        return Fault(what, step, micro, found)


def probe(states: Tensor, mask: Tensor) -> Tensor:
    """A scalar that is NaN or infinite where a state of a supervised position is; one pass, nothing of their size.

    Args:
        states: [B, T - 1, D].
        mask: [B, T - 1] bool.
    """
    return states.detach().sum(-1, dtype=torch.float32).masked_fill(~mask, 0).sum()


def explain_fault(fault: Fault, dataset: Any, micros: int) -> NonFiniteError:
    """The error of a fault, with the documents of its batch where the data set can name them.

    Args:
        fault: as `Watch.read` gives it.
        dataset: `TokenBlocks`, or any other.
        micros: batches of a step.
    """
    name = {"loss": "the loss", "teacher": "a state of the teacher"}[fault.what]
    where = f"step {fault.step}" + (f", batch {fault.micro} of {micros}" if micros > 1 else "")
    lines = [f"{name} is not finite at {where}"]
    if fault.blocks and hasattr(dataset, "documents_of"):
        documents = dataset.documents_of(fault.blocks)
        shown = ", ".join(f"{each.number} ({each.hash})" for each in documents[:_SHOWN])
        more = f" and {len(documents) - _SHOWN} more" if len(documents) > _SHOWN else ""
        lines.append(f"  documents of the batch, number (hash): {shown}{more}")
    hint = {
        "loss": "lower training.learning_rate or the weights of the loss, or use float32",
        "teacher": "set teacher.dtype to float32 or bfloat16, or look at these documents",
    }[fault.what]
    lines += ["  kept:     checkpoints of steps before it", f"  do:       {hint}"]
    return NonFiniteError("\n".join(lines))


def refuse_weights(parameters: Mapping[str, Tensor], step: int, any_of: Callable[[Tensor], Tensor]) -> None:
    """Stop before trained weights that are not finite are saved: the loss shows them one step later only.

    Args:
        parameters: the trained ones.
        step: after which they are to be saved.
        any_of: whether a 0-dimensional flag is above 0 in any process.

    Raises:
        NonFiniteError: one is NaN or infinite.
    """
    if not parameters:
        return
    bad = {name: ~torch.isfinite(value.detach()).all() for name, value in parameters.items()}
    if bool(any_of(torch.stack(list(bad.values())).any().float())):
        names = [name for name, flag in bad.items() if bool(flag)]
        raise NonFiniteError(
            f"{len(names) or 'some'} trained tensors are not finite after step {step}"
            + (f", the first is {names[0]}" if names else "")
            + "\n  kept:     checkpoints of steps before it\n"
            "  do:       lower training.learning_rate, or set training.max_grad_norm"
        )


# ---- want of memory, lost processes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def _advice(recipe: Recipe) -> Iterator[str]:
    loss, training, teacher = recipe.loss, recipe.training, recipe.teacher
    if hasattr(loss, "chunked"):
        if loss.chunked != "on":
            yield f"loss.chunked: {loss.chunked} -> on, which never holds whole logits"
        yield f"loss.chunk_elements: {loss.chunk_elements} -> {max(loss.chunk_elements // 4, 1)}"
    if training.batch_size > 1:
        size, times = training.batch_size, training.accumulation
        yield (
            f"training.batch_size: {size} -> {size // 2} with training.accumulation: {times} -> {times * 2}, "
            "which trains the same"
        )
    else:
        yield f"training.sequence_length: {training.sequence_length} -> {max(training.sequence_length // 2, 2)}"
    if not training.trainer.get("gradient_checkpointing"):
        yield "training.trainer.gradient_checkpointing: false -> true"
    if teacher.device == "same" and not teacher.quantization and not teacher.offload:
        yield (
            "the teacher stands beside the student: teacher.device (another GPU), teacher.quantization (8bit) or "
            "teacher.offload (true)"
        )


def explain_memory(error: BaseException, recipe: Recipe) -> OutOfMemoryError:
    """What to change where memory does not suffice, with the values that the recipe has now."""
    first = (str(error) or type(error).__name__).strip().splitlines()[0]
    advice = "\n".join(f"            {line}" for line in _advice(recipe))
    return OutOfMemoryError(
        f"out of memory: {first}\n  kept:     the newest checkpoint, if there is one\n  do:       one of\n{advice}"
    )


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective operation failed because another process is gone."""
    if processes.count() == 1 or not isinstance(error, RuntimeError):
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or any(words in str(error).lower() for words in _LOST)


@contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
    """Turn want of memory and lost processes into one clear error each.

    Raises:
        OutOfMemoryError: with what to change.
        PeerError: another process has died.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise explain_memory(error, recipe) from error
        if is_lost_peer(error):
            # What the library says after its first sentence is advice that does not apply.
            said = str(error).strip().splitlines()[0].partition(". ")[0]
            raise PeerError(
                f"another process of this training has died ({said})\n"
                "  kept:     the newest checkpoint, if there is one\n"
                "  do:       start the same command again; it goes on from there"
            ) from error
        raise


# ---- interruptions


@dataclass
class Interruption:
    """Inside this context the first SIGINT or SIGTERM only asks: the training ends after its step, with a checkpoint.

    The second one ends it at once. Outside the main thread nothing is changed.
    """

    asked: bool = False
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # What a shell ignores for a job in the background stays ignored.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and processes.count() > 1 and signal.SIGTERM in self._before:
            # When one process dies the launcher ends the others at once; they still have to say why, and end anyway.
            self._before[signal.SIGTERM] = signal.SIG_IGN
        for number, handler in self._before.items():
            with suppress(ValueError):
                signal.signal(number, handler)
        self._before.clear()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
