"""Sample and dictionary on disk: what is written is what is read, and another teacher is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from senses_fakes import FakeTeacher, corpus, identity, random_documents, settings

from sensekd.errors import InputError
from sensekd.senses.capture import capture
from sensekd.senses.cluster import cluster
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.sample import StateSample


@pytest.fixture(scope="module")
def sample() -> StateSample:
    return capture(FakeTeacher(), corpus(random_documents(0)), settings(), identity())


@pytest.fixture(scope="module")
def dictionary(sample: StateSample) -> SenseDictionary:
    return cluster(sample, settings(k=3))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_sample_comes_back(dtype: str, tmp_path: Path) -> None:
    ours = capture(FakeTeacher(), corpus(random_documents(0)), settings(dtype=dtype), identity())
    manifest = ours.save(tmp_path / "sample")
    theirs = StateSample.load(tmp_path / "sample", identity())
    for name in ("tokens", "indptr", "priority", "document", "position", "context", "seen"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert torch.equal(ours.states, theirs.states)
    assert theirs.states.dtype == getattr(torch, dtype)
    assert (theirs.identity, theirs.settings, theirs.facts) == (ours.identity, ours.settings, ours.facts)
    assert manifest.made_from["corpus"] == ours.corpus


def test_dictionary_comes_back(dictionary: SenseDictionary, tmp_path: Path) -> None:
    dictionary.save(tmp_path / "senses")
    other = SenseDictionary.load(tmp_path / "senses", identity())
    for name in ("indptr", "centroids", "support", "spread", "context"):
        assert torch.equal(getattr(dictionary, name), getattr(other, name))
    for name in ("sigma2", "identity", "corpus", "settings", "facts"):
        assert getattr(dictionary, name) == getattr(other, name)
    assert len(other) == int(other.indptr[-1])


def test_equal_builds_write_equal_bytes(sample: StateSample, tmp_path: Path) -> None:
    first = cluster(sample, settings(k=3)).save(tmp_path / "a")
    second = cluster(sample, settings(k=3)).save(tmp_path / "b")
    other = cluster(sample, settings(k=3, seed=1)).save(tmp_path / "c")
    assert first.files == second.files
    assert first.id == second.id != other.id
    sample.save(tmp_path / "from disk")
    assert cluster(StateSample.load(tmp_path / "from disk"), settings(k=3)).save(tmp_path / "d").id == first.id


@pytest.mark.parametrize("kind", ["sample", "senses"])
def test_another_teacher_is_refused(
    kind: str, sample: StateSample, dictionary: SenseDictionary, tmp_path: Path
) -> None:
    artefact = sample if kind == "sample" else dictionary
    artefact.save(tmp_path / kind)
    with pytest.raises(InputError) as caught:
        type(artefact).load(tmp_path / kind, identity(weights="weights-b"))
    for part in ("weights-a", "weights-b", "sensekd senses build RECIPE"):
        assert part in str(caught.value)


def test_a_sample_is_no_dictionary(sample: StateSample, tmp_path: Path) -> None:
    sample.save(tmp_path / "sample")
    with pytest.raises(InputError, match="holds 'sample'"):
        SenseDictionary.load(tmp_path / "sample")
    with pytest.raises(InputError, match="no senses artefact"):
        SenseDictionary.load(tmp_path / "nowhere")


def test_a_dictionary_cut_short_is_refused(dictionary: SenseDictionary, tmp_path: Path) -> None:
    dictionary.save(tmp_path / "senses")
    file = tmp_path / "senses" / "senses.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match="bytes"):
        SenseDictionary.load(tmp_path / "senses")


def test_rows_outside_the_vocabulary_are_refused(dictionary: SenseDictionary) -> None:
    assert dictionary.vocabulary == 12
    for token in (-1, 12):
        with pytest.raises(InputError, match=f"token id {token}"):
            dictionary.rows(token)


def test_senses_partition_the_sample(sample: StateSample, dictionary: SenseDictionary) -> None:
    for token, count in zip(sample.tokens, sample.counts, strict=True):
        start, stop = dictionary.span(int(token))
        support = dictionary.support[start:stop].tolist()
        assert sum(support) == count
        assert support == sorted(support, reverse=True)
    assert int(dictionary.support.sum()) == len(sample)
