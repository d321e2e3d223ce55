"""One run's folder, and the things that several stages need, loaded when they are first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensekd.artefacts import write_json
from sensekd.config import Recipe
from sensekd.pipeline.stages import Stages, content_id
from sensekd.provenance import file_fingerprint, tokenizer_fingerprint, weights_fingerprint
from sensekd.training.placement import pick_device as pick_device
from sensekd.training.placement import teacher_device, variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sensekd.provenance import TeacherIdentity

RECIPE = "recipe.json"
# The linked lexicon with the antonym pairs that training does not get.
WHOLE = "relations-whole"


@dataclass(frozen=True)
class Teacher:
    """A loaded teacher."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: TeacherIdentity


@dataclass(frozen=True)
class Workspace:
    """The output folder of a recipe and what its stages share.

    Attributes:
        recipe: the effective recipe.
        stages: runs and remembers stages.
    """

    recipe: Recipe
    stages: Stages

    @property
    def output(self) -> Path:
        """The run's folder."""
        return self.stages.output

    def path(self, *parts: str) -> Path:
        """A path under the run's folder."""
        return self.output.joinpath(*parts)

    def save_recipe(self) -> None:
        """Write the effective recipe beside the results, for people and for workers."""
        write_json(self.path(RECIPE), self.recipe.model_dump(mode="json", by_alias=True))

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher, its tokenizer and its identity; loaded once a process."""
        from sensekd.training.teacher import load_teacher

        return Teacher(*load_teacher(self.recipe.teacher, pick_device(self.recipe.device)))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer, without its weights."""
        from sensekd.training.teacher import load_tokenizer

        return load_tokenizer(self.recipe.teacher)

    @cached_property
    def vocabulary(self) -> int:
        """Rows of the teacher's output embedding, from its configuration alone."""
        from sensekd.training.teacher import load_config

        return int(load_config(self.recipe.teacher).get_text_config().vocab_size)

    @cached_property
    def identity(self) -> TeacherIdentity:
        """The teacher's identity, without its weights."""
        from sensekd.provenance import TeacherIdentity
        from sensekd.training.teacher import load_config

        key, text = self.teacher_key, load_config(self.recipe.teacher).get_text_config()
        weights = key["weights"] + variant(self.recipe.teacher)
        width, rows = int(text.hidden_size), int(text.vocab_size)
        return TeacherIdentity(self.recipe.teacher.model, weights, key["tokenizer"], width, rows)

    @cached_property
    def teacher_key(self) -> dict[str, Any]:
        """What makes two teachers the same one to a stage."""
        weights = weights_fingerprint(self.recipe.teacher.model, self.recipe.teacher.revision)
        return {
            "weights": weights,
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "dtype": self.recipe.teacher.dtype + variant(self.recipe.teacher),
            "device": teacher_device(self.recipe.teacher, pick_device(self.recipe.device)).type,
        }

    @property
    def senses(self) -> Path:
        """The folder of the sense dictionary: the run's own, or the one that the recipe names."""
        named = self.recipe.senses.dictionary
        return self.path("senses") if named is None else Path(named)

    def artefact(self, name: str) -> str | None:
        """Identity of an artefact of this run; None where the recipe has no such stage."""
        if name in {"lexicon", "relations", WHOLE} and not self.recipe.lexicon.sources:
            return None
        return content_id(self.senses if name == "senses" else self.path(name))


def source_key(path: str | None) -> str | None:
    """Fingerprint of an input's content, a file's or a folder's; None for what is neither (a hub name, an installed
    lexicon)."""
    if path is not None and Path(path).is_dir():
        return file_fingerprint(*sorted(file for file in Path(path).rglob("*") if file.is_file()))
    if path is None or not Path(path).is_file():
        return None
    return file_fingerprint(Path(path))
