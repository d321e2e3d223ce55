"""Rows that stay in host memory while a student is trained, and how those of a batch come to the device.

Which rows a batch needs follows from its labels alone, so they can be on their way before the teacher has seen it: a
thread finds the ids, collects the rows into pinned memory and sends them on a stream of its own. On a CPU the same
requests are answered when they are collected.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from sensekd.senses.store import StoredRows

# Batches whose rows are on their way or wait on the device: the one that is next, and the one after it.
DEPTH: Final = 2
# Requests that are remembered; there is one for each batch of an optimiser step.
_REMEMBERED: Final = 1024
# `auto` leaves three quarters of the device to models and activations.
_SHARE: Final = 4


def device_limit(device: torch.device | str) -> int:
    """Bytes of rows that `residence: auto` keeps on a device: a quarter of its memory, whatever is free just now."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // _SHARE
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _SHARE


@dataclass(frozen=True)
class HostRows:
    """Rows in host memory, several stores one after the other: the dictionary's (mapped), then the composed ones.

    Attributes:
        parts: row ids go on from one to the next.
    """

    parts: tuple[StoredRows, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def blocks(self) -> Iterator[Tensor]:
        """All rows in order, [b, D] float32, a few at a time."""
        for part in self.parts:
            yield from (rows for _, rows in part.blocks())

    def norms(self) -> Tensor:
        """[R] squared length of every row."""
        return torch.cat([rows.square().sum(-1) for rows in self.blocks()] or [torch.zeros(0)])

    def take(self, ids: Tensor, device: torch.device | str) -> Tensor:
        """Chosen rows, [n, D] float32 on `device`.

        Args:
            ids: [n] int64 on the CPU, ascending.
            device: on CUDA the copy is only under way on the current stream when this returns.
        """
        found: list[Tensor] = []
        first = 0
        ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        places = torch.searchsorted(ids, ends).tolist()
        for part, start, stop in zip(self.parts, [0, *places], places, strict=False):
            if stop > start or not found:
                found.append(part.take(ids[start:stop] - first, device))
            first += len(part)
        return torch.cat([rows for rows in found if len(rows)] or found[:1])


@dataclass(frozen=True)
class Gathered:
    """Rows of one batch on the device.

    Attributes:
        ids: [U] int64, ascending: which rows of all.
        rows: [U, D] float32.
    """

    ids: Tensor
    rows: Tensor


@dataclass
class _Request:
    """`labels` and `whole` are kept, so that their memory names this batch as long as the request stands."""

    labels: Tensor
    whole: Tensor
    wanted: Callable[[], Tensor]
    version: int
    answer: Future[tuple[Gathered, torch.cuda.Event]] | None = None

    def is_of(self, labels: Tensor, whole: Tensor) -> bool:
        """Whether these are the labels that the request was made for: the same memory, unchanged."""
        if labels.is_inference():
            return False
        pairs = ((labels, self.labels), (whole, self.whole))
        same = all(a.data_ptr() == b.data_ptr() and a.numel() == b.numel() and a.is_contiguous() for a, b in pairs)
        return same and labels._version == self.version


@dataclass
class RowGatherer:
    """Brings the rows of batches to a device, in the order in which they were asked for.

    Attributes:
        rows: where they come from.
        device: where they go.
        asked: requests not yet collected, oldest first.
        early: how many batches were collected that had been requested before.
        late: how many had not, so that the device had to wait.
    """

    rows: HostRows
    device: torch.device
    asked: deque[_Request] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    early: int = 0
    late: int = 0

    def __post_init__(self) -> None:
        cuda = self.device.type == "cuda"
        self._worker = ThreadPoolExecutor(1, "sense-rows") if cuda else None
        self._stream = torch.cuda.Stream(self.device) if cuda else None  # type: ignore[no-untyped-call]

    def to(self, device: torch.device | str) -> RowGatherer:
        """The same rows for another device; requests are not taken along."""
        return RowGatherer(self.rows, torch.device(device))

    def submit(self, labels: Tensor, whole: Tensor, wanted: Callable[[], Tensor]) -> None:
        """Ask for the rows of a batch; returns at once.

        Args:
            labels, whole: name the batch; contiguous, or it is not recognised when it is collected.
            wanted: gives the ids, [U] int64 ascending on the device.
        """
        if labels.is_inference():
            return
        self.asked.append(_Request(labels, whole, wanted, labels._version))
        self._start()

    def collect(self, labels: Tensor, whole: Tensor, wanted: Callable[[], Tensor]) -> Gathered:
        """The rows of a batch: those that were asked for, or else collected now.

        Requests older than this one were for batches that never came, and are forgotten.
        """
        number = next((n for n, request in enumerate(self.asked) if request.is_of(labels, whole)), None)
        if number is None:
            self.late += 1
            return self._gather(wanted)
        self.early += 1
        for _ in range(number):
            self.asked.popleft()
        request = self.asked.popleft()
        if request.answer is None:
            found = self._gather(request.wanted)
        else:
            found, sent = request.answer.result()
            here = torch.cuda.current_stream(self.device)
            here.wait_event(sent)
            # The allocator must not hand out this memory on the other stream while this one still reads it.
            found.ids.record_stream(here)
            found.rows.record_stream(here)
        self._start()
        return found

    def _start(self) -> None:
        if self._worker is None:
            return
        ready = torch.cuda.current_stream(self.device).record_event()
        for _, request in zip(range(DEPTH), self.asked, strict=False):
            if request.answer is None:
                request.answer = self._worker.submit(self._send, request.wanted, ready)

    @torch.no_grad()
    def _gather(self, wanted: Callable[[], Tensor]) -> Gathered:
        ids = wanted()
        return Gathered(ids, self.rows.take(ids.cpu(), self.device))

    def _send(self, wanted: Callable[[], Tensor], ready: torch.cuda.Event) -> tuple[Gathered, torch.cuda.Event]:
        """Runs in the worker: its waiting for the ids holds up neither the main thread nor the main stream."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            torch.cuda.current_stream().wait_event(ready)
            return self._gather(wanted), torch.cuda.current_stream().record_event()
