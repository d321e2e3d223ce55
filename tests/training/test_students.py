"""Depth cut and shared trunk, over the families: what is copied, what is frozen, what stays equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from training_world import LAYERS, VOCABULARY, tiny
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from sensekd.config import StudentConfig
from sensekd.errors import InputError
from sensekd.training.students import chosen_layers, make_student
from sensekd.training.trunk import Form, capture_inputs, layers_of, make_tail, share_trunk, shared_prefix
from sensekd.training.width import make_resized

CUTTABLE = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "granite"]
EVERY = [(family, tied) for family in CUTTABLE for tied in (False, True)]


def ids(batch: int = 2, length: int = 20) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


def by_hand(teacher: PreTrainedModel, tokens: torch.Tensor, layers: int) -> torch.Tensor:
    """Logits of the first `layers` layers, computed with the teacher's own modules."""
    with capture_inputs(layers_of(teacher)[layers]) as caught:
        teacher(tokens, use_cache=False)
    states = teacher.base_model.norm(caught[0])
    logits = teacher.get_output_embeddings()(states) / getattr(teacher.config, "logits_scaling", 1.0)
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
    assert chosen_layers(9, StudentConfig(layers=3, selection=(0, 5, 8))) == (0, 5, 8)
    with pytest.raises(InputError, match="names layer 8, but the teacher's are 0 to 7"):
        chosen_layers(8, StudentConfig(layers=3, selection=(0, 5, 8)))


def test_importance_keeps_the_highest_scores_in_their_order() -> None:
    config = StudentConfig(layers=3, selection="importance")
    assert chosen_layers(5, config, (0.1, 0.5, 0.2, 0.4, 0.3)) == (1, 3, 4)
    assert chosen_layers(5, config, (0.3, 0.3, 0.3, 0.3, 0.3)) == (0, 1, 2)
    with pytest.raises(ValueError, match="5 scores"):
        chosen_layers(5, config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"selection": (0, 1)}, "lists 2 layers, `layers` says 3"),
        ({"selection": (0, 2, 2)}, "must rise"),
        ({"selection": (-1, 2, 3)}, "greater than or equal to 0"),
        ({"heads": 2}, "set `width` too"),
        ({"width": 8, "train": ("*",)}, "leave `train` and `lora` out"),
        ({"width": 8, "lora": {}}, "leave `train` and `lora` out"),
    ],
)
def test_inconsistent_students(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudentConfig.model_validate({"layers": 3, **fields})


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
@pytest.mark.parametrize("selection", ["first", (0, 2, 3)])
def test_reload_and_cache(family: str, tied: bool, selection: object, tmp_path: Path) -> None:
    config = StudentConfig.model_validate({"layers": 3, "selection": selection, "train_top": 1})
    teacher = tiny(family, tied)
    student = make_student(teacher, config)
    kinds = getattr(teacher.config, "layer_types", None)
    if kinds is not None:
        assert student.config.layer_types == [kinds[index] for index in chosen_layers(LAYERS, config)]
    assert [layer.self_attn.layer_idx for layer in layers_of(student)] == [0, 1, 2]
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert again.config.to_dict().get("layer_types") == student.config.to_dict().get("layer_types")
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


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pattern", ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", "*"])
def test_any_part_trains_and_the_teacher_stays(pattern: str, tied: bool) -> None:
    teacher = tiny(tied=tied)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = make_student(teacher, StudentConfig(layers=2, train_top=0, train=(pattern,)))
    tables = (student.get_input_embeddings().weight, student.get_output_embeddings().weight)
    assert (tables[0] is tables[1]) == tied
    trained = {name for name, value in student.named_parameters(remove_duplicate=False) if value.requires_grad}
    both = {"lm_head.weight", "model.embed_tokens.weight"}
    names = {name for name, _ in student.named_parameters(remove_duplicate=False)}
    wanted = names if pattern == "*" else {pattern}
    assert trained == (wanted | both if tied and wanted & both else wanted)
    with torch.no_grad():
        for value in student.parameters():
            if value.requires_grad:
                value.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


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


