"""The recipe: one YAML tree that says everything about a run. Unknown keys are errors; all errors show at once."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from sensekd.errors import InputError
from sensekd.presets import with_preset

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
# ValueError: dates and numbers that cannot be, and bytes that are no text; RecursionError: brackets within brackets.
_NOT_YAML: Final = (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError)
_VALUES: Final = 50_000
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dtype = Literal["float32", "bfloat16", "float16"]


def _yaml_word(value: Any) -> Any:
    """YAML reads a bare `on` or `off` as true or false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=())


class TeacherConfig(_Section):
    """The model that is made smaller, and where it stands while it teaches (`device: same` is the student's).

    `shape` holds fields of its config.json, so that `sensekd check` can size it where the checkpoint is out of reach.
    """

    model: str
    revision: str | None = None
    dtype: Dtype = "float32"
    trust_remote_code: bool = False
    device: str = "same"
    quantization: Literal["8bit", "4bit"] | None = None
    offload: bool = False
    shape: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> TeacherConfig:
        if self.quantization and self.offload:
            raise ValueError("`quantization` and `offload` exclude each other: quantised weights stay on their GPU")
        return self


class RespondConfig(_Section):
    """The teacher's own continuations as targets: greedy at temperature 0, else drawn with a seed of each record."""

    tokens: Positive = 1
    temperature: NonNegative = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0
    batch_size: Positive = 8


class CorpusConfig(_Section):
    """Documents: a text file (split at `separator`), JSONL or Parquet files, a dataset of the hub, or question sets.

    `records` says what a row is. `fraction`, `limit` and `repeat` choose documents by a hash of their content with
    `seed`, whatever their order; `longest` leaves out what has more tokens. `mixture` makes one corpus of several.
    `subset` is the configuration of a hub dataset that has several, such as the dump of one language.
    """

    path: str = ""
    mixture: tuple[CorpusConfig, ...] = ()
    format: Literal["text", "jsonl", "parquet", "hub"] = "jsonl"
    records: Literal["text", "messages", "completion", "arc", "csqa", "piqa", "mmlu", "squad"] = "text"
    field: str = "text"
    messages_field: str = "messages"
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    template: str | None = None
    chat: bool = False
    respond: RespondConfig | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    split: str = "train"
    subset: str | None = None
    skip_documents: Annotated[int, Field(ge=0)] = 0
    max_documents: Positive | None = None
    max_tokens: Positive | None = None
    longest: Positive | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    limit: Positive | None = None
    repeat: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    seed: int = 0

    @property
    def parts(self) -> tuple[CorpusConfig, ...]:
        """The corpora that this one is made of; itself where it is no mixture."""
        return self.mixture or (self,)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or " + ".join(part.path for part in self.mixture)

    @model_validator(mode="after")
    def _one_source(self) -> CorpusConfig:
        if bool(self.path) == bool(self.mixture):
            raise ValueError("give either `path` or `mixture`")
        if self.mixture:
            own = self.model_fields_set - {"mixture"}
            own = {name for name in own if getattr(self, name) != type(self).model_fields[name].default}
            if own:
                raise ValueError(f"{', '.join(sorted(own))}: set it in the parts of the mixture")
            if any(part.mixture for part in self.mixture):
                raise ValueError("a mixture in a mixture: list all parts in one")
        if self.records in ("text", "messages") and self.chat:
            raise ValueError("chat: true wraps prompts; it needs records with a prompt")
        if self.records == "text" and self.respond is not None:
            raise ValueError("respond: needs records with a prompt (messages, completion or a question set)")
        if self.records != "text" and self.format == "text":
            raise ValueError(f"records: {self.records} cannot stand in a text file")
        return self


class LexiconSource(_Section):
    """One source of relations, or (`morpholex`) of the affixes that `polarity` reads."""

    kind: Literal["pairs", "wordnet", "wndb", "wiktionary", "morpholex"]
    path: str | None = None
    relation: Literal["synonym", "antonym"] | None = None
    delimiter: Annotated[str, Field(min_length=1)] = "\t"
    label: str | None = None
    lexicon: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> LexiconSource:
        if self.kind == "pairs" and (self.path is None or self.relation is None):
            raise ValueError("kind: pairs needs `path` and `relation`")
        if self.kind == "wordnet" and (self.path is None) == (self.lexicon is None):
            raise ValueError("kind: wordnet needs either `path` (a WN-LMF file) or `lexicon` (one installed in wn)")
        if self.kind in {"wndb", "wiktionary", "morpholex"} and self.path is None:
            raise ValueError(f"kind: {self.kind} needs `path`")
        return self


