"""The sample against a naive reference, and its independence of order, shards and repetitions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from senses_fakes import FakeTeacher, content_hash, corpus, identity, random_documents, settings

from sensekd.errors import InputError, SenseKDError
from sensekd.senses.capture import capture, window_states
from sensekd.senses.journal import Journal
from sensekd.senses.pool import Occurrences, PoolShape, SamplePool
from sensekd.senses.sample import StateSample, hash_pair, keep_smallest, uniform, unsigned
from sensekd.senses.shards import merge_samples

MASK = (1 << 64) - 1


def mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def priority(seed: int, document: int, position: int) -> int:
    weyl = 0x9E3779B97F4A7C15
    start = mix((seed * 2 + 1) * weyl & MASK)
    value = mix((mix(((document ^ start) + weyl) & MASK) + position * weyl) & MASK)
    return value ^ (1 << 63)


def reference(documents: Sequence[Sequence[int]], window: int, limit: int, seed: int, assignment: str) -> dict:
    """What a reader of the definition would write: every position of every different document, one by one."""
    filed = defaultdict(list)
    for ids in {tuple(ids) for ids in documents}:
        for t in range(len(ids) - 1):
            first = t - t % window
            state = [ids[t], sum(ids[first : t + 1]), t - first, 1]
            predicted, following = min(ids[t] + 1, 11), ids[t + 1]
            token = following if assignment == "next" else predicted
            if assignment == "agree" and predicted != following:
                continue
            context = ([-1] * 24 + list(ids[: t + 1]))[-24:]
            rank = (priority(seed, content_hash(ids), t), content_hash(ids), t)
            filed[token].append((rank, state, context))
    return {token: sorted(rows)[:limit] for token, rows in filed.items()}


def assert_same(sample: StateSample, other: StateSample) -> None:
    for name in ("tokens", "indptr", "priority", "document", "position", "context", "seen"):
        assert getattr(sample, name).tobytes() == getattr(other, name).tobytes(), name
    assert torch.equal(sample.states, other.states)
    assert sample.corpus == other.corpus


@pytest.mark.parametrize("assignment", ["predicted", "next", "agree"])
@pytest.mark.parametrize("seed", [0, 3])
def test_sample_is_the_definition(assignment: str, seed: int) -> None:
    documents = random_documents(seed)
    sample = capture(FakeTeacher(), corpus(documents), settings(assignment=assignment, seed=seed), identity())
    expected = reference(documents, 8, 5, seed, assignment)
    assert sample.tokens.tolist() == sorted(expected)
    for place, token in enumerate(sample.tokens):
        rows = slice(int(sample.indptr[place]), int(sample.indptr[place + 1]))
        wanted = expected[int(token)]
        assert sample.priority[rows].tolist() == [rank[0] for rank, _, _ in wanted]
        assert sample.document[rows].tolist() == [rank[1] for rank, _, _ in wanted]
        assert sample.position[rows].tolist() == [rank[2] for rank, _, _ in wanted]
        assert sample.states[rows].tolist() == [state for _, state, _ in wanted]
        assert sample.context[rows].tolist() == [context for _, _, context in wanted]


def test_order_and_repetition_of_documents_leave_no_trace() -> None:
    documents = random_documents(1)
    shuffled = documents[::-1] + documents[3:9]
    once = capture(FakeTeacher(), corpus(documents), settings(), identity())
    assert_same(once, capture(FakeTeacher(), corpus(shuffled), settings(), identity()))
    assert once.facts["documents"] == len({tuple(ids) for ids in documents})


def test_halves_merge_to_the_whole() -> None:
    documents = random_documents(2)
    whole = capture(FakeTeacher(), corpus(documents), settings(), identity())
    # The halves overlap: what both have seen counts once.
    halves = [capture(FakeTeacher(), corpus(part), settings(), identity()) for part in (documents[:25], documents[15:])]
    assert_same(whole, merge_samples(halves))
    assert_same(whole, merge_samples(halves[::-1]))


def test_merging_refuses_other_settings_and_teachers() -> None:
    documents = corpus(random_documents(2))
    ours = capture(FakeTeacher(), documents, settings(), identity())
    with pytest.raises(InputError, match=r"seed: 0 and 4"):
        merge_samples([ours, capture(FakeTeacher(), documents, settings(seed=4), identity())])
    with pytest.raises(InputError, match=r"weights: weights-a and other"):
        merge_samples([ours, capture(FakeTeacher(), documents, settings(), identity(weights="other"))])
    with pytest.raises(InputError, match="no sample"):
        merge_samples([])


def test_every_forward_has_one_shape_and_the_mode_is_put_back() -> None:
    teacher = FakeTeacher().train()
    seen = []
    capture(
        teacher, corpus(random_documents(4)), settings(), identity(), lambda done, total: seen.append((done, total))
    )
    assert teacher.shapes == {(8, 8)}, "4 x 8 is rounded up to a multiple of 64"
    assert teacher.was_training == {False}
    assert teacher.training
    assert seen[-1][0] == seen[-1][1]


def test_padding_is_never_filed() -> None:
    # One token a document has no position; two have one.
    sample = capture(FakeTeacher(), corpus([[3], [4, 5]]), settings(assignment="next"), identity())
    assert sample.tokens.tolist() == [5]
    assert sample.states.tolist() == [[4, 4, 0, 1]]


@pytest.mark.parametrize(("documents", "assignment"), [([[3], [4]], "predicted"), ([[3, 3, 3]], "agree")])
def test_nothing_to_file_is_refused(documents: list[list[int]], assignment: str) -> None:
    with pytest.raises(InputError, match="position to file"):
        capture(FakeTeacher(), corpus(documents), settings(assignment=assignment), identity())


def test_bad_states_name_the_document() -> None:
    teacher = FakeTeacher()
    teacher.poison = 9
    documents = [[1, 2, 3], [1, 9, 3]]
    with pytest.raises(SenseKDError, match=f"{content_hash(documents[1]):016x}"):
        capture(teacher, corpus(documents), settings(), identity())


def test_overflow_of_the_stored_dtype_is_refused() -> None:
    teacher = FakeTeacher(70000)
    documents = corpus([[60000, 60000, 1]])
    with pytest.raises(SenseKDError, match="overflow in float16"):
        capture(teacher, documents, settings(dtype="float16"), identity(vocabulary=70000))


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="tokenizer-b"):
        capture(FakeTeacher(), corpus([[1, 2]], "tokenizer-b"), settings(), identity())
    with pytest.raises(InputError, match="the id 13"):
        capture(FakeTeacher(), corpus([[1, 13, 2]]), settings(), identity())
    with pytest.raises(InputError, match=r"senses.window is 65"):
        capture(FakeTeacher(), corpus([[1, 2]]), settings(window=65), identity())


@given(
    st.integers(-(1 << 40), 1 << 40),
    st.lists(st.integers(0, MASK), min_size=1, max_size=5),
    st.lists(st.integers(0, 1 << 30), min_size=1, max_size=5),
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_priority_is_the_hash_on_integers(seed: int, documents: list[int], positions: list[int]) -> None:
    hashes = torch.from_numpy(np.asarray(documents, dtype=np.uint64).view(np.int64))
    found = unsigned(hash_pair(seed, hashes[:, None], torch.tensor(positions)[None]))
    assert found.tolist() == [[priority(seed, document, t) for t in positions] for document in documents]


def test_priority_and_uniform_are_uniform() -> None:
    keys = hash_pair(0, torch.tensor([[5], [6]]), torch.arange(50_000))
    values = uniform(keys)
    assert values.min() >= 0
    assert values.max() < 1
    shares = torch.histc(values.flatten().float(), 20, 0, 1) / values.numel()
    assert (shares - 0.05).abs().max() < 0.004
    assert torch.corrcoef(values)[0, 1].abs() < 0.02
    assert len(torch.unique(keys)) == keys.numel()


def test_ties_of_priority_go_by_document_then_position() -> None:
    tokens, priorities = np.zeros(4), np.asarray([5, 5, 5, 4])
    documents, positions = np.asarray([9, 8, 8, 9]), np.asarray([0, 2, 1, 7])
    assert keep_smallest(tokens, priorities, documents, positions, 3).tolist() == [3, 2, 1]
    assert keep_smallest(tokens[:0], priorities[:0], documents[:0], positions[:0], 3).tolist() == []


def filled_pool(folder: Path, tokens: np.ndarray, keys: np.ndarray, states: torch.Tensor) -> tuple[SamplePool, int]:
    """A pool of 5 tokens x 20 that took everything in, and how many candidates its thresholds refused."""
    shape = PoolShape(5, 20, states.shape[1], torch.float32)
    pool = SamplePool(Journal(folder, "k", 0.0), shape, np.zeros(1, dtype=np.uint64), torch.device("cpu"))
    refused = 0
    for start in range(0, len(keys), 30):
        here = np.arange(start, min(start + 30, len(keys)))
        wanted = keys[here] <= pool.threshold[torch.from_numpy(tokens[here])].numpy()
        refused += int((~wanted).sum())
        here = here[wanted]
        pool.add(Occurrences(tokens[here], keys[here], np.zeros_like(here), here), states[torch.from_numpy(here)])
        pool.settle(start)
    return pool, refused


def test_pool_keeps_the_smallest_over_many_compactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensekd.senses.pool._BLOCK", 16)
    monkeypatch.setattr("sensekd.senses.rows._FIRST", 4)
    random = np.random.default_rng(0)
    count, width = 2000, 37
    tokens = random.integers(0, 5, count)
    keys = random.permutation(count) - 1000
    states = torch.from_numpy(random.standard_normal((count, width), dtype=np.float32))
    pool, refused = filled_pool(tmp_path, tokens, keys, states)
    disk = sum(path.stat().st_size for path in tmp_path.glob("states-*"))
    assert disk <= 1.5 * 100 * width * 4 + 30 * width * 4, "half as much again as is kept, and one batch"
    rows = pool.finish(count)
    kept = torch.cat([piece for _, pieces in pool.parts() for piece in pieces])
    expected = np.concatenate([sorted(np.flatnonzero(tokens == v), key=lambda i: keys[i])[:20] for v in range(5)])
    assert rows["position"].tolist() == expected.tolist()
    assert torch.equal(kept, states[torch.from_numpy(expected)])
    assert refused > count / 2
    assert not list(tmp_path.glob("states-*")), "a part that was taken is gone"


def llama(**shape: int) -> object:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 30, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=50, num_key_value_heads=1, max_position_embeddings=64, **{**sizes, **shape})
    )


@pytest.mark.parametrize("window", [7, 24])
def test_real_states_have_equal_bits_in_any_row(window: int) -> None:
    """Shards meet other neighbours and other rows, so the merged sample is the whole only if rows do not matter."""
    teacher = llama()
    documents = random_documents(5, count=60, vocabulary=50)
    config = settings(window=window, batch_size=3, samples_per_token=8)
    who = identity(30, 50)
    whole = capture(teacher, corpus(documents), config, who)
    thirds = [capture(teacher, corpus(documents[part::3]), config, who) for part in range(3)]
    assert_same(whole, merge_samples(thirds))


def test_states_are_those_of_an_ordinary_forward() -> None:
    teacher = llama().eval()
    documents = random_documents(6, count=9, vocabulary=50, longest=20)
    tokens = corpus(documents)
    with torch.no_grad():
        for batch in window_states(teacher, tokens.tokens, tokens.indptr, np.arange(9), 32, 2):
            for number in np.unique(batch.document):
                ids = torch.tensor([documents[number]])
                output = teacher(ids, output_hidden_states=True).hidden_states[-1][0, :-1]
                torch.testing.assert_close(batch.states[torch.from_numpy(batch.document == number)], output)