def gpt2(**more: float) -> PreTrainedModel:
    torch.manual_seed(0)
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0) | more
    shape = {
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "n_embd": 16,
        "n_layer": 4,
        "n_head": 2,
        "n_positions": 32,
    }
    return GPT2LMHeadModel(GPT2Config(**shape, **dropouts)).eval().requires_grad_(False)


def test_a_family_that_changes_inputs_embeds_gets_no_trunk() -> None:
    teacher = gpt2()
    student = make_student(teacher, StudentConfig(layers=3, train_top=1))
    trunk = share_trunk(teacher, student, (0, 1, 2))
    assert (trunk.layers, trunk.reason) == (0, "GPT2LMHeadModel changes inputs_embeds on the way in")
    assert trunk.model is student


def test_the_scale_of_granite_is_in_the_state_already() -> None:
    teacher = tiny("granite")
    student = make_student(teacher, StudentConfig(layers=3, train_top=1))
    tail = make_tail(student, 2)
    assert (student.model.embedding_multiplier, tail.model.embedding_multiplier) == (3.0, 1.0)
    assert student.config.embedding_multiplier == 3.0


def plain(teacher: PreTrainedModel, **config: object) -> PreTrainedModel:
    return make_student(teacher, StudentConfig.model_validate({"layers": 3, "train_top": 1, **config}))


def changed(student: PreTrainedModel, name: str, value: torch.Tensor) -> PreTrainedModel:
    """The student with one frozen tensor of its own."""
    owner, _, key = name.rpartition(".")
    student.get_submodule(owner)._parameters[key] = torch.nn.Parameter(value, requires_grad=False)
    return student


def test_the_trunk_ends_where_the_student_begins() -> None:
    teacher = tiny()
    assert shared_prefix(teacher, plain(teacher), (0, 1, 2)) == (2, "the student keeps one layer of its own")
    assert shared_prefix(teacher, plain(teacher, train_top=0), (0, 1, 2))[0] == 2
    assert shared_prefix(teacher, plain(teacher, train_top=2), (0, 1, 2)) == (1, "layer 1 is trainable")
    found = shared_prefix(teacher, plain(teacher, train=("*.layers.0.mlp.up_proj.weight",)), (0, 1, 2))
    assert found == (0, "layer 0 is trainable")
    found = shared_prefix(teacher, plain(teacher, selection=(0, 2, 3)), (0, 2, 3))
    assert found == (1, "layer 1 of the student is layer 2 of the teacher")
    found = shared_prefix(teacher, plain(teacher, selection=(1, 2, 3)), (1, 2, 3))
    assert found == (0, "layer 0 of the student is layer 1 of the teacher")
    assert shared_prefix(teacher, plain(teacher), (0, 1, 2), adapted={1}) == (1, "layer 1 gets adapters")
    assert shared_prefix(teacher, plain(teacher), (0, 1, 2), adapted={0, 2}) == (0, "layer 0 gets adapters")
    name = "model.layers.1.mlp.up_proj.weight"
    weight = teacher.get_parameter(name)
    for other in (weight + 1, weight.bfloat16(), weight.double(), weight.to("meta")):
        found = shared_prefix(teacher, changed(plain(teacher), name, other), (0, 1, 2))
        assert found == (1, "layer 1 differs from the teacher's (weights, dtype or device)")


