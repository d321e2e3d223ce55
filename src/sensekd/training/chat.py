"""Conversations as tokens, and which of them the assistant says.

The template alone decides what stands around the turns, the first token included: nothing is added to what it renders,
so that no beginning of text is doubled. A template that marks `{% generation %}` says itself what is the assistant's.
For any other one the conversation is rendered twice, once with a mark in the place of every content; what stands
between the marks is the template's, and what stands where a mark was is the content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from sensekd.errors import InputError
from sensekd.training.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION: Final = re.compile(r"\{%-?\s*generation\b")
_Span = tuple[int, int]


class Encoded(NamedTuple):
    """A document's ids, and which of them belong to a completion (None: all of them)."""

    ids: list[int]
    supervised: list[bool] | None


def _mark(index: int) -> str:
    # Private-use characters: no text has them, and no template gives them a meaning.
    return f"\ue000{index}\ue001"


def require_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot say which characters a token spells.

    Raises:
        InputError: it is a slow one.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} does not say where in the text its tokens stand",
            "a fast tokenizer (tokenizer.json), which is needed to mask prompts",
            "convert it, or use plain text",
        )


class Chat:
    """A tokenizer with its chat template.

    Args:
        tokenizer: a fast one.
        template: Jinja source that replaces the tokenizer's own template.

    Raises:
        InputError: there is no template, or the tokenizer is a slow one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        require_offsets(tokenizer)
        self.tokenizer = tokenizer
        try:
            self.template: str = tokenizer.get_chat_template(template)
        except ValueError as error:
            raise InputError(
                "the tokenizer has no chat template, or several without a default",
                "a template for `messages`",
                "name a Jinja file as corpus.template",
            ) from error
        self.marks_generation = _GENERATION.search(self.template) is not None

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """The text of a conversation; with `prompt` up to where the next answer begins.

        Raises:
            InputError: the template refuses the conversation.
        """
        import jinja2

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                turns, chat_template=self.template, tokenize=False, add_generation_prompt=prompt
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message.role for message in messages)
            raise InputError(
                f"the chat template refuses a conversation of {roles}: {error}",
                "roles in an order that the template knows",
                "correct the conversation, or name another corpus.template",
            ) from error
        return text

    @cached_property
    def knows_system(self) -> bool:
        """Whether the template renders a system turn (some raise, some drop it in silence)."""
        probe = [Message("system", _mark(0)), Message("user", _mark(1)), Message("assistant", _mark(2))]
        try:
            return self.render(probe).count(_mark(0)) == 1
        except InputError:
            return False

    @cached_property
    def terminator(self) -> str:
        """What the template puts after an answer, up to and including its first special token; may be empty."""
        _, mark, tail = self.render([Message("user", _mark(0)), Message("assistant", _mark(1))]).rpartition(_mark(1))
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        ends = [
            tail.index(token) + len(token) for token in {*added, *self.tokenizer.all_special_tokens} if token in tail
        ]
        return tail[: min(ends)] if mark and ends else ""

    def folded(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The conversation as the template can take it.

        Where it knows no system turn, that turn's text and an empty line go before what the user says first.

        Raises:
            InputError: there is no turn of the user to put it into.
        """
        first, *rest = messages
        if first.role != "system" or self.knows_system:
            return tuple(messages)
        if not rest or rest[0].role != "user":
            raise InputError(
                "the chat template has no system role, and no turn of the user follows the system's",
                "a user's turn that can take the system's text",
                "correct the conversation, or name another corpus.template",
            )
        return (Message("user", f"{first.content}\n\n{rest[0].content}"), *rest[1:])

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids up to where the next answer begins."""
        text = self.render(self.folded(messages), prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """The ids of a conversation; supervised is what the assistant says, with the token that ends its turn.

        Raises:
            InputError: the assistant says nothing, the template refuses the conversation, or it changes what is said.
        """
        turns = self.folded(messages)
        if not any(turn.role == "assistant" for turn in turns):
            raise InputError(
                f"a conversation of {', '.join(turn.role for turn in turns)} has nothing to learn",
                "a turn of the assistant",
                "leave it out, or let the teacher answer (corpus.respond)",
            )
        found = self._marked(turns) if self.marks_generation else self._located(turns)
        assert found.supervised is not None
        if not any(found.supervised):
            raise InputError(
                "no token of a conversation is the assistant's", "a template that renders the assistant's turns",
                "correct `{% generation %}` in the template, or name another corpus.template",
            )  # fmt: skip
        return found

    def _marked(self, turns: Sequence[Message]) -> Encoded:
        # Renders once, to have a refusal told in the same words.
        self.render(turns)
        found: Any = self.tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns],
            chat_template=self.template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return Encoded(list(found["input_ids"]), [bool(value) for value in found["assistant_masks"]])

    def _located(self, turns: Sequence[Message]) -> Encoded:
        text = self.render(turns)
        spans = self._spans(turns, text)
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(found["input_ids"]), np.asarray(found["offset_mapping"]).reshape(-1, 2)
        supervised = np.zeros(len(ids), dtype=bool)
        for start, end in spans:
            supervised |= (offsets[:, 0] < end) & (offsets[:, 1] > start)
        if not self.terminator and turns[-1].role == "assistant" and self.tokenizer.eos_token_id is not None:
            return Encoded([*ids, int(self.tokenizer.eos_token_id)], [*supervised.tolist(), True])
        return Encoded(ids, supervised.tolist())

    def _spans(self, turns: Sequence[Message], text: str) -> list[_Span]:
        """Where in the text the answers stand, each with what ends its turn."""
        skeleton = self.render([Message(turn.role, _mark(index)) for index, turn in enumerate(turns)])
        between: list[str] = []
        for index in range(len(turns)):
            before, found, skeleton = skeleton.partition(_mark(index))
            if not found:
                raise self._changed()
            between.append(before)
        between.append(skeleton)
        spans = []
        at = len(between[0])
        if not text.startswith(between[0]):
            raise self._changed()
        for turn, follows in zip(turns, between[1:], strict=True):
            said = turn.content
            for form in (said, said.strip(), said.lstrip(), said.rstrip()):
                if text.startswith(form + follows, at):
                    break
            else:
                raise self._changed()
            end = at + len(form)
            if turn.role == "assistant":
                ending = len(self.terminator) if follows.startswith(self.terminator) else 0
                spans.append((at, end + ending))
            at = end + len(follows)
        if at != len(text):
            raise self._changed()
        return spans

    def _changed(self) -> InputError:
        return InputError(
            "the chat template changes what is said (it drops, moves or rewrites a turn), so that the assistant's part "
            "cannot be found",
            "a template that renders every content as it is, or one with {% generation %}",
            "put {% generation %} … {% endgeneration %} around the assistant's content, as corpus.template",
        )
