"""Sections of the training: student, loss, budget, teacher cache, evaluation."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from sensekd.config.fields import Dtype, Fraction, LaterKeys, NonNegative, Positive, Section, yaml_word
from sensekd.config.inputs import CorpusConfig


class LoraConfig(Section):
    """Low-rank adapters on linear maps of the decoder layers (extra `lora`); merged into the weights at the end."""

    rank: Positive = 8
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 16.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("*_proj",)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class StudentConfig(Section):
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
    shared_trunk: Annotated[Literal["auto", "off"], BeforeValidator(yaml_word)] = "auto"
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


class PositionsConfig(Section):
    """The published sub-sampling of supervised positions, per sequence."""

    fraction: Fraction = 0.4
    minimum: Annotated[int, Field(ge=0)] = 25


class AnnealConfig(Section):
    """λ stays up to the share `start` of the steps, falls in a line, and is `to` · λ from the share `end` on."""

    start: Fraction = 0.0
    end: Fraction = 0.7
    to: NonNegative = 0.0

    @model_validator(mode="after")
    def _forward(self) -> AnnealConfig:
        if self.start >= self.end:
            raise ValueError(f"`start` comes before `end`, found {self.start} and {self.end}")
        return self

    def factor(self, step: int, steps: int) -> float:
        """What λ is multiplied by at the step (from 0) of so many."""
        share = (step / max(steps, 1) - self.start) / (self.end - self.start)
        return 1.0 + (self.to - 1.0) * min(max(share, 0.0), 1.0)


class LossConfig(LaterKeys):
    """L = L_CE + α τ² L_KL + λ L_sense + μ L_hid, and what the senses are pulled to and pushed from.

    `divergence` puts reverse KL or Jensen-Shannon (`jsd_beta`) in the place of the forward KL. `chunked` computes CE
    and KL without whole logits, `chunk_elements` scores at a time; `auto` does so where the vocabulary is large and
    the model's way from scores to logits is known. `targets: published` supervises as the published code does, with
    up to `neighbours` synonyms and antonyms drawn; it belongs to `preset: published`.

    `pull: teacher` ends where the student is as near to its senses as the teacher is, instead of at the senses.
    `assignment: soft` weighs the kept rows of the pull by how near the teacher's state they are; `confidence` weighs
    the positions of pull and push by the teacher's probability of the label, or takes those alone where the label is
    its likeliest token (`agreement`); `anneal` lets λ fall; `push: contrastive` has no margin but a temperature.
    """

    later: ClassVar[tuple[str, ...]] = (
        "assignment", "assignment_temperature", "confidence", "anneal", "push_temperature",
    )  # fmt: skip

    alpha: NonNegative = 3.0
    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    lam: NonNegative = Field(1.0, alias="lambda")
    mu: NonNegative = 0.0
    beta_positive: NonNegative = 1.0
    beta_negative: NonNegative = 1.0
    kappa: Positive = 1
    pull: Literal["absolute", "teacher"] = "teacher"
    push: Literal["absolute", "relative", "contrastive"] = "absolute"
    margin: Annotated[float, Field(allow_inf_nan=False)] | None = None
    push_temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    assignment: Literal["nearest", "soft"] = "nearest"
    assignment_temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    confidence: Annotated[Literal["off", "probability", "agreement"], BeforeValidator(yaml_word)] = "off"
    anneal: AnnealConfig | None = None
    synonyms: bool = True
    antonyms: bool = True
    positions: Literal["all"] | PositionsConfig = "all"
    targets: Literal["method", "published"] = "method"
    neighbours: Positive = 25
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    jsd_beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    chunked: Annotated[Literal["auto", "on", "off"], BeforeValidator(yaml_word)] = "auto"
    chunk_elements: Positive = 1 << 24

    @model_validator(mode="after")
    def _published(self) -> LossConfig:
        if self.targets == "published" and (self.positions == "all" or self.push != "absolute"):
            raise ValueError("targets: published needs `positions` with a fraction and a minimum, and `push: absolute`")
        changed = self.assignment != "nearest" or self.confidence != "off" or self.pull != "absolute"
        if self.targets == "published" and changed:
            raise ValueError(
                "targets: published knows no `assignment: soft` and no `confidence`, and needs `pull: absolute`"
            )
        return self

    @model_validator(mode="after")
    def _confident(self) -> LossConfig:
        if self.confidence != "off" and self.lam > 0 and self.alpha == 0:
            raise ValueError("`confidence` looks at the teacher's distribution, which is not computed where alpha is 0")
        return self

    @property
    def compares_own(self) -> bool:
        """Whether the push looks at the own sense nearest to the teacher's state."""
        return self.push != "absolute"

    @property
    def effective_margin(self) -> float:
        """0.8 for the absolute push and 0 for the others, unless the recipe names one (units of σ²)."""
        if self.margin is not None:
            return self.margin
        return 0.8 if self.push == "absolute" else 0.0


class TrainingConfig(Section):
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


class CacheConfig(LaterKeys):
    """The teacher cache: what the loss looks at of the teacher, stored once and read instead of running it.

    `mode`: written `before` the training, or during its `first_epoch`. `top` is k, the likeliest tokens of a position
    that are stored with their log-probabilities (`all`: the whole vocabulary); the others count as one. `codec: packed`
    stores ids in as few bits as they need and log-probabilities in eight; `log_probs` is their dtype otherwise. `trunk`
    stores the state that the student's own layers start from, so that nothing below them is loaded. `batch_size`:
    blocks of one forward of the teacher (default: the training's). `residual`: for every last state (mu > 0) its
    nearest own sense, and so many bytes of code for the rest, in the place of the state; `refine` then corrects what
    is decoded by the stored scores. For `loss.pull: teacher` the teacher's distances are stored too.
    """

    later: ClassVar[tuple[str, ...]] = ("residual", "refine")

    mode: Annotated[Literal["off", "before", "first_epoch"], BeforeValidator(yaml_word)] = "off"
    top: Literal["all"] | Positive = 64
    codec: Literal["plain", "packed"] = "plain"
    log_probs: Literal["float16", "float32"] = "float16"
    trunk: bool = False
    batch_size: Positive | None = None
    residual: Positive | None = None
    refine: bool = False

    @model_validator(mode="after")
    def _refines_codes(self) -> CacheConfig:
        if self.refine and self.residual is None:
            raise ValueError("`refine` corrects the states that `residual` codes; set `residual` too")
        return self


class LexicalConfig(Section):
    """Lexical tests on the states of every student: the folder of their files, which of them, and how much.

    `limits` counts sentences of each split of each word (`coarsewsd20`) and pairs (`simlex999`); a test that is not
    named there is taken whole.
    """

    data: str
    tasks: tuple[Literal["coarsewsd20", "simlex999"], ...] = ()
    limits: dict[Literal["coarsewsd20", "simlex999"], Positive] = Field(default={"coarsewsd20": 100})


class EvaluationConfig(LaterKeys):
    """Held-out text for the intrinsic suite, multiple-choice sets (name -> JSONL), gold senses (JSONL), lexical tests.

    What settings are chosen by (`compare.development`) has no lexical tests.
    """

    later: ClassVar[tuple[str, ...]] = ("lexical",)

    corpus: CorpusConfig
    questions: dict[str, str] = Field(default_factory=dict)
    gold_senses: str | None = None
    lexical: LexicalConfig | None = None
    batch_size: Positive = 32
    sequence_length: Positive = 128
