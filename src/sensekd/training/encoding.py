"""Records as token documents with the completions marked, and the prompts that a teacher is to answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sensekd.errors import InputError
from sensekd.training.chat import Chat, Encoded, require_offsets
from sensekd.training.records import Conversation, Exchange, Record, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.config import CorpusConfig


class Encoder:
    """Turns the records of one corpus into ids.

    Args:
        tokenizer: the teacher's.
        config: the corpus; `template` names a Jinja file that replaces the tokenizer's chat template.

    Raises:
        InputError: the corpus holds conversations and there is no template, or the tokenizer is a slow one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: CorpusConfig) -> None:
        self.tokenizer = tokenizer
        self.end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.chat: Chat | None = None
        if config.records == "messages" or config.chat:
            self.chat = Chat(tokenizer, None if config.template is None else _template(config.template))
        elif config.records != "text":
            require_offsets(tokenizer)

    def documents(self, records: Sequence[Record]) -> list[Encoded]:
        """Every record with its own completion, and an end-of-text token that is part of it.

        Raises:
            InputError: a record has no completion.
        """
        if records and all(isinstance(record, Text) for record in records):
            texts = [record.text for record in records if isinstance(record, Text)]
            encoded = self.tokenizer(texts, return_attention_mask=False)["input_ids"]
            return [Encoded(self._ended(list(ids)), None) for ids in encoded]
        if all(isinstance(record, Exchange) for record in records):
            return self._exchanges([record for record in records if isinstance(record, Exchange)])
        assert self.chat is not None
        return [self.chat.encode(record.messages) for record in records if isinstance(record, Conversation)]

    def prompts(self, records: Sequence[Record]) -> list[list[int]]:
        """The ids of every record up to where its completion begins."""
        if self.chat is not None:
            return [self.chat.prompt(record.prompt) for record in records if isinstance(record, Conversation)]
        texts = [record.prompt for record in records if isinstance(record, Exchange)]
        encoded = self.tokenizer(texts, return_attention_mask=False)["input_ids"]
        # Some tokenizers end every text by themselves; a prompt has not ended.
        return [list(ids[:-1] if self.end and ids[-1:] == self.end else ids) for ids in encoded]

    def answered(self, prompt: Sequence[int], response: Sequence[int]) -> Encoded:
        """A prompt with the teacher's continuation.

        A continuation that was cut at its length has not ended: the end-of-text token that then parts the documents
        belongs to no completion.
        """
        ids, supervised = [*prompt, *response], [False] * len(prompt) + [True] * len(response)
        if list(ids[-1:]) != self.end:
            ids, supervised = [*ids, *self.end], [*supervised, *(False for _ in self.end)]
        return Encoded(ids, supervised)

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == self.end else ids + self.end

    def _exchanges(self, records: Sequence[Exchange]) -> list[Encoded]:
        for record in records:
            if record.completion is None:
                raise InputError(
                    f"no answer to the prompt that ends in {record.prompt[-60:]!r}",
                    "a gold answer for every prompt",
                    "give the file with answers, or let the teacher answer (corpus.respond)",
                )
        # Prompt and completion are one text to the tokenizer: a boundary must not make pieces that no text has.
        joined = [f"{record.prompt}{record.completion}" for record in records]
        encoded = self.tokenizer(joined, return_attention_mask=False, return_offsets_mapping=True)
        found = []
        for record, ids, offsets in zip(records, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            border = len(record.prompt)
            # A token that spells the end of the prompt and the beginning of the completion is the completion's.
            after = np.flatnonzero(np.asarray(offsets).reshape(-1, 2)[:, 1] > border)
            first = int(after[0]) if len(after) else len(ids)
            ended = self._ended(list(ids))
            found.append(Encoded(ended, [False] * first + [True] * (len(ended) - first)))
        return found


def _template(name: str) -> str:
    path = Path(name)
    if not path.is_file():
        raise InputError(f"no chat template at {path}", "a Jinja file", "check corpus.template")
    return path.read_text(encoding="utf-8")
