"""The teacher's continuations: against a loop written out, and the same bytes whatever the batch or interruptions."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_world import byte_tokenizer, runs, write_jsonl
from training_world import VOCABULARY, tiny, tokenizer
from transformers import GenerationConfig

from forked import ended, forked
from sensekd.config import CorpusConfig, RespondConfig
from sensekd.corpus import ids_hash
from sensekd.errors import InputError, SenseKDError
from sensekd.provenance import TeacherIdentity
from sensekd.training import respond as module
from sensekd.training.encoding import Encoder
from sensekd.training.mixture import tokenise_corpus
from sensekd.training.respond import Asked, Responses, respond

END = 2


def asked(family: str = "llama", weights: str = "w") -> Asked:
    # Gemma 2 computes its softmax in float32, where a mask of float64 is infinite: rows of padding are not numbers.
    model = tiny(family) if family == "gemma2" else tiny(family).double()
    return Asked(model, tokenizer(), TeacherIdentity("m", weights, "t", 16, VOCABULARY))


def some_prompts(count: int = 11, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(3, VOCABULARY, generator.integers(1, 40)).tolist() for _ in range(count)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@torch.no_grad()
def by_hand(teacher: Any, prompt: list[int], config: RespondConfig) -> list[int]:
    """One prompt, one token after the other, without padding, cache or batch."""
    said: list[int] = []
    for step in range(config.tokens):
        scores = teacher(torch.tensor([prompt + said]), use_cache=False).logits[0, -1].double().numpy()
        if config.temperature > 0:
            bits = np.random.Philox(key=[ids_hash(prompt), config.seed], counter=[0, 0, 0, step])
            scores = scores / config.temperature + np.random.Generator(bits).gumbel(size=len(scores))
        said.append(int(scores.argmax()))
        if said[-1] == END:
            break
    return said


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_continuations_are_those_of_a_plain_loop(family: str, temperature: float, tmp_path: Path) -> None:
    teacher, prompts = asked(family), some_prompts()
    config = RespondConfig(tokens=6, temperature=temperature, seed=5, batch_size=4)
    found = respond(teacher, prompts, config, tmp_path / "r")
    assert [found.of(prompt) for prompt in prompts] == [by_hand(teacher.model, prompt, config) for prompt in prompts]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_neither_batch_nor_order_nor_neighbours_change_an_answer(temperature: float, tmp_path: Path) -> None:
    teacher, prompts = asked(), some_prompts(13)
    settings = {"tokens": 5, "temperature": temperature}
    one = respond(teacher, prompts, RespondConfig(**settings, batch_size=1), tmp_path / "one")
    eight = respond(teacher, prompts, RespondConfig(**settings, batch_size=8), tmp_path / "eight")
    few = respond(teacher, [*prompts[7:3:-1], *prompts[5:7]], RespondConfig(**settings, batch_size=3), tmp_path / "few")
    assert len(few) == 4
    for name in ("tokens.npy", "indptr.npy", "hashes.npy"):
        assert files(tmp_path / "one")[name] == files(tmp_path / "eight")[name]
    assert [few.of(prompt) for prompt in prompts[4:8]] == [one.of(prompt) for prompt in prompts[4:8]]
    if temperature:
        other = respond(teacher, prompts, RespondConfig(**settings, seed=1), tmp_path / "other")
        assert not np.array_equal(other.tokens, eight.tokens)


def test_draws_follow_the_softmax(tmp_path: Path) -> None:
    teacher, prompt = asked(), [5, 9, 11]
    with torch.no_grad():
        logits = teacher.model(torch.tensor([prompt])).logits[0, -1]
    wanted = (logits / 1.5).softmax(0).numpy()
    count = 600
    noise = [module._noise([ids_hash(prompt)], seed, len(prompt)) for seed in range(count)]
    scores = (logits / 1.5)[None]
    drawn = Counter(int(each(torch.tensor([prompt]), scores).argmax()) for each in noise)
    for token in wanted.argsort()[-3:].tolist():
        spread = math.sqrt(wanted[token] * (1 - wanted[token]) / count)
        assert abs(drawn[token] / count - wanted[token]) < 4 * spread


def test_top_p_draws_from_the_nucleus_alone(tmp_path: Path) -> None:
    teacher, prompts = asked(), some_prompts(40, seed=3)
    found = respond(teacher, prompts, RespondConfig(temperature=1.0, top_p=0.01), tmp_path / "r")
    greedy = respond(teacher, prompts, RespondConfig(), tmp_path / "g")
    assert np.array_equal(found.tokens, greedy.tokens)


def test_the_checkpoint_s_generation_settings_do_nothing(tmp_path: Path) -> None:
    teacher, prompts = asked(), some_prompts()
    config = RespondConfig(tokens=6)
    plain = respond(teacher, prompts, config, tmp_path / "plain")
    own = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=3.0, no_repeat_ngram_size=1)
    teacher.model.generation_config = own
    again = respond(teacher, prompts, config, tmp_path / "again")
    assert np.array_equal(plain.tokens, again.tokens)
    assert teacher.model.generation_config is own


def test_an_answer_ends_at_any_token_that_ends_one(tmp_path: Path) -> None:
    teacher, prompts = asked(), some_prompts()
    free = respond(teacher, prompts, RespondConfig(tokens=8), tmp_path / "free")
    ending = free.of(prompts[0])[3]
    teacher.model.generation_config = GenerationConfig(eos_token_id=[ending])
    cut = respond(teacher, prompts, RespondConfig(tokens=8), tmp_path / "cut")
    assert teacher.ends() == sorted({ending, END})
    for prompt in prompts:
        whole = free.of(prompt)
        assert cut.of(prompt) == (whole[: whole.index(ending) + 1] if ending in whole else whole)


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 3)
    teacher, prompts = asked(), some_prompts()
    config = RespondConfig(tokens=4, temperature=1.0, batch_size=2)
    respond(teacher, prompts, config, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        assert total == 11
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        respond(teacher, prompts, config, tmp_path / "parts", stop)
    assert not (tmp_path / "parts").exists()
    asks = []
    ask = module._ask
    monkeypatch.setattr(module, "_ask", lambda *arguments: asks.append(1) or ask(*arguments))
    respond(teacher, prompts, config, tmp_path / "parts")
    assert len(asks) == 2
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]


def respond_and_die(folder: Path) -> None:
    """In a process of its own, which is killed when six prompts are answered."""
    module._CHUNK = 3  # type: ignore[misc]

    def progress(done: int, total: int) -> None:
        if done == 6:
            os.kill(os.getpid(), signal.SIGKILL)

    respond(asked(), some_prompts(), RespondConfig(tokens=4, temperature=1.0), folder, progress)


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 3)
    respond(asked(), some_prompts(), RespondConfig(tokens=4, temperature=1.0), tmp_path / "whole")
    assert ended(forked(respond_and_die, tmp_path / "parts")) == -signal.SIGKILL
    assert not (tmp_path / "parts").exists()
    assert len(list(tmp_path.glob("parts-partial-*/*.npy"))) == 2
    respond(asked(), some_prompts(), RespondConfig(tokens=4, temperature=1.0), tmp_path / "parts")
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_prompt_may_fill_all_the_room_there_is(tmp_path: Path) -> None:
    teacher, config = asked(), RespondConfig(tokens=4)
    prompts = [[3, 4] * 30, [5] * 35]
    found = respond(teacher, prompts, config, tmp_path / "r")
    assert [found.of(prompt) for prompt in prompts] == [by_hand(teacher.model, prompt, config) for prompt in prompts]


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    broken = Asked(tiny("gemma2").double(), tokenizer(), asked().identity)
    with pytest.raises(SenseKDError, match="not numbers"):
        respond(broken, some_prompts(), RespondConfig(), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no prompt to answer"):
        respond(asked(), [], RespondConfig(), tmp_path / "r")
    with pytest.raises(InputError, match="a prompt has no token"):
        respond(asked(), [[3], []], RespondConfig(), tmp_path / "r")
    with pytest.raises(InputError, match="at most 64 tokens"):
        respond(asked(), [[3] * 60], RespondConfig(tokens=5), tmp_path / "r")
    teacher = asked()
    found = respond(teacher, [[3, 4]], RespondConfig(), tmp_path / "r")
    with pytest.raises(InputError, match="no continuation of a prompt of 3 tokens"):
        found.of([3, 4, 5])
    Responses.open(tmp_path / "r", teacher.made_from)
    with pytest.raises(InputError, match="made from weights w"):
        Responses.open(tmp_path / "r", asked(weights="other").made_from)


def test_continuations_become_completions(tmp_path: Path) -> None:
    """An answer that ended ends with its own token; one that was cut is followed by an end of text that is no label."""
    coder = byte_tokenizer()
    rows = [{"prompt": "ask", "completion": None}, {"prompt": "tell"}]
    config = CorpusConfig(
        path=str(write_jsonl(tmp_path / "p.jsonl", rows)), records="completion", respond=RespondConfig()
    )
    with pytest.raises(InputError, match="sensekd respond RECIPE"):
        tokenise_corpus(config, coder, tmp_path / "tokens")

    class Fake:
        manifest = type("M", (), {"id": "x"})

        def of(self, prompt: list[int]) -> list[int]:
            ended = coder.decode(prompt) == "<s>ask"
            return [*coder(" ok", add_special_tokens=False)["input_ids"], *([END] if ended else [])]

    documents = tokenise_corpus(config, coder, tmp_path / "tokens", {0: Fake()})  # type: ignore[dict-item]
    assert runs(coder, documents.tokens, documents.supervised) == [" ok</s>", " ok"]
    assert coder.decode(documents.tokens) == "<s>ask ok</s><s>tell ok</s>"
    assert documents.manifest.made_from["responses-0"] == "x"
    assert Encoder(coder, config).answered([5], [END]) == ([5, END], [False, True])
