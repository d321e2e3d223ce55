"""Trajectories that must be equal, a loss computed again by hand, and the folder that is left."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from training_world import VOCABULARY, blocks, edges, recipe, table, tiny, tokenizer

from forked import unfollowed
from sensekd.config import LossConfig
from sensekd.errors import InputError, SenseKDError
from sensekd.training.checkpoints import checkpoints, newest_checkpoint, step_of
from sensekd.training.distill import DistillResult, distill
from sensekd.training.students import make_student
from sensekd.training.trunk import capture_inputs

Weights = dict[str, torch.Tensor]


def run(folder: Path, *, double: bool = False, senses: bool = True, steps: int = 6, **overrides: Any) -> DistillResult:
    """Distil the tiny teacher into folder/student."""
    teacher = tiny(tied=True)
    sense_table = table()
    if double:
        teacher = teacher.double()
    return distill(
        teacher,
        tokenizer(),
        recipe(**overrides),
        steps,
        blocks(),
        senses=(sense_table, edges()) if senses else None,
        folders=(folder / "student", folder / "work"),
    )


def weights(folder: Path) -> Weights:
    return load_file(folder / "student" / "model.safetensors")


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "student").iterdir())}


def history(result: DistillResult) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in result.history]


# ---- the loss


def by_hand(teacher: Any, student: Any, rows: torch.Tensor, loss: LossConfig) -> dict[str, float]:
    """Every term of the first batch, position by position, from the definitions."""
    senses, (starts, ends) = table(), edges()
    sums: dict[str, list[float]] = {name: [] for name in ("ce", "kl", "hidden", "pull", "push")}
    states: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    for model in (teacher, student):
        with torch.no_grad(), capture_inputs(model.get_output_embeddings()) as last:
            logits.append(model(rows, use_cache=False).logits)
        states.append(last[0])
    for b in range(len(rows)):
        for t in range(rows.shape[1] - 1):
            y = int(rows[b, t + 1])
            joined = bool(ends[rows[b, t]] and starts[y])
            final = t + 2 == rows.shape[1]
            whole = not joined and not final and not bool(ends[y] and starts[rows[b, t + 2]])
            h_t, h_s = states[0][b, t], states[1][b, t]
            p, q = (F.log_softmax(part[b, t] / loss.tau, -1) for part in logits)
            sums["ce"].append(-float(F.log_softmax(logits[1][b, t], -1)[y]))
            sums["kl"].append(float((p.exp() * (p - q)).sum()))
            d2 = lambda s, h_s=h_s: float((s - h_s).square().mean()) / senses.sigma2  # noqa: E731

            def kept(lists: Any, token: int, h_t: torch.Tensor = h_t) -> list[torch.Tensor]:
                ids = lists.ids[lists.indptr[token] : lists.indptr[token + 1]].tolist()
                ranked = sorted(ids, key=lambda row: float((senses.rows[row] - h_t).square().sum()))
                return [senses.rows[row] for row in ranked[: loss.kappa]]

            positive = kept(senses.positive, y + VOCABULARY * whole)
            negative = kept(senses.negative, y) if whole else []
            sums["hidden"].append(d2(h_t))
            if positive:
                centre = torch.stack(positive).mean(0)
                beyond = d2(centre) - d2(centre, h_t)
                far = sum(d2(s) for s in positive) / len(positive)
                sums["pull"].append(far if loss.pull == "absolute" else max(0.0, beyond))
            if negative:
                hinge = [max(0.0, loss.effective_margin - d2(s)) for s in negative]
                sums["push"].append(sum(hinge) / len(hinge))
    found = {name: sum(values) / len(values) for name, values in sums.items()}
    return found | {"n_pull": float(len(sums["pull"])), "n_push": float(len(sums["push"]))}


@pytest.mark.parametrize(("chunked", "pull"), [("off", "teacher"), ("on", "absolute")])
def test_first_loss_against_a_loop_over_positions(chunked: str, pull: str, tmp_path: Path) -> None:
    chosen = {
        "loss__chunked": chunked,
        "loss__pull": pull,
        "loss__mu": 0.3,
        "loss__lambda": 0.9,
        "loss__margin": 6.0,
        "training__log_every": 1,
    }
    original = blocks()
    result = run(tmp_path, steps=1, training__warmup=0.0, **chosen)
    config = recipe(**chosen)
    teacher = tiny(tied=True)
    student = make_student(teacher, config.student)
    # The order of the data follows from the seed alone.
    seen = [original[index]["input_ids"] for index in first_batch(config.seed, len(original), 4)]
    wanted = by_hand(teacher, student, torch.stack(seen), config.loss)
    found = result.history[0]
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=2e-4), name
    weighted = (
        wanted["ce"]
        + config.loss.alpha * 4 * wanted["kl"]
        + 0.9 * (wanted["pull"] + wanted["push"])
        + 0.3 * wanted["hidden"]
    )
    assert found["loss"] == pytest.approx(weighted, rel=2e-4)
    assert found["n_labels"] == 44
    assert found["own"] == pytest.approx(wanted["n_pull"] / 44)
    assert 0 < found["push_active"] < 1
    assert wanted["n_push"] > 3


def first_batch(seed: int, size: int, count: int) -> list[int]:
    generator = torch.Generator()
    generator.manual_seed(seed)
    return torch.randperm(size, generator=generator).tolist()[:count]


@pytest.mark.parametrize("chunked", ["off", "on"])
def test_no_sense_weight_is_plain_distillation_to_the_bit(chunked: str, tmp_path: Path) -> None:
    one = run(tmp_path / "a", senses=True, loss__lambda=0.0, loss__chunked=chunked)
    other = run(tmp_path / "b", senses=False, loss__lambda=0.0, loss__chunked=chunked)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert history(one) == history(other)
    assert {"ce", "kl"} <= set(one.history[0])
    assert not {"pull", "push", "hidden"} & set(one.history[0])
    run(tmp_path / "c")
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a"), run(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert history(one) == history(other)
    assert one.facts() == other.facts()
    run(tmp_path / "c", seed=4)
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("positions", ["all", {"fraction": 0.4, "minimum": 3}])
@pytest.mark.parametrize("push", ["absolute", "relative"])
def test_accumulation_changes_nothing(positions: object, push: str, tmp_path: Path) -> None:
    common = {"loss__positions": positions, "loss__push": push, "loss__margin": 3.0, "loss__mu": 0.1}
    whole = run(tmp_path / "a", double=True, training__batch_size=8, **common)
    parts = run(tmp_path / "b", double=True, training__batch_size=2, training__accumulation=4, **common)
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6
    assert whole.tokens == parts.tokens == 6 * 8 * 12
    for left, right in zip(history(whole), history(parts), strict=True):
        assert left == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("chunked", ["off", "on"])
def test_shared_trunk_changes_nothing(chunked: str, tmp_path: Path) -> None:
    shared = run(tmp_path / "a", loss__chunked=chunked)
    student = {"layers": 3, "train_top": 1, "shared_trunk": "off"}
    whole = run(tmp_path / "b", student=student, loss__chunked=chunked)
    assert (shared.shared_layers, whole.shared_layers) == (2, 0)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert history(shared) == history(whole)


def test_arms_of_a_seed_read_the_same_batches(tmp_path: Path) -> None:
    # CE of the untrained student is the same number for every arm exactly if the batches are the same.
    arms: list[dict[str, Any]] = [
        {},
        {"loss__lambda": 0.0},
        {"loss__alpha": 0.0, "loss__lambda": 0.0},
        {"loss__lambda": 0.0, "loss__mu": 1.0},
        {"loss__positions": {"fraction": 0.5, "minimum": 2}},
    ]
    common: dict[str, Any] = {"training__learning_rate": 1e-30, "training__log_every": 1}
    curves = []
    for index, arm in enumerate(arms):
        torch.manual_seed(index)
        result = run(tmp_path / str(index), steps=14, **common, **arm)
        curves.append([row["ce"] for row in result.history])
    # 24 blocks in batches of 4: the third epoch has begun.
    assert len(set(curves[0])) > 10
    assert all(curve == curves[0] for curve in curves)


# ---- interruption


class Stop(KeyboardInterrupt):
    pass


def stop_after(step: int) -> Callable[[int, int], None]:
    def progress(done: int, _: int) -> None:
        if done == step:
            raise Stop

    return progress


def interrupted(folder: Path, step: int, **overrides: Any) -> None:
    with pytest.raises(Stop):
        distill(
            tiny(tied=True), tokenizer(), recipe(**overrides), 8, blocks(),
            senses=(table(), edges()), folders=(folder / "student", folder / "work"), progress=stop_after(step),
        )  # fmt: skip


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resuming_equals_never_stopping(accumulation: int, tmp_path: Path) -> None:
    chosen = {
        "training__save_every": 2, "training__accumulation": accumulation,
        "loss__positions": {"fraction": 0.5, "minimum": 2},
    }  # fmt: skip
    whole = run(tmp_path / "a", steps=8, **chosen)
    assert not (tmp_path / "a" / "work").exists()
    interrupted(tmp_path / "b", 7, **chosen)
    assert not (tmp_path / "b" / "student").exists()
    assert [step_of(path) for path in checkpoints(tmp_path / "b" / "work")] == [4, 6]
    resumed = run(tmp_path / "b", steps=8, **chosen)
    assert resumed.resumed_from == 6
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert history(resumed) == history(whole)
    assert resumed.facts() == whole.facts()


def test_a_record_is_averaged_over_the_same_steps_after_resuming(tmp_path: Path) -> None:
    chosen = {"training__save_every": 2, "training__log_every": 4}
    whole = run(tmp_path / "a", steps=8, **chosen)
    interrupted(tmp_path / "b", 7, **chosen)  # Two steps after the last record of `log_every`.
    assert history(run(tmp_path / "b", steps=8, **chosen)) == history(whole)


def test_checkpoints_hold_what_trains(tmp_path: Path) -> None:
    interrupted(tmp_path, 3, training__save_every=2)
    (checkpoint,) = checkpoints(tmp_path / "work")
    stored = load_file(checkpoint / "model.safetensors")
    assert stored
    assert all(name.startswith("model.layers.0.") for name in stored)
    assert not (checkpoint / "training_args.bin").exists()


@pytest.mark.parametrize("damage", ["no manifest", "cut short", "empty folder"])
def test_a_checkpoint_cut_short_is_passed_over(damage: str, tmp_path: Path) -> None:
    run(tmp_path / "a", steps=8, training__save_every=2)
    interrupted(tmp_path / "b", 7, training__save_every=2)
    newest = checkpoints(tmp_path / "b" / "work")[-1]
    if damage == "no manifest":
        (newest / "manifest.json").unlink()
    elif damage == "cut short":
        data = (newest / "optimizer.pt").read_bytes()
        (newest / "optimizer.pt").write_bytes(data[: len(data) // 2])
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    assert run(tmp_path / "b", steps=8, training__save_every=2).resumed_from == 4
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, 3, training__save_every=2)
    with pytest.raises(InputError, match="was made from recipe"):
        run(tmp_path, steps=8, training__save_every=2, loss__kappa=3)
    assert newest_checkpoint(tmp_path / "nowhere", {}) is None


# ---- what is left


def test_nothing_of_the_training_stays_in_the_folder(tmp_path: Path) -> None:
    run(tmp_path)
    plain = tmp_path / "plain"
    tiny(tied=True).save_pretrained(plain)
    tokenizer().save_pretrained(plain)
    assert {path.name for path in (tmp_path / "student").iterdir()} == {path.name for path in plain.iterdir()}
    found, wanted = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "student", plain))
    assert found.keys() == wanted.keys()
    assert {key for key in wanted if found[key] != wanted[key]} == {"num_hidden_layers"}
    assert found["num_hidden_layers"] == 3
    names = {name for name in load_file(plain / "model.safetensors") if ".layers.3." not in name}
    assert set(weights(tmp_path)) == names


_STRANGER = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sensekd":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
try:
    import sensekd
except ImportError:
    pass
else:
    raise SystemExit("sensekd is still importable")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokens = AutoTokenizer.from_pretrained(sys.argv[1])("w5 w9 w11", return_tensors="pt")
options = dict(max_new_tokens=10, do_sample=False, eos_token_id=None)
cached = model.generate(**tokens, use_cache=True, **options)
assert torch.equal(cached, model.generate(**tokens, use_cache=False, **options))
print(model.config.num_hidden_layers, model.config.use_cache, cached.shape[1])
"""


