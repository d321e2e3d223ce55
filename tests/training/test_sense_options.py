"""The options of the sense terms in training: what divides them, what they must not depend on, and off is off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cache_world import EXACT, Room, largest_difference
from test_distill import contents, history, interrupted, run, same, weights
from test_loss_contract import TERMS, Bench, assert_same, distance, tokens, whole
from torch import Tensor
from training_world import recipe, table

from sensekd.artefacts import fingerprint
from sensekd.config import LossConfig

ANNEAL = {"start": 0.25, "end": 0.75, "to": 0.2}
OPTIONS: dict[str, dict[str, Any]] = {
    "soft": {"loss__assignment": "soft", "loss__assignment_temperature": 0.3},
    "probability": {"loss__confidence": "probability"},
    "agreement": {"loss__confidence": "agreement"},
    "contrastive": {"loss__push": "contrastive"},
    "absolute": {"loss__pull": "absolute"},
    "anneal": {"loss__anneal": ANNEAL},
    "all": {
        "loss__assignment": "soft", "loss__confidence": "probability", "loss__push": "contrastive",
        "loss__anneal": ANNEAL, "loss__positions": {"fraction": 0.5, "minimum": 3},
    },
}  # fmt: skip


def masked(rows: Tensor) -> dict[str, Tensor]:
    labels = rows.clone()
    labels[0, :9], labels[3, 4:], labels[5] = -100, -100, -100
    return {"input_ids": rows, "labels": labels}


@torch.no_grad()
def half_agreed(bench: Bench, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with what the teacher finds likeliest in the place of every second label."""
    labels = batch["labels"].clone()
    likeliest = bench.teacher(batch["input_ids"]).logits.argmax(-1)[:, 1:-1:2]
    labels[:, 2::2] = torch.where(labels[:, 2::2] >= 0, likeliest, -100)
    return batch | {"labels": labels}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_accumulation_and_chunks_change_nothing(name: str, tmp_path: Path) -> None:
    batch, steps = half_agreed(Bench(tmp_path), masked(tokens(8))), []
    for parts, chunked in ((1, "off"), (4, "off"), (8, "on")):
        bench = Bench(tmp_path, loss__chunked=chunked, loss__chunk_elements=700, **OPTIONS[name])
        split = {key: value.chunk(parts) for key, value in batch.items()}
        steps.append(bench.step([{key: value[part] for key, value in split.items()} for part in range(parts)]))
    assert set(TERMS) <= steps[0].logged.keys()
    for step in steps[1:]:
        assert_same(step, steps[0])
        for count in ("n_labels", "n_pull", "n_push"):
            assert step.logged[count] == pytest.approx(steps[0].logged[count], rel=1e-6)
    if name != "anneal":
        plain = Bench(tmp_path, loss__chunked="off").step([batch])
        assert distance(plain.gradients, steps[0].gradients) > 1e-3, "the option does nothing"


@pytest.mark.parametrize("chunked", ["off", "on"])
def test_confidence_is_the_teacher_s_probability_and_its_sum_divides(chunked: str, tmp_path: Path) -> None:
    rows = masked(tokens(8))
    bench = Bench(tmp_path, loss__chunked=chunked, loss__confidence="probability", loss__margin=6.0)
    asked: list[int] = []
    bench.teacher.register_forward_hook(lambda *_: asked.append(1))
    step = bench.step([{key: value[part : part + 4] for key, value in rows.items()} for part in (0, 4)])
    assert len(asked) == 2, "the teacher is asked once a batch"

    senses = table()
    with torch.no_grad():
        shares = bench.teacher(rows["input_ids"]).logits.softmax(-1)
    weights = 0.0
    for b, t in (rows["labels"][:, 1:] >= 0).nonzero().tolist():
        label = int(rows["labels"][b, t + 1])
        if senses.own.counts[label] or (label % 2 == 0 and _is_whole(rows["input_ids"][b], t) and _has(label + 1)):
            weights += float(shares[b, t, label])
    assert step.logged["n_pull"] == pytest.approx(weights, rel=1e-5)
    assert step.logged["n_labels"] == int((rows["labels"][:, 1:] >= 0).sum())
    mean = {"ce": 1.0, "kl": 3.0 * 4, "hidden": 0.3, "pull": 1.0, "push": 1.0}
    assert step.loss == pytest.approx(sum(mean[name] * step.logged[name] for name in TERMS), rel=1e-6)


def _has(token: int) -> bool:
    return bool(table().own.counts[token % 64])


def _is_whole(ids: Tensor, t: int) -> bool:
    """Every fourth token goes on with the word before it; the text after the last one is unknown."""
    return t + 2 < len(ids) and int(ids[t + 1]) % 4 != 1 and int(ids[t + 2]) % 4 != 1


def test_positions_without_confidence_move_nothing(tmp_path: Path) -> None:
    """Where the teacher agrees nowhere, the sense terms are absent and the rest is plain distillation."""
    batch = whole(tokens(4))
    bench = Bench(tmp_path, loss__confidence="agreement")
    with torch.no_grad():
        likeliest = bench.teacher(batch["input_ids"]).logits.argmax(-1)[:, :-1]
    labels = batch["input_ids"].clone()
    labels[:, 1:][labels[:, 1:] == likeliest] = -100
    step = bench.step([batch | {"labels": labels}])
    plain = Bench(tmp_path, loss__lambda=0.0).step([batch | {"labels": labels}])
    assert "pull" not in step.logged
    assert step.logged["n_pull"] == 0
    assert distance(plain.gradients, step.gradients) == 0