class LexiconConfig(_Section):
    """Synonyms and antonyms.

    `hypernyms` takes hypernyms of WordNets and Wiktionary with this weight; `polarity` adds antonyms by negating
    affixes; `max_synonyms` and `max_antonyms` cap the relations of a word (ranked with `frequencies`, a file of word
    TAB count); `strict` ends at the first damaged line of a dump.
    """

    sources: tuple[LexiconSource, ...] = ()
    language: str = "en"
    drop_tags: tuple[str, ...] = ("archaic", "obsolete", "misspelling")
    hypernyms: Annotated[float, Field(gt=0, lt=1)] | None = None
    polarity: bool = False
    max_synonyms: Positive | None = None
    max_antonyms: Positive | None = None
    frequencies: str | None = None
    strict: bool = False

    @model_validator(mode="after")
    def _used(self) -> LexiconConfig:
        if not self.polarity and any(source.kind == "morpholex" for source in self.sources):
            raise ValueError("a source of kind morpholex is read for `polarity: true` alone")
        if self.frequencies is not None and self.max_synonyms is None and self.max_antonyms is None:
            raise ValueError("`frequencies` ranks relations for `max_synonyms` and `max_antonyms`; neither is set")
        return self


class LinkingConfig(_Section):
    """Words to tokens: neighbours of up to `max_pieces` (m), and below what the run refuses to start.

    `floor` is of heads: tokens that spell a related word and have a neighbour. Real tokenizers link 91 to 98 % of
    them; half as many means that the tokenizer cannot write the lexicon's language. `position_floor` is of the training
    text: whole words with a linked synonym or antonym. A lexicon of the text's language reaches tens of per cent.
    """

    max_pieces: Positive = 3
    floor: Fraction = 0.5
    position_floor: Fraction = 0.01


class SensesConfig(_Section):
    """The sense dictionary: what is sampled (from the training corpus, or from `corpus`) and how it is clustered.

    `dictionary` names one that stands already; then nothing is sampled, and it must be of the recipe's teacher.
    `store` is the form of the centroids on disk; `residence` says where the rows stay while a student is trained.
    `k: adaptive` chooses the number of senses of each token, 1 to `k_max`, from its states. `memory` bounds the bytes
    of temporaries of the clustering (by default what suits the device); it changes time, not results.
    """

    dictionary: str | None = None
    corpus: CorpusConfig | None = None
    assignment: Literal["predicted", "next", "agree"] = "predicted"
    samples_per_token: Positive = 200
    k: Positive | Literal["adaptive"] = 10
    k_max: Positive = 16
    minimum_support: Positive = 2
    restarts: Positive = 1
    iterations: Positive = 50
    window: Positive = 256
    batch_size: Positive = 16
    units: Literal["sigma", "raw"] = "sigma"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    store: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    residence: Literal["auto", "device", "host"] = "auto"
    seed: int = 0
    memory: Positive | None = None


