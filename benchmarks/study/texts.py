"""The text of the books' teachers: novels and encyclopaedia articles, cut into documents and split by their content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SIZE: Final = 3000
"""Characters of a document at least: paragraphs are put together until it has as many."""

SPLITS: Final = {"development": 5, "test": 10}
"""Documents in a hundred; the others are what the teachers and the students are trained on."""

# WikiText spaces its punctuation; what is left is ordinary English.
_SPACED: Final = (
    (re.compile(r" @([-,.])@ "), r"\1"),
    (re.compile(r" ([,.;:!?%)\]]|'s\b|n't\b|'re\b|'ve\b|'ll\b)"), r"\1"),
    (re.compile(r"([(\[$£#]) "), r"\1"),
    (re.compile(r'" ([^"]*?) "'), r'"\1"'),
)


def _article_text(text: str) -> str:
    for pattern, into in _SPACED:
        text = pattern.sub(into, text)
    return text


def _paragraphs(data: Path) -> Iterator[list[str]]:
    """The paragraphs of every source, without the line breaks of the printed page."""
    for book in sorted((data / "corpora" / "novels").glob("*.txt")):
        lines = book.read_text(encoding="utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n\n")
        yield [" ".join(part.split()) for part in lines if part.strip()]
    for name in ("wikitext2_train_5k.txt", "wiki.test.raw"):
        text = (data / "corpora" / "wikitext2" / name).read_text(encoding="utf-8")
        yield [_article_text(" ".join(part.split())) for part in text.split("\n") if part.strip()]


def documents_of_books(data: Path) -> Iterator[str]:
    """Documents of at least `SIZE` characters, each once."""
    seen: set[str] = set()
    for paragraphs in _paragraphs(data):
        parts: list[str] = []
        for paragraph in paragraphs:
            parts.append(paragraph)
            if sum(map(len, parts)) >= SIZE:
                document = "\n".join(parts)
                if document not in seen:
                    seen.add(document)
                    yield document
                parts = []


def split_of(document: str) -> str:
    """`train`, `development` or `test`, by a hash of the document."""
    at = int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest()) % 100
    if at < SPLITS["development"]:
        return "development"
    return "test" if at < SPLITS["development"] + SPLITS["test"] else "train"


def write_texts(data: Path, folder: Path) -> dict[str, int]:
    """Write `train.jsonl`, `development.jsonl` and `test.jsonl`; how many documents each has."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[str]] = {"train": [], "development": [], "test": []}
    for document in documents_of_books(data):
        splits[split_of(document)].append(document)
    for name, documents in splits.items():
        # In the order of a hash, so that the first documents are of all books.
        documents.sort(key=lambda text: hashlib.blake2b(text.encode(), digest_size=8, salt=b"order").digest())
        lines = (json.dumps({"text": text}, ensure_ascii=False) for text in documents)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {name: len(documents) for name, documents in splits.items()}
