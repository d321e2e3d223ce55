"""Small models, tokens and senses for the tests of training: nothing here is loaded from anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sensekd.config import Recipe
from sensekd.corpus import TokenDocuments
from sensekd.published import build_published
from sensekd.targets import Ragged, SenseTable, build_table
from sensekd.training.data import TokenBlocks

VOCABULARY, WIDTH, LAYERS = 64, 16, 4

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
FAMILIES: dict[str, tuple[type[PreTrainedModel], type, dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 8}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"layer_types": MIXED, "use_sliding_window": True, "sliding_window": 8}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {}),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"layer_types": MIXED, "sliding_window": 8}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {"layer_types": MIXED, "sliding_window": 8}),
    "granite": (GraniteForCausalLM, GraniteConfig, {"embedding_multiplier": 3.0}),
}


def tiny(family: str = "llama", tied: bool = False, seed: int = 0, **more: Any) -> PreTrainedModel:
    """A random frozen model in evaluation mode."""
    model_class, config_class, extra = FAMILIES[family]
    torch.manual_seed(seed)
    model = model_class(config_class(**{**SHAPE, **extra, "tie_word_embeddings": tied, **more}))
    return model.eval().requires_grad_(False)


def tokenizer() -> PreTrainedTokenizerFast:
    """One word per id."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{index}": index for index in range(3, VOCABULARY)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>"
    )


class _Manifest:
    id = "test"


def documents(tokens: int, seed: int = 0) -> TokenDocuments:
    """Random tokens as one document, in memory."""
    ids = np.random.default_rng(seed).integers(3, VOCABULARY, tokens).astype(np.uint16)
    none = np.zeros(1, dtype=np.uint64)
    return TokenDocuments(Path("memory"), ids, np.array([0, tokens]), none, _Manifest())  # type: ignore[arg-type]


def blocks(count: int = 24, length: int = 12, seed: int = 0) -> TokenBlocks:
    return TokenBlocks(documents(count * length + 5, seed), length)


@dataclass
class _Dictionary:
    indptr: torch.Tensor
    centroids: torch.Tensor
    sigma2: float = 0.7


@dataclass
class _Relations:
    synonym_indptr: torch.Tensor
    synonym_spans: torch.Tensor
    antonym_indptr: torch.Tensor
    antonym_spans: torch.Tensor
    span_indptr: torch.Tensor
    span_pieces: torch.Tensor


def table(seed: int = 0, published: bool = False) -> SenseTable:
    """Two or three senses for most tokens; token v has synonym v + 1 (v even) and antonym v + 7 (v divisible by 3).

    The published targets know no neighbours of one token: there every neighbour has its successor as a second piece.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = torch.where(torch.arange(VOCABULARY) % 5 == 0, 0, 2 + torch.arange(VOCABULARY) % 2)
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    centroids = torch.randn(int(counts.sum()), WIDTH, generator=generator) * 1.5
    spans = torch.arange(VOCABULARY)

    def lists(step: int, shift: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = (torch.arange(VOCABULARY) % step == 0).long()
        ids = ((torch.arange(VOCABULARY) + shift) % VOCABULARY)[chosen.bool()]
        return torch.nn.functional.pad(chosen.cumsum(0), (1, 0)), ids

    size, pieces = (2, torch.stack([spans, (spans + 1) % VOCABULARY], 1).flatten()) if published else (1, spans)
    relations = _Relations(*lists(2, 1), *lists(3, 7), size * torch.arange(VOCABULARY + 1), pieces)
    return (build_published if published else build_table)(_Dictionary(indptr, centroids), relations)  # type: ignore[arg-type]


def edges() -> tuple[torch.Tensor, torch.Tensor]:
    """Every fourth token goes on with the word before it."""
    starts = torch.arange(VOCABULARY) % 4 == 1
    return starts, torch.ones(VOCABULARY, dtype=torch.bool)


def recipe(**overrides: Any) -> Recipe:
    """A small recipe; overrides are `section__key=value`."""
    tree: dict[str, Any] = {
        "name": "test",
        "output": "out",
        "seed": 3,
        "device": "cpu",
        "teacher": {"model": "none"},
        "corpus": {"path": "none"},
        "student": {"layers": 3, "train_top": 1},
        "loss": {"kappa": 2},
        "training": {"steps": 6, "batch_size": 4, "sequence_length": 12, "learning_rate": 1e-2, "log_every": 2},
        "evaluation": {"corpus": {"path": "none"}},
    }
    for key, value in overrides.items():
        section, _, name = key.partition("__")
        if name:
            tree[section][name] = value
        else:
            tree[section] = value
    return Recipe.model_validate(tree)


def ragged(lists: list[list[int]]) -> Ragged:
    lengths = torch.tensor([len(row) for row in lists])
    flat = torch.tensor([item for row in lists for item in row], dtype=torch.long)
    return Ragged(torch.nn.functional.pad(lengths.cumsum(0), (1, 0)), flat)
