"""The demo's tokenizer and teacher: an ordinary Hugging Face folder, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensekd.demo.teacher import train_teacher, train_tokenizer
from sensekd.demo.world import build_world, write_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    write_world(build_world(seed=0, documents=400, heldout=5), path)
    return path


def test_tokenizer_round_trip_and_prefix() -> None:
    tokenizer = train_tokenizer(["The bank paid the cook.", "The cook saw the bank."] * 20, 300)
    ids = tokenizer("The bank paid the cook.")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "The bank paid the cook."
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    # Bytes that no text had are spelled all the same.
    assert tokenizer.decode(tokenizer("Käse ☃")["input_ids"], skip_special_tokens=True) == "Käse ☃"


def test_the_same_seed_gives_the_same_teacher(folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    steps: list[tuple[int, int]] = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_teacher(
            folder / "train.jsonl",
            tmp_path / name,
            seed=seed,
            steps=3,
            progress=lambda done, total: steps.append((done, total)),
        )
    assert steps == [(1, 3), (2, 3), (3, 3)] * 3
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert model.config.vocab_size == len(tokenizer)
    ids = tokenizer("The cook saw the bank.", return_tensors="pt")["input_ids"]
    assert ids[0, 0] == model.config.bos_token_id
    with torch.no_grad():
        assert torch.isfinite(model(ids).logits).all()
