"""A real model and real text: the figures that are known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sensekd.config import CorpusConfig, SensesConfig
from sensekd.corpus import TokenDocuments, tokenise
from sensekd.provenance import TeacherIdentity, tokenizer_fingerprint, weights_fingerprint
from sensekd.senses.capture import capture
from sensekd.senses.cluster import cluster
from sensekd.senses.reading import describe, render
from sensekd.senses.sample import StateSample

pytestmark = pytest.mark.data
CONFIG = SensesConfig(assignment="predicted", window=128, batch_size=8)


@pytest.fixture(scope="module")
def stories(data_dir: Path) -> tuple[Any, Any, TeacherIdentity]:
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    folder = data_dir / "models" / "stories3m"
    teacher = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    weights = weights_fingerprint(str(folder))
    return teacher, tokenizer, TeacherIdentity("stories3m", weights, tokenizer_fingerprint(tokenizer), 192, 4096)


@pytest.fixture(scope="module")
def documents(data_dir: Path, stories: Any, tmp_path_factory: pytest.TempPathFactory) -> TokenDocuments:
    path = data_dir / "corpora" / "tinystories" / "tinystories_val_decoded.txt"
    config = CorpusConfig(path=str(path), format="text", separator="<|endoftext|>", max_documents=80)
    return tokenise(config, stories[1], tmp_path_factory.mktemp("stories") / "tokens")


@pytest.fixture(scope="module")
def sample(stories: Any, documents: TokenDocuments) -> StateSample:
    return capture(stories[0], documents, CONFIG, stories[2])


def test_sigma2_and_variance_are_the_known_ones(sample: StateSample) -> None:
    dictionary = cluster(sample, CONFIG)
    assert dictionary.sigma2 == pytest.approx(27, rel=0.15)
    assert float(sample.states.var(0).mean()) == pytest.approx(42, rel=0.15)
    # Senses are tighter than their tokens.
    spread = float((dictionary.spread * dictionary.support).sum() / dictionary.support.sum())
    assert spread < 0.9 * dictionary.sigma2


def test_states_of_the_sample_predict_their_token(stories: Any, sample: StateSample) -> None:
    filed = np.repeat(sample.tokens, sample.counts)
    with torch.no_grad():
        logits = stories[0].get_output_embeddings()(sample.states[::50])
    assert logits.argmax(-1).tolist() == filed[::50].tolist()


def test_a_word_can_be_read(stories: Any, sample: StateSample) -> None:
    readings = describe(cluster(sample, CONFIG), stories[1], "happy")
    assert readings[0].text == " happy"
    assert any("very" in context or "so" in context for reading in readings for context in reading.contexts)
    assert render(readings).startswith("' happy' (token ")
