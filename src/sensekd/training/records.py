"""Rows of a corpus as records: a text, a prompt with its completion, or a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sensekd.config import CorpusConfig
from sensekd.corpus import documents, source_rows
from sensekd.errors import InputError
from sensekd.training.questions import READERS


@dataclass(frozen=True)
class Text:
    """A document without a prompt: all of it is to be learnt."""

    text: str


@dataclass(frozen=True)
class Exchange:
    """A prompt and what should follow it; None where nobody has said."""

    prompt: str
    completion: str | None


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns in their order; what the assistant says is the completion."""

    messages: tuple[Message, ...]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns before the last answer."""
        return self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages


Record = Text | Exchange | Conversation


def content(record: Record) -> bytes:
    """The bytes by which a record is told from another."""
    if isinstance(record, Text):
        parts: list[Any] = [record.text]
    elif isinstance(record, Exchange):
        parts = [record.prompt, record.completion]
    else:
        parts = [[message.role, message.content] for message in record.messages]
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _string(row: dict[str, Any], key: str, where: str, *, optional: bool = False) -> str | None:
    value = row.get(key)
    if isinstance(value, str) or (optional and value is None):
        return value
    raise InputError(
        f"{where} has no text under {key!r} (keys: {sorted(row)})",
        f"a string under {key!r}",
        "set corpus.prompt_field and corpus.completion_field to the keys that hold them",
    )


def _conversation(row: dict[str, Any], key: str, where: str) -> Conversation:
    turns = row.get(key)
    good = isinstance(turns, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    )
    if not good or not turns:
        raise InputError(
            f"{where} has no conversation under {key!r} (keys: {sorted(row)})",
            'a list of {"role": text, "content": text} that is not empty',
            "set corpus.messages_field to the key that holds it",
        )
    return Conversation(tuple(Message(turn["role"], turn["content"]) for turn in turns))


def _rows(config: CorpusConfig) -> Iterator[Record]:
    if config.records in READERS:
        yield from (Exchange(prompt, completion) for prompt, completion in READERS[config.records](config.path))
        return
    for number, row in enumerate(source_rows(config)):
        where = f"{config.path}: record {number}"
        if config.records == "messages":
            yield _conversation(row, config.messages_field, where)
            continue
        prompt = _string(row, config.prompt_field, where)
        assert prompt is not None
        answered = config.respond is not None
        yield Exchange(prompt, _string(row, config.completion_field, where, optional=answered))


def _wrapped(record: Record) -> Record:
    """A prompt as what a user says, a completion as the assistant's answer."""
    if not isinstance(record, Exchange):
        return record
    question = Message("user", record.prompt.strip())
    if record.completion is None:
        return Conversation((question,))
    return Conversation((question, Message("assistant", record.completion.strip())))


def read_records(config: CorpusConfig) -> Iterator[Record]:
    """Stream the records of one corpus (no mixture), in the order of its source.

    Raises:
        InputError: the source is missing or unreadable, or a row lacks what its kind of record needs.
    """
    if config.records == "text":
        yield from map(Text, documents(config))
        return
    stop = None if config.max_documents is None else config.skip_documents + config.max_documents
    chosen = islice(_rows(config), config.skip_documents, stop)
    yield from map(_wrapped, chosen) if config.chat else chosen