def test_what_forbids_every_trunk() -> None:
    def reason(teacher: PreTrainedModel, student: PreTrainedModel) -> str:
        layers, found = shared_prefix(teacher, student, (0, 1, 2))
        assert layers == 0
        assert share_trunk(teacher, student, (0, 1, 2)).model is student
        return found

    teacher = tiny()
    embedding = "model.embed_tokens.weight"
    assert reason(teacher, plain(teacher, train=(embedding,))) == "the embeddings are trainable"
    other = changed(plain(teacher), embedding, teacher.get_parameter(embedding) * 2)
    assert reason(teacher, other) == "the embeddings differ (weights, dtype or device)"
    assert "dtype" in reason(teacher, plain(teacher).to(torch.bfloat16))
    for name in ("attention_dropout",):
        assert reason(tiny(**{name: 0.1}), plain(tiny(**{name: 0.1}))) == "dropout is active in the student"
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        assert "dropout" in reason(gpt2(**{name: 0.1}), plain(gpt2(**{name: 0.1})))
    narrow = make_resized(teacher, (0, 1, 2), StudentConfig(layers=3, width=8), 0)
    assert reason(teacher, narrow) == "the student is 8 wide, the teacher 16"
    student = plain(teacher)
    teacher.is_quantized = True
    assert reason(teacher, student) == "the teacher is quantised, the student is not"


def test_states_that_differ_on_the_probe_forbid_the_trunk() -> None:
    teacher = tiny()
    student = plain(teacher)
    # Equal weights, and yet another function: only running it shows that.
    student.model.layers[0].mlp.act_fn = torch.nn.Tanh()
    assert shared_prefix(teacher, student, (0, 1, 2)) == (0, "the states after 2 layers differ on a probe")


def test_a_tail_of_another_dtype_leaves_the_trunk_to_the_teacher() -> None:
    for tied in (True, False):
        teacher = tiny(tied=tied).bfloat16()
        student = plain(teacher)
        trunk = share_trunk(teacher, student, (0, 1, 2), form=Form(torch.float32, torch.device("cpu")))
        assert (trunk.layers, trunk.reason) == (2, "the student keeps one layer of its own")
        assert {value.dtype for value in trunk.model.parameters()} == {torch.float32}
        trained = {id(value) for value in student.parameters() if value.requires_grad}
        assert trained == {id(value) for value in trunk.model.parameters() if value.requires_grad}
        for name in ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
            assert student.get_parameter(name).data_ptr() == teacher.get_parameter(name).data_ptr()
        assert len(trunk.model.get_input_embeddings().weight) == (VOCABULARY if tied else 0)
        # The tail is the float32 student from the teacher's own bfloat16 state on.
        whole = make_student(tiny(tied=tied).bfloat16().float(), StudentConfig(layers=3, train_top=1))
        with torch.no_grad(), capture_inputs(layers_of(teacher)[2]) as below:
            teacher(ids(), use_cache=False)
        state = below[0].float()
        tail_of_whole = make_tail(whole, 2)
        with torch.no_grad():
            found = trunk.model(inputs_embeds=state, use_cache=False).logits
            assert torch.equal(found, tail_of_whole(inputs_embeds=state, use_cache=False).logits)


def test_without_a_trunk_the_student_takes_one_dtype() -> None:
    teacher = tiny().bfloat16()
    student = plain(teacher, train=("model.embed_tokens.weight",))
    frequencies = student.model.rotary_emb.inv_freq.clone()
    trunk = share_trunk(teacher, student, (0, 1, 2), form=Form(torch.float32, torch.device("cpu")))
    assert (trunk.layers, trunk.reason) == (0, "the embeddings are trainable")
    assert {value.dtype for value in student.parameters()} == {torch.float32}
    assert {value.dtype for value in teacher.parameters()} == {torch.bfloat16}
    assert torch.equal(student.model.rotary_emb.inv_freq, frequencies)


def test_training_the_tail_trains_the_student() -> None:
    teacher = tiny()
    student = make_student(teacher, StudentConfig(layers=3, train_top=1))
    tail = make_tail(student, 2)
    before = student.model.layers[2].mlp.up_proj.weight.clone()
    with torch.no_grad():
        next(value for name, value in tail.named_parameters() if name == "model.layers.0.mlp.up_proj.weight").add_(1)
    assert torch.equal(student.model.layers[2].mlp.up_proj.weight, before + 1)
