"""Selection against a plain-Python reference that follows the definitions word by word, in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sensekd.targets import build_table, compose_spans, nearest, select, targets_of, whole_words

WIDTH = 6


@dataclass
class FakeDictionary:
    indptr: Tensor
    centroids: Tensor
    sigma2: float = 2.0


@dataclass
class FakeRelations:
    synonym_indptr: Tensor
    synonym_spans: Tensor
    antonym_indptr: Tensor
    antonym_spans: Tensor
    span_indptr: Tensor
    span_pieces: Tensor


@dataclass
class World:
    """The same content twice: as tensors, and as plain lists for the reference."""

    counts: list[int]
    spans: list[list[int]]
    synonyms: dict[int, list[int]] = field(default_factory=dict)
    antonyms: dict[int, list[int]] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.centroids = torch.randn(sum(self.counts), WIDTH, generator=generator)
        self.indptr = [0]
        for count in self.counts:
            self.indptr.append(self.indptr[-1] + count)

    def dictionary(self) -> FakeDictionary:
        return FakeDictionary(torch.tensor(self.indptr), self.centroids)

    def relations(self) -> FakeRelations:
        def lists(relation: dict[int, list[int]]) -> tuple[Tensor, Tensor]:
            rows = [relation.get(token, []) for token in range(len(self.counts))]
            return ragged(rows)

        return FakeRelations(*lists(self.synonyms), *lists(self.antonyms), *ragged(self.spans))

    def own(self, token: int) -> list[int]:
        return list(range(self.indptr[token], self.indptr[token + 1]))

    def span_vectors(self) -> list[dict[int, list[float]]]:
        """Row id -> vector for every span, by the definition."""
        next_id, found = len(self.centroids), []
        rows = self.centroids.double().tolist()
        for span in self.spans:
            vectors: dict[int, list[float]] = {}
            if all(self.counts[piece] for piece in span):
                for row in self.own(span[0]):
                    vector = rows[row]
                    for so_far, piece in enumerate(span[1:], start=1):
                        mean = [value / so_far for value in vector]
                        best = min(self.own(piece), key=lambda r: (distance(rows[r], mean), r))
                        vector = [a + b for a, b in zip(vector, rows[best], strict=True)]
                    if len(span) == 1:
                        vectors[row] = vector
                    else:
                        vectors[next_id] = [value / len(span) for value in vector]
                        next_id += 1
            found.append(vectors)
        return found

    def candidates(self, token: int, whole: bool) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
        rows, spans = self.centroids.double().tolist(), self.span_vectors()
        positive = {row: rows[row] for row in self.own(token)}
        negative: dict[int, list[float]] = {}
        if whole:
            for span in self.synonyms.get(token, []):
                positive |= spans[span]
            for span in self.antonyms.get(token, []):
                negative |= spans[span]
        return positive, {row: vector for row, vector in negative.items() if row not in positive}


def ragged(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([0] + [len(row) for row in rows])
    return lengths.cumsum(0), torch.tensor([item for row in rows for item in row], dtype=torch.long)


def distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def kept(rows: dict[int, list[float]], state: list[float], kappa: int) -> list[list[float]]:
    order = sorted(rows, key=lambda row: (distance(rows[row], state), row))[:kappa]
    return [rows[row] for row in order]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    vocabulary = draw(st.integers(3, 8))
    counts = draw(st.lists(st.integers(0, 4), min_size=vocabulary, max_size=vocabulary))
    token = st.integers(0, vocabulary - 1)
    spans = draw(st.lists(st.lists(token, min_size=1, max_size=3), min_size=1, max_size=6, unique_by=tuple))
    spans.sort(key=lambda span: (len(span), span))
    related = st.dictionaries(token, st.lists(st.integers(0, len(spans) - 1), unique=True, max_size=4), max_size=4)
    return World(counts, spans, draw(related), draw(related), draw(st.integers(0, 1000)))


@settings(max_examples=60, deadline=None)
@given(world=worlds(), kappa=st.integers(1, 4), seed=st.integers(0, 99))
def test_selection_equals_the_definition(world: World, kappa: int, seed: int) -> None:
    table = build_table(world.dictionary(), world.relations())  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    count = 12
    labels = torch.randint(-1, len(world.counts), (count,), generator=generator)
    labels[labels == -1] = -100
    whole = torch.rand(count, generator=generator) < 0.6
    states = torch.randn(count, WIDTH, generator=generator)
    targets = select(table, labels, whole, states, kappa, own=True)

    pull, push = {}, {}
    for position, label in enumerate(labels.tolist()):
        if label == -100:
            continue
        positive, negative = world.candidates(label, bool(whole[position]))
        state = states[position].double().tolist()
        if positive:
            pull[position] = torch.tensor(kept(positive, state, kappa), dtype=torch.float64)
        own = {row: positive[row] for row in world.own(label)}
        if negative and own:
            push[position] = (torch.tensor(kept(negative, state, kappa)), torch.tensor(kept(own, state, 1)[0]))

    assert targets.pull_at.tolist() == sorted(pull)
    for index, position in enumerate(targets.pull_at.tolist()):
        mean = pull[position].mean(0)
        spread = (pull[position] - mean).square().mean()
        torch.testing.assert_close(targets.pull_mean[index].double(), mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(targets.pull_spread[index].double(), spread, atol=1e-5, rtol=1e-4)
    assert targets.push_at.tolist() == sorted(push)
    assert targets.own_nearest is not None
    for index, position in enumerate(targets.push_at.tolist()):
        rows, own_row = push[position]
        torch.testing.assert_close(targets.push_rows[index][targets.push_mask[index]], rows, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(targets.own_nearest[index], own_row, atol=1e-5, rtol=1e-5)
    assert targets.pull_at.tolist() == table.pulled(labels, whole).nonzero()[:, 0].tolist()


def test_a_span_without_senses_for_a_piece_is_dropped_and_counted() -> None:
    world = World([2, 0, 1], [[0], [0, 1], [0, 2]], synonyms={2: [1, 2]})
    table = build_table(world.dictionary(), world.relations())  # type: ignore[arg-type]
    assert table.dropped_spans == 1
    assert len(table.rows) == 3 + 2
    assert table.positive.counts.tolist() == [2, 0, 1, 2, 0, 3]


def test_composition_of_two_pieces_by_hand() -> None:
    centroids = torch.tensor([[0.0, 0.0], [10.0, 0.0], [1.0, 1.0], [9.0, 1.0]])
    own = build_table(FakeDictionary(torch.tensor([0, 2, 4]), centroids), None).own  # type: ignore[arg-type]
    composed, rows, dropped = compose_spans(torch.tensor([0, 2]), torch.tensor([0, 1]), own, centroids)
    assert composed.tolist() == [[0.5, 0.5], [9.5, 0.5]]
    assert rows.ids.tolist() == [4, 5]
    assert dropped == 0


def test_ties_go_to_the_lower_row_id() -> None:
    distances = torch.tensor([1.0, 0.5, 0.5, 0.5, 2.0])
    ids, mask = nearest(distances, torch.tensor([0, 4, 5]), torch.tensor([3, 5, 7, 9, 4]), 2)
    assert ids.tolist() == [[5, 7], [4, 0]]
    assert mask.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("synonyms", [False, True])
@pytest.mark.parametrize("antonyms", [False, True])
def test_switches(synonyms: bool, antonyms: bool) -> None:
    world = World([1, 1, 1], [[1], [2]], synonyms={0: [0]}, antonyms={0: [1]})
    table = build_table(world.dictionary(), world.relations(), synonyms=synonyms, antonyms=antonyms)  # type: ignore[arg-type]
    whole = torch.tensor([True])
    targets = select(table, torch.tensor([0]), whole, torch.zeros(1, WIDTH), 5)
    expected = world.centroids[:2].mean(0) if synonyms else world.centroids[0]
    torch.testing.assert_close(targets.pull_mean[0], expected)
    assert len(targets.push_at) == int(antonyms)


def test_relations_apply_to_whole_words_alone() -> None:
    # 0 " bank", 1 "er", 2 " is", 3 ".", 4 "bank"
    starts = torch.tensor([False, True, False, False, True])
    ends = torch.tensor([True, True, True, False, True])
    ids = torch.tensor([[2, 0, 1, 0, 3, 4, 2, 0]])
    #   labels:            0  1  0  3  4  2  0
    assert whole_words(ids, starts, ends).tolist() == [[False, False, True, True, True, True, False]]


@pytest.mark.parametrize("own", [False, True])
def test_kept_row_ids_give_the_same_targets_again(own: bool) -> None:
    world = World([2, 3, 1, 4], [[1], [2], [1, 3]], synonyms={0: [0, 2]}, antonyms={0: [1], 3: [2]})
    table = build_table(world.dictionary(), world.relations())  # type: ignore[arg-type]
    states = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1))
    labels, whole = torch.tensor([0, 3, -100, 1, 0, 3]), torch.tensor([True, True, True, True, False, True])
    first = select(table, labels, whole, states, 2, own=own)
    assert first.kept is not None
    again = targets_of(table, first.kept)
    for name in ("pull_at", "pull_mean", "pull_spread", "push_at", "push_rows", "push_mask", "own_nearest"):
        one, other = getattr(first, name), getattr(again, name)
        assert (one is None and other is None) or torch.equal(one, other)
    torch.testing.assert_close(table.rows[first.kept.pull_ids[3]].mean(0), first.pull_mean[3])
    assert (first.kept.own_ids is not None) == own
