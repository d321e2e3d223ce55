"""Depth cut and shared trunk, over the families: what is copied, what is frozen, what stays equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_world import LAYERS, VOCABULARY, tiny
from transformers import AutoModelForCausalLM, PreTrainedModel

from sensekd.config import StudentConfig
from sensekd.errors import InputError
from sensekd.training.students import chosen_layers, make_student
from sensekd.training.trunk import capture_inputs, layers_of, make_tail, share_trunk, shared_prefix

CUTTABLE = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"]
EVERY = [(family, tied) for family in CUTTABLE for tied in (False, True)]


def ids(batch: int = 2, length: int = 20) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


def by_hand(teacher: PreTrainedModel, tokens: torch.Tensor, layers: int) -> torch.Tensor:
    """Logits of the first `layers` layers, computed with the teacher's own modules."""
    with capture_inputs(layers_of(teacher)[layers]) as caught:
        teacher(tokens, use_cache=False)
    states = teacher.base_model.norm(caught[0])
    logits = teacher.get_output_embeddings()(states)
    cap = getattr(teacher.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def test_chosen_layers() -> None:
    assert chosen_layers(8, StudentConfig(layers=3)) == (0, 1, 2)
    assert chosen_layers(9, StudentConfig(layers=3, selection="spaced")) == (0, 4, 8)
    assert chosen_layers(32, StudentConfig(layers=16, selection="spaced"))[-1] == 31
    assert len(set(chosen_layers(32, StudentConfig(layers=31, selection="spaced")))) == 31
    assert chosen_layers(4, StudentConfig(layers=1, selection="spaced")) == (0,)
    with pytest.raises(InputError, match="teacher has 4 layers"):
        chosen_layers(4, StudentConfig(layers=5))


@pytest.mark.parametrize(("family", "tied"), EVERY)
def test_first_layers_compute_what_the_teacher_computes(family: str, tied: bool) -> None:
    teacher = tiny(family, tied)
    student = make_student(teacher, StudentConfig(layers=2, train_top=1))
    assert student.config.num_hidden_layers == 2
    assert student.training is False
    with torch.no_grad():
        assert torch.equal(student(ids()).logits, by_hand(teacher, ids(), 2))
    tensors = (student.get_input_embeddings().weight, student.get_output_embeddings().weight)
    assert (tensors[0] is tensors[1]) == tied


@pytest.mark.parametrize(("family", "tied"), EVERY)
def test_reload_and_cache(family: str, tied: bool, tmp_path: Path) -> None:
    student = make_student(tiny(family, tied), StudentConfig(layers=3, selection="spaced", train_top=1))
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(student(ids()).logits, again(ids()).logits)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = again.generate(ids(), use_cache=True, **options)
    assert torch.equal(cached, again.generate(ids(), use_cache=False, **options))
    assert cached.shape == (2, 32)


def test_what_trains() -> None:
    teacher = tiny()
    student = make_student(teacher, StudentConfig(layers=3, train_top=1, train=("*.0.mlp.*",)))
    trained = {name for name, value in student.named_parameters() if value.requires_grad}
    prefixes = ("model.layers.2.", "model.layers.0.mlp.")
    assert trained == {name for name, _ in student.named_parameters() if name.startswith(prefixes)}
    with torch.no_grad():
        for value in student.parameters():
            if value.requires_grad:
                value += 1
    assert torch.equal(teacher.model.layers[2].mlp.up_proj.weight + 1, student.model.layers[2].mlp.up_proj.weight)


def test_a_tied_embedding_trains_under_either_name() -> None:
    student = make_student(tiny(tied=True), StudentConfig(layers=2, train_top=0, train=("lm_head.weight",)))
    assert student.get_input_embeddings().weight.requires_grad
    assert student.get_input_embeddings().weight is student.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (StudentConfig(layers=2, train_top=3), "train_top is 3"),
        (StudentConfig(layers=2, train=("nothing.*",)), "matches no parameter"),
        (StudentConfig(layers=9), "student.layers is 9"),
    ],
)
def test_refused_configurations(config: StudentConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_student(tiny(), config)


def test_refused_families() -> None:
    for field, value in (("num_kv_shared_layers", 2), ("layer_types", ["linear_attention"] * LAYERS)):
        teacher = tiny("qwen3")
        setattr(teacher.config, field, value)
        with pytest.raises(InputError, match="cannot be cut in depth"):
            make_student(teacher, StudentConfig(layers=2))


# ---- the shared trunk


@pytest.mark.parametrize(("family", "tied"), EVERY)
def test_tail_equals_the_whole_student(family: str, tied: bool) -> None:
    teacher = tiny(family, tied)
    student = make_student(teacher, StudentConfig(layers=3, train_top=1))
    trunk = share_trunk(teacher, student, (0, 1, 2))
    assert (trunk.layers, len(layers_of(trunk.model))) == (2, 1), trunk.reason
    owned = {id(value) for value in student.parameters()}
    assert all(id(value) in owned for value in trunk.model.parameters())

    def run(model: PreTrainedModel, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        model.zero_grad()
        with capture_inputs(model.get_output_embeddings()) as last:
            logits = model(**inputs, use_cache=False).logits
        logits.logsumexp(-1).sum().backward()
        gradients = [value.grad.clone() for value in student.parameters() if value.grad is not None]
        return (last[0], logits, *gradients)

    with capture_inputs(layers_of(teacher)[2]) as below:
        teacher(ids(), use_cache=False)
    whole = run(student, input_ids=ids())
    tail = run(trunk.model, inputs_embeds=below[0])
    assert torch.equal(whole[0], tail[0])
    assert torch.equal(whole[1], tail[1])
    assert len(whole) == len(tail) > 3
    for one, other in zip(whole[2:], tail[2:], strict=True):
        torch.testing.assert_close(one, other)


def test_a_family_that_changes_inputs_embeds_gets_no_trunk() -> None:
    teacher = tiny("granite")
    student = make_student(teacher, StudentConfig(layers=3, train_top=1))
    trunk = share_trunk(teacher, student, (0, 1, 2))
    assert trunk.layers == 0
    assert trunk.model is student
    assert "inputs_embeds" in trunk.reason


def test_what_breaks_the_trunk() -> None:
    teacher = tiny()

    def prefix(selection: tuple[int, ...] = (0, 1, 2), **config: object) -> tuple[int, str]:
        chosen = StudentConfig.model_validate({"layers": 3, "train_top": 1, **config})
        return shared_prefix(teacher, make_student(teacher, chosen), selection)

    assert prefix() == (2, "the student keeps one layer of its own")
    assert prefix(train_top=2) == (1, "layer 1 is trainable")
    assert prefix(train_top=0)[0] == 2
    assert prefix(selection=(0, 2, 3))[0] == 1
    assert prefix(train=("model.embed_tokens.weight",)) == (0, "the embeddings are trainable")
    assert prefix(train=("*.layers.0.mlp.up_proj.weight",)) == (0, "layer 0 is trainable")

    student = make_student(teacher, StudentConfig(layers=3, train_top=1))
    with torch.no_grad():
        changed = student.model.layers[1].mlp.up_proj
        changed.weight = torch.nn.Parameter(changed.weight + 1, requires_grad=False)
    assert shared_prefix(teacher, student, (0, 1, 2))[0] == 1
    student = make_student(teacher, StudentConfig(layers=3, train_top=1)).to(torch.bfloat16)
    assert "dtype" in shared_prefix(teacher, student, (0, 1, 2))[1]
    student = make_student(tiny(attention_dropout=0.1), StudentConfig(layers=3, train_top=1))
    assert "dropout" in shared_prefix(teacher, student, (0, 1, 2))[1]


def test_training_the_tail_trains_the_student() -> None:
    teacher = tiny()
    student = make_student(teacher, StudentConfig(layers=3, train_top=1))
    tail = make_tail(student, 2)
    before = student.model.layers[2].mlp.up_proj.weight.clone()
    with torch.no_grad():
        next(value for name, value in tail.named_parameters() if name == "model.layers.0.mlp.up_proj.weight").add_(1)
    assert torch.equal(student.model.layers[2].mlp.up_proj.weight, before + 1)
