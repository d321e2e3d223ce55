"""Students from beginning to end: layers chosen by importance, adapters, and the trunk under them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from students_world import FAMILIES, Stop, ids, refuse_if_not_plain, run, same, weights
from training_world import LAYERS, blocks, tiny

from sensekd.config import LoraConfig, StudentConfig
from sensekd.errors import InputError, SenseKDError
from sensekd.training.checkpoints import checkpoints
from sensekd.training.importance import angular_distance, block_importance
from sensekd.training.lora import adapted_layers, adapted_modules, add_adapters, merge_adapters
from sensekd.training.students import make_student
from sensekd.training.trunk import capture_inputs, layers_of

# ---- importance


def test_angles() -> None:
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    other = torch.tensor([[0.0, 2.0], [-5.0, 0.0], [1.0, 1.0], [6.0, 8.0], [math.cos(1e-5), math.sin(1e-5)]])
    wanted = torch.tensor([0.5, 1.0, 0.25, 0.0, 1e-5 / math.pi])
    torch.testing.assert_close(angular_distance(one, other), wanted, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_importance_against_all_hidden_states(family: str) -> None:
    teacher, data = tiny(family), blocks()
    found = block_importance(teacher, data, 100)
    # 100 tokens are nine blocks of twelve.
    assert found.tokens == 108
    rows = torch.stack([data[index]["input_ids"] for index in range(9)])
    sums = [0.0] * LAYERS
    for row in rows:
        states: list[tuple[torch.Tensor, torch.Tensor]] = []
        for index in range(LAYERS):
            with torch.no_grad(), capture_inputs(layers_of(teacher)[index]) as before:
                following = layers_of(teacher)[index + 1] if index + 1 < LAYERS else teacher.base_model.norm
                with capture_inputs(following) as after:
                    teacher(row[None], use_cache=False)
            states.append((before[0][0].double(), after[0][0].double()))
        for index, (before_TD, after_TD) in enumerate(states):
            cosine = torch.nn.functional.cosine_similarity(before_TD, after_TD, dim=-1)
            sums[index] += float(cosine.clamp(-1, 1).arccos().sum()) / math.pi
    assert found.scores == pytest.approx([value / 108 for value in sums], rel=1e-5)
    assert block_importance(teacher, data, 100) == found
    assert block_importance(teacher, data, 10**9).tokens == len(data) * data.length


def test_a_state_that_is_not_finite_has_no_importance() -> None:
    teacher = tiny()
    with torch.no_grad():
        teacher.model.layers[2].mlp.down_proj.weight.fill_(math.nan)
    with pytest.raises(SenseKDError, match="layer 2 of the teacher"):
        block_importance(teacher, blocks(), 12)


def test_importance_chooses_and_is_recorded(tmp_path: Path) -> None:
    teacher = tiny(tied=True)
    with torch.no_grad():
        # A layer that adds next to nothing is the one to leave out.
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            teacher.model.layers[1].get_submodule(name).weight.mul_(1e-3)
    student = {"layers": 3, "train_top": 1, "selection": "importance", "importance_tokens": 50}
    result = run(tmp_path / "a", teacher, student=student)
    assert result.layers == (0, 2, 3)
    facts = json.loads(json.dumps(result.facts()))
    assert facts["layers"] == [0, 2, 3]
    assert facts["importance"] == list(block_importance(teacher, blocks(), 50).scores)
    assert facts["importance_tokens"] == 60
    assert facts["trunk_reason"] == "layer 1 of the student is layer 2 of the teacher"
    other = run(tmp_path / "b", teacher, student={"layers": 3, "train_top": 1, "selection": [0, 2, 3]})
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert "importance" not in other.facts()


# ---- adapters

LORA: dict[str, Any] = {"layers": 3, "train_top": 0, "lora": {"rank": 4, "alpha": 8.0}}


def test_without_peft_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"'peft' is not installed[\s\S]*pip install 'sensekd\[lora\]'"):
        run(tmp_path, student=LORA)
    assert not (tmp_path / "student").exists()


def test_which_maps_get_adapters() -> None:
    student = make_student(tiny(), StudentConfig(layers=3, train_top=1))

    def found(*targets: str) -> tuple[str, ...]:
        return adapted_modules(student, LoraConfig(targets=targets))

    assert found("q_proj") == tuple(f"model.layers.{index}.self_attn.q_proj" for index in (0, 1))
    assert found("*.layers.1.mlp.*") == tuple(f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down"))
    assert len(found("*_proj")) == 14
    assert adapted_layers(student, found("*.layers.1.mlp.*", "*.0.self_attn.v_proj")) == {0, 1}
    with pytest.raises(InputError, match="'lm_head' matches no linear map"):
        found("lm_head")
    with pytest.raises(InputError, match="train in full already"):
        found("*.layers.2.*")


def test_adapters_start_at_nothing_and_merge_to_the_same_logits() -> None:
    pytest.importorskip("peft", reason="needs the extra `lora`")
    teacher = tiny()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = make_student(teacher, StudentConfig(layers=3, train_top=1))
    plain = [name for name, _ in student.named_parameters()]
    trained = {name for name, value in student.named_parameters() if value.requires_grad}
    names = adapted_modules(student, LoraConfig(targets=("*.1.*",)))
    with torch.no_grad():
        untouched = student(ids()).logits
        add_adapters(student, names, 0, LoraConfig(rank=2), seed=5)
        assert torch.equal(student(ids()).logits, untouched)
        adapters = {name: value for name, value in student.named_parameters() if "lora_" in name}
        assert len(adapters) == 2 * len(names) == 14
        now = {name for name, value in student.named_parameters() if value.requires_grad}
        assert now == trained | set(adapters)
        for value in adapters.values():
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
        adapted = student(ids()).logits
        assert (adapted - untouched).abs().max() > 0.1
        assert merge_adapters(student) == 7
        torch.testing.assert_close(student(ids()).logits, adapted)
    assert [name for name, _ in student.named_parameters()] == plain
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(("targets", "shared"), [(("*.2.*",), 2), (("*_proj",), 0), (("*.1.mlp.*",), 1)])
@pytest.mark.parametrize("half", [False, True])
def test_trained_adapters_are_in_the_folder(targets: tuple[str, ...], shared: int, half: bool, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the extra `lora`")
    teacher = tiny(tied=True).bfloat16() if half else tiny(tied=True)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = {**LORA, "lora": {"rank": 4, "alpha": 8.0, "targets": targets}, "export_dtype": "float32"}
    result = run(tmp_path, teacher, student=student)
    assert result.shared_layers == shared
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    loaded = refuse_if_not_plain(tmp_path / "student")
    assert result.parameters == sum(value.numel() for value in loaded.parameters())
    adapted = adapted_modules(make_student(teacher, StudentConfig.model_validate(student)), LoraConfig(targets=targets))
    shapes = [tuple(loaded.get_submodule(name).weight.shape) for name in adapted]
    assert result.trainable == sum(4 * (rows + columns) for rows, columns in shapes)
    # Exactly the adapted maps have changed, by a matrix of rank 4 at most.
    for name, value in loaded.state_dict().items():
        delta = value - before[name].float()
        if name.removesuffix(".weight") in adapted:
            assert torch.linalg.matrix_rank(delta, atol=1e-4) == 4, name
        else:
            assert not delta.any(), name


def test_adapters_resume_and_follow_the_seed(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the extra `lora`")
    common = {"student": {**LORA, "lora": {"rank": 2, "dropout": 0.2}}, "training__save_every": 2}
    run(tmp_path / "a", **common)
    with pytest.raises(Stop):
        run(tmp_path / "b", stop=3, **common)
    (checkpoint,) = checkpoints(tmp_path / "b" / "work")
    assert all("lora_" in name for name in load_file(checkpoint / "model.safetensors"))
    assert run(tmp_path / "b", **common).resumed_from == 2
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    run(tmp_path / "c", seed=4, **common)
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_shared_trunk_changes_nothing_for_adapters(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the extra `lora`")
    student = {**LORA, "lora": {"rank": 4, "targets": ("*.2.*",)}}
    shared = run(tmp_path / "a", student=student)
    whole = run(tmp_path / "b", student={**student, "shared_trunk": "off"})
    assert (shared.shared_layers, whole.shared_layers) == (2, 0)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


# ---- the shared trunk, over the families


@pytest.mark.long
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, "granite"])
def test_a_shared_trunk_changes_nothing_in_any_family(family: str, tied: bool, tmp_path: Path) -> None:
    common = {"loss__mu": 0.2, "loss__margin": 3.0}
    shared = run(tmp_path / "a", tiny(family, tied), student={"layers": 3, "train_top": 1}, **common)
    student = {"layers": 3, "train_top": 1, "shared_trunk": "off"}
    whole = run(tmp_path / "b", tiny(family, tied), student=student, **common)
    assert (shared.shared_layers, whole.shared_layers) == (2, 0)
    for left, right in zip(shared.history, whole.history, strict=True):
        for name in left.keys() - {"tokens_per_second"}:
            assert left[name] == pytest.approx(right[name], rel=1e-5), name
    one, two = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, value in one.items():
        torch.testing.assert_close(value, two[name])
