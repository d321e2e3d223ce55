"""A run that takes seconds: a random LLaMA, a corpus of made-up words, a handful of relations."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(3, 40)]


def write_teacher(folder: Path, seed: int = 0, rows: int = 40) -> None:
    """A LLaMA of four layers with random weights, and one token a word."""
    ids = {"<pad>": 0, "<s>": 1, "</s>": 2} | {word: number for number, word in enumerate(WORDS, start=3)}
    core = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_corpus(path: Path, documents: int, seed: int, words: list[str] = WORDS) -> None:
    """Documents of 20 random words."""
    generator = random.Random(seed)
    texts = (" ".join(generator.choices(words, k=20)) for _ in range(documents))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def write_inputs(folder: Path) -> dict[str, Any]:
    """Everything a recipe needs, under `folder`; the recipe as a tree."""
    write_teacher(folder / "teacher")
    write_corpus(folder / "train.jsonl", 60, 1)
    write_corpus(folder / "heldout.jsonl", 12, 2)
    (folder / "synonyms.tsv").write_text("w3\tw4\nw5\tw6\nw7\tw8\n")
    (folder / "antonyms.tsv").write_text("w3\tw9\nw5\tw10\nw11\tw12\n")
    questions = [{"question": f"w3 w{n}", "choices": ["w5", "w6"], "answer": n % 2} for n in range(10, 16)]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    return {
        "name": "tiny",
        "output": str(folder / "run"),
        "device": "cpu",
        "teacher": {"model": str(folder / "teacher")},
        "corpus": {"path": str(folder / "train.jsonl")},
        "lexicon": {
            "sources": [
                {"kind": "pairs", "path": str(folder / "synonyms.tsv"), "relation": "synonym"},
                {"kind": "pairs", "path": str(folder / "antonyms.tsv"), "relation": "antonym"},
            ]
        },
        "senses": {"assignment": "next", "k": 3, "window": 32, "samples_per_token": 30},
        "student": {"layers": 2, "train_top": 1},
        "training": {"steps": 4, "batch_size": 4, "sequence_length": 16, "log_every": 2},
        "evaluation": {
            "corpus": {"path": str(folder / "heldout.jsonl")},
            "questions": {"quiz": str(folder / "quiz.jsonl")},
            "sequence_length": 16,
        },
        "compare": {"arms": ["kd", "dskd"], "seeds": [0, 1], "workers": 1},
    }


def write_recipe(folder: Path, tree: dict[str, Any]) -> Path:
    """The tree as a YAML file."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path
