"""CoarseWSD-20 with a small real LLaMA: assignments and numbers of senses side by side; nothing without SENSEKD_DATA.

The dictionary is built on children's stories, encyclopaedic text, and the training sentences of CoarseWSD-20. The first
sentences of every word stand for all of them; `sensekd senses evaluate --coarse` takes all.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Line

if TYPE_CHECKING:
    from sensekd.senses.coarse import CoarseStates, CoarseWord

COMMAND = "make bench ONLY=coarse_wsd"
SENTENCES, STORIES, PARAGRAPHS, WINDOW = 200, 1000, 1500, 128
ASSIGNMENTS = ("predicted", "next", "agree")


def _corpus(data: Path, words: list[CoarseWord], folder: Path) -> Path:
    import orjson

    stories = (data / "corpora/tinystories/tinystories_val_decoded.txt").read_text(encoding="utf-8")
    articles = (data / "corpora/wikitext2/valid.txt").read_text(encoding="utf-8")
    texts = [text.strip() for text in stories.split("<|endoftext|>")[:STORIES]]
    texts += [line.strip() for line in articles.splitlines() if len(line) > 80][:PARAGRAPHS]
    texts += [entry["text"] for word in words for entry in word.train]
    path = folder / "corpus.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in texts if text))
    return path


def _lines(assignment: str, k: int | str, found: dict[str, Any], rows: float) -> list[Line]:
    name = f"coarse_wsd_{assignment}_{k}"
    every, whole = found["all"], found["one_piece"]
    baseline = f"most frequent sense, macro mean over {every['words']} words ({rows:.1f} senses a token)"
    single = f"most frequent sense, the {whole['words']} words that are one token"
    chance = "chance (0); macro mean of AMI against gold senses"
    target, target_one = every["most_frequent"], whole["most_frequent"]
    return [
        Line(f"{name}_accuracy", every["accuracy"], "share", baseline, target, "least", 1, COMMAND),
        Line(f"{name}_accuracy_one", whole["accuracy"], "share", single, target_one, "least", 1, COMMAND),
        Line(f"{name}_ami", every["ami"], "AMI", chance, 0.0, "least", 1, COMMAND),
    ]


def measure() -> list[Line]:
    """Accuracy against the most frequent sense, and AMI, for every assignment, with k = 10 and adaptive k."""
    if not os.environ.get("SENSEKD_DATA"):
        print("coarse_wsd: skipped, SENSEKD_DATA is not set")
        return []
    import torch

    from sensekd.config import CorpusConfig, SensesConfig, TeacherConfig
    from sensekd.corpus import tokenise
    from sensekd.senses.capture import capture
    from sensekd.senses.cluster import cluster
    from sensekd.senses.coarse import coarse_states, read_coarse, score_coarse
    from sensekd.training.teacher import load_teacher

    torch.set_num_threads(1)
    data = Path(os.environ["SENSEKD_DATA"])
    words = read_coarse(data / "senses/coarsewsd20/CoarseWSD-20", SENTENCES)
    config = TeacherConfig(model=str(data / "models/stories3m"))
    model, tokenizer, identity = load_teacher(config, torch.device("cpu"))
    states: CoarseStates = coarse_states(model, tokenizer, words, WINDOW)
    lines = []
    with tempfile.TemporaryDirectory() as name:
        corpus = CorpusConfig(path=str(_corpus(data, words, Path(name))))
        documents = tokenise(corpus, tokenizer, Path(name) / "tokens")
        for assignment in ASSIGNMENTS:
            settings = SensesConfig(assignment=assignment, window=WINDOW)
            sample = capture(model, documents, settings, identity)
            for k in (10, "adaptive"):
                dictionary = cluster(sample, settings.model_copy(update={"k": k}))
                found = score_coarse(dictionary, states)
                lines += _lines(assignment, k, found, len(dictionary) / len(sample.tokens))
    return lines
