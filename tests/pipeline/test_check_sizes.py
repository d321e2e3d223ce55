"""What check counts on the meta device, against what the same recipe really makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_run import write_inputs, write_recipe, write_teacher
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.config import Recipe, StudentConfig, recipe_from_tree
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError
from sensekd.pipeline.check.memory import gradients, kept_bytes, optimiser, student_weights, teacher_weights
from sensekd.pipeline.check.report import Options, examine, parse_bytes, sizes_of
from sensekd.pipeline.check.shapes import Shapes, parameters_of, shapes_of
from sensekd.pipeline.check.volume import Volume, volume_of_corpus
from sensekd.pipeline.check.work import Rate, Schedule, costs_of, hours_of, schedule_of
from sensekd.training.students import make_student
from sensekd.training.trunk import Form, make_tail

HALF = {"training.trainer": {"bf16": True}, "teacher.dtype": "bfloat16"}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "half precision": HALF,
    "half precision, computed in float32": {"teacher.dtype": "bfloat16"},
    "all of it": {"student.train": ["*"]},
    "spaced": {"student.selection": "spaced", "student.layers": 3},
    "no trunk": {"student.shared_trunk": "off", **HALF},
    "no trunk, other dtype": {"student.shared_trunk": "off", "teacher.dtype": "bfloat16"},
    "plain text alone": {"loss.alpha": 0, "loss.lambda": 0},
    "adapters": {"student.train_top": 0, "student.lora": {"rank": 3, "targets": ["q_proj", "down_proj"]}},
    "narrow": {"student.width": 8},
    "another vocabulary": {"student.vocabulary": 44},
    "double": {"student.dtype": "bfloat16", **HALF},
}


def recipe_of(folder: Path, changes: dict[str, Any]) -> Recipe:
    tree = write_inputs(folder)
    for key, value in changes.items():
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = value
    return recipe_from_tree(tree, "tiny", kind=Recipe)


def really(recipe: Recipe, folder: Path) -> Any:
    from sensekd.training.assembly import cut_student, make_apprentice
    from sensekd.training.mixture import tokenise_corpus
    from sensekd.training.packing import make_blocks
    from sensekd.training.teacher import load_teacher

    teacher, tokenizer, _ = load_teacher(recipe.teacher, "cpu")
    tokenise_corpus(recipe.corpus, tokenizer, folder / "tokens")
    cut = cut_student(teacher, tokenizer, recipe, make_blocks(TokenDocuments.open(folder / "tokens"), recipe.training))
    return teacher, make_apprentice(cut, teacher, recipe)


def storages(model: torch.nn.Module) -> dict[int, int]:
    return {value.untyped_storage().data_ptr(): value.numel() * value.element_size() for value in model.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_weights_are_those_of_the_student_that_is_made(kind: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, KINDS[kind])
    shapes = shapes_of(recipe, 40)
    teacher, apprentice = really(recipe, tmp_path)
    assert parameters_of(shapes.teacher) == sum(value.numel() for value in teacher.parameters())
    adapters = shapes.adapters
    assert parameters_of(shapes.student) == sum(value.numel() for value in apprentice.cut.student.parameters()) - (
        adapters if apprentice.trunk.layers == 0 else 0
    )
    assert (shapes.trainable, shapes.trunk) == (apprentice.trainable, apprentice.trunk.layers)
    theirs, ours = storages(teacher), storages(apprentice.trained)
    assert teacher_weights(recipe, shapes).bytes == sum(theirs.values())
    own = sum(size for place, size in ours.items() if place not in theirs and size)
    assert student_weights(recipe, shapes).bytes == own


@pytest.mark.parametrize("kind", ["plain", "adapters", "narrow", "double"])
def test_gradients_and_optimiser_states_are_those_of_a_step(kind: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, KINDS[kind])
    shapes = shapes_of(recipe, 40)
    _, apprentice = really(recipe, tmp_path)
    trained = [value for value in apprentice.trained.parameters() if value.requires_grad]
    for value in trained:
        value.grad = torch.ones_like(value)
    adam = torch.optim.AdamW(trained)
    adam.step()
    size = sum(value.grad.numel() * value.grad.element_size() for value in trained if value.grad is not None)
    states = [each[name] for each in adam.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert gradients(recipe, shapes, 1).bytes == size
    assert gradients(recipe, shapes, 2).bytes == 2 * size
    assert optimiser(recipe, shapes).bytes == sum(each.numel() * each.element_size() for each in states)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_kept_activations_are_those_of_a_real_forward(family: str) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = AutoConfig.for_model(family, **sizes, num_key_value_heads=2, vocab_size=60, head_dim=8)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    student = make_student(model, StudentConfig(layers=4))
    with torch.device("meta"):
        empty = make_student(AutoModelForCausalLM.from_config(config, dtype=torch.float32), StudentConfig(layers=4))
    tail, counted = (make_tail(each, 2, Form(torch.float32)).train() for each in (student, empty))
    kept: dict[int, tuple[int, torch.Tensor]] = {}
    own = {value.untyped_storage().data_ptr() for value in tail.parameters()}

    def note(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        tail.get_decoder()(inputs_embeds=torch.randn(2, 16, 32), use_cache=False)
    real = sum(size for place, (size, _) in kept.items() if place not in own)
    assert real > 0
    assert kept_bytes(counted, 2, 16, 32) == pytest.approx(real, rel=0.01)
    assert kept_bytes(counted, 4, 16, 32) == pytest.approx(2 * kept_bytes(counted, 2, 16, 32), rel=0.05)


def test_the_disk_is_that_of_a_run(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    tree["training"]["save_every"] = 2
    path = write_recipe(tmp_path, tree)
    recipe = recipe_from_tree(tree, "tiny", kind=Recipe)
    before = {part.name: part.bytes for part in sizes_of(recipe, Options(), []).disk}
    rows = sizes_of(recipe, Options(), []).rows
    result = CliRunner().invoke(app, ["distill", str(path)])
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"

    def file(*parts: str) -> int:
        return run.joinpath(*parts).stat().st_size

    # Headers of files take up to 1 kB, which is much in a run this small.
    assert before["sample"] == pytest.approx(file("sample", "sample.safetensors") - 800, rel=0.1)
    assert before["senses"] == pytest.approx(file("senses", "senses.safetensors") - 500, rel=0.1)
    assert before["tokens, train"] == pytest.approx(file("tokens-train", "tokens.npy") + 16 * 60, rel=0.1)
    assert before["one student"] == pytest.approx(file("students", "dskd-0", "model.safetensors"), rel=0.2)
    with safe_open(run / "sample" / "sample.safetensors", "pt") as handle:
        assert rows is not None
        assert rows.states == handle.get_slice("states").get_shape()[0]
    after = examine(recipe)
    assert after.sizes is not None
    stands = {part.name: part for part in after.sizes.disk}
    assert (stands["sample"].certainty, stands["sample"].note) == ("exact", "stands already")
    assert stands["sample"].bytes > file("sample", "sample.safetensors")
    assert {part.name for part in after.sizes.worst} == set()


@pytest.mark.data
@pytest.mark.long
@pytest.mark.parametrize("assignment", ["next", "predicted"])
def test_the_disk_of_a_real_teacher_is_within_a_tenth(assignment: str, tmp_path: Path, data_dir: Path) -> None:
    from sensekd.config import load_recipe

    path = Path(__file__).parents[2] / "recipes" / "stories3m.yaml"
    overrides = [f"output={tmp_path / 'run'}", f"senses.assignment={assignment}", "lexicon.sources=[]"]
    sizes = sizes_of(load_recipe(path, overrides), Options(), [])
    result = CliRunner().invoke(
        app, ["senses", "build", str(path), *(part for each in overrides for part in ("--set", each))]
    )
    assert result.exit_code == 0, result.output
    for name in ("sample", "senses"):
        (part,) = [part for part in sizes.disk if part.name == name]
        assert part.bytes == pytest.approx((tmp_path / "run" / name / f"{name}.safetensors").stat().st_size, rel=0.1)


def tiny_shapes(tmp_path: Path, **changes: Any) -> tuple[Recipe, Shapes]:
    recipe = recipe_of(tmp_path, changes)
    return recipe, shapes_of(recipe, 40)


def test_operations_are_two_for_every_weight_that_a_token_meets(tmp_path: Path) -> None:
    recipe, shapes = tiny_shapes(tmp_path)
    layer = 16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24
    window, length = 32, 16
    costs = costs_of(recipe, shapes)
    assert costs.head == 2 * 40 * 16
    assert costs.layers == 4 * (2 * layer + 2 * 16 * window)
    assert costs.sampling == costs.layers  # assignment: next
    attention = 2 * 16 * length
    teacher = 4 * (2 * layer + attention) + costs.head
    tail = 2 * layer + attention + costs.head
    backward = costs.head + 2 * layer + 2 * attention + 2 * layer
    assert costs.step == teacher + tail + backward


def test_hours_follow_from_the_rate(tmp_path: Path) -> None:
    recipe, shapes = tiny_shapes(tmp_path, **{"senses.assignment": "predicted"})
    costs = costs_of(recipe, shapes)
    text = Volume(7_200_000, 10, "counted")
    hours = hours_of(Rate(1000, "given"), costs, Schedule(1, 3_600_000, None), text, 2)
    assert hours.sampling == pytest.approx(1.0)
    assert hours.training == pytest.approx(0.5 * costs.step / costs.teacher)
    assert hours_of(Rate(1, "given"), costs, Schedule(1, 1, None), None, 1).sampling is None


def test_steps_as_epochs(tmp_path: Path) -> None:
    recipe, _ = tiny_shapes(tmp_path)
    found = schedule_of(recipe, Volume(1600, 50, "counted"), 2)
    assert (found.step, found.total, found.epochs) == (4 * 16 * 2, 4 * 4 * 16 * 2, 4 * 4 * 2 / 100)
    one_each = recipe.model_copy(update={"training": recipe.training.model_copy(update={"packing": "none"})})
    assert schedule_of(one_each, Volume(1600, 50, "counted"), 1).epochs == 4 * 4 / 50
    assert schedule_of(recipe, Volume(0, 0, "unknown"), 1).epochs is None


def test_text_is_counted_read_in_part_or_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sensekd.pipeline.check import volume
    from sensekd.training.teacher import load_tokenizer

    recipe, _ = tiny_shapes(tmp_path)
    tokenizer = load_tokenizer(recipe.teacher)
    whole = volume_of_corpus(recipe.corpus, tokenizer, 40)
    assert (whole.tokens, whole.documents, whole.sureness) == (60 * 21, 60, "counted")
    assert whole.labels is not None
    assert whole.labels.sum() == 60 * 20
    hub = recipe.corpus.model_copy(update={"format": "hub", "path": "some/set", "max_tokens": 500})
    assert volume_of_corpus(hub, tokenizer, 40).tokens == 500
    both = recipe.corpus.model_copy(update={"path": "", "mixture": (recipe.corpus, hub)})
    assert (volume_of_corpus(both, tokenizer, 40).tokens, volume_of_corpus(both, tokenizer, 40).sureness) == (
        60 * 21 + 500,
        "at most",
    )
    monkeypatch.setattr(volume, "COUNTED", 100)
    monkeypatch.setattr(volume, "_BATCH", 10)
    about = volume_of_corpus(recipe.corpus, tokenizer, 40)
    assert about.sureness == "about"
    assert about.tokens == pytest.approx(whole.tokens, rel=0.2)


def test_a_shape_stands_in_for_a_checkpoint_that_is_out_of_reach(tmp_path: Path) -> None:
    shape = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 40}
    recipe = recipe_of(tmp_path, {"teacher.shape": shape})
    known = shapes_of(recipe)
    assert parameters_of(known.teacher) == parameters_of(shapes_of(recipe_of(tmp_path, {})).teacher)
    far = recipe_of(tmp_path, {"teacher.shape": shape, "teacher.model": "nobody/there"})
    assert parameters_of(shapes_of(far).teacher) == parameters_of(known.teacher)
    with pytest.raises(InputError, match="no model at"):
        shapes_of(recipe_of(tmp_path, {"teacher.model": "nobody/there"}))
    with pytest.raises(InputError, match="says hidden_size 32, the checkpoint 16"):
        shapes_of(recipe_of(tmp_path, {"teacher.shape": shape | {"hidden_size": 32}}))
    with pytest.raises(InputError, match=r"teacher\.shape"):
        shapes_of(recipe_of(tmp_path, {"teacher.shape": {"model_type": "none"}, "teacher.model": "nobody/there"}))


@pytest.mark.parametrize(
    ("text", "count"),
    [("80GB", 80 * 10**9), ("80g", 80 * 10**9), ("1.5GiB", 3 * 2**29), ("512", 512), ("2 MiB", 2**21)],
)
def test_sizes_as_text(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "much", "GB", "3ib", "-1GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="--memory"):
        parse_bytes(text)


def test_a_padded_table_and_no_weights(tmp_path: Path) -> None:
    tree = write_inputs(tmp_path)
    write_teacher(tmp_path / "teacher", rows=48)
    (tmp_path / "teacher" / "model.safetensors").unlink()
    recipe = recipe_from_tree(tree, "tiny", kind=Recipe)
    report = examine(recipe)
    assert report.sizes is not None
    assert report.problems == []
    assert parameters_of(report.sizes.shapes.teacher) == parameters_of(shapes_of(recipe).teacher)
    assert {step.action for step in report.plan if step.stage == "tokens train"} == {"unknown"}
