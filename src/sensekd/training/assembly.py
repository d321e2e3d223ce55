"""From a recipe to what the Trainer trains, and back to the whole student: cut, trunk, adapters, projector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from sensekd.errors import InputError
from sensekd.training.importance import block_importance
from sensekd.training.lora import adapted_layers, adapted_modules, add_adapters, merge_adapters, shifted
from sensekd.training.placement import autocast_dtype, source_of, student_device
from sensekd.training.projector import ProjectedStudent, make_projector
from sensekd.training.students import chosen_layers, make_student, refuse_selection, resize_vocabulary, trained_dtype
from sensekd.training.surgery import decoder_stack
from sensekd.training.trunk import Form, Trunk, share_trunk
from sensekd.training.width import make_resized

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sensekd.config import Recipe, StudentConfig
    from sensekd.training.data import TokenBlocks

# Why a student runs whole although its trunk is the teacher's.
UNCACHED: Final = "the cache does not hold the state after it"


@dataclass(frozen=True)
class Cut:
    """The student before training.

    Attributes:
        student: whole; its frozen parameters are the teacher's.
        source: the model that it was cut from: the teacher, or one that holds its values.
        layers: the teacher's layers behind the student's.
        importance: score of each of the teacher's layers, where they were chosen by it.
        importance_tokens: positions that the scores were measured over.
        vocabulary: how many tokens teacher and student are compared over, where their tables have more rows; None for
            all rows.
    """

    student: PreTrainedModel
    source: PreTrainedModel
    layers: tuple[int, ...]
    importance: tuple[float, ...] | None
    importance_tokens: int
    vocabulary: int | None

    def trained(self) -> list[nn.Parameter]:
        """The student's trained parameters, before adapters."""
        return [value for value in self.student.parameters() if value.requires_grad]

    def exported(self, config: StudentConfig) -> PreTrainedModel:
        """The student in evaluation mode and in the dtype of its folder; trained no further after this."""
        dtype = self.source.dtype if config.export_dtype is None else getattr(torch, config.export_dtype)
        Form(dtype).settle(self.student)
        return self.student.eval()


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many ids the tokenizer gives: its largest one and those below."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def common_vocabulary(tokens: int, teacher: PreTrainedModel, student: PreTrainedModel) -> int | None:
    """V of the CE and the KL: the tokenizer's tokens, where either table has more rows; None where both have as many.

    Rows beyond the tokens are padding. They are left out on both sides before any softmax, so that a padded table
    teaches the same as a plain one.

    Raises:
        InputError: a table with fewer rows than tokens.
    """
    rows = {int(model.get_output_embeddings().weight.shape[0]) for model in (teacher, student)}
    if min(rows) < tokens:
        raise InputError(
            f"the tokenizer has {tokens} tokens, a table {min(rows)} rows", f"at least {tokens} rows in both",
            "use the tokenizer that the model was trained with",
        )  # fmt: skip
    return None if rows == {tokens} else tokens


def cut_student(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, blocks: TokenBlocks
) -> Cut:
    """Choose the layers and make the student.

    Raises:
        InputError: the recipe's student does not fit the teacher.
    """
    config, tokens = recipe.student, tokens_of(tokenizer)
    depth = int(teacher.config.num_hidden_layers)
    refuse_selection(depth, config)
    scores, measured = None, 0
    if config.selection == "importance":
        found = block_importance(teacher, blocks, config.importance_tokens)
        scores, measured = found.scores, found.tokens
    layers = chosen_layers(depth, config, scores)
    source = source_of(teacher, recipe.teacher)
    if config.width is None:
        student = make_student(source, config, layers, tokens)
    else:
        student = make_resized(source, layers, config, recipe.seed)
        resize_vocabulary(student, config, tokens)
    return Cut(student, source, layers, scores, measured, common_vocabulary(tokens, source, student))


