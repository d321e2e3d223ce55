"""Rows on the host against rows on the device: the same numbers to the bit, and only a batch's own rows are read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sensekd.senses.residence import HostRows, RowGatherer, device_limit
from sensekd.senses.store import DTYPES, StoredRows
from sensekd.targets import SenseTable, SenseTargets, build_table, compose_spans, select

VOCABULARY, WIDTH = 40, 33


@dataclass
class _Dictionary:
    indptr: Tensor
    centroids: Tensor
    scale: Tensor | None = None
    sigma2: float = 2.0


@dataclass
class _Relations:
    synonym_indptr: Tensor
    synonym_spans: Tensor
    antonym_indptr: Tensor
    antonym_spans: Tensor
    span_indptr: Tensor
    span_pieces: Tensor


def _lists(counts: Tensor, values: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    ids = torch.randint(values, (int(counts.sum()),), generator=generator)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)), ids


def world(seed: int, store: str = "float32") -> tuple[_Dictionary, _Relations]:
    """Tokens with 0 to 5 senses, related to spans of one to three tokens."""
    generator = torch.Generator().manual_seed(seed)
    senses = torch.randint(6, (VOCABULARY,), generator=generator)
    indptr = torch.nn.functional.pad(senses.cumsum(0), (1, 0))
    rows = StoredRows(torch.randn(int(senses.sum()), WIDTH, generator=generator)).stored(store)
    length = torch.arange(30) // 10 + 1
    spans, pieces = _lists(length, VOCABULARY, generator)
    related = [torch.randint(4, (VOCABULARY,), generator=generator) for _ in range(2)]
    synonyms, antonyms = (_lists(counts, 30, generator) for counts in related)
    return _Dictionary(indptr, rows.values, rows.scale), _Relations(*synonyms, *antonyms, spans, pieces)


def batch(seed: int, count: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (some of them not supervised), whole words, teacher states."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(VOCABULARY, (count,), generator=generator)
    labels[torch.rand(count, generator=generator) < 0.1] = -100
    return labels, torch.rand(count, generator=generator) < 0.7, torch.randn(count, WIDTH, generator=generator)


def tables(seed: int, store: str = "float32", **switches: bool) -> tuple[SenseTable, SenseTable]:
    dictionary, relations = world(seed, store)
    kinds = [build_table(dictionary, relations, limit=limit, **switches) for limit in (None, 0)]  # type: ignore[arg-type]
    return kinds[0], kinds[1]


def assert_equal(ours: SenseTargets, theirs: SenseTargets) -> None:
    for name in ("pull_at", "pull_mean", "pull_spread", "push_at", "push_mask", "own_nearest"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other), name
    # What a masked place holds is nobody's business.
    assert torch.equal(ours.push_rows[ours.push_mask], theirs.push_rows[theirs.push_mask])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    store=st.sampled_from(list(DTYPES)),
    kappa=st.integers(1, 6),
    own=st.booleans(),
    switches=st.fixed_dictionaries({"synonyms": st.booleans(), "antonyms": st.booleans()}),
    early=st.booleans(),
)
def test_host_equals_device(
    seed: int, store: str, kappa: int, own: bool, switches: dict[str, bool], early: bool
) -> None:
    device, host = tables(seed, store, **switches)
    assert host.rows.shape == (0, WIDTH)
    assert host.host is not None
    assert device.host is None
    assert torch.equal(device.norms, host.norms)
    assert device.dropped_spans == host.dropped_spans
    assert torch.equal(torch.cat([*host.row_blocks()]), device.rows)
    assert torch.equal(torch.cat([*device.row_blocks()]), device.rows)
    for number in range(3):
        labels, whole, states = batch(seed + number)
        for table in (device, host):
            if early:
                table.prefetch(labels, whole, own=own)
        ours = select(host, labels, whole, states, kappa, own=own)
        assert_equal(ours, select(device, labels, whole, states, kappa, own=own))
    assert (host.host.early, host.host.late) == ((3, 0) if early else (0, 3))


def test_a_batch_without_any_sense_is_empty_on_the_host_too() -> None:
    device, host = tables(0)
    labels = torch.full((4,), -100)
    for table in (device, host):
        found = select(table, labels, torch.ones(4, dtype=torch.bool), torch.zeros(4, WIDTH), 3, own=True)
        assert len(found.pull_at) == len(found.push_at) == 0
        assert found.own_nearest is not None
        assert found.own_nearest.shape == (0, WIDTH)


def test_the_limit_decides() -> None:
    dictionary, relations = world(0)
    size = build_table(dictionary, relations).rows.numel() * 4  # type: ignore[arg-type]
    for limit, stays in ((size, False), (size - 1, True)):
        table = build_table(dictionary, relations, limit=limit)  # type: ignore[arg-type]
        assert (table.host is not None) == stays
    assert device_limit("cpu") > 1 << 20


class _Watched(StoredRows):
    """Notes which rows were asked for."""

    asked: list[Tensor]

    def take(self, ids: Tensor, device: torch.device | str | None = None) -> Tensor:
        self.asked.append(ids)
        return super().take(ids, device)


def test_only_the_rows_of_the_batch_are_read_and_each_once() -> None:
    _, host = tables(3)
    assert host.host is not None
    watched = [_Watched(part.values, part.scale) for part in host.host.rows.parts]
    for part in watched:
        object.__setattr__(part, "asked", [])
    watching = replace(host, host=RowGatherer(HostRows(tuple(watched)), torch.device("cpu")))
    labels = torch.tensor([7, 7, 9, -100])
    whole = torch.tensor([True, True, False, True])
    select(watching, labels, whole, torch.randn(4, WIDTH), 2)
    lists = [host.positive.expand(torch.tensor([token]))[1] for token in (7 + VOCABULARY, 9)]
    expected = torch.cat([*lists, host.negative.expand(torch.tensor([7]))[1]]).unique()
    first = len(watched[0])
    assert torch.equal(torch.cat(watched[0].asked), expected[expected < first])
    assert torch.equal(torch.cat([*watched[1].asked, torch.zeros(0).long()]), expected[expected >= first] - first)


@pytest.mark.parametrize("ids", [[], [0], [2], [0, 1, 2, 3], [3, 4], [4]])
def test_rows_of_several_parts_by_hand(ids: list[int]) -> None:
    """Rows 0 and 1 in int8, none, row 2 to 4 in float32."""
    narrow = StoredRows(torch.tensor([[127.0, 0.0], [0.0, -254.0]])).stored("int8")
    rows = HostRows((narrow, StoredRows(torch.zeros(0, 2)), StoredRows(torch.tensor([[2.0, 2], [3, 3], [4, 4]]))))
    whole = torch.tensor([[127.0, 0], [0, -254], [2, 2], [3, 3], [4, 4]])
    assert len(rows) == 5
    assert torch.equal(torch.cat([*rows.blocks()]), whole)
    assert rows.norms().tolist() == [127.0**2, 254.0**2, 8, 18, 32]
    assert torch.equal(rows.take(torch.tensor(ids, dtype=torch.long), "cpu"), whole[ids])


def gatherer(device: str = "cpu") -> RowGatherer:
    return RowGatherer(HostRows((StoredRows(torch.arange(20.0)[:, None]),)), torch.device(device))


def ask(rows: RowGatherer, number: int) -> tuple[Tensor, Tensor]:
    labels, whole = torch.tensor([number]), torch.tensor([True])
    rows.submit(labels, whole, lambda: labels)
    return labels, whole


def never() -> Tensor:
    raise AssertionError("this batch had been asked for")


def test_batches_come_in_their_order_and_older_requests_are_forgotten() -> None:
    rows = gatherer()
    batches = [ask(rows, number) for number in range(5)]
    for number in (0, 1, 3):
        assert rows.collect(*batches[number], never).rows.tolist() == [[number]]
    # 2 was passed over; it is collected anew.
    assert rows.collect(*batches[2], lambda: torch.tensor([2])).rows.tolist() == [[2]]
    assert [request.labels.item() for request in rows.asked] == [4]
    assert (rows.early, rows.late) == (3, 1)


def test_other_labels_are_never_taken_for_those_asked_for() -> None:
    rows = gatherer()
    labels, whole = ask(rows, 5)
    assert rows.collect(labels.clone(), whole, lambda: torch.tensor([5])).rows.tolist() == [[5]]
    assert rows.collect(labels, whole.clone(), lambda: torch.tensor([5])).rows.tolist() == [[5]]
    labels.fill_(6)
    assert rows.collect(labels, whole, lambda: labels).rows.tolist() == [[6]]
    assert (rows.early, rows.late) == (0, 3)


def test_labels_of_inference_are_collected_late() -> None:
    rows = gatherer()
    with torch.inference_mode():
        labels = torch.tensor([4])
        rows.submit(labels, labels, never)
        assert rows.collect(labels, labels, lambda: labels).rows.tolist() == [[4]]
    assert (rows.early, rows.late) == (0, 1)


def test_building_a_table_on_the_host_widens_no_more_than_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    between = StoredRows.between

    def noted(self: StoredRows, start: int, stop: int) -> Tensor:
        asked.append((stop - start) * self.values.shape[1])
        return between(self, start, stop)

    monkeypatch.setattr(StoredRows, "between", noted)
    rows = torch.ones(50_000, 400, dtype=torch.bfloat16)
    table = build_table(_Dictionary(torch.tensor([0, 50_000]), rows), None, limit=0)  # type: ignore[arg-type]
    assert sum(asked) == rows.numel()
    assert max(asked) * 4 <= 1 << 25 < rows.numel() * 4
    assert table.norms.tolist() == [400.0] * 50_000


@pytest.mark.parametrize("store", list(DTYPES))
def test_spans_are_composed_from_any_store(store: str) -> None:
    dictionary, relations = world(1, store)
    stored = StoredRows(dictionary.centroids, dictionary.scale)
    own = build_table(dictionary, None).own  # type: ignore[arg-type]
    arguments = (relations.span_indptr, relations.span_pieces, own)
    ours = compose_spans(*arguments, stored)
    theirs = compose_spans(*arguments, stored.between(0, len(stored)))
    assert len(ours[0]) > 0
    assert torch.equal(ours[0], theirs[0])


class _Event:
    def __init__(self, name: str) -> None:
        self.name = name


class _Stream:
    """Stands for a stream of a device: notes who waits for whom."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def record_event(self) -> _Event:
        return _Event(self.name)

    def wait_event(self, event: _Event) -> None:
        self.log.append(f"{self.name} waits for {event.name}")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The side of the gatherer that is for CUDA, on a CPU: streams that only take notes."""
    log: list[str] = []
    current = threading.local()
    main = _Stream("main", log)

    @contextlib.contextmanager
    def on(stream: _Stream) -> Iterator[None]:
        current.stream = stream
        yield
        del current.stream

    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: getattr(current, "stream", main))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: log.append(f"kept for {stream.name}"))
    return log


def test_the_worker_runs_ahead_by_two_batches_and_streams_wait_for_each_other(streams: list[str]) -> None:
    rows = gatherer()
    rows._worker, rows._stream = ThreadPoolExecutor(1), _Stream("side", streams)  # type: ignore[assignment]
    found: list[int] = []
    batches = []
    for number in range(5):
        labels, whole = torch.tensor([number]), torch.tensor([True])
        rows.submit(labels, whole, lambda labels=labels: found.append(int(labels)) or labels)  # type: ignore[misc, func-returns-value]
        batches.append((labels, whole))
    for number, (labels, whole) in enumerate(batches):
        wait([request.answer for request in rows.asked if request.answer is not None])
        assert found == list(range(min(number + 2, 5)))
        streams.clear()
        assert rows.collect(labels, whole, never).rows.tolist() == [[number]]
        assert streams[:3] == ["main waits for side", "kept for main", "kept for main"]
    assert (rows.early, rows.late) == (5, 0)
    streams.clear()
    rows.submit(*ask(gatherer(), 3), lambda: torch.tensor([3]))
    wait([request.answer for request in rows.asked if request.answer is not None])
    assert streams == ["side waits for main"]


def test_what_goes_wrong_in_the_worker_is_said_where_the_rows_are_wanted(streams: list[str]) -> None:
    rows = gatherer()
    rows._worker, rows._stream = ThreadPoolExecutor(1), _Stream("side", streams)  # type: ignore[assignment]
    labels, whole = torch.tensor([1]), torch.tensor([True])
    rows.submit(labels, whole, never)
    with pytest.raises(AssertionError, match="had been asked for"):
        rows.collect(labels, whole, never)


@pytest.mark.gpu
@pytest.mark.parametrize("store", list(DTYPES))
@pytest.mark.parametrize("early", [False, True])
def test_host_equals_device_on_a_gpu(store: str, early: bool) -> None:
    device, host = (table.to("cuda") for table in tables(5, store))
    assert host.host is not None
    batches = [tuple(tensor.cuda() for tensor in batch(number, 2000)) for number in range(6)]
    if early:
        for labels, whole, _ in batches:
            host.prefetch(labels, whole, own=True)
    for labels, whole, states in batches:
        ours = select(host, labels, whole, states, 3, own=True)
        theirs = select(device, labels, whole, states, 3, own=True)
        assert ours.pull_mean.is_cuda
        assert torch.equal(ours.pull_at, theirs.pull_at)
        assert torch.equal(ours.push_mask, theirs.push_mask)
        torch.testing.assert_close(ours.pull_mean, theirs.pull_mean)
        torch.testing.assert_close(ours.push_rows[ours.push_mask], theirs.push_rows[theirs.push_mask])
    assert (host.host.early, host.host.late) == ((6, 0) if early else (0, 6))
