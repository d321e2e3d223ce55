"""lm-eval's answers against log-likelihoods summed by hand, and what is refused."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from forked import unfollowed
from sensekd.errors import InputError
from sensekd.evaluation.suites import multiple_choice, read_questions

pytest.importorskip("lm_eval", reason="needs the extra `eval`")

WORDS = ["tiny", "huge", "river", "stone", "lantern", "walks", "walked", "walking", "under", "bird", "sings", "glass"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=12)) for _ in range(60)]
    # Few merges, so that choices are of several pieces.
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<eos>"],
        show_progress=False,
    )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=128, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def questions(seed: int, count: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "question": " ".join(rng.choices(WORDS, k=rng.randint(2, 8))) + rng.choice(["", ":", " {{x}}", "?"]),
            "choices": [
                " ".join([first, *rng.choices(WORDS, k=rng.randint(0, 2))])
                for first in rng.sample(WORDS, k=rng.choice([2, 4]))
            ],
            "answer": rng.randrange(2),
        }
        for _ in range(count)
    ]


def write(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


@torch.no_grad()
def scores(model: Any, tokenizer: Any, item: dict[str, Any]) -> list[float]:
    """The sum of the log-probabilities of the tokens of " " + choice, one sequence at a time."""
    found = []
    for choice in item["choices"]:
        context = tokenizer(item["question"])["input_ids"]
        whole = tokenizer(item["question"] + " " + choice)["input_ids"]
        assert whole[: len(context)] == context, "a boundary of the tokenizer lies between question and choice"
        assert "".join(tokenizer.convert_ids_to_tokens(whole[len(context) :])).startswith("Ġ")
        log_p = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        found.append(sum(float(log_p[at - 1, whole[at]]) for at in range(len(context), len(whole))))
    return found


def test_equals_log_likelihoods_summed_by_hand(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    items = {"two": questions(0, 40), "one": questions(1, 25)}
    sets = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in items.items()}
    results = multiple_choice(model, tokenizer, sets, batch_size=7)
    assert list(results) == ["one", "two"]
    for name, rows in items.items():
        expected = []
        for item in rows:
            log_p = scores(model, tokenizer, item)
            assert sorted(log_p)[-1] - sorted(log_p)[-2] > 1e-4, "a near tie would not tell anything"
            expected.append(int(max(range(len(log_p)), key=log_p.__getitem__) == item["answer"]))
        result = results[name]
        assert list(result.correct) == expected
        assert result.accuracy == pytest.approx(sum(expected) / len(expected))
        assert result.items == len(rows)
        assert result.chance == pytest.approx(sum(1 / len(item["choices"]) for item in rows) / len(rows))
        assert 0 < result.accuracy < 1
    assert multiple_choice(model, tokenizer, dict(reversed(sets.items())), batch_size=3) == results


def test_leaves_no_trace(
    model: Any, tokenizer: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.jsonl", questions(2, 3))
    torch.manual_seed(5)
    random.seed(5)
    before = torch.random.get_rng_state(), random.getstate(), tokenizer.pad_token_id
    model.train()
    multiple_choice(model, tokenizer, {"a": path}, batch_size=2)
    assert model.training
    model.eval()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (random.getstate(), tokenizer.pad_token_id) == before[1:]
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "it/s" not in captured.err
    assert not [record for record in caplog.records if record.name.startswith("lm_eval")]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{not json", r":2: unexpected character"),
        ('{"choices": ["a", "b"], "answer": 0}', r":2: no key 'question'"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', r":2: .*fewer than two"),
        ('{"question": "q", "choices": "ab", "answer": 0}', r":2: "),
        ('{"question": " ", "choices": ["a", "b"], "answer": 0}', r":2: .*empty"),
        ('{"question": "q", "choices": ["a", 3], "answer": 0}', r":2: .*not a text"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', r":2: answer 2"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', r":2: answer True"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "0"}', r":2: answer '0'"),
        ("[1, 2]", r":2: "),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"question": "q", "choices": ["a", "b"], "answer": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=match):
        read_questions(path)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no question set at"):
        read_questions(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no question"):
        read_questions(tmp_path / "empty.jsonl")


def test_a_missing_extra_is_named(model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", questions(2, 1))
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r"sensekd\[eval\]"):
        multiple_choice(model, tokenizer, {"a": path}, batch_size=1)


def test_a_tokenizer_that_closes_every_text_is_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    closing = copy.deepcopy(tokenizer)
    closing.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    with pytest.raises(InputError, match="ends every text with '<eos>'"):
        multiple_choice(model, closing, {"a": write(tmp_path / "a.jsonl", questions(2, 1))}, batch_size=1)


def test_importing_the_room_imports_nothing_heavy() -> None:
    code = (
        "import sys, sensekd.evaluation.suites, sensekd.evaluation.compare, sensekd.evaluation.intrinsic;"
        "print([name for name in ('lm_eval', 'transformers', 'datasets', 'scipy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=unfollowed())
    assert done.stdout.strip() == "[]"
