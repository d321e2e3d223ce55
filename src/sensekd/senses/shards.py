"""Splitting a capture by document, and putting samples together again: the bytes are those of one capture over all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensekd.artefacts import Manifest, atomic_directory, write_manifest
from sensekd.errors import InputError
from sensekd.senses.rows import gather
from sensekd.senses.sample import REBUILD, StateSample, keep_smallest, sample_facts, sample_manifest
from sensekd.senses.writing import FILE, SampleColumns, SampleFile, states_offset

# Bytes of states that are gathered at once.
_GATHERED: Final = 1 << 24


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` of the documents, 1 <= index <= count, by their hash; so equal documents share one."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `i/n`.

        Raises:
            InputError: not of this form, or i not between 1 and n.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard {text}", "i/n with i from 1 to n, for example 1/4", "number the jobs 1/n to n/n")
        return cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        """For files: `1-of-4`."""
        return f"{self.index}-of-{self.count}"

    def holds(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """[documents] which of the documents belong to this shard."""
        return np.asarray(hashes % np.uint64(self.count) == self.index - 1, dtype=np.bool_)


WHOLE: Final = Shard()


def _refuse_mixture(samples: Sequence[StateSample]) -> None:
    first = samples[0]
    for other in samples[1:]:
        sides = [
            (first.identity.compared(), other.identity.compared(), "the same teacher"),
            (dict(first.settings), dict(other.settings), "the same settings"),
        ]
        for ours, theirs, expected in sides:
            keys = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
            if keys:
                raise InputError(
                    "; ".join(f"{key}: {ours.get(key)} and {theirs.get(key)}" for key in keys),
                    f"samples of {expected}",
                    f"build all of them alike: {REBUILD}",
                )


def _together(values: Sequence[Any]) -> Any:
    """One value where all are equal; else all of them, listed."""
    different = sorted({value for value in values if value is not None}, key=str)
    return different[0] if len(different) == 1 else "; ".join(str(value) for value in different) or None


@dataclass(frozen=True)
class Union:
    """What several samples are together, as places in them.

    Attributes:
        samples: the samples.
        columns: the bookkeeping of the union; N rows.
        kept: [N] places in the samples, one after the other.
    """

    samples: Sequence[StateSample]
    columns: SampleColumns
    kept: NDArray[np.int64]

    @classmethod
    def of(cls, samples: Sequence[StateSample]) -> Union:
        """The union, cut to the smallest priorities of each token.

        Raises:
            InputError: no sample, or samples of different teachers or settings.
        """
        if not samples:
            raise InputError("no sample to merge", "at least one", None)
        _refuse_mixture(samples)

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(sample, name) for sample in samples])

        filed = np.concatenate([np.repeat(sample.tokens, sample.counts) for sample in samples])
        priority, document, position = joined("priority"), joined("document"), joined("position")
        kept = keep_smallest(filed, priority, document, position, int(samples[0].settings["samples_per_token"]))
        columns = SampleColumns.filed(filed[kept], priority[kept], document[kept], position[kept], joined("seen"))
        return cls(samples, columns, kept)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *map(len, self.samples)])

    def from_sample(self, part: slice) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """For every sample that rows of `part` come from: its number, places in the part, rows in the sample."""
        kept = self.kept[part]
        source = np.searchsorted(self._starts, kept, side="right") - 1
        for number in np.unique(source):
            places = np.flatnonzero(source == number)
            yield int(number), places, kept[places] - self._starts[number]

    def contexts(self, part: slice) -> NDArray[np.int32]:
        """[n, L]."""
        found = np.empty((len(self.kept[part]), self.samples[0].context.shape[1]), dtype=np.int32)
        for number, places, rows in self.from_sample(part):
            found[places] = self.samples[number].context[rows]
        return found

    def states(self, part: slice, read: Callable[[int, NDArray[np.int64]], Tensor]) -> Tensor:
        """[n, D]; `read` gives rows of one of the samples."""
        like = self.samples[0].states
        found = torch.empty(len(self.kept[part]), like.shape[1], dtype=like.dtype)
        for number, places, rows in self.from_sample(part):
            found[torch.from_numpy(places)] = read(number, rows)
        return found

    @property
    def facts(self) -> dict[str, Any]:
        """Counts of the union; devices and thread counts of all."""
        devices = _together([sample.facts.get("device") for sample in self.samples])
        return sample_facts(self.columns, devices, _together([sample.facts.get("threads") for sample in self.samples]))


def merge_samples(samples: Sequence[StateSample]) -> StateSample:
    """The sample of all documents together, in memory; `merge_into` is for samples of any size.

    Raises:
        InputError: no sample, or samples of different teachers or settings.
    """
    union = Union.of(samples)
    everything = slice(None)
    return StateSample(
        **union.columns.__dict__,
        states=union.states(everything, lambda number, rows: samples[number].states[torch.from_numpy(rows)]),
        context=union.contexts(everything),
        identity=samples[0].identity,
        settings=samples[0].settings,
        facts=union.facts,
    )


def merge_into(folder: Path, sources: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Write the sample of all documents of several samples together; the states pass through memory in pieces.

    Args:
        folder: of the new sample; may be one of the sources.
        sources: folders of samples.
        progress: called with (rows written, rows in all).

    Raises:
        InputError: not samples, or samples of different teachers or settings.
    """
    union = Union.of([StateSample.load(source) for source in sources])
    like = union.samples[0].states
    files = [source / FILE for source in sources]
    offsets = [states_offset(file) for file in files]

    def read(number: int, rows: NDArray[np.int64]) -> Tensor:
        shape = (len(union.samples[number]), like.shape[1])
        return gather(files[number], offsets[number], shape, like.dtype, rows)

    rows = len(union.columns)
    step = max(1, _GATHERED // (like.shape[1] * like.element_size()))
    with atomic_directory(folder) as temporary:
        file = SampleFile(temporary / FILE, union.columns, union.contexts, like.dtype, like.shape[1])
        with file:
            for start in range(0, rows, step):
                file.append(union.states(slice(start, start + step), read))
                if progress is not None:
                    progress(min(start + step, rows), rows)
        first = union.samples[0]
        return write_manifest(
            temporary, sample_manifest(union.columns.seen, first.identity, first.settings, union.facts)
        )
