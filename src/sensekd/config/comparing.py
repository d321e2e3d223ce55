"""Sections of a comparison: arms, budget, tuning, sensitivity."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from sensekd.config.fields import NAME, LaterKeys, Positive, Section
from sensekd.config.inputs import CorpusConfig

ARMS: Final[dict[str, dict[str, Any]]] = {
    "pruned": {"training.steps": 0},
    "ce": {"loss.alpha": 0.0, "loss.lambda": 0.0, "loss.mu": 0.0},
    "kd": {"loss.lambda": 0.0, "loss.mu": 0.0},
    "kd+hidden": {"loss.lambda": 0.0, "loss.mu": 1.0},
    "dskd-own": {"loss.synonyms": False, "loss.antonyms": False},
    "dskd": {},
}


class DevelopmentConfig(Section):
    """Held-out text and question sets for choosing; what is reported comes from `evaluation`, which nobody chose by."""

    corpus: CorpusConfig
    questions: dict[str, str] = Field(default_factory=dict)


class RangeConfig(Section):
    """Numbers from `low` to `high`; `log` spreads them evenly over orders of magnitude."""

    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]
    log: bool = True

    @model_validator(mode="after")
    def _rises(self) -> RangeConfig:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"needs low < high, and low > 0 where log is true; found {self.low} to {self.high}")
        return self


TUNABLE: Final = ("training.learning_rate", "training.warmup", "training.weight_decay")


class TuneConfig(Section):
    """As many trials for every arm, judged by `metric` on `compare.development`; the best is what is compared.

    The first trial of an arm is the arm as the recipe has it, the others are drawn (evenly spread, with `seed`) from
    `space`: key -> a list of values or a range. An arm draws from the keys that mean something to it. Each trial is
    trained with every seed of `seeds`, for `steps` (by default the recipe's).
    """

    trials: Annotated[int, Field(ge=2)] = 8
    space: dict[str, RangeConfig | Annotated[tuple[bool | int | float | str, ...], Field(min_length=1)]]
    metric: str = "ce"
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    steps: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _tunable(self) -> TuneConfig:
        foreign = [key for key in self.space if not key.startswith("loss.") and key not in TUNABLE]
        if foreign or not self.space:
            raise ValueError(f"`space` may name loss.* and {', '.join(TUNABLE)}; found {foreign or 'nothing'}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("`seeds` names one twice")
        return self


PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SensitivityConfig(Section):
    """Values of one factor at a time; the others stay as the recipe has them. λ and the margin in `senses.units`."""

    arm: str = "dskd"
    lam: tuple[PositiveNumber, ...] = Field((0.1, 0.3, 1.0, 3.0, 10.0), alias="lambda")
    kappa: tuple[Positive, ...] = (1, 2, 5, 10)
    k: tuple[Positive, ...] = (5, 10, 20, 40)
    margin: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = (0.4, 0.8, 1.6)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = None


class CompareConfig(LaterKeys):
    """Arms at the same budget. `arms` names built-in ones; `custom` adds arms as overrides of `loss.*` and `cache.*`.

    `budget: time` adds a second comparison in which every arm trains as long as the slowest one does: cheaper arms get
    more steps, by `costs` (arm -> cost of a step, in any unit) or, without it, by what the first comparison took.
    `bootstrap` resamples the items of question sets so many times; `correction: holm` corrects for the number of
    comparisons. `tune` gives every arm as many trials on `development`; `sensitivity` says what `--sensitivity` varies.
    """

    later: ClassVar[tuple[str, ...]] = (
        "budget", "costs", "bootstrap", "correction", "development", "tune", "sensitivity",
    )  # fmt: skip

    arms: tuple[str, ...] = tuple(ARMS)
    custom: dict[str, dict[str, Any]] = Field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    workers: Positive = 1
    baseline: str = "kd"
    budget: Literal["tokens", "time"] = "tokens"
    costs: dict[str, PositiveNumber] | None = None
    bootstrap: Positive | None = None
    correction: Literal["holm"] | None = None
    development: DevelopmentConfig | None = None
    tune: TuneConfig | None = None
    sensitivity: SensitivityConfig | None = None

    @property
    def trained(self) -> tuple[str, ...]:
        """The arms that are trained at all, in order."""
        return tuple(arm for arm in (*self.arms, *self.custom) if "training.steps" not in ARMS.get(arm, {}))

    @model_validator(mode="after")
    def _consistent(self) -> CompareConfig:
        if self.costs is not None:
            missing, foreign = set(self.trained) - self.costs.keys(), self.costs.keys() - set(self.trained)
            if self.budget != "time" or missing or foreign:
                raise ValueError(
                    "`costs` belongs to `budget: time` and names every trained arm once; "
                    f"missing {sorted(missing)}, not trained here {sorted(foreign)}"
                )
        if self.tune is not None and self.development is None:
            raise ValueError("`tune` needs `development`: what is chosen by the held-out text cannot be judged by it")
        if self.sensitivity is not None and self.sensitivity.arm not in {*ARMS, *self.custom} - {"pruned"}:
            raise ValueError(f"sensitivity: no trained arm {self.sensitivity.arm!r}")
        return self

    @model_validator(mode="after")
    def _known_arms(self) -> CompareConfig:
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown:
            raise ValueError(f"unknown arms {unknown}; built in: {list(ARMS)}; others go under `custom`")
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"`arms` names one twice: {list(self.arms)}")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds or min(self.seeds) < 0:
            raise ValueError("`seeds` must be a non-empty list of different numbers, none below 0")
        if self.baseline not in {*self.arms, *self.custom}:
            raise ValueError(f"the baseline {self.baseline!r} is not among the arms")
        for name, overrides in self.custom.items():
            foreign = [key for key in overrides if not key.startswith(("loss.", "cache."))]
            if foreign or name in {*ARMS, "teacher"} or not re.fullmatch(NAME, name):
                raise ValueError(
                    f"custom arm {name!r}: a new name and only `loss.*` and `cache.*` keys, found {foreign}"
                )
        return self
