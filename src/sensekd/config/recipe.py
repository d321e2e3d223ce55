"""The recipe: one YAML tree that says everything about a run. Unknown keys are errors; all errors show at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from sensekd.config.comparing import ARMS, CompareConfig, RangeConfig
from sensekd.config.fields import NAME, Section
from sensekd.config.inputs import CorpusConfig, LexiconConfig, LinkingConfig, SensesConfig, TeacherConfig
from sensekd.config.training import CacheConfig, EvaluationConfig, LossConfig, StudentConfig, TrainingConfig
from sensekd.errors import InputError
from sensekd.presets import with_preset

# ValueError: dates and numbers that cannot be, and bytes that are no text; RecursionError: brackets within brackets.
_NOT_YAML: Final = (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError)
_VALUES: Final = 50_000
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")


class Recipe(Section):
    """Everything about a run."""

    name: str = Field(pattern=f"^{NAME}$")
    output: str
    seed: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"
    preset: Literal["published"] | None = None
    teacher: TeacherConfig
    corpus: CorpusConfig
    lexicon: LexiconConfig = LexiconConfig()
    linking: LinkingConfig = LinkingConfig()
    senses: SensesConfig = SensesConfig()
    student: StudentConfig
    loss: LossConfig = LossConfig()
    training: TrainingConfig
    cache: CacheConfig = CacheConfig()
    evaluation: EvaluationConfig
    compare: CompareConfig = CompareConfig()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tree: Any) -> Any:
        return with_preset(tree)

    @property
    def cached(self) -> bool:
        """Whether a training has use for a teacher cache: it is on, and a term of the loss looks at the teacher."""
        return self.cache.mode != "off" and bool(self.loss.alpha or self.loss.lam or self.loss.mu)

    @model_validator(mode="after")
    def _cacheable(self) -> Recipe:
        if self.cache.mode != "off" and self.loss.targets == "published":
            raise ValueError("loss.targets: published draws neighbours anew at every step; set cache.mode to off")
        if self.cache.refine and (self.student.width is not None or self.loss.alpha == 0):
            raise ValueError(
                "cache.refine reads stored scores (loss.alpha above 0) with an output embedding that has to be the "
                "teacher's: leave it out for a student of another width"
            )
        if self.cache.mode != "off" and self.loss.assignment == "soft" and self.loss.lam > 0:
            raise ValueError(
                "loss.assignment: soft weighs rows by distances, which no cache keeps; set cache.mode to off"
            )
        return self

    @model_validator(mode="after")
    def _possible_arms(self) -> Recipe:
        tree = {name: getattr(self, name).model_dump(mode="json", by_alias=True) for name in ("loss", "cache")}
        for name, overrides in self.compare.custom.items():
            arm: dict[str, Any] = {section: dict(values) for section, values in tree.items()}
            for key, value in overrides.items():
                _set(arm, key, value)
            try:
                LossConfig.model_validate(arm["loss"])
                CacheConfig.model_validate(arm["cache"])
            except ValidationError as error:
                raise ValueError(f"custom arm {name!r}: {'; '.join(_described(error))}") from error
        return self

    @model_validator(mode="after")
    def _possible_trials(self) -> Recipe:
        space = {} if self.compare.tune is None else self.compare.tune.space
        for key, values in space.items():
            ends = (values.low, values.high) if isinstance(values, RangeConfig) else values
            section, _, name = key.partition(".")
            kind = LossConfig if section == "loss" else TrainingConfig
            for value in ends:
                # Keys that must go together (a push and its margin) are judged where a trial is made.
                tree = {**getattr(self, section).model_dump(mode="json", by_alias=True), name: value}
                try:
                    kind.model_validate(tree)
                except ValidationError as error:
                    raise ValueError(f"compare.tune.space {key}: {'; '.join(_described(error))}") from error
        return self


def _expand(value: Any, errors: list[str], where: str) -> Any:
    if isinstance(value, str):

        def replace(match: re.Match[str]) -> str:
            name = match.group(1)
            if name != "SENSEKD_DATA":
                errors.append(f"{where}: ${{{name}}} is not known; only ${{SENSEKD_DATA}} is")
            elif not os.environ.get(name):
                errors.append(f"{where}: ${{SENSEKD_DATA}} is not set; export it to the folder that holds your data")
            return os.environ.get(name, "")

        return _VARIABLE.sub(replace, value)
    if isinstance(value, dict):
        return {key: _expand(item, errors, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, errors, f"{where}[{index}]") for index, item in enumerate(value)]
    return value


def _refuse_endless(tree: Any, name: str) -> None:
    """YAML's anchors let a few lines stand for billions of values, or for a value within itself.

    Raises:
        InputError: more than `_VALUES` values.
    """
    waiting, count = [tree], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count + len(waiting) > _VALUES:
            raise InputError(
                f"{name} unfolds to more than {_VALUES:,} values", "a recipe of ordinary size", "take its anchors out"
            )
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set):
            waiting.extend(value)


def _described(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "(top)"
        lines.append(f"{where}: {'unknown key' if item['type'] == 'extra_forbidden' else item['msg']}")
    return lines


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(f"--set {key}: {parent!r} is not a section", "a key such as loss.lambda", None)
        tree = child
    tree[last] = value


def parse_override(text: str) -> tuple[str, Any]:
    """Split `a.b=value`; the value is read as YAML.

    Raises:
        InputError: no `=`, or a value that is not YAML.
    """
    key, separator, raw = text.partition("=")
    if not separator or not key:
        raise InputError(f"--set {text!r}", "key=value, for example --set loss.lambda=0.5")
    try:
        return key.strip(), yaml.safe_load(raw)
    except _NOT_YAML as error:
        raise InputError(f"--set {key}: {raw!r} is not YAML", "a YAML value such as 0.5, true or [1, 2]") from error


def corpus_from(tree: dict[str, Any]) -> CorpusConfig:
    """A corpus that is named on the command line and not in a recipe.

    Raises:
        InputError: with every error of the tree, one a line.
    """
    try:
        return CorpusConfig.model_validate(tree)
    except ValidationError as error:
        raise InputError("the corpus: " + "; ".join(_described(error)), "a corpus as in a recipe") from error


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def recipe_from_tree(tree: Any, name: str, overrides: Sequence[str] = (), *, kind: type[AnyRecipe]) -> AnyRecipe:
    """Validate a tree of plain values.

    Args:
        tree: what a recipe's YAML holds.
        name: of the recipe, for messages.
        overrides: `a.b=value` texts that win over the tree.
        kind: `Recipe`, or one with further sections.

    Raises:
        InputError: with every error of the tree, one a line.
    """
    if not isinstance(tree, dict):
        raise InputError(f"{name} holds {type(tree).__name__}", "a mapping of sections", "see recipes/ for examples")
    for override in overrides:
        _set(tree, *parse_override(override))
    _refuse_endless(tree, name)
    errors: list[str] = []
    tree = _expand(tree, errors, "")
    recipe: AnyRecipe | None = None
    try:
        recipe = kind.model_validate(tree)
    except ValidationError as error:
        errors += _described(error)
    if errors or recipe is None:
        count = f"{len(errors)} error{'s' if len(errors) > 1 else ''}"
        listed = "\n".join(f"  - {line}" for line in errors)
        raise InputError(
            f"{name}: {count} in the recipe\n{listed}",
            "a recipe without these",
            "correct them and start again",
        )
    return recipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; `overrides` are `a.b=value` texts that win over the file.

    Raises:
        InputError: no such file, not YAML, or any error of the tree (all of them at once).
    """
    if not path.is_file():
        raise InputError(f"no recipe at {path}", "a YAML file", "see recipes/ for examples")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, *_NOT_YAML) as error:
        hint = "correct it; see recipes/ for examples"
        raise InputError(f"{path} is not YAML: {error}", "a YAML mapping in UTF-8", hint) from error
    return recipe_from_tree(tree, str(path), overrides, kind=Recipe)


def arm_settings(recipe: Recipe, arm: str) -> dict[str, Any]:
    """What makes an arm of the recipe: keys and values."""
    return dict(ARMS.get(arm) or recipe.compare.custom.get(arm, {}))


def arm_recipe(recipe: Recipe, arm: str, seed: int, settings: Mapping[str, Any] | None = None) -> tuple[Recipe, int]:
    """The recipe of one arm with the run's seed, and its number of training steps (0 for `pruned`).

    `settings` are further keys and values, such as tuned ones; they win over the arm's own.
    """
    overrides = {**arm_settings(recipe, arm), **(settings or {})}
    steps = int(overrides.pop("training.steps", recipe.training.steps))
    tree = recipe.model_dump(mode="json", by_alias=True)
    for key, value in overrides.items():
        _set(tree, key, value)
    tree["seed"] = seed
    return Recipe.model_validate(tree), steps