# ---- λ that falls


def test_lambda_falls_in_a_line_and_stays() -> None:
    anneal = LossConfig.model_validate({"anneal": ANNEAL}).anneal
    assert anneal is not None
    found = [anneal.factor(step, 8) for step in range(9)]
    assert found == pytest.approx([1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    default = LossConfig.model_validate({"anneal": {}}).anneal
    assert default is not None
    assert [default.factor(step, 10) for step in (0, 7, 9)] == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_falling_lambda_is_exact_when_resumed_and_logged(accumulation: int, tmp_path: Path) -> None:
    chosen = {
        "training__save_every": 2, "training__log_every": 1, "training__accumulation": accumulation,
        "loss__lambda": 0.9, **OPTIONS["all"],
    }  # fmt: skip
    never = run(tmp_path / "a", steps=8, **chosen)
    interrupted(tmp_path / "b", 7, **chosen)
    resumed = run(tmp_path / "b", steps=8, **chosen)
    assert resumed.resumed_from == 6
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert history(resumed) == history(never)
    wanted = [0.9 * factor for factor in (1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2)]
    assert [row["lambda"] for row in never.history] == pytest.approx(wanted)


def test_a_lambda_of_zero_at_the_end_leaves_the_rest(tmp_path: Path) -> None:
    gone = Bench(tmp_path, loss__anneal={"start": 0.0, "end": 0.5, "to": 0.0})
    state = gone.trainer.state
    state.global_step, state.max_steps = 6, 8
    step = gone.step([whole(tokens(4))])
    plain = Bench(tmp_path, loss__lambda=0.0).step([whole(tokens(4))])
    assert distance(plain.gradients, step.gradients) == 0
    assert step.logged["pull"] > 0, "still measured"


# ---- off is off


def test_no_sense_weight_is_plain_distillation_whatever_the_options(tmp_path: Path) -> None:
    run(tmp_path / "a", senses=False, loss__lambda=0.0)
    run(tmp_path / "b", loss__lambda=0.0, **OPTIONS["all"])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    run(tmp_path / "c", **OPTIONS["all"])
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_digests_of_recipes_without_options_are_what_they_were() -> None:
    plain = LossConfig()
    assert fingerprint(plain.model_dump(mode="json", by_alias=True)) == "475853c64cea1332"
    assert fingerprint(plain.model_dump(mode="json")) == "de9089db9ab9b0ee"
    named = LossConfig.model_validate({"confidence": False, "assignment": "nearest", "anneal": None})
    assert named.model_dump() == plain.model_dump()
    for options in OPTIONS.values():
        tree = recipe(**options).loss.model_dump(mode="json", by_alias=True)
        assert tree != plain.model_dump(mode="json", by_alias=True)
        assert LossConfig.model_validate(tree) == recipe(**options).loss


# ---- the cache


def test_contrastive_push_from_the_cache_is_the_live_one_to_the_bit(tmp_path: Path) -> None:
    room = Room(tmp_path)
    live, _ = room.train(**OPTIONS["contrastive"])
    cached, _ = room.train(cache={"mode": "before", **EXACT}, **OPTIONS["contrastive"])
    assert largest_difference(live, cached) == 0


@pytest.mark.parametrize("mode", ["before", "first_epoch"])
def test_confidence_from_the_cache(mode: str, tmp_path: Path) -> None:
    room = Room(tmp_path)
    live, told = room.train(**OPTIONS["probability"])
    cached, result = room.train(cache={"mode": mode, **EXACT}, **OPTIONS["probability"])
    assert largest_difference(live, cached) < 1e-4
    for left, right in zip(told.history, result.history, strict=True):
        assert right["n_pull"] == pytest.approx(left["n_pull"], rel=1e-5)
    # Of a few tokens the label is often none: those positions count as nothing.
    _, few = room.train(cache={"mode": mode, "top": 4, "log_probs": "float32"}, **OPTIONS["agreement"])
    _, exact = room.train(**OPTIONS["agreement"])
    agreed = [row["n_pull"] for row in exact.history]
    assert [row["n_pull"] for row in few.history] == agreed
    assert 0 < sum(agreed) < sum(row["n_labels"] for row in told.history) / 10


# ---- what is refused


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"loss__assignment": "soft", "cache": {"mode": "before"}}, "no cache keeps; set cache.mode to off"),
        ({"loss__confidence": "probability", "loss__alpha": 0.0}, "not computed where alpha is 0"),
        ({"loss__anneal": {"start": 0.5, "end": 0.5}}, "`start` comes before `end`"),
        (
            {"loss__targets": "published", "loss__positions": {}, "loss__confidence": "agreement"},
            "no `assignment: soft` and no `confidence`, and needs `pull: absolute`",
        ),
        ({"loss__push_temperature": 0.0}, "greater than 0"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**overrides)


def test_arms_without_senses_may_stand_beside_options() -> None:
    loss = {"lambda": 0.0, "alpha": 0.0, "confidence": "probability", "assignment": "soft"}
    assert recipe(loss=loss, cache={"mode": "before"}).loss.confidence == "probability"