@dataclass(frozen=True)
class Apprentice:
    """What is trained of a cut student.

    Attributes:
        cut: the student.
        trunk: what is run of it.
        trained: what the Trainer trains: the trunk's model, with a projector beside it where the width differs.
        adapted: names in the student of the maps that carry adapters.
        device: where it trains.
    """

    cut: Cut
    trunk: Trunk
    trained: nn.Module
    adapted: tuple[str, ...]
    device: torch.device

    @property
    def trainable(self) -> int:
        """Trained parameters, adapters included; a projector is not the student's and does not count."""
        return sum(value.numel() for value in self.trunk.model.parameters() if value.requires_grad)

    def finish(self) -> None:
        """Merge the adapters; the student then holds everything that was learnt."""
        if not self.adapted:
            return
        merge_adapters(self.trunk.model)
        stack = decoder_stack(self.trunk.model)
        for name in self.adapted:
            # A tail of another dtype than the trunk has copies of the frozen maps: the merged ones go back.
            trained = self.trunk.model.get_submodule(shifted(name, stack, self.trunk.layers))
            self.cut.student.get_submodule(name)._parameters["weight"] = trained._parameters["weight"]


def form_of(cut: Cut, recipe: Recipe, device: torch.device) -> Form:
    """Frozen parameters keep a dtype that the Trainer computes in anyway; otherwise all take the trained one."""
    kept = autocast_dtype(recipe.training.trainer) == cut.source.dtype
    return Form(None if kept else trained_dtype(cut.source, recipe.student), device)


def _trunk(cut: Cut, teacher: PreTrainedModel, recipe: Recipe, adapted: tuple[str, ...], form: Form) -> Trunk:
    loss, student = recipe.loss, cut.student
    reason = None
    if recipe.student.shared_trunk == "off":
        reason = "the recipe turns it off"
    elif not (loss.alpha or loss.lam or loss.mu):
        reason = "no term of the loss looks at the teacher"
    elif recipe.cache.mode != "off" and not recipe.cache.trunk:
        reason = UNCACHED
    if reason is None:
        layers = adapted_layers(student, adapted)
        return share_trunk(teacher, student, cut.layers, source=cut.source, adapted=layers, form=form)
    form.settle(student)
    return Trunk(student, 0, reason)


def adapted_names(cut: Cut, recipe: Recipe) -> tuple[str, ...]:
    """Names in the student of the maps that get adapters."""
    config = recipe.student.lora
    return () if config is None else adapted_modules(cut.student, config)


def make_apprentice(cut: Cut, teacher: PreTrainedModel, recipe: Recipe) -> Apprentice:
    """Share the trunk, put adapters on, set a projector beside: everything between the cut and the first step.

    Args:
        cut: by `cut_student`.
        teacher: as it will be run.
        recipe: of this arm, with its seed.

    Raises:
        InputError: adapters that fit nowhere, peft is not installed, or nothing trains.
    """
    device = student_device(recipe, teacher)
    adapted = adapted_names(cut, recipe)
    trunk = _trunk(cut, teacher, recipe, adapted, form_of(cut, recipe, device))
    return equip(cut, trunk, recipe, device, int(teacher.config.hidden_size))


def equip(cut: Cut, trunk: Trunk, recipe: Recipe, device: torch.device, theirs: int) -> Apprentice:
    """Adapters and a projector for a trunk that stands.

    Args:
        cut: the student.
        trunk: what is run of it.
        recipe: of this arm, with its seed.
        device: where it trains.
        theirs: width of the teacher.

    Raises:
        InputError: adapters that fit nowhere, peft is not installed, or nothing trains.
    """
    config, adapted = recipe.student, adapted_names(cut, recipe)
    if config.lora is not None:
        add_adapters(trunk.model, adapted, trunk.layers, config.lora, recipe.seed)
    trained: nn.Module = trunk.model
    width = int(cut.student.config.hidden_size)
    if width != theirs and (recipe.loss.lam or recipe.loss.mu):
        projector = make_projector(width, theirs, recipe.seed, sliced=config.init == "sliced")
        trained = ProjectedStudent(trunk.model, projector.to(device, trained_dtype(cut.source, config)))
    apprentice = Apprentice(cut, trunk, trained, adapted, device)
    if apprentice.trainable == 0:
        raise InputError(
            "no parameter of the student is trainable, but a training is asked for",
            "student.train_top of at least 1, or a pattern in student.train", "raise student.train_top",
        )  # fmt: skip
    return apprentice
