"""Conversations: what is supervised, templates of every make, no doubled beginning of text."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_world import CHATML, CHATML_MARKED, INSTRUCT, PLAIN, TURNS, byte_tokenizer, runs

from sensekd.errors import InputError
from sensekd.training.chat import Chat
from sensekd.training.records import Message

# Contents that also stand elsewhere in what the templates write, so that looking for them would go wrong.
TALK = (
    Message("user", "assistant"),
    Message("assistant", "a"),
    Message("user", "user"),
    Message("assistant", "<i>ü</i> assistant"),
)
SYSTEM = Message("system", "Be s.")


@pytest.mark.parametrize(
    ("template", "ending"), [(CHATML, "<|im_end|>"), (TURNS, "<end_of_turn>"), (INSTRUCT, " </s>"), (PLAIN, "")]
)
def test_the_assistant_s_turns_are_supervised(template: str, ending: str) -> None:
    chat = Chat(byte_tokenizer(template))
    found = chat.encode(TALK)
    last = "</s>" if not ending else ""
    wanted = [f"a{ending}", f"<i>ü</i> assistant{ending}"]
    text = chat.render(TALK)
    if last:
        # Nothing ends a turn: the end of text does, and is not next to the content.
        wanted = [*wanted, last]
    assert runs(chat.tokenizer, found.ids, found.supervised) == wanted
    assert chat.tokenizer.decode(found.ids) == text + last
    assert found.ids.count(1) == text.count("<s>")


def test_a_template_that_marks_generation_and_the_search_agree() -> None:
    marked, located = (Chat(byte_tokenizer(template)) for template in (CHATML_MARKED, CHATML))
    assert marked.marks_generation
    assert not located.marks_generation
    assert marked.encode((SYSTEM, *TALK)) == located.encode((SYSTEM, *TALK))


def test_a_mark_that_marks_nothing_is_refused() -> None:
    silent = CHATML_MARKED.replace("{{ m.content + '<|im_end|>' }}{% endgeneration %}", "{% endgeneration %}x")
    with pytest.raises(InputError, match="no token of a conversation"):
        Chat(byte_tokenizer(silent)).encode(TALK)


@pytest.mark.parametrize(("template", "knows"), [(CHATML, True), (TURNS, False), (INSTRUCT, False), (PLAIN, True)])
def test_the_system_s_text_is_never_lost(template: str, knows: bool) -> None:
    chat = Chat(byte_tokenizer(template))
    assert chat.knows_system is knows
    found = chat.encode((SYSTEM, *TALK))
    assert chat.tokenizer.decode(found.ids).count("Be s.") == 1
    assert found.supervised is not None
    assert not any("Be s." in run for run in runs(chat.tokenizer, found.ids, found.supervised))
    folded = chat.folded((SYSTEM, *TALK))
    assert folded[0] == (SYSTEM if knows else Message("user", "Be s.\n\nassistant"))
    if not knows:
        with pytest.raises(InputError, match="no system role"):
            chat.folded((SYSTEM, Message("assistant", "x")))


@pytest.mark.parametrize("template", [CHATML, TURNS, INSTRUCT, PLAIN])
def test_a_prompt_ends_where_the_answer_begins(template: str) -> None:
    chat = Chat(byte_tokenizer(template))
    prompt = chat.prompt(TALK[:1])
    whole = chat.encode(TALK[:2])
    assert whole.supervised is not None
    first = whole.supervised.index(True)
    if template in (CHATML, TURNS):
        assert whole.ids[:first] == prompt
    # The other two write something of their own before an answer.
    assert chat.tokenizer.decode(prompt).startswith(chat.render(TALK[:1]))
    assert not any(whole.supervised[: len(prompt)]) or template == PLAIN


def test_contents_that_the_template_trims_are_found() -> None:
    chat = Chat(byte_tokenizer(TURNS))
    found = chat.encode((Message("user", "  x "), Message("assistant", "\n y z  ")))
    assert runs(chat.tokenizer, found.ids, found.supervised) == ["y z<end_of_turn>"]


def test_a_template_that_rewrites_what_is_said_is_refused() -> None:
    shout = CHATML.replace("m.content", "(m.content | upper)")
    with pytest.raises(InputError, match="changes what is said"):
        Chat(byte_tokenizer(shout)).encode(TALK)
    first_only = "{% for m in messages[:2] %}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError, match="changes what is said"):
        Chat(byte_tokenizer(first_only)).encode(TALK)


def test_what_cannot_be_learnt_or_rendered_is_refused() -> None:
    with pytest.raises(InputError, match="no chat template"):
        Chat(byte_tokenizer(None))
    with pytest.raises(InputError, match="nothing to learn"):
        Chat(byte_tokenizer(CHATML)).encode(TALK[:1])
    strict = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="roles must alternate"):
        Chat(byte_tokenizer(strict)).render(TALK)


@pytest.mark.data
def test_a_real_template_and_tokenizer(data_dir: Path) -> None:
    from transformers import AutoTokenizer

    chat = Chat(AutoTokenizer.from_pretrained(data_dir / "tokenizers" / "Qwen1.5-1.8B"))
    found = chat.encode((SYSTEM, *TALK))
    wanted = ["a<|im_end|>", "<i>ü</i> assistant<|im_end|>"]
    assert runs(chat.tokenizer, found.ids, found.supervised) == wanted
