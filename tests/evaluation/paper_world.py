"""Made-up questions in the original formats of the paper's benchmarks, and a tiny random model that answers them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import torch

WORDS = ["tiny", "huge", "river", "stone", "lantern", "walks", "walked", "walking", "under", "bird", "sings", "glass"]
LABELS = [["A", "B", "C", "D"], ["1", "2", "3", "4"], ["A", "B", "C"], ["A", "B", "C", "D", "E"]]
SUBJECTS = ["anatomy", "virology"]


def tokenizer() -> Any:
    """A byte-level BPE whose prompts are a few tokens a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    texts = [f"Question: {' '.join(WORDS)}?\nA. {word}\nAnswer:" for word in WORDS]
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<eos>"],
        show_progress=False,
    )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")


def model(vocabulary: int, context: int) -> Any:
    """A random LLaMA; models of different contexts have the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=context, initializer_range=0.5, eos_token_id=0, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


class World:
    """Writes the files; keeps what stands in them as plain lists."""

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.folder, self._random = folder, random.Random(seed)
        self.arc = [self._labelled(LABELS[number % 4]) for number in range(12)]
        self.csqa = [self._labelled(LABELS[3]) for _ in range(8)]
        self.piqa = [{"goal": self.text(), "sol1": self.text(), "sol2": self.text()} for _ in range(8)]
        self.piqa_labels = [self._random.randrange(2) for _ in self.piqa]
        self.mmlu = {subject: {"dev": self._mmlu(5), "test": self._mmlu(6)} for subject in SUBJECTS}
        self.squad = [self._article(title) for title in ("Birds", "Stones", "Rivers")]
        self._write()

    def text(self, least: int = 2, most: int = 6) -> str:
        return " ".join(self._random.choices(WORDS, k=self._random.randint(least, most)))

    def _labelled(self, labels: list[str]) -> dict[str, Any]:
        choices = [{"text": self.text(1, 3), "label": label} for label in labels]
        question = {"stem": self.text() + "?", "choices": choices}
        return {"id": str(self._random.random()), "question": question, "answerKey": self._random.choice(labels)}

    def _mmlu(self, count: int) -> list[list[str]]:
        return [
            [self.text() + ', "so"?', *(self.text(1, 3) for _ in "ABCD"), self._random.choice("ABCD")]
            for _ in range(count)
        ]

    def _article(self, title: str) -> dict[str, Any]:
        paragraphs = []
        for number in range(2):
            context = f"{title} {number}: {self.text(8, 12)}."
            asked = []
            for turn in range(2):
                found = [{"text": self._random.choice(context.split()), "answer_start": 0} for _ in range(2)]
                asked.append({
                    "id": f"{title}{number}{turn}", "question": self.text() + "?",
                    "answers": [] if turn == number else found, "is_impossible": turn == number,
                })  # fmt: skip
            paragraphs.append({"context": context, "qas": asked})
        return {"title": title, "paragraphs": paragraphs}

    def _write(self) -> None:
        def lines(name: str, rows: list[Any]) -> None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

        lines("arc/ARC-Challenge/ARC-Challenge-Test.jsonl", self.arc)
        lines("arc/ARC-Easy/ARC-Easy-Test.jsonl", self.arc[::-1])
        lines("csqa/dev_rand_split.jsonl", self.csqa)
        lines("piqa/valid.jsonl", self.piqa)
        lines("piqa/valid-labels.lst", self.piqa_labels)
        for subject, splits in self.mmlu.items():
            for split, rows in splits.items():
                path = self.folder / "mmlu" / split / f"{subject}_{split}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("w", newline="", encoding="utf-8") as handle:
                    csv.writer(handle).writerows(rows)
        (self.folder / "squad2").mkdir()
        (self.folder / "squad2" / "dev-v2.0.json").write_text(json.dumps({"version": "v2.0", "data": self.squad}))


def silent(_: str) -> Any:
    """Progress that nobody sees."""
    return lambda done, total: None