def test_the_folder_loads_where_sensekd_is_not(tmp_path: Path) -> None:
    run(tmp_path, student={"layers": 3, "train_top": 1, "shared_trunk": "off"})
    command = [sys.executable, "-c", _STRANGER, str(tmp_path / "student")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=unfollowed())
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "True", "13"]


def test_no_steps_only_cuts(tmp_path: Path) -> None:
    result = run(tmp_path, steps=0)
    assert (result.tokens, result.history) == (0, ())
    teacher = tiny(tied=True).state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in weights(tmp_path).items())


# ---- what is refused


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training__trainer": {"learning_rte": 1}}, "such as learning_rate"),
        ({"training__trainer": {"max_steps": 1}}, "training.steps"),
        ({"training__scheduler": "unheard_of"}, "arguments are refused"),
        ({"training__trainer": {"label_smoothing_factor": 0.1}}, "no meaning in a distillation"),
        ({"student": {"layers": 3, "train_top": 0}}, "no parameter of the student is trainable"),
    ],
)
def test_refused_recipes(overrides: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, **overrides)
    assert not (tmp_path / "student").exists()


def test_sense_weight_without_senses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sense table"):
        run(tmp_path, senses=False)


def test_a_loss_that_is_not_finite_names_its_step(tmp_path: Path) -> None:
    with pytest.raises(SenseKDError, match=r"not finite at step [12]\b"):
        run(tmp_path, steps=6, training__learning_rate=1e38, training__max_grad_norm=0.0, training__warmup=0.0)
    assert not (tmp_path / "student").exists()
