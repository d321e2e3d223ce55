"""Students of every kind, trained from beginning to end: importance, adapters, other widths, padded tables."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_world import LAYERS, VOCABULARY, WIDTH, blocks, edges, recipe, table, tiny, tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from sensekd.config import LoraConfig, StudentConfig
from sensekd.errors import InputError, SenseKDError
from sensekd.training.assembly import common_vocabulary, cut_student, make_apprentice
from sensekd.training.checkpoints import checkpoints
from sensekd.training.distill import DistillResult, distill
from sensekd.training.importance import angular_distance, block_importance
from sensekd.training.lora import adapted_layers, adapted_modules, add_adapters, merge_adapters
from sensekd.training.projector import ProjectedStudent, make_projector
from sensekd.training.students import make_student
from sensekd.training.trunk import capture_inputs, layers_of
from sensekd.training.width import make_resized, resized_config

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"]
Weights = dict[str, torch.Tensor]


class Stop(KeyboardInterrupt):
    pass


def stop_after(step: int) -> Callable[[int, int], None]:
    def progress(done: int, _: int) -> None:
        if done == step:
            raise Stop

    return progress


def run(folder: Path, teacher: PreTrainedModel | None = None, steps: int = 4, **overrides: Any) -> DistillResult:
    """Distil a tiny teacher into folder/student; `stop` interrupts."""
    stop = overrides.pop("stop", None)
    return distill(
        teacher if teacher is not None else tiny(tied=True), tokenizer(), recipe(**overrides), steps, blocks(),
        senses=(table(), edges()), folders=(folder / "student", folder / "work"),
        progress=None if stop is None else stop_after(stop),
    )  # fmt: skip


def weights(folder: Path) -> Weights:
    return load_file(folder / "student" / "model.safetensors")


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def ids() -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def refuse_if_not_plain(folder: Path, model_type: str = "llama") -> PreTrainedModel:
    """The folder loads strictly as a model of its type, and generates the same with its cache and without."""
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.model_type.startswith(model_type)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    generated = [loaded.generate(ids(), use_cache=use_cache, **options) for use_cache in (True, False)]
    assert torch.equal(*generated)
    model: PreTrainedModel = loaded
    return model


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


# ---- another width

NARROW: dict[str, Any] = {"layers": 3, "width": 8}


def test_sizes_of_a_narrow_student() -> None:
    teacher = tiny(num_attention_heads=8, num_key_value_heads=4, head_dim=4, hidden_size=32, intermediate_size=48)
    config = resized_config(teacher.config, (0, 2), StudentConfig(layers=2, width=16))
    found = [config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.intermediate_size]
    assert found == [4, 2, 4, 24]
    config = resized_config(
        teacher.config, (0, 2), StudentConfig(layers=2, width=20, heads=6, kv_heads=3, intermediate=7)
    )
    found = [config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.intermediate_size]
    assert found == [6, 3, 4, 7]
    with pytest.raises(InputError, match=r"heads 5 and student\.kv_heads 2"):
        resized_config(teacher.config, (0, 2), StudentConfig(layers=2, width=20, heads=5, kv_heads=2))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_sliced_students_are_corners_of_the_teacher(family: str, tied: bool, tmp_path: Path) -> None:
    teacher = tiny(family, tied, num_attention_heads=4, num_key_value_heads=2)
    student = make_resized(teacher, (0, 2, 3), StudentConfig(layers=3, width=8), seed=0)
    ours, theirs = student.state_dict(), teacher.state_dict()
    assert torch.equal(ours["model.embed_tokens.weight"], theirs["model.embed_tokens.weight"][:, :8])
    query = theirs["model.layers.2.self_attn.q_proj.weight"]
    assert torch.equal(ours["model.layers.1.self_attn.q_proj.weight"], query[:16, :8])
    assert all(value.requires_grad for value in student.parameters())
    student.save_pretrained(tmp_path)
    again = refuse_if_not_plain(tmp_path, family)
    with torch.no_grad():
        assert torch.equal(student(ids()).logits, again(ids()).logits)


def test_a_full_slice_is_the_teacher() -> None:
    teacher = tiny("qwen2", num_attention_heads=4, num_key_value_heads=2)
    student = make_resized(teacher, range(LAYERS), StudentConfig(layers=LAYERS, width=WIDTH), seed=0)
    with torch.no_grad():
        assert torch.equal(student(ids()).logits, teacher(ids()).logits)


def test_random_students_follow_the_seed() -> None:
    config = StudentConfig(layers=2, width=8, init="random")
    teacher = tiny()
    state = torch.get_rng_state()
    one, again, other = (make_resized(teacher, (0, 1), config, seed) for seed in (1, 1, 2))
    assert same(one.state_dict(), again.state_dict())
    assert not same(one.state_dict(), other.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


def test_projectors() -> None:
    wide = make_projector(8, 16, 0, sliced=True)
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(wide(states), torch.nn.functional.pad(states, (0, 8)))
    drawn = make_projector(8, 16, 3, sliced=False)
    torch.testing.assert_close(drawn.weight.T @ drawn.weight, torch.eye(8))
    assert torch.equal(drawn.weight, make_projector(8, 16, 3, sliced=False).weight)


@pytest.mark.parametrize("init", ["sliced", pytest.param("random", marks=pytest.mark.long)])
def test_a_narrow_student_trains_and_its_projector_stays_behind(init: str, tmp_path: Path) -> None:
    common = {"student": {**NARROW, "init": init}, "loss__mu": 0.5, "training__save_every": 2}
    whole = run(tmp_path / "a", **common)
    assert (whole.shared_layers, whole.trunk_reason) == (0, "the student is 8 wide, the teacher 16")
    assert {"hidden", "pull", "push"} <= set(whole.history[-1])
    with pytest.raises(Stop):
        run(tmp_path / "b", stop=3, **common)
    (checkpoint,) = checkpoints(tmp_path / "b" / "work")
    stored = load_file(checkpoint / "model.safetensors")
    assert stored["projector.weight"].shape == (16, 8)
    start = make_projector(8, 16, 3, sliced=init == "sliced").weight
    assert (stored["projector.weight"] - start).abs().max() > 1e-3
    assert run(tmp_path / "b", **common).resumed_from == 2
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    loaded = refuse_if_not_plain(tmp_path / "a" / "student")
    assert not any("projector" in name for name in weights(tmp_path / "a"))
    assert whole.parameters == whole.trainable == sum(value.numel() for value in loaded.parameters())
    assert loaded.config.hidden_size == 8


def test_the_terms_look_at_projected_states(tmp_path: Path) -> None:
    result = run(
        tmp_path, steps=1, student=NARROW, loss__mu=0.5, training__warmup=0.0, training__log_every=1,
    )  # fmt: skip
    teacher, data = tiny(tied=True), blocks()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(3)).tolist()[:4]
    rows = torch.stack([data[index]["input_ids"] for index in order])
    student = make_resized(teacher, (0, 1, 2), StudentConfig.model_validate(NARROW), 3)
    states = []
    for model in (teacher, student):
        with torch.no_grad(), capture_inputs(model.get_output_embeddings()) as last:
            model(rows, use_cache=False)
        states.append(last[0][:, :-1])
    # The projector starts as the identity on the dimensions that both have.
    difference = states[0] - torch.nn.functional.pad(states[1], (0, 8))
    assert result.history[0]["hidden"] == pytest.approx(float(difference.square().mean()) / 0.7, rel=1e-4)


def test_logits_alone_need_no_projector() -> None:
    chosen = recipe(student=NARROW, loss__lambda=0.0)
    teacher = tiny()
    cut = cut_student(teacher, tokenizer(), chosen, blocks())
    assert make_apprentice(cut, teacher, chosen).trained is cut.student
    chosen = recipe(student=NARROW)
    cut = cut_student(teacher, tokenizer(), chosen, blocks())
    trained = make_apprentice(cut, teacher, chosen).trained
    assert isinstance(trained, ProjectedStudent)
    assert trained.student is cut.student


# ---- padded tables


def padded(teacher: PreTrainedModel, rows: int) -> PreTrainedModel:
    """The same teacher with rows of padding that would win every softmax, were they looked at."""
    other = tiny(tied=teacher.config.tie_word_embeddings, vocab_size=rows)
    values = teacher.state_dict()
    with torch.no_grad():
        for name, value in other.state_dict().items():
            value[: len(values[name])].copy_(values[name])
            if len(value) > len(values[name]):
                value[len(values[name]) :] = 50.0
    return other


def test_padding_of_the_teacher_teaches_nothing(tmp_path: Path) -> None:
    teacher = tiny(tied=False)
    plain = run(tmp_path / "a", teacher)
    other = run(tmp_path / "b", padded(teacher, VOCABULARY + 8))
    one, two = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert two["lm_head.weight"].shape == (VOCABULARY + 8, WIDTH)
    for name, value in one.items():
        torch.testing.assert_close(two[name][: len(value)], value, rtol=1e-5, atol=1e-6)
    for left, right in zip(plain.history, other.history, strict=True):
        assert left["ce"] == pytest.approx(right["ce"], rel=1e-5)
        assert left["kl"] == pytest.approx(right["kl"], rel=1e-5)
    assert other.shared_layers == 2


@pytest.mark.parametrize(
    ("rows", "asked", "tied"), [(VOCABULARY, "tokenizer", True), (VOCABULARY + 16, VOCABULARY + 16, False)]
)
def test_a_student_with_other_padding(rows: int, asked: object, tied: bool, tmp_path: Path) -> None:
    teacher = padded(tiny(tied=tied), VOCABULARY + 8)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = {"layers": 3, "train_top": 1, "vocabulary": asked}
    result = run(tmp_path / "a", teacher, student=student)
    assert result.shared_layers == 2
    loaded = refuse_if_not_plain(tmp_path / "a" / "student")
    assert loaded.config.vocab_size == rows
    assert loaded.get_input_embeddings().weight.shape == (rows, WIDTH)
    assert loaded.get_output_embeddings().weight.shape == (rows, WIDTH)
    # The layers learn what those of a student with the teacher's tables learn.
    run(tmp_path / "b", teacher, student={"layers": 3, "train_top": 1})
    one, two = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, value in one.items():
        common = slice(0, min(len(value), len(two[name])))
        torch.testing.assert_close(value[common], two[name][common], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "b" / "student")
        one_logits, two_logits = (model(ids()).logits[..., :VOCABULARY] for model in (loaded, whole))
    torch.testing.assert_close(one_logits, two_logits, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_new_rows_of_padding_never_win() -> None:
    student = make_student(tiny(), StudentConfig(layers=2, train_top=1, vocabulary=VOCABULARY + 5))
    with torch.no_grad():
        logits = student(ids()).logits
    assert logits.shape[-1] == VOCABULARY + 5
    assert int(logits.argmax(-1).max()) < VOCABULARY
    torch.testing.assert_close(logits[..., -1], logits[..., :VOCABULARY].mean(-1))


def test_tables_with_fewer_rows_than_tokens() -> None:
    with pytest.raises(InputError, match=r"student\.vocabulary is 60, but the tokenizer has 64 tokens"):
        make_student(tiny(), StudentConfig(layers=2, vocabulary=60), None, VOCABULARY)
    with pytest.raises(InputError, match="64 tokens, a table 60 rows"):
        common_vocabulary(64, tiny(), tiny(vocab_size=60))
    assert common_vocabulary(64, tiny(), tiny()) is None
    assert common_vocabulary(60, tiny(), tiny()) == 60
    assert common_vocabulary(64, tiny(), tiny(vocab_size=70)) == 64
