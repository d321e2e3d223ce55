"""Sections of what goes in: teacher, corpora, lexicon, linking, senses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from sensekd.config.fields import Dtype, Fraction, LaterKeys, NonNegative, Positive, Section


class TeacherConfig(Section):
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


class RespondConfig(Section):
    """The teacher's own continuations as targets: greedy at temperature 0, else drawn with a seed of each record."""

    tokens: Positive = 1
    temperature: NonNegative = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0
    batch_size: Positive = 8


class CorpusConfig(Section):
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


class LexiconSource(Section):
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


class LexiconConfig(LaterKeys):
    """Synonyms and antonyms.

    `hypernyms` takes hypernyms of WordNets and Wiktionary with this weight; `polarity` adds antonyms by negating
    affixes; `max_synonyms` and `max_antonyms` cap the relations of a word (ranked with `frequencies`, a file of word
    TAB count); `strict` ends at the first damaged line of a dump. `withhold_antonyms` keeps this share of the antonym
    pairs from training, for the evaluation alone; `withhold_seed` chooses which.
    """

    later: ClassVar[tuple[str, ...]] = ("withhold_antonyms", "withhold_seed")

    sources: tuple[LexiconSource, ...] = ()
    language: str = "en"
    drop_tags: tuple[str, ...] = ("archaic", "obsolete", "misspelling")
    hypernyms: Annotated[float, Field(gt=0, lt=1)] | None = None
    polarity: bool = False
    max_synonyms: Positive | None = None
    max_antonyms: Positive | None = None
    frequencies: str | None = None
    strict: bool = False
    withhold_antonyms: Fraction = 0.0
    withhold_seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _used(self) -> LexiconConfig:
        if not self.polarity and any(source.kind == "morpholex" for source in self.sources):
            raise ValueError("a source of kind morpholex is read for `polarity: true` alone")
        if self.frequencies is not None and self.max_synonyms is None and self.max_antonyms is None:
            raise ValueError("`frequencies` ranks relations for `max_synonyms` and `max_antonyms`; neither is set")
        if self.withhold_antonyms and not self.sources:
            raise ValueError("`withhold_antonyms` needs `sources`: without them there are no antonyms")
        if self.withhold_seed and not self.withhold_antonyms:
            raise ValueError("`withhold_seed` chooses what `withhold_antonyms` withholds; it is not set")
        return self


class LinkingConfig(Section):
    """Words to tokens: neighbours of up to `max_pieces` (m), and below what the run refuses to start.

    `floor` is of heads: tokens that spell a related word and have a neighbour. Real tokenizers link 91 to 98 % of
    them; half as many means that the tokenizer cannot write the lexicon's language. `position_floor` is of the training
    text: whole words with a linked synonym or antonym. A lexicon of the text's language reaches tens of per cent.
    """

    max_pieces: Positive = 3
    floor: Fraction = 0.5
    position_floor: Fraction = 0.01


class SensesConfig(Section):
    """The sense dictionary: what is sampled (from the training corpus, or from `corpus`) and how it is clustered.

    `dictionary` names one that stands already; then nothing is sampled, and it must be of the recipe's teacher.
    `store` is the form of the centroids on disk; `residence` says where the rows stay while a student is trained.
    `k: adaptive` chooses the number of senses of each token, 1 to `k_max`, from its states. `memory` bounds the bytes
    of temporaries of the clustering (by default what suits the device); it changes time, not results.
    """

    dictionary: str | None = None
    corpus: CorpusConfig | None = None
    assignment: Literal["predicted", "next", "agree"] = "next"
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
