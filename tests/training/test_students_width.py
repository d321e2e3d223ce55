"""Students of another width, with a projector outside them, and students with other padding in their tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from students_world import FAMILIES, Stop, ids, refuse_if_not_plain, run, same, weights
from training_world import LAYERS, VOCABULARY, WIDTH, blocks, recipe, tiny, tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from sensekd.config import StudentConfig
from sensekd.errors import InputError
from sensekd.training.assembly import common_vocabulary, cut_student, make_apprentice
from sensekd.training.checkpoints import checkpoints
from sensekd.training.projector import ProjectedStudent, make_projector
from sensekd.training.students import make_student
from sensekd.training.trunk import capture_inputs
from sensekd.training.width import make_resized, resized_config

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


def test_a_narrow_student_of_a_half_precision_teacher(tmp_path: Path) -> None:
    teacher = tiny(tied=True).bfloat16()
    result = run(tmp_path, teacher, student=NARROW, loss__mu=0.5, training__trainer={"bf16": True})
    assert {"hidden", "pull"} <= set(result.history[-1])
    assert refuse_if_not_plain(tmp_path / "student").dtype == torch.bfloat16


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
