"""However a corpus is split, ordered or added to, sample and dictionary are those of one build, byte for byte."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from senses_fakes import FakeTeacher, corpus, identity, random_documents, sample_of, settings
from transformers import LlamaConfig, LlamaForCausalLM

from sensekd.errors import InputError
from sensekd.senses import update as updating
from sensekd.senses.capture import CapturePlan, capture_into
from sensekd.senses.cluster import cluster
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.sample import StateSample
from sensekd.senses.shards import Shard, merge_into
from sensekd.senses.update import changed_tokens, changes, recluster

CONFIG = settings(samples_per_token=6, k=2, assignment="next")
Documents = list[list[int]]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def llama() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=12, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.5, **shape)
    )


def build(folder: Path, teacher: Any, documents: Documents, plan: CapturePlan | None = None) -> Path:
    """A sample folder."""
    width = teacher.get_input_embeddings().weight.shape[1]
    capture_into(folder, teacher, corpus(documents), CONFIG, identity(width), plan=plan or CapturePlan())
    return folder


def clustered(sample: Path, folder: Path) -> dict[str, bytes]:
    cluster(StateSample.load(sample), CONFIG).save(folder)
    return files(folder)


@st.composite
def splits(draw: st.DrawFn) -> tuple[Documents, list[Documents]]:
    """Documents, and 1 to 3 parts that cover them, in any order and with repetitions."""
    documents = random_documents(draw(st.integers(0, 1000)), count=draw(st.integers(12, 30)), longest=24)
    parts = draw(st.integers(1, 3))
    owner = draw(st.lists(st.integers(0, parts - 1), min_size=len(documents), max_size=len(documents)))
    owner[:parts] = range(parts)
    twice = draw(st.lists(st.integers(0, len(documents) - 1), max_size=5))
    split = [[documents[i] for i in range(len(documents)) if owner[i] == part] for part in range(parts)]
    for index in twice:
        split[index % parts].append(documents[index])
    # A part needs a position of its own.
    return documents, [draw(st.permutations([*part, [1, 2, 3 + n]])) for n, part in enumerate(split)]


@given(splits(), st.booleans())
@hypothesis_settings(max_examples=8, deadline=None)
def test_a_build_of_the_union_is_the_merge_of_the_builds(
    llama: Any, drawn: tuple[Documents, list[Documents]], real: bool
) -> None:
    documents, parts = drawn
    teacher = llama if real else FakeTeacher()
    union = [ids for part in parts for ids in part]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = build(folder / "whole", teacher, [*documents, *union][::-1])
        pieces = [build(folder / str(n), teacher, part) for n, part in enumerate(parts)]
        merge_into(folder / "merged", pieces)
        merge_into(folder / "reversed", pieces[::-1])
        shards = [
            build(folder / f"s{n}", teacher, union, CapturePlan(shard=Shard(n, len(parts) + 1)))
            for n in range(1, len(parts) + 2)
        ]
        merge_into(folder / "shards", shards)
        for other in ("merged", "reversed", "shards"):
            assert files(folder / other) == files(whole), other
        StateSample.load(whole).save(folder / "saved")
        assert files(folder / "saved") == files(whole)
        assert clustered(whole, folder / "d") == clustered(folder / "merged", folder / "e")


def test_shards_are_disjoint_and_small_pieces_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensekd.senses.shards._GATHERED", 48)
    monkeypatch.setattr("sensekd.senses.writing.PIECE", 3)
    documents = random_documents(3)
    shards = [build(tmp_path / f"{n}", FakeTeacher(), documents, CapturePlan(shard=Shard(n, 3))) for n in (1, 2, 3)]
    seen = [set(StateSample.load(shard).seen.tolist()) for shard in shards]
    assert sum(map(len, seen)) == len(set.union(*seen)) == len({tuple(ids) for ids in documents})
    done: list[tuple[int, int]] = []
    merge_into(tmp_path / "merged", shards, lambda *at: done.append(at))
    assert done[-1][0] == done[-1][1]
    assert files(tmp_path / "merged") == files(build(tmp_path / "whole", FakeTeacher(), documents))


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    documents = [[1, 2, 3, 4, 5]]
    pieces = [build(tmp_path / f"{n}", FakeTeacher(), documents, CapturePlan(shard=Shard(n, 2))) for n in (1, 2)]
    assert sorted(len(StateSample.load(piece)) for piece in pieces) == [0, 4]
    merge_into(tmp_path / "merged", pieces)
    assert files(tmp_path / "merged") == files(build(tmp_path / "whole", FakeTeacher(), documents))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="i/n"):
        Shard.parse(text)


def test_samples_of_another_dtype_are_refused_by_name(tmp_path: Path) -> None:
    documents = random_documents(1)
    ours = build(tmp_path / "a", FakeTeacher(), documents)
    half = FakeTeacher()
    half.embeddings.to(torch.bfloat16)
    theirs = build(tmp_path / "b", half, documents)
    with pytest.raises(InputError, match="dtype: float32 and bfloat16"):
        merge_into(tmp_path / "merged", [ours, theirs])
    assert not (tmp_path / "merged").exists()
    who = StateSample.load(ours).identity
    assert SenseDictionary.load(_dictionary(ours, tmp_path / "d"), replace(who, dtype=None)).identity == who
    with pytest.raises(InputError, match="bfloat16"):
        SenseDictionary.load(tmp_path / "d", replace(who, dtype="bfloat16"))


def _dictionary(sample: Path, folder: Path) -> Path:
    clustered(sample, folder)
    return folder


@given(st.integers(0, 1000), st.integers(0, 9), st.booleans())
@hypothesis_settings(max_examples=8, deadline=None)
def test_an_update_is_a_build_of_the_union(llama: Any, seed: int, few: int, real: bool) -> None:
    """The new documents hold some tokens only, so that others keep their rows."""
    teacher = llama if real else FakeTeacher()
    known = random_documents(seed, count=20, longest=30)
    random = np.random.default_rng(seed)
    added = [random.integers(few, few + 2, 9).tolist() for _ in range(4)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old, whole = build(folder / "old", teacher, known), build(folder / "whole", teacher, [*added, *known])
        before = StateSample.load(old)
        fresh = build(folder / "new", teacher, [*known[:5], *added], CapturePlan(known=before.seen))
        assert len(StateSample.load(fresh).seen) == len({tuple(ids) for ids in added})
        merge_into(folder / "merged", [old, fresh])
        sample = StateSample.load(folder / "merged")
        changed = changed_tokens(before, sample)
        assert set(sample.tokens[changed].tolist()) <= {few, few + 1}
        recluster(cluster(before, CONFIG), sample, changed, CONFIG).save(folder / "d")
        assert files(folder / "d") == clustered(whole, folder / "e")


def test_only_changed_tokens_are_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {token: torch.randn(30, 5, generator=torch.Generator().manual_seed(token)) for token in range(8)}
    before = sample_of({token: states[token] for token in (0, 2, 3, 7)})
    after = sample_of(states)
    # Rows of the tokens that both have must be the same occurrences.
    position = np.concatenate([np.arange(30, dtype=np.int32) + 100 * token for token in range(8)])
    after = replace(after, position=position, context=np.repeat(position[:, None], 24, axis=1))
    kept = np.concatenate([position[:30], position[60:120], position[210:]])
    before = replace(before, position=kept, context=np.repeat(kept[:, None], 24, axis=1))
    changed = changed_tokens(before, after)
    assert after.tokens[changed].tolist() == [1, 4, 5, 6]
    position = position.copy()
    position[65] = 9
    assert after.tokens[changed_tokens(before, replace(after, position=position))].tolist() == [1, 2, 4, 5, 6]

    old, whole = cluster(before, CONFIG), cluster(after, CONFIG)
    seen: list[list[int]] = []
    real = updating.cluster
    monkeypatch.setattr(updating, "cluster", lambda part, *rest: seen.append(part.tokens.tolist()) or real(part, *rest))
    new = recluster(old, after, changed, CONFIG)
    assert seen == [[1, 4, 5, 6]]
    for name in ("indptr", "centroids", "support", "spread", "context"):
        assert torch.equal(getattr(new, name), getattr(whole, name)), name
    assert (new.sigma2, new.facts, new.corpus) == (whole.sigma2, whole.facts, whole.corpus)


def dictionary_of(rows: dict[int, list[list[float]]], sigma2: float = 2.0) -> SenseDictionary:
    counts = torch.tensor([len(rows.get(token, [])) for token in range(12)])
    total = int(counts.sum())
    return SenseDictionary(
        indptr=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        centroids=torch.tensor([row for token in sorted(rows) for row in rows[token]]).reshape(total, 2),
        support=torch.ones(total, dtype=torch.int32),
        spread=torch.zeros(total),
        context=torch.full((total, 3, 24), -1, dtype=torch.int32),
        sigma2=sigma2,
        identity=identity(2),
        corpus="c",
        settings={},
    )


def test_what_became_of_the_senses() -> None:
    """σ² = 2 and D = 2, so the squared distance in σ² is |a - b|² / 4."""
    old = dictionary_of({1: [[0, 0], [10, 0]], 2: [[0, 0]], 3: [[0, 0], [9, 9]], 5: [[1, 1]]})
    new = dictionary_of(
        {
            1: [[0, 0.1], [11, 0], [1.5, 0], [40, 0]],  # Still; moved by 1/4; split from the first; new.
            2: [[0, 0]],
            3: [[2.5, 0]],  # 25/16 of σ² away: another sense, and both old ones retire.
            4: [[7, 7]],
        }
    )
    found = {change.token: change.as_dict() for change in changes(old, new)}
    assert set(found) == {1, 3, 4, 5}
    assert found[1] == {
        "token": 1,
        "first": False,
        "new": [3],
        "moved": [[1, 1, 0.25]],
        "split": [[0, 2]],
        "retired": [],
    }
    assert found[3] == {"token": 3, "first": False, "new": [0], "moved": [], "split": [], "retired": [0, 1]}
    assert found[4] == {"token": 4, "first": True, "new": [0], "moved": [], "split": [], "retired": []}
    assert found[5]["retired"] == [0]
    assert changes(new, new) == []
