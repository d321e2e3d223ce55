"""The mixture that docs/training-data.md shows is one that a recipe may hold."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from sensekd.config import CorpusConfig

PAGE = Path(__file__).parents[2] / "docs" / "training-data.md"


def test_the_mixture_on_the_page_is_a_corpus() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    corpus = CorpusConfig.model_validate(yaml.safe_load(block)["corpus"])
    assert [part.records for part in corpus.parts] == ["csqa", "piqa", "arc", "arc", "mmlu", "squad"]
    shares = {part.records: (part.fraction, part.respond and part.respond.tokens) for part in corpus.parts}
    assert shares["squad"] == (0.3, 10)
    assert {shares[name] for name in ("csqa", "piqa", "arc", "mmlu")} == {(0.25, 1)}


def test_every_key_of_a_corpus_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert [name for name in CorpusConfig.model_fields if f"`{name}`" not in text and f"{name}:" not in text] == []
