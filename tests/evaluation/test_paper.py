"""The paper's suite against lm-eval's own run of its registered tasks, and against prompts written out here."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from paper_world import SUBJECTS, World, model, silent, tokenizer

from sensekd.errors import InputError
from sensekd.evaluation.originals import read_originals
from sensekd.evaluation.paper import Choice, paper
from sensekd.evaluation.squad import exact, f1

pytest.importorskip("lm_eval", reason="needs the extra `eval`")

LONG, SHORT = 512, 225


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="module")
def pieces() -> Any:
    return tokenizer()


@pytest.fixture(scope="module")
def found(world: World, pieces: Any) -> dict[str, Any]:
    return paper(model(len(pieces), LONG), pieces, Choice(world.folder, batch_size=7), silent)


@pytest.fixture(scope="module")
def scored(pieces: Any) -> Any:
    """Log-likelihood of a text after another, one sequence at a time."""
    answering = model(len(pieces), LONG)

    @torch.no_grad()
    def score(context: str, text: str) -> float:
        start, whole = pieces(context)["input_ids"], pieces(context + text)["input_ids"]
        assert whole[: len(start)] == start
        log_p = answering(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        return sum(float(log_p[at - 1, whole[at]]) for at in range(len(start), len(whole)))

    return score


def mmlu_prompt(world: World, subject: str, item: int, shots: int) -> str:
    def block(row: list[str]) -> str:
        return (
            row[0] + "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", row[1:5], strict=True)) + "\nAnswer:"
        )

    splits = world.mmlu[subject]
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    return head + "".join(f"{block(row)} {row[5]}\n\n" for row in splits["dev"][:shots]) + block(splits["test"][item])


def choice_items(world: World) -> dict[str, list[tuple[str, list[str], int]]]:
    """Context, continuations, right one: the prompts of the tasks, written out."""
    items: dict[str, list[tuple[str, list[str], int]]] = {"commonsense_qa": [], "piqa": [], "mmlu": []}
    for name, rows in {"arc_challenge": world.arc, "arc_easy": world.arc[::-1]}.items():
        items[name] = []
        for row in rows:
            choices = row["question"]["choices"]
            right = next(at for at, choice in enumerate(choices) if choice["label"] == row["answerKey"])
            prompt = f"Question: {row['question']['stem']}\nAnswer:"
            items[name].append((prompt, [f" {choice['text']}" for choice in choices], right))
    for row in world.csqa:
        lines = "".join(f"\n{choice['label']}. {choice['text']}" for choice in row["question"]["choices"])
        prompt = f"Question: {row['question']['stem']}{lines}\nAnswer:"
        items["commonsense_qa"].append((prompt, [f" {letter}" for letter in "ABCDE"], "ABCDE".index(row["answerKey"])))
    for row, label in zip(world.piqa, world.piqa_labels, strict=True):
        items["piqa"].append((f"Question: {row['goal']}\nAnswer:", [f" {row['sol1']}", f" {row['sol2']}"], label))
    for subject in SUBJECTS:
        for number, row in enumerate(world.mmlu[subject]["test"]):
            prompt = mmlu_prompt(world, subject, number, 5)
            items["mmlu"].append((prompt, [f" {letter}" for letter in "ABCD"], "ABCD".index(row[5])))
    return items


def test_equals_log_likelihoods_summed_by_hand(world: World, found: dict[str, Any], scored: Any) -> None:
    for name, items in choice_items(world).items():
        right, normed = [], []
        for prompt, texts, answer in items:
            log_p = [scored(prompt, text) for text in texts]
            per = [value / len(text[1:]) for value, text in zip(log_p, texts, strict=True)]
            for values in (log_p, per):
                assert sorted(values)[-1] - sorted(values)[-2] > 1e-5, "a near tie would not tell anything"
            right.append(int(max(range(len(texts)), key=log_p.__getitem__) == answer))
            normed.append(int(max(range(len(texts)), key=per.__getitem__) == answer))
        task = found["tasks"][name]
        assert task["correct"] == right, name
        assert task["metrics"]["acc"] == pytest.approx(sum(right) / len(right))
        if "acc_norm" in task["metrics"]:
            assert task["metrics"]["acc_norm"] == pytest.approx(sum(normed) / len(normed))
        assert task["items"] == len(items)
        assert task["chance"] == pytest.approx(sum(1 / len(texts) for _, texts, _ in items) / len(items))
        assert 0 < task["metrics"]["acc"] < 1
    versions = {name: found["tasks"][name]["version"] for name in found["tasks"]}
    # lm-eval gives its CommonsenseQA none.
    assert (versions["arc_easy"], versions["mmlu"], versions["commonsense_qa"]) == ("1.0", "1.0", None)
    shots = found["tasks"]["mmlu"]["shots"]
    assert shots == {"asked": 5, "mean": 5.0, "least": 5}


def test_equals_lm_eval_s_own_run(world: World, found: dict[str, Any], pieces: Any) -> None:
    """The registered tasks, loaded and run by lm-eval's own manager; only the rows are handed in."""
    import lm_eval
    from datasets import Dataset
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    root = Path(lm_eval.__file__).parent / "tasks"
    rows = read_originals(world.folder)
    include = [str(root / name) for name in ("arc", "commonsense_qa", "piqa", "mmlu/default")]
    manager = TaskManager(include_path=include, include_defaults=False)
    specs = []
    for name, benchmark in rows.items():
        if name != "squad_v2":
            data = {split: Dataset.from_list(list(items)) for split, items in benchmark.splits.items()}
            # lm-eval looks at splits that the files lack, even without shots.
            for split in {"train", "validation"} - set(data):
                data[split] = data.get("test", data.get("validation"))
            registered = {key: value for key, value in manager.task_index[name].cfg.items() if key != "tag"}
            specs.append({**registered, "custom_dataset": lambda data=data, **_: data})
    lm = HFLM(pretrained=model(len(pieces), LONG), tokenizer=copy.deepcopy(pieces), batch_size=7)
    results = {}
    for shots in (0, 5):
        part = [spec for spec in specs if spec["task"].startswith("mmlu") == bool(shots)]
        results |= simple_evaluate(lm, tasks=part, num_fewshot=shots or None, task_manager=manager, bootstrap_iters=0)[
            "results"
        ]
    for name in ("arc_challenge", "arc_easy", "commonsense_qa", "piqa"):
        theirs = {key.split(",")[0]: value for key, value in results[name].items() if key.endswith(",none")}
        ours = found["tasks"][name]["metrics"]
        assert ours == {key: theirs[key] for key in ours}
        assert set(ours) == {key for key in theirs if "stderr" not in key}
    for subject in SUBJECTS:
        assert found["tasks"]["mmlu"]["subjects"][subject]["acc"] == results[f"mmlu_{subject}"]["acc,none"]


