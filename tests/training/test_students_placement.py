"""Dtypes and devices: float32 masters over a half-precision teacher, checkpointing, and where the teacher stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from students_world import Stop, refuse_if_not_plain, run, same, weights
from training_world import VOCABULARY, blocks, recipe, tiny, tokenizer
from transformers import PreTrainedModel

from sensekd.config import TeacherConfig
from sensekd.errors import InputError
from sensekd.training.assembly import cut_student, make_apprentice
from sensekd.training.checkpoints import checkpoints
from sensekd.training.placement import (
    autocast_dtype,
    carry,
    is_offloaded,
    offload,
    pick_device,
    source_of,
    student_device,
    teacher_device,
    variant,
)
from sensekd.training.teacher import load_teacher

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "granite"]
CPU = torch.device("cpu")


def half(tied: bool = True, family: str = "llama") -> PreTrainedModel:
    return tiny(family, tied).bfloat16()


def ids() -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))


# ---- dtypes


@pytest.mark.parametrize(("tied", "trainer"), [(True, {}), (False, {"bf16": True})])
def test_masters_are_float32_over_a_half_precision_teacher(tied: bool, trainer: dict[str, Any], tmp_path: Path) -> None:
    teacher = half(tied)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    # Steps far below a bfloat16's last bit: only a float32 weight can take them.
    common = {"training__learning_rate": 1e-6, "training__warmup": 0.0, "training__trainer": trainer}
    with pytest.raises(Stop):
        run(tmp_path, teacher, stop=3, training__save_every=2, **common)
    (checkpoint,) = checkpoints(tmp_path / "work")
    stored = load_file(checkpoint / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}
    for name, value in stored.items():
        start = before[name.replace("layers.0", "layers.2")].float()
        assert 0 < (value - start).abs().max() < 1e-5, name
    result = run(tmp_path, teacher, training__save_every=2, **common)
    assert (result.shared_layers, result.resumed_from) == (2, 2)
    assert {value.dtype for value in weights(tmp_path).values()} == {torch.bfloat16}
    assert refuse_if_not_plain(tmp_path / "student").dtype == torch.bfloat16
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_dtype_of_the_folder(tmp_path: Path) -> None:
    teacher = half()
    run(tmp_path / "a", teacher, student={"layers": 3, "train_top": 1, "export_dtype": "float32"})
    run(tmp_path / "b", teacher)
    run(tmp_path / "c", teacher, steps=0, student={"layers": 3, "train_top": 1, "export_dtype": "float16"})
    whole, rounded = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert {value.dtype for value in whole.values()} == {torch.float32}
    assert same({name: value.bfloat16() for name, value in whole.items()}, rounded)
    assert {value.dtype for value in weights(tmp_path / "c").values()} == {torch.float16}
    assert {value.dtype for value in teacher.parameters()} == {torch.bfloat16}


def test_which_parts_keep_the_memory_of_the_teacher() -> None:
    for trainer, kept in (({}, False), ({"bf16": True}, True), ({"fp16": True}, False)):
        teacher = half(tied=False)
        chosen = recipe(training__trainer=trainer)
        cut = cut_student(teacher, tokenizer(), chosen, blocks())
        tail = make_apprentice(cut, teacher, chosen).trunk.model
        shared = {value.data_ptr() for value in teacher.parameters()}
        for name in ("lm_head.weight", "model.norm.weight"):
            value = tail.get_parameter(name)
            assert (value.data_ptr() in shared) == kept
            assert value.dtype == (torch.bfloat16 if kept else torch.float32)
        assert all(value.dtype == torch.float32 for value in tail.parameters() if value.requires_grad)
    assert autocast_dtype({"bf16": False}) is None


@pytest.mark.parametrize(
    "family", [*FAMILIES[:1], *(pytest.param(name, marks=pytest.mark.long) for name in FAMILIES[1:])]
)
@pytest.mark.parametrize("trainer", [{}, {"bf16": True}])
def test_shared_trunk_and_whole_student_agree_in_half_precision(
    family: str, trainer: dict[str, Any], tmp_path: Path
) -> None:
    # The whole student computes its frozen layers in another dtype, so the two agree to bfloat16's tolerance alone.
    common = {"loss__lambda": 0.0, "training__trainer": trainer, "training__log_every": 1}
    student = {"layers": 3, "train_top": 1}
    shared = run(tmp_path / "a", half(family=family), steps=1, student=student, **common)
    whole = run(tmp_path / "b", half(family=family), steps=1, student={**student, "shared_trunk": "off"}, **common)
    assert (shared.shared_layers, whole.shared_layers) == (2, 0)
    for name in ("ce", "kl", "grad_norm"):
        assert shared.history[0][name] == pytest.approx(whole.history[0][name], rel=0.05), name


def test_autocast_leaves_the_teacher_alone(tmp_path: Path) -> None:
    # The teacher's float32 states give the hidden term; a bfloat16 teacher would be off by its rounding.
    common = {"loss__mu": 1.0, "loss__lambda": 0.0, "training__log_every": 1, "training__warmup": 0.0}
    seen: list[torch.dtype] = []
    for name, trainer in (("a", {}), ("b", {"bf16": True})):
        teacher = tiny(tied=True)
        teacher.model.layers[0].mlp.down_proj.register_forward_hook(lambda *args: seen.append(args[2].dtype))
        run(tmp_path / name, teacher, steps=1, training__trainer=trainer, **common)
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("student", [
    {"layers": 3, "train_top": 2}, {"layers": 3, "train_top": 2, "shared_trunk": "off"},
    {"layers": 3, "width": 8}, {"layers": 3, "train_top": 0, "lora": {"rank": 2}},
])  # fmt: skip
def test_gradient_checkpointing_changes_nothing(student: dict[str, Any], tmp_path: Path) -> None:
    if "lora" in student:
        pytest.importorskip("peft", reason="needs the extra `lora`")
    calls = []
    original = torch.utils.checkpoint.checkpoint

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return original(*args, **options)

    run(tmp_path / "a", student=student)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.modeling_utils.checkpoint", counted)
        run(tmp_path / "b", student=student, training__trainer={"gradient_checkpointing": True})
    assert calls
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    config = [(tmp_path / name / "student" / "config.json").read_text() for name in ("a", "b")]
    assert config[0] == config[1]


# ---- devices


class Elsewhere:
    """A tensor that knows only where it was sent."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def to(self, device: torch.device, non_blocking: bool = False) -> Elsewhere:
        assert non_blocking == (device.type == "cuda"), "a copy to the host must have arrived"
        return self if device == self.device else Elsewhere(str(device))


