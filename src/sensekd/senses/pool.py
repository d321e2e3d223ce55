"""A pool of candidate states on disk: rows are written once, and one that falls out makes room for a later one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.senses.journal import ROW, Journal
from sensekd.senses.rows import RowFile
from sensekd.senses.sample import keep_smallest

_BLOCK: Final = 4096
_SLACK: Final = 4
_PARTS: Final = 32
# Bytes of states that may stay mapped before their pages are given back.
_MAPPED: Final = 1 << 24


@dataclass(frozen=True)
class Occurrences:
    """Candidate occurrences in columns [N] on the CPU: token, sort key of the priority, document index, position."""

    token: NDArray[np.int64]
    key: NDArray[np.int64]
    document: NDArray[np.int64]
    position: NDArray[np.int64]

    def take(self, index: NDArray[Any]) -> Occurrences:
        """The occurrences at `index`."""
        return Occurrences(self.token[index], self.key[index], self.document[index], self.position[index])


@dataclass(frozen=True)
class PoolShape:
    """V, the states that a token keeps, D, and the dtype in which states are kept."""

    vocabulary: int
    limit: int
    width: int
    dtype: torch.dtype


class SamplePool:
    """Keeps the `limit` smallest keys of each token, with their states in files.

    In memory stand 24 bytes a row and `threshold` ([V] int64, on the teacher's device): the largest key that a token
    may still accept, so most candidates are refused where they arise. On the disk stand the states kept and at most a
    quarter more. The files are cut by token, so that the sorted sample can be written part by part, each part's file
    going away once it stands there.

    Args:
        journal: where the pool stands, and where it goes on from.
        shape: of the pool.
        hashes: [documents] uint64, the documents' hashes, by which ties of priority go.
        device: of the teacher.
    """

    def __init__(self, journal: Journal, shape: PoolShape, hashes: NDArray[np.uint64], device: torch.device) -> None:
        self._journal, self._shape, self._hashes = journal, shape, hashes
        # Tokens with low ids are the frequent ones in most vocabularies: their parts are narrower.
        self._starts = np.unique(np.arange(_PARTS + 1) ** 2 * shape.vocabulary // _PARTS**2)
        parts = len(self._starts) - 1
        self._done = journal.progress.parts or 0
        paths = [journal.folder / f"states-{part}" for part in range(parts)]
        if not journal.progress.columns:
            for path in paths:
                path.unlink(missing_ok=True)
        self._files = [RowFile(path, shape.width, shape.dtype) for path in paths]
        self._fresh: list[NDArray[Any]] = []
        self._recorded = self._mapped = 0
        self.threshold = torch.full((shape.vocabulary,), torch.iinfo(torch.int64).max, device=device)
        self._settle_on(journal.rows())

    def _settle_on(self, rows: NDArray[Any]) -> None:
        """Take these rows for all there are; every other slot becomes free."""
        self._rows, self._fresh, self._recorded = rows, [], 0
        part = self._part(rows["token"])
        for number, file in enumerate(self._files):
            if number >= self._done:
                file.keep_only(rows["slot"][part == number])
        self._counts = np.bincount(rows["token"], minlength=self._shape.vocabulary)
        self._lower_thresholds()

    def _part(self, token: NDArray[Any]) -> NDArray[np.int64]:
        return np.asarray(np.searchsorted(self._starts, token, side="right") - 1, dtype=np.int64)

    def add(self, found: Occurrences, states: Tensor) -> None:
        """Take candidates in; `states` is [N, D] on any device."""
        states = states.to(device="cpu", dtype=self._shape.dtype)
        part = self._part(found.token)
        order = np.argsort(part, kind="stable")
        cuts = np.searchsorted(part[order], np.arange(len(self._files) + 1))
        rows = np.empty(len(order), dtype=ROW)
        for name in ("token", "key", "document", "position"):
            rows[name] = getattr(found, name)[order]
        states = states.index_select(0, torch.from_numpy(order))
        for number in np.flatnonzero(np.diff(cuts)):
            here = slice(int(cuts[number]), int(cuts[number + 1]))
            rows["slot"][here] = self._files[number].write(states[here])
        self._fresh.append(rows)
        np.add.at(self._counts, found.token, 1)
        self._mapped += states.nbytes
        if self._mapped > _MAPPED:
            self._release()

    def settle(self, windows: int) -> None:
        """The end of a batch: drop what is superfluous where there is much of it; leave a record where it is time.

        Args:
            windows: how many windows are in the pool.
        """
        kept = int(np.minimum(self._counts, self._shape.limit).sum())
        if int(self._counts.sum()) - kept > max(_BLOCK, kept // _SLACK):
            self._compact(windows)
        elif self._journal.due:
            self._sync()
            self._journal.append(self._joined(self._fresh[self._recorded :]), windows)
            self._recorded = len(self._fresh)

    def _release(self) -> None:
        for file in self._files:
            file.release()
        self._mapped = 0

    def _sync(self) -> None:
        if self._journal.durable:
            for file in self._files[self._done :]:
                file.sync()
        self._release()

    def _joined(self, pieces: list[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype=ROW), *pieces])

    def _compact(self, windows: int) -> None:
        rows = self._joined([self._rows, *self._fresh])
        order = keep_smallest(
            rows["token"], rows["key"], self._hashes[rows["document"]], rows["position"], self._shape.limit
        )
        rows = rows[order]
        self._sync()
        # The record first: until it stands, the one before it may be needed, and with it the slots that fall free.
        self._journal.rewrite(rows, windows)
        self._settle_on(rows)

    def _lower_thresholds(self) -> None:
        full = self._counts >= self._shape.limit
        if not full.any():
            return
        # Rows just compacted are sorted by (token, key); those of a record may not be, and wait for a compaction.
        token, key = self._rows["token"], self._rows["key"]
        largest = np.full(len(full), np.iinfo(np.int64).min)
        np.maximum.at(largest, token, key)
        device = self.threshold.device
        self.threshold[torch.from_numpy(full).to(device)] = torch.from_numpy(largest[full]).to(device)

    def finish(self, windows: int) -> NDArray[Any]:
        """[N] of `ROW`: what is kept, sorted by (token, key, document hash, position). The states stay for `parts`."""
        if self._journal.progress.parts is None:
            self._compact(windows)
            self._journal.parts_done(0)
        return self._rows

    def parts(self) -> Iterator[tuple[int, Iterator[Tensor]]]:
        """After `finish`: the states part by part, in the order of the rows; parts that were taken before are left out.

        Yields:
            The first row of the part, and its states in pieces [n, D]. When the next part is asked for, the one before
            must be on the disk: it is recorded as done, and its file is deleted.
        """
        cuts = np.searchsorted(self._rows["token"], self._starts)
        for number, file in enumerate(self._files):
            if number >= self._done:
                yield int(cuts[number]), self._pieces(file, self._rows["slot"][cuts[number] : cuts[number + 1]])
                self._journal.parts_done(number + 1)
            file.path.unlink(missing_ok=True)

    def _pieces(self, file: RowFile, slots: NDArray[Any]) -> Iterator[Tensor]:
        step = max(1, _MAPPED // (self._shape.width * self._shape.dtype.itemsize))
        for start in range(0, len(slots), step):
            yield file.read(slots[start : start + step].astype(np.int64))
