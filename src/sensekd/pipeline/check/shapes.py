"""Teacher and student on the meta device: every shape there is, and not one weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sensekd.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from sensekd.config import Recipe, TeacherConfig

# Facts of a configuration that name a model's shape; what else differs between two of them changes no size.
_COMPARED: Final = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")


@dataclass(frozen=True)
class Shapes:
    """What a recipe makes of a teacher, without weights.

    Attributes:
        teacher: on the meta device, in `teacher.dtype`.
        student: cut from it, on the meta device; trained parameters in `student.dtype`.
        layers: the teacher's layers behind the student's; a stand-in where block importance will choose them.
        adapters: parameters of the adapters, merged at the end.
        projector: parameters of the projector beside a student of another width, which is thrown away.
        adapted: the student's layers that get adapters.
        trunk: n of the shared trunk.
        trunk_reason: why it is not larger.
    """

    teacher: PreTrainedModel
    student: PreTrainedModel
    layers: tuple[int, ...]
    adapters: int
    projector: int
    adapted: frozenset[int]
    trunk: int
    trunk_reason: str

    @property
    def trainable(self) -> int:
        """Trained parameters, adapters included, the projector not."""
        trained = (value.numel() for value in self.student.parameters() if value.requires_grad)
        return self.adapters + int(sum(trained))


def parameters_of(model: PreTrainedModel) -> int:
    """Parameters, tied ones once."""
    return int(sum(value.numel() for value in model.parameters()))


def shape_config(shape: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration that `teacher.shape` describes.

    Raises:
        InputError: no `model_type`, one that transformers does not know, or fields that it refuses.
    """
    from transformers import AutoConfig

    fields = dict(shape)
    kind = fields.pop("model_type", None)
    try:
        found: PretrainedConfig = AutoConfig.for_model(str(kind), **fields)
    except Exception as error:  # Every family checks its fields in its own way.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"teacher.shape: {reason[:200]}", "model_type and sizes as in a config.json", "copy them from there"
        ) from error
    return found


def teacher_config(teacher: TeacherConfig) -> tuple[PretrainedConfig, str]:
    """The teacher's configuration and where it is from: its checkpoint, or else `teacher.shape`.

    Raises:
        InputError: neither is there, or the two disagree.
    """
    from sensekd.training.teacher import load_config

    try:
        found = load_config(teacher)
    except InputError:
        if teacher.shape is None:
            raise
        return shape_config(teacher.shape), "teacher.shape"
    if teacher.shape is not None:
        claimed = shape_config(teacher.shape)
        for name in _COMPARED:
            here, said = getattr(found, name, None), getattr(claimed, name, None)
            if here != said:
                raise InputError(
                    f"teacher.shape says {name} {said}, the checkpoint {here}", "the same model in both",
                    "correct teacher.shape, or leave it out",
                )  # fmt: skip
    return found, teacher.model


def _empty(config: PretrainedConfig, teacher: TeacherConfig) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    remote, dtype = teacher.trust_remote_code, getattr(torch, teacher.dtype)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=remote)
    return model.eval().requires_grad_(False)


def _chosen(depth: int, recipe: Recipe) -> tuple[int, ...]:
    from sensekd.training.students import chosen_layers

    # Scores need the teacher; any choice has the same sizes, and the trunk of this one is the shortest.
    scores = [float(index) for index in range(depth)] if recipe.student.selection == "importance" else None
    return chosen_layers(depth, recipe.student, scores)


def _adapters(student: PreTrainedModel, recipe: Recipe) -> tuple[int, frozenset[int]]:
    from sensekd.training.lora import adapted_layers, adapted_modules

    config = recipe.student.lora
    if config is None:
        return 0, frozenset()
    modules = adapted_modules(student, config)
    maps: list[Any] = [student.get_submodule(name) for name in modules]
    count = sum(config.rank * (each.in_features + each.out_features) for each in maps)
    return count, adapted_layers(student, modules)


def shapes_of(recipe: Recipe, tokens: int | None = None) -> Shapes:
    """Teacher and student of a recipe on the meta device.

    Args:
        recipe: what to size.
        tokens: of the tokenizer, where it is at hand.

    Raises:
        InputError: the configuration is not there, or the student does not fit it.
    """
    import torch

    from sensekd.training.students import make_student, resize_vocabulary
    from sensekd.training.width import make_resized

    config, _ = teacher_config(recipe.teacher)
    text = config.get_text_config()
    model = _empty(config, recipe.teacher)
    layers = _chosen(int(text.num_hidden_layers), recipe)
    with torch.device("meta"):
        if recipe.student.width is None:
            student = make_student(model, recipe.student, layers, tokens or int(text.vocab_size))
        else:
            student = make_resized(model, layers, recipe.student, recipe.seed)
            resize_vocabulary(student, recipe.student, tokens or int(text.vocab_size))
    adapters, adapted = _adapters(student, recipe)
    theirs, ours = int(model.config.hidden_size), int(student.config.hidden_size)
    projected = theirs != ours and (recipe.loss.lam > 0 or recipe.loss.mu > 0)
    trunk, reason = expected_trunk(student, recipe, layers, adapted, theirs)
    return Shapes(model, student, layers, adapters, theirs * ours * projected, adapted, trunk, reason)


def expected_trunk(
    student: PreTrainedModel, recipe: Recipe, layers: Sequence[int], adapted: frozenset[int], width: int
) -> tuple[int, str]:
    """The n of `share_trunk` as far as it follows from shapes; what only a probe of the weights shows is not known."""
    from sensekd.training.trunk import layers_of

    config, loss = recipe.student, recipe.loss
    embedding = student.get_input_embeddings().parameters()
    obstacles = {
        "the recipe turns it off": config.shared_trunk == "off",
        "no term of the loss looks at the teacher": not (loss.alpha or loss.lam or loss.mu),
        "the teacher is quantised, the student is not": recipe.teacher.quantization is not None,
        "the student has another width": int(student.config.hidden_size) != width,
        "the embeddings are trainable": any(value.requires_grad for value in embedding),
    }
    for reason, applies in obstacles.items():
        if applies:
            return 0, reason
    ours = layers_of(student)
    for index in range(len(ours) - 1):
        if layers[index] != index:
            chosen = "block importance chooses the layers" if config.selection == "importance" else None
            return index, chosen or f"layer {index} of the student is layer {layers[index]} of the teacher"
        if index in adapted:
            return index, f"layer {index} gets adapters"
        if any(value.requires_grad for value in ours[index].parameters()):
            return index, f"layer {index} is trainable"
    return len(ours) - 1, "the student keeps one layer of its own"