def test_batches_are_carried() -> None:
    batch = {"input_ids": Elsewhere("cpu"), "attention_mask": Elsewhere("cuda:1")}
    found = carry(batch, torch.device("cuda:1"))  # type: ignore[arg-type]
    assert {str(value.device) for value in found.values()} == {"cuda:1"}
    assert found["attention_mask"] is batch["attention_mask"]
    assert str(carry(batch, CPU)["attention_mask"].device) == "cpu"  # type: ignore[arg-type]


def test_where_teacher_and_student_stand() -> None:
    assert teacher_device(TeacherConfig(model="x"), torch.device("cuda:3")) == torch.device("cuda:3")
    assert teacher_device(TeacherConfig(model="x", device="cpu"), torch.device("cuda:3")) == CPU
    with pytest.raises(InputError, match=r"teacher\.device: 'warp:9' cannot be used"):
        teacher_device(TeacherConfig(model="x", device="warp:9"), CPU)
    with pytest.raises(InputError, match="device: 'nowhere' cannot be used"):
        pick_device("nowhere")
    assert student_device(recipe(), tiny()) == CPU
    named = {"model": "none", "device": "cpu"}
    assert student_device(recipe(teacher=named, device="cpu"), tiny()) == CPU
    assert [variant(TeacherConfig(model="x", quantization=kind)) for kind in (None, "4bit")] == ["", "+4bit"]


