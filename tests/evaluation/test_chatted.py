"""The published protocol against a greedy loop written here, with a chat template and without."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from paper_world import World, model, silent, tokenizer

from sensekd.errors import InputError
from sensekd.evaluation.chatted import ask, generate, paper_chat
from sensekd.evaluation.originals import read_originals
from sensekd.evaluation.paper import Choice
from sensekd.evaluation.squad import exact

CONTEXT = 256
TEMPLATE = (
    "{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="module")
def pieces() -> Any:
    return tokenizer()


@pytest.fixture(scope="module")
def chatting(pieces: Any) -> Any:
    found = copy.deepcopy(pieces)
    found.chat_template = TEMPLATE
    return found


def prompt_of(question: str, choices: list[str]) -> str:
    return (
        f"Question: {question}" + "".join(f"\n{'ABCDE'[at]}. {text}" for at, text in enumerate(choices)) + "\nAnswer:"
    )


def asked(world: World) -> dict[str, list[tuple[str, str]]]:
    """Prompt and letter of every choice question, written out."""
    items: dict[str, list[tuple[str, str]]] = {}
    for name, rows in {"arc_challenge": world.arc, "commonsense_qa": world.csqa}.items():
        items[name] = []
        for row in rows:
            choices = row["question"]["choices"]
            at = [choice["label"] for choice in choices].index(row["answerKey"])
            prompt = prompt_of(row["question"]["stem"], [choice["text"] for choice in choices])
            items[name].append((prompt, "ABCDE"[at]))
    items["piqa"] = [
        (prompt_of(row["goal"], [row["sol1"], row["sol2"]]), "AB"[label])
        for row, label in zip(world.piqa, world.piqa_labels, strict=True)
    ]
    items["mmlu"] = [(prompt_of(row[0], row[1:5]), row[5]) for splits in world.mmlu.values() for row in splits["test"]]
    return items


@torch.no_grad()
def continued(answering: Any, ids: list[int], most: int) -> list[int]:
    found: list[int] = []
    while len(found) < most:
        token = int(answering(torch.tensor([ids + found])).logits[0, -1].argmax())
        if token == 0:
            break
        found.append(token)
    return found


def test_generation_equals_a_greedy_loop(pieces: Any) -> None:
    answering = model(len(pieces), 40)
    answering.generation_config.update(do_sample=True, temperature=5.0, num_beams=3, eos_token_id=[0])
    kept = answering.generation_config.to_dict()
    generator = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(1, len(pieces), (length,), generator=generator).tolist() for length in (3, 28, 9, 45, 4, 17, 30)
    ]
    seen: list[tuple[int, int]] = []
    found = generate(answering, prompts, 10, 3, lambda done, total: seen.append((done, total)))
    assert found == [continued(answering, prompt[-30:], 10) for prompt in prompts]
    assert seen == [(3, 7), (6, 7), (7, 7)]
    assert answering.generation_config.to_dict() == kept


@pytest.mark.parametrize("chat", [True, False])
def test_one_token_and_exact_match(world: World, pieces: Any, chatting: Any, chat: bool) -> None:
    words = chatting if chat else pieces
    answering = model(len(pieces), CONTEXT)
    # The letters become probable, so that some answers are right.
    with torch.no_grad():
        for letter in "ABCDE":
            for text in (letter, f" {letter}"):
                answering.lm_head.weight[pieces(text)["input_ids"][-1]] *= 4
    found = paper_chat(answering, words, Choice(world.folder), silent)
    hits = 0
    for name, items in asked(world).items():
        right = []
        for prompt, letter in items:
            text = f"[user] {prompt}<eos>[assistant]" if chat else prompt
            said = continued(answering, pieces(text)["input_ids"], 1)
            right.append(int(pieces.decode(said).strip() == letter))
        assert found["tasks"][name]["correct"] == right
        assert found["metrics"][f"{name}/exact_match"] == sum(right) / len(right)
        assert found["tasks"][name]["chat"] is chat
        assert found["tasks"][name]["tokens"] == 1
        hits += sum(right)
    assert 0 < hits < sum(len(items) for items in asked(world).values())
    assert found["tasks"]["squad_v2"]["tokens"] == 10
    again = paper_chat(answering, words, Choice(world.folder), silent)
    assert json.dumps(again, default=str) == json.dumps(found, default=str)


def test_squad_of_ten_tokens(world: World, pieces: Any) -> None:
    answering = model(len(pieces), CONTEXT)
    found = paper_chat(answering, pieces, Choice(world.folder, ("squad_v2",), {"*": 5}), silent)["tasks"]["squad_v2"]
    rows = read_originals(world.folder)["squad_v2"].splits["validation"][:5]
    scores = []
    for row in rows:
        prompt = f"Context: {row['context']}\nQuestion: {row['question']}\nAnswer:"
        said = pieces.decode(continued(answering, pieces(prompt)["input_ids"], 10), skip_special_tokens=True)
        scores.append(exact(said.strip().partition("\n")[0], row["answers"]["text"]))
    assert found["metrics"]["exact"] == sum(scores) / 5
    assert found["items"] == 5
    assert "best_exact" not in found["metrics"]


def test_letters_follow_the_order_of_the_choices() -> None:
    row = {"question": "q", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "3"}
    found = ask("arc_easy", row)
    assert (found.prompt, found.golds, found.choices) == ("Question: q\nA. x\nB. y\nC. z\nAnswer:", ("C",), 3)
    assert ask("piqa", {"goal": "g", "sol1": "x", "sol2": "y", "label": 1}).golds == ("B",)


def test_a_context_without_room_is_refused(world: World, pieces: Any) -> None:
    with pytest.raises(InputError, match="a context of 8"):
        paper_chat(model(len(pieces), 8), pieces, Choice(world.folder, ("squad_v2",)), silent)


def test_what_the_hub_cannot_give_is_said(pieces: Any, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    import datasets

    asked_for = []

    def load(path: str, subset: str | None, split: str) -> list[dict[str, Any]]:
        asked_for.append((path, subset, split))
        return list(read_originals(world.folder)["piqa"].splits["validation"])

    monkeypatch.setattr(datasets, "load_dataset", load)
    answering = model(len(pieces), CONTEXT)
    hub = paper_chat(answering, pieces, Choice(None, ("piqa",)), silent)
    assert asked_for == [("baber/piqa", None, "validation")]
    assert hub["tasks"] == paper_chat(answering, pieces, Choice(world.folder, ("piqa",)), silent)["tasks"]

    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match="dataset baber/piqa cannot be loaded: no route"):
        paper_chat(answering, pieces, Choice(None, ("piqa",)), silent)


def test_the_missing_are_named(pieces: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no benchmark under"):
        paper_chat(model(len(pieces), CONTEXT), pieces, Choice(tmp_path), silent)