class LoraConfig(_Section):
    """Low-rank adapters on linear maps of the decoder layers (extra `lora`); merged into the weights at the end."""

    rank: Positive = 8
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 16.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("*_proj",)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class StudentConfig(_Section):
    """Depth cut: N layers, the top M of them trainable; anything else that matches `train` is trained too.

    `selection` may also be the list of the teacher's layers. With `width` the student is narrower (or wider) than the
    teacher, is made anew, and all of it trains. `dtype` is that of the trained weights, `export_dtype` that of the
    folder (default: the teacher's).
    """

    layers: Positive
    selection: Literal["first", "spaced", "importance"] | tuple[Annotated[int, Field(ge=0)], ...] = "first"
    importance_tokens: Positive = 16384
    train_top: Annotated[int, Field(ge=0)] = 2
    train: tuple[str, ...] = ()
    shared_trunk: Literal["auto", "off"] = "auto"
    lora: LoraConfig | None = None
    width: Positive | None = None
    heads: Positive | None = None
    kv_heads: Positive | None = None
    intermediate: Positive | None = None
    init: Literal["sliced", "random"] = "sliced"
    vocabulary: Literal["teacher", "tokenizer"] | Positive = "teacher"
    dtype: Dtype = "float32"
    export_dtype: Dtype | None = None

    @model_validator(mode="after")
    def _consistent(self) -> StudentConfig:
        if not isinstance(self.selection, str):
            if len(self.selection) != self.layers:
                raise ValueError(f"`selection` lists {len(self.selection)} layers, `layers` says {self.layers}")
            if any(left >= right for left, right in itertools.pairwise(self.selection)):
                raise ValueError(f"`selection` must rise from layer to layer, found {list(self.selection)}")
        shape = [name for name in ("heads", "kv_heads", "intermediate") if getattr(self, name) is not None]
        if self.width is None and shape:
            raise ValueError(f"{shape} belong to a student of another width: set `width` too")
        if self.width is not None and (self.lora is not None or self.train):
            raise ValueError("with `width` all of the student trains: leave `train` and `lora` out")
        return self


class PositionsConfig(_Section):
    """The published sub-sampling of supervised positions, per sequence."""

    fraction: Fraction = 0.4
    minimum: Annotated[int, Field(ge=0)] = 25


class LossConfig(_Section):
    """L = L_CE + α τ² L_KL + λ L_sense + μ L_hid, and what the senses are pulled to and pushed from.

    `divergence` puts reverse KL or Jensen-Shannon (`jsd_beta`) in the place of the forward KL. `chunked` computes CE
    and KL without whole logits, `chunk_elements` scores at a time; `auto` does so where the vocabulary is large and
    the model's way from scores to logits is known. `targets: published` supervises as the published code does, with
    up to `neighbours` synonyms and antonyms drawn; it belongs to `preset: published`.
    """

    alpha: NonNegative = 0.7
    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    lam: NonNegative = Field(1.0, alias="lambda")
    mu: NonNegative = 0.0
    beta_positive: NonNegative = 1.0
    beta_negative: NonNegative = 1.0
    kappa: Positive = 5
    push: Literal["absolute", "relative"] = "absolute"
    margin: Annotated[float, Field(allow_inf_nan=False)] | None = None
    synonyms: bool = True
    antonyms: bool = True
    positions: Literal["all"] | PositionsConfig = "all"
    targets: Literal["method", "published"] = "method"
    neighbours: Positive = 25
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    jsd_beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    chunked: Annotated[Literal["auto", "on", "off"], BeforeValidator(_yaml_word)] = "auto"
    chunk_elements: Positive = 1 << 24

    @model_validator(mode="after")
    def _published(self) -> LossConfig:
        if self.targets == "published" and (self.positions == "all" or self.push != "absolute"):
            raise ValueError("targets: published needs `positions` with a fraction and a minimum, and `push: absolute`")
        return self

    @property
    def effective_margin(self) -> float:
        """0.8 for the absolute and 0 for the relative push, unless the recipe names one (units of σ²)."""
        if self.margin is not None:
            return self.margin
        return 0.8 if self.push == "absolute" else 0.0


class TrainingConfig(_Section):
    """Budget, data and optimiser. `packing`: how documents become rows; `supervise`: which tokens are labels.

    `trainer` holds further fields of `transformers.TrainingArguments`.
    """

    steps: Positive
    batch_size: Positive = 8
    accumulation: Positive = 1
    sequence_length: Positive = 128
    packing: Literal["concat", "documents", "none"] = "concat"
    supervise: Literal["completion", "all"] = "completion"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    scheduler: str = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: NonNegative = 1e-3
    max_grad_norm: NonNegative = 1.0
    log_every: Positive = 10
    save_every: Positive | None = None
    threads: Positive = 1
    trainer: dict[str, Any] = Field(default_factory=dict)