def test_a_teacher_sent_to_the_students_device_teaches_the_same(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", teacher__device="cpu")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def saved(folder: Path) -> str:
    tiny(tied=True).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_quantising_elsewhere_than_on_a_gpu_is_one_error(kind: Any, tmp_path: Path) -> None:
    config = TeacherConfig(model=saved(tmp_path), quantization=kind)
    with pytest.raises(InputError, match=rf"quantization is {kind}, but the teacher stands on cpu"):
        load_teacher(config, "cpu")
    with pytest.raises(ValueError, match="exclude each other"):
        TeacherConfig(model="x", quantization=kind, offload=True)


def test_a_quantised_teachers_student_is_cut_from_the_checkpoint(tmp_path: Path) -> None:
    config = TeacherConfig(model=saved(tmp_path), dtype="bfloat16")
    teacher = tiny(tied=True)
    teacher.is_quantized = True
    source = source_of(teacher, config)
    assert source is not teacher
    assert source.dtype == torch.bfloat16
    assert not any(value.requires_grad for value in source.parameters())
    wanted = tiny(tied=True).bfloat16().state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize(
    "student",
    [
        {"layers": 3, "train_top": 1},
        {"layers": 3, "width": 8},
        pytest.param({"layers": 3, "train_top": 1, "shared_trunk": "off"}, marks=pytest.mark.long),
        pytest.param({"layers": 3, "train_top": 1, "selection": "importance"}, marks=pytest.mark.long),
    ],
)
def test_an_offloaded_teacher_teaches_the_same(student: dict[str, Any], tmp_path: Path) -> None:
    folder = saved(tmp_path / "teacher")
    here, _, one = load_teacher(TeacherConfig(model=folder), "cpu")
    away, _, other = load_teacher(TeacherConfig(model=folder, offload=True), "cpu")
    assert one == other
    assert is_offloaded(away)
    assert not is_offloaded(here)
    layers = {value.device.type for value in away.model.layers.parameters()}
    rest = {value.device.type for name, value in away.named_parameters() if ".layers." not in name}
    assert (layers, rest) == ({"meta"}, {"cpu"})
    with torch.no_grad():
        assert torch.equal(here(ids()).logits, away(ids()).logits)
    results = [run(tmp_path / name, model, student=student) for name, model in (("a", here), ("b", away))]
    assert results[0].facts() == results[1].facts()
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    with torch.no_grad():
        assert torch.equal(here(ids()).logits, away(ids()).logits)


def test_a_student_shares_the_memory_that_an_offloaded_teacher_rests_in() -> None:
    teacher = tiny()
    offload(teacher, CPU)
    source = source_of(teacher, TeacherConfig(model="none"))
    assert source.model.embed_tokens.weight.data_ptr() == teacher.model.embed_tokens.weight.data_ptr()
    again = source_of(teacher, TeacherConfig(model="none"))
    name = "model.layers.1.mlp.up_proj.weight"
    assert source.get_parameter(name).data_ptr() == again.get_parameter(name).data_ptr()
    assert torch.equal(source.get_parameter(name), tiny().get_parameter(name))


@pytest.mark.gpu
@pytest.mark.parametrize("placement", [{"device": "cpu"}, {"offload": True}, {"quantization": "8bit"}])
def test_placements_on_a_gpu(placement: dict[str, Any], tmp_path: Path) -> None:
    if "quantization" in placement:
        pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    config = {"model": saved(tmp_path / "teacher"), "dtype": "bfloat16", **placement}
    teacher, _, _ = load_teacher(TeacherConfig.model_validate(config), "cuda")
    named = {f"teacher__{name}": value for name, value in config.items()}
    result = run(tmp_path, teacher, device="cuda", training__trainer={"bf16": True}, **named)
    assert result.steps == 4
    assert result.shared_layers == (0 if "quantization" in placement else 2)
    refuse_if_not_plain(tmp_path / "student")
