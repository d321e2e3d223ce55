"""The processes of one training, as a launcher such as torchrun starts them: one leads, the others wait for it.

Everything before training and after it is done once, by the process of rank 0: it prepares and it writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sensekd.errors import InputError, SenseKDError

if TYPE_CHECKING:
    import torch

# While rank 0 builds a dictionary the others wait for hours; that is no sign of a fault.
_PATIENCE: Final = timedelta(days=30)
_CLAIM: Final = "sensekd/said"
_CLAIM_SECONDS: Final = 5.0
_FAILED: Final = -1


class PeerError(SenseKDError):
    """Another process of this training failed.

    Args:
        message: what is known of it.
        reported: that process is alive, and says itself what went wrong.
    """

    def __init__(self, message: str, *, reported: bool = False) -> None:
        self.reported = reported
        super().__init__(message)


def count() -> int:
    """How many processes the launcher has started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Number of this process among them; 0 leads."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def leads() -> bool:
    """Whether this process prepares and writes."""
    return rank() == 0


def local_device() -> int | None:
    """Number of the GPU that the launcher means this process to use, None without a launcher."""
    return int(os.environ["LOCAL_RANK"]) if count() > 1 else None


def refuse_several() -> None:
    """Refuse work that one process does: under a launcher every process would do it, in the same folder.

    Raises:
        InputError: a launcher has started several.
    """
    if count() > 1:
        raise InputError(
            f"a launcher has started {count()} processes of a command that runs in one",
            "several processes for `distill`, `run`, `compare` of arms, and `senses build`",
            "start this command without the launcher",
        )


def first_to_say(error: BaseException) -> bool:
    """Whether no process of this training has reported an error yet; the first to ask is the one to report it."""
    if count() == 1:
        return True
    if isinstance(error, PeerError) and error.reported:
        return False
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ.get("MASTER_ADDR", "localhost"), int(os.environ.get("MASTER_PORT", "0"))
    try:
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=_CLAIM_SECONDS))
        # A launcher that starts failed processes again counts its attempts: each may report once.
        return int(store.add(f"{_CLAIM}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1)) == 1
    except (RuntimeError, ValueError):
        return True  # The store went down with the process that held it: better twice than not at all.


@dataclass(frozen=True)
class Crew:
    """The processes that train together; of size 1 without a launcher.

    Attributes:
        rank: number of this process.
        size: how many there are.
        group: over which they wait for each other; None where there is one.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def gather(cls, device: torch.device, timeout: float | None = None) -> Crew:
        """Meet the other processes.

        Args:
            device: where this process trains, which decides between gloo and NCCL.
            timeout: seconds after which a collective operation of the training fails, None for torch's default.

        Raises:
            PeerError: they do not come.
        """
        if count() == 1:
            return cls()
        import torch.distributed as dist
        from accelerate import PartialState

        options = {} if timeout is None else {"timeout": timedelta(seconds=timeout)}
        try:
            PartialState(cpu=device.type == "cpu", **options)
            return cls(rank(), count(), dist.new_group(backend="gloo", timeout=_PATIENCE))
        except RuntimeError as error:
            raise PeerError(f"the {count()} processes of the launcher do not find each other: {error}") from error

    @property
    def leads(self) -> bool:
        """Whether this process prepares and writes."""
        return self.rank == 0

    def lead(self, work: Callable[[], object]) -> bool:
        """Do `work` in the process that leads, while the others wait; all of them learn whether its result is true.

        Raises:
            PeerError: in the others, where `work` raised.
        """
        if self.size == 1:
            return bool(work())
        if not self.leads:
            return self._told(0)
        try:
            result = bool(work())
        except BaseException:
            self._told(_FAILED)
            raise
        return self._told(int(result))

    def _told(self, value: int) -> bool:
        import torch
        import torch.distributed as dist

        word = torch.tensor(value)
        try:
            dist.broadcast(word, src=0, group=self.group)
        except RuntimeError as error:
            raise PeerError("the process of rank 0 ended before its work was done") from error
        if not self.leads and int(word) == _FAILED:
            raise PeerError("the process of rank 0 failed", reported=True)
        return bool(word > 0)