def squad_rows(world: World) -> list[dict[str, Any]]:
    return [
        {"title": article["title"], "context": paragraph["context"], **asked}
        for article in world.squad
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


def squad_block(row: dict[str, Any]) -> str:
    return f"Title: {row['title']}\n\nBackground: {row['context']}\n\nQuestion: {row['question']}\n\nAnswer:"


def squad_runs(world: World, pieces: Any, context: int, shots: int) -> Any:
    from sensekd.evaluation.harness import make_lm, make_task, run_tasks

    task = make_task("squad_v2", None, read_originals(world.folder)["squad_v2"].splits, shots, None)
    return run_tasks(make_lm(model(len(pieces), context), pieces, 5), {"squad_v2": task}, lambda *_: None)["squad_v2"]


@torch.no_grad()
def continued(answering: Any, pieces: Any, prompt: str, most: int) -> str:
    """Greedy text up to the end of the line, one token at a time and without a cache."""
    ids = pieces(prompt)["input_ids"]
    start = len(ids)
    while len(ids) - start < most:
        ids.append(int(answering(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == pieces.eos_token_id or "\n" in pieces.decode(ids[start:]):
            break
    return str(pieces.decode(ids[start:], skip_special_tokens=True)).partition("\n")[0]


def test_squad_equals_a_greedy_loop(world: World, found: dict[str, Any], pieces: Any) -> None:
    run = squad_runs(world, pieces, LONG, 1)
    rows, answering = squad_rows(world), model(len(pieces), LONG)
    by_title = {squad_block(row): row for row in rows}
    scores = []
    for sample, row in zip(run.samples, rows, strict=True):
        prompt = sample["arguments"][0][0]
        shot, _, own = prompt.rpartition("\n\nTitle: ")
        assert f"Title: {own}" == squad_block(row)
        head, _, answer = shot.rpartition("Answer:")
        shown = by_title[f"{head}Answer:"]
        assert shown["title"] != row["title"]
        assert answer == " " + (shown["answers"][0]["text"] if shown["answers"] else "unanswerable")
        text = continued(answering, pieces, prompt, LONG // 8)
        assert sample["filtered_resps"][0] == text
        golds = [each["text"] for each in row["answers"]]
        scores.append((exact(text.strip(), golds), f1(text.strip(), golds)))
    task = found["tasks"]["squad_v2"]
    assert task["metrics"]["exact"] == pytest.approx(sum(score for score, _ in scores) / len(rows))
    assert task["metrics"]["f1"] == pytest.approx(sum(score for _, score in scores) / len(rows))
    assert task["shots"] == {"asked": 1, "mean": 1.0, "least": 1}


def test_squad_s_shots_are_those_of_the_seed(world: World, pieces: Any) -> None:
    """From the training split where there is one: what lm-eval's default seed draws, two at a time (one is spare)."""
    from sensekd.evaluation.harness import make_lm, make_task, run_tasks

    rows = list(read_originals(world.folder)["squad_v2"].splits["validation"])
    splits = {"validation": rows[:4], "train": rows[4:]}
    task = make_task("squad_v2", None, splits, 1, None)
    run = run_tasks(make_lm(model(len(pieces), LONG), pieces, 4), {"squad_v2": task}, lambda *_: None)["squad_v2"]
    drawn = random.Random(1234)
    for sample in run.samples:
        shown = drawn.sample(rows[4:], 2)[0]
        assert sample["arguments"][0][0].startswith(squad_block(shown))
    alone = make_task("squad_v2", None, {"validation": rows[:1]}, 1, None)
    run = run_tasks(make_lm(model(len(pieces), LONG), pieces, 4), {"squad_v2": alone}, lambda *_: None)["squad_v2"]
    assert (run.shots, run.samples[0]["arguments"][0][0]) == ([0], squad_block(rows[0]))


def test_squad_without_shots_asks_what_lm_eval_asks(world: World, pieces: Any) -> None:
    """lm-eval's own class fails with shots; without, its requests must be ours."""
    from lm_eval.tasks.squadv2.task import SQuAD2

    run = squad_runs(world, pieces, 160, 0)
    for sample in run.samples:
        theirs = SQuAD2.construct_requests(None, sample["doc"], SQuAD2.doc_to_text(None, sample["doc"]))
        (ours_text, ours_options), ours_scored = sample["arguments"]
        assert (ours_text, ours_scored) == (theirs[0].args[0], theirs[1].args)
        assert ours_options == {**theirs[0].args[1], "max_gen_toks": 160 // 8}


def test_the_word_for_no_answer_is_the_empty_answer() -> None:
    from sensekd.evaluation.harness import answer_of

    assert answer_of(" Unanswerable.") == ""
    assert answer_of(" unanswerable by them ") == "unanswerable by them"


def test_a_short_context_gets_fewer_shots_and_says_so(world: World, pieces: Any) -> None:
    choice = Choice(world.folder, ("mmlu", "squad_v2"))
    found = paper(model(len(pieces), SHORT), pieces, choice, silent)["tasks"]
    expected = []
    for subject in SUBJECTS:
        for item in range(6):
            lengths = [len(pieces(mmlu_prompt(world, subject, item, shots) + " A")["input_ids"]) for shots in range(6)]
            expected.append(max(shots for shots in range(6) if lengths[shots] <= SHORT + 1))
    assert len(set(expected)) > 1, "the context must cut some items more than others"
    assert max(expected) < 5
    assert found["mmlu"]["shots"] == {"asked": 5, "mean": sum(expected) / 12, "least": min(expected)}
    assert found["mmlu"]["truncated"] == 0
    run = squad_runs(world, pieces, SHORT, 1)
    room = SHORT - SHORT // 8
    lengths = [len(pieces(sample["arguments"][0][0])["input_ids"]) for sample in run.samples]
    assert max(lengths) <= room
    assert found["squad_v2"]["shots"]["mean"] == sum(run.shots) / len(run.shots)


def test_items_too_long_for_any_prompt_are_counted(world: World, pieces: Any) -> None:
    found = paper(model(len(pieces), 32), pieces, Choice(world.folder, ("commonsense_qa",)), silent)["tasks"]
    lengths = [len(pieces(prompt + " A")["input_ids"]) for prompt, _, _ in choice_items(world)["commonsense_qa"]]
    too_long = sum(length > 32 + 1 for length in lengths)
    assert too_long > 0
    assert found["commonsense_qa"]["truncated"] == too_long


def test_limits_are_prefixes_and_runs_are_equal(world: World, found: dict[str, Any], pieces: Any) -> None:
    answering = model(len(pieces), LONG)
    answering.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=5.0)
    kept = answering.generation_config.to_dict()
    choice = Choice(world.folder, limits={"*": 3, "mmlu": 2, "arc_easy": 99})
    first, second = (paper(answering, pieces, choice, silent) for _ in range(2))
    assert answering.generation_config.to_dict() == kept
    assert json.dumps(first, sort_keys=True, default=str) == json.dumps(second, sort_keys=True, default=str)
    tasks = first["tasks"]
    assert {name: task["items"] for name, task in tasks.items()} == {
        "arc_challenge": 3, "arc_easy": 12, "commonsense_qa": 3, "piqa": 3, "mmlu": 4, "squad_v2": 3,
    }  # fmt: skip
    for name in ("arc_challenge", "commonsense_qa", "piqa", "squad_v2"):
        assert tasks[name]["correct"] == found["tasks"][name]["correct"][:3], name
    whole = found["tasks"]["mmlu"]["correct"]
    assert tasks["mmlu"]["correct"] == whole[:2] + whole[6:8]
    assert first["metrics"]["piqa/acc"] == tasks["piqa"]["metrics"]["acc"]


def test_what_is_missing_is_named(world: World, pieces: Any, tmp_path: Path) -> None:
    answering = model(len(pieces), LONG)
    (tmp_path / "valid.jsonl").write_text((world.folder / "piqa/valid.jsonl").read_text())
    (tmp_path / "valid-labels.lst").write_text((world.folder / "piqa/valid-labels.lst").read_text())
    partial = paper(answering, pieces, Choice(tmp_path, limits={"*": 1}), silent)
    assert list(partial["tasks"]) == ["piqa"]
    assert partial["missing"] == ["arc_challenge", "arc_easy", "commonsense_qa", "mmlu", "squad_v2"]
    with pytest.raises(InputError, match="no files of arc_easy"):
        paper(answering, pieces, Choice(tmp_path, ("arc_easy", "piqa")), silent)
    with pytest.raises(InputError, match="no benchmark 'arc'"):
        paper(answering, pieces, Choice(world.folder, ("arc",)), silent)
    with pytest.raises(InputError, match="no benchmark 'squad'"):
        paper(answering, pieces, Choice(world.folder, limits={"squad": 3}), silent)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ({"anatomy": "alchemy"}, "no subject 'alchemy' in MMLU"),
        ({}, r"anatomy_dev\.csv: 4 questions\n  expected: at least 5"),
    ],
)
def test_what_is_wrong_with_the_last_task_shows_before_the_first_runs(
    pieces: Any, tmp_path: Path, names: dict[str, str], match: str
) -> None:
    World(tmp_path)
    for split in ("dev", "test"):
        path = tmp_path / "mmlu" / split / f"anatomy_{split}.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
        path.rename(path.with_name(f"{names.get('anatomy', 'anatomy')}_{split}.csv"))
    begun: list[str] = []

    def show(title: str) -> Any:
        begun.append(title)
        return silent(title)

    with pytest.raises(InputError, match=match):
        paper(model(len(pieces), LONG), pieces, Choice(tmp_path), show)
    assert begun == []


def test_the_hub_s_rows_give_the_same(
    world: World, found: dict[str, Any], pieces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --data the registered datasets are loaded; here they hold the rows of the files."""
    import datasets

    rows, asked = read_originals(world.folder), []
    names = {"ARC-Challenge": "arc_challenge", "ARC-Easy": "arc_easy", **{name: f"mmlu_{name}" for name in SUBJECTS}}
    paths = {"tau/commonsense_qa": "commonsense_qa", "baber/piqa": "piqa"}

    def load(path: str, name: str | None = None, **_: Any) -> Any:
        asked.append(path)
        splits = rows[paths.get(path) or names[str(name)]].splits
        first = next(iter(splits.values()))
        return {
            key: datasets.Dataset.from_list(list(splits.get(key, first)))
            for key in ("train", "validation", "test", "dev")
        }

    from sensekd.evaluation import harness

    configs = harness.registered()
    assert sum(name.startswith("mmlu_") for name in configs) == 57
    few = {name: config for name, config in configs.items() if name.removeprefix("mmlu_") in (*SUBJECTS, name)}
    monkeypatch.setattr(harness, "registered", lambda: few)
    monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", load)
    choice = Choice(None, ("arc_challenge", "piqa", "mmlu"))
    hub = paper(model(len(pieces), LONG), pieces, choice, silent)
    assert set(asked) == {"allenai/ai2_arc", "baber/piqa", "cais/mmlu"}
    for name in ("arc_challenge", "piqa", "mmlu"):
        assert hub["tasks"][name] == found["tasks"][name]
    assert hub["files"] == {}

    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", fail)
    with pytest.raises(InputError, match=r"dataset of piqa cannot be loaded: no route(.|\n)*--data"):
        paper(model(len(pieces), LONG), pieces, Choice(None, ("piqa",)), silent)