class CacheConfig(_Section):
    """The teacher cache: what the loss looks at of the teacher, stored once and read instead of running it.

    `mode`: written `before` the training, or during its `first_epoch`. `top` is k, the likeliest tokens of a position
    that are stored with their log-probabilities (`all`: the whole vocabulary); the others count as one. `codec: packed`
    stores ids in as few bits as they need and log-probabilities in eight; `log_probs` is their dtype otherwise. `trunk`
    stores the state that the student's own layers start from, so that nothing below them is loaded. `batch_size`:
    blocks of one forward of the teacher (default: the training's).
    """

    mode: Annotated[Literal["off", "before", "first_epoch"], BeforeValidator(_yaml_word)] = "off"
    top: Literal["all"] | Positive = 64
    codec: Literal["plain", "packed"] = "plain"
    log_probs: Literal["float16", "float32"] = "float16"
    trunk: bool = False
    batch_size: Positive | None = None


class EvaluationConfig(_Section):
    """Held-out text for the intrinsic suite, multiple-choice sets (name -> JSONL), gold senses (JSONL)."""

    corpus: CorpusConfig
    questions: dict[str, str] = Field(default_factory=dict)
    gold_senses: str | None = None
    batch_size: Positive = 32
    sequence_length: Positive = 128


ARMS: Final[dict[str, dict[str, Any]]] = {
    "pruned": {"training.steps": 0},
    "ce": {"loss.alpha": 0.0, "loss.lambda": 0.0, "loss.mu": 0.0},
    "kd": {"loss.lambda": 0.0, "loss.mu": 0.0},
    "kd+hidden": {"loss.lambda": 0.0, "loss.mu": 1.0},
    "dskd-own": {"loss.synonyms": False, "loss.antonyms": False},
    "dskd": {},
}


# Keys of `compare` that came later.
_OPTIONAL: Final = ("budget", "costs", "bootstrap", "correction", "development", "tune", "sensitivity")


class DevelopmentConfig(_Section):
    """Held-out text and question sets for choosing; what is reported comes from `evaluation`, which nobody chose by."""

    corpus: CorpusConfig
    questions: dict[str, str] = Field(default_factory=dict)


class RangeConfig(_Section):
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


class TuneConfig(_Section):
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


class SensitivityConfig(_Section):
    """Values of one factor at a time; the others stay as the recipe has them. λ and the margin in `senses.units`."""

    arm: str = "dskd"
    lam: tuple[PositiveNumber, ...] = Field((0.1, 0.3, 1.0, 3.0, 10.0), alias="lambda")
    kappa: tuple[Positive, ...] = (1, 2, 5, 10)
    k: tuple[Positive, ...] = (5, 10, 20, 40)
    margin: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = (0.4, 0.8, 1.6)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = None


class CompareConfig(_Section):
    """Arms at the same budget. `arms` names built-in ones; `custom` adds arms as overrides of loss keys.

    `budget: time` adds a second comparison in which every arm trains as long as the slowest one does: cheaper arms get
    more steps, by `costs` (arm -> cost of a step, in any unit) or, without it, by what the first comparison took.
    `bootstrap` resamples the items of question sets so many times; `correction: holm` corrects for the number of
    comparisons. `tune` gives every arm as many trials on `development`; `sensitivity` says what `--sensitivity` varies.
    """

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

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What a recipe does not use is not written: its results are the same bytes with a version that knows more.
        tree: dict[str, Any] = handler(self)
        unused = {name for name in _OPTIONAL if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in tree.items() if name not in unused}

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
            foreign = [key for key in overrides if not key.startswith("loss.")]
            if foreign or name in {*ARMS, "teacher"} or not re.fullmatch(_NAME, name):
                raise ValueError(
                    f"custom arm {name!r}: a new name and only `loss.*` keys are possible, found {foreign}"
                )
        return self


class Recipe(_Section):
    """Everything about a run."""

    name: str = Field(pattern=f"^{_NAME}$")
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
        return self

    @model_validator(mode="after")
    def _possible_arms(self) -> Recipe:
        tree = self.loss.model_dump(mode="json", by_alias=True)
        for name, overrides in self.compare.custom.items():
            arm: dict[str, Any] = {"loss": dict(tree)}
            for key, value in overrides.items():
                _set(arm, key, value)
            try:
                LossConfig.model_validate(arm["loss"])
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
