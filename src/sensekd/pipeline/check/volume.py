"""How much text there is, and what a run of it leaves on the disk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from sensekd.config import CorpusConfig, Recipe
from sensekd.corpus import ids_hash
from sensekd.errors import InputError
from sensekd.pipeline.check.memory import Part, size_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from sensekd.corpus import TokenDocuments
    from sensekd.pipeline.check.shapes import Shapes

# Tokens of a part that are counted one by one; what lies beyond follows from the size of its file.
COUNTED: Final = 2_000_000
_BATCH: Final = 256
# What a kept state costs beside its numbers: priority, document, position, and 24 ids of context.
_SAMPLE_ROW: Final = 8 + 8 + 4 + 4 * 24
# What a sense costs beside its centroid: support, spread, three contexts.
_SENSE_ROW: Final = 4 + 4 + 3 * 4 * 24
# Candidates of a position, in the count of a cache: as many as two bytes can name.
_LONGEST: Final = 65_534
# States and senses by assignment, against those of the tokens that follow. A teacher predicts rare tokens less often
# than they come; measured on two teachers: 0.77 and 0.87 of the states, 0.86 and 0.88 of the senses (docs/sizing.md).
_FILED: Final = {"next": (1.0, 1.0), "predicted": (0.82, 0.87)}

Sureness = Literal["counted", "about", "at most", "at least", "unknown"]


@dataclass(frozen=True)
class Volume:
    """Text as tokens.

    Attributes:
        tokens, documents: how many; 0 where nobody knows.
        sureness: whether they were counted, follow from a part that was, are a limit of the recipe, are known of some
            parts of a mixture alone, or are unknown.
        labels: [V] how often each id follows another one in the documents that were read, equal documents once.
        share: the part of all documents that `labels` is of.
    """

    tokens: int
    documents: int
    sureness: Sureness
    labels: NDArray[np.int64] | None = None
    share: float = 1.0

    @property
    def bounded(self) -> bool:
        """Whether there will be about so many tokens at most."""
        return self.sureness not in ("at least", "unknown")


class _Count:
    """Counts ids over documents, equal ones once."""

    def __init__(self, vocabulary: int) -> None:
        self.labels = np.zeros(vocabulary, dtype=np.int64)
        self.tokens = self.documents = 0
        self._seen: set[int] = set()

    def add(self, ids: NDArray[Any]) -> None:
        self.tokens += len(ids)
        self.documents += 1
        digest = ids_hash(ids)
        if digest in self._seen:
            return
        self._seen.add(digest)
        self.labels += np.bincount(ids[1:], minlength=len(self.labels))[: len(self.labels)]


def volume_of_tokens(documents: TokenDocuments, vocabulary: int) -> Volume:
    """Of a corpus that stands tokenised."""
    count = _Count(vocabulary)
    for index in range(len(documents)):
        count.add(documents.document(index))
    return Volume(count.tokens, count.documents, "counted", count.labels)


def _batches(part: CorpusConfig) -> Iterator[list[Any]]:
    from sensekd.training.mixture import choose

    records = iter(choose(part, once=True))
    while batch := list(islice(records, _BATCH)):
        yield batch


def _encoded(part: CorpusConfig, tokenizer: PreTrainedTokenizerBase, batch: list[Any]) -> Iterator[NDArray[np.int64]]:
    from sensekd.training.encoding import Encoder

    encoder = Encoder(tokenizer, part)
    if part.respond is None:
        rows = [list(document.ids) for document in encoder.documents(batch)]
    else:  # The answers are not there yet: their places are filled with the end-of-text token.
        end = int(tokenizer.eos_token_id or 0)
        rows = [[*ids, *[end] * (part.respond.tokens + 1)] for ids in encoder.prompts(batch)]
    yield from (np.asarray(ids, dtype=np.int64) for ids in rows if part.longest is None or len(ids) <= part.longest)


def _read(part: CorpusConfig, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> Volume:
    """Tokenise a local corpus in memory as far as `COUNTED`."""
    from sensekd.training.records import content

    count, size, ended = _Count(vocabulary), 0, True
    limit = min(COUNTED, part.max_tokens or COUNTED)
    for batch in _batches(part):
        size += sum(len(content(record)) for record in batch)
        for ids in _encoded(part, tokenizer, batch):
            count.add(ids)
        if count.tokens >= limit:
            ended = False
            break
    if part.max_tokens is not None and count.tokens >= part.max_tokens:
        return Volume(part.max_tokens, count.documents, "counted", count.labels)
    if ended:
        factor, sureness = part.repeat, "counted" if part.repeat == 1 else "about"
        share = 1.0
    else:
        whole = Path(part.path).stat().st_size * part.fraction if Path(part.path).is_file() else size
        share = min(1.0, size / max(1.0, whole))
        factor, sureness = part.repeat / share, "about"
    tokens = min(int(count.tokens * factor), part.max_tokens or 1 << 62)
    return Volume(tokens, max(1, int(count.documents * factor)), sureness, count.labels, share)  # type: ignore[arg-type]


def _volume_of_part(part: CorpusConfig, tokenizer: PreTrainedTokenizerBase | None, vocabulary: int) -> Volume:
    local = part.format != "hub" and Path(part.path).exists()
    if local and tokenizer is not None:
        try:
            return _read(part, tokenizer, vocabulary)
        except (InputError, OSError):
            pass  # What is wrong with it stands among the problems.
    if part.max_tokens is not None:
        return Volume(part.max_tokens, 0, "at most")
    return Volume(0, 0, "unknown")


def volume_of_corpus(corpus: CorpusConfig, tokenizer: PreTrainedTokenizerBase | None, vocabulary: int) -> Volume:
    """Of a corpus or a mixture that is not tokenised yet.

    Args:
        corpus: local files are read (the first `COUNTED` tokens of each part); of what lies elsewhere only the recipe's
            limits are known.
        tokenizer: None where it is out of reach.
        vocabulary: V.
    """
    parts = [_volume_of_part(part, tokenizer, vocabulary) for part in corpus.parts]
    order: tuple[Sureness, ...] = ("counted", "about", "at most", "at least", "unknown")
    worst = max((each.sureness for each in parts), key=order.index)
    tokens, documents = sum(each.tokens for each in parts), sum(each.documents for each in parts)
    if worst == "unknown":
        return Volume(tokens, documents, "at least" if tokens else "unknown")
    counted = [each.labels for each in parts if each.labels is not None]
    if len(counted) < len(parts):
        return Volume(tokens, documents, worst)
    labels: NDArray[np.int64] = np.sum(counted, axis=0)
    read = int(labels.sum())
    share = min(1.0, read / max(1, tokens - documents)) if any(each.share < 1 for each in parts) else 1.0
    return Volume(tokens, documents, worst, labels, share)


@dataclass(frozen=True)
class Rows:
    """States that a sample keeps and senses that a dictionary has: as the text lets expect, and at most."""

    states: int
    senses: int
    states_bound: int
    senses_bound: int
    expected: bool


def most_senses(recipe: Recipe) -> int:
    """K, or K_max where the number of senses follows from the data."""
    return recipe.senses.k if isinstance(recipe.senses.k, int) else recipe.senses.k_max


def expected_rows(recipe: Recipe, text: Volume, vocabulary: int) -> Rows:
    """How many states and senses a corpus gives.

    A token keeps min(occurrences, samples_per_token) states and gets min(K, states / minimum support) senses. Counted
    are the tokens that follow; for `predicted` a measured share of that is expected. How often a teacher agrees with
    its text nobody knows beforehand, so for `agree` the count is a bound.
    """
    config, k = recipe.senses, most_senses(recipe)
    m, support = config.samples_per_token, config.minimum_support
    bound = vocabulary * m
    if text.bounded:
        bound = min(bound, text.tokens)
    senses_bound = min(vocabulary * k, bound)
    if text.labels is None:
        return Rows(bound, senses_bound, bound, senses_bound, False)
    counts = text.labels / text.share
    kept = np.minimum(counts, m)
    senses = np.minimum(k, np.maximum(1, kept // support))[counts > 0]
    states, found = math.ceil(kept.sum()), int(senses.sum())
    if config.assignment not in _FILED:
        return Rows(states, found, min(bound, states), min(senses_bound, found), False)
    share, share_of_senses = _FILED[config.assignment]
    return Rows(round(share * states), round(share_of_senses * found), bound, senses_bound, True)


def sample_bytes(recipe: Recipe, width: int, rows: int, documents: int = 0) -> int:
    """Bytes of a sample of `rows` states."""
    return rows * (width * size_of(recipe.senses.dtype) + _SAMPLE_ROW) + 8 * documents


def dictionary_bytes(recipe: Recipe, width: int, vocabulary: int, rows: int) -> int:
    """Bytes of a dictionary of `rows` senses."""
    store = recipe.senses.store
    number, scale = (1, 4) if store == "int8" else (size_of(store), 0)
    return rows * (width * number + scale + _SENSE_ROW) + 8 * (vocabulary + 1)


def _tokens_part(name: str, text: Volume, tokens: int | None) -> Part:
    wide = 4 if tokens is None or tokens > np.iinfo(np.uint16).max else 2
    certainty: Any = "bound" if text.sureness == "at most" else "estimate"
    note = f"{text.sureness} {text.tokens:,} tokens"
    return Part(f"tokens, {name}", text.tokens * wide + 16 * text.documents, certainty, note)


def students(recipe: Recipe, shapes: Shapes) -> list[Part]:
    """Folders of students, and the checkpoints of the trainings that are under way."""
    size = size_of(recipe.student.export_dtype or recipe.teacher.dtype)
    one = size * sum(value.numel() for value in shapes.student.parameters())
    arms = len({*recipe.compare.arms, *recipe.compare.custom}) * len(recipe.compare.seeds)
    found = [Part("one student", one, "exact", f"`run` leaves 2, `compare` {arms}")]
    if recipe.training.save_every is not None:
        # Weights and two states of the optimiser, of two checkpoints.
        trained = shapes.trainable + shapes.projector
        found.append(Part("checkpoints", 2 * 3 * trained * size_of(recipe.student.dtype), "estimate", "while training"))
    return found


def cache_part(recipe: Recipe, width: int, vocabulary: int, tokens: int) -> Part:
    """The teacher cache of one arm of the recipe, with lists of candidates of any length; others may need their own."""
    from sensekd.training.cache.layout import Layout
    from sensekd.training.cache.residual import codebook_bytes

    cache, loss, length = recipe.cache, recipe.loss, recipe.training.sequence_length
    layout = Layout(
        vocabulary,
        top=(vocabulary if cache.top == "all" else min(cache.top, vocabulary)) if loss.alpha else 0,
        codec=cache.codec,
        logs=cache.log_probs,
        kappa=loss.kappa if loss.lam else 0,
        longest=_LONGEST,
        relative=loss.compares_own,
        width=width if loss.mu else 0,
        trunk=(length, width) if cache.trunk else None,
        dtype=recipe.teacher.dtype,
        residual=(cache.residual or 0) if loss.mu else 0,
        own=most_senses(recipe),
        reach=float(loss.lam > 0 and loss.pull == "teacher"),
    )
    size = tokens // length * ((length - 1) * layout.record + layout.constant)
    note = f"{layout.record} bytes a label"
    if layout.residual:
        size += codebook_bytes(width)
        note += f", {layout.sense_target} of them senses and codes"
    return Part("teacher cache", size, "bound", note)


def disk_parts(
    recipe: Recipe,
    shapes: Shapes,
    texts: dict[str, Volume],
    rows: Rows,
    tokens: int | None,
    standing: Mapping[str, int],
) -> tuple[list[Part], list[Part]]:
    """What a run leaves on the disk: (as expected, at most for sample and dictionary).

    Args:
        recipe: of the run.
        shapes: of its models.
        texts: by the name of the token set.
        rows: of sample and dictionary.
        tokens: of the tokenizer; it decides how many bytes an id has.
        standing: bytes of `sample` and `senses` where these stand already and will be reused.
    """
    width = int(shapes.teacher.config.hidden_size)
    vocabulary = int(shapes.teacher.get_output_embeddings().weight.shape[0])
    found = [_tokens_part(name, text, tokens) for name, text in texts.items() if text.tokens]
    if recipe.cached and (train := texts["train"].tokens):
        found.append(cache_part(recipe, width, vocabulary, train))
    if recipe.senses.dictionary is not None:
        return [*found, *students(recipe, shapes)], []
    source = texts.get("senses") or texts["train"]
    worst = [
        Part("sample at most", sample_bytes(recipe, width, rows.states_bound, source.documents), "bound"),
        Part("senses at most", dictionary_bytes(recipe, width, vocabulary, rows.senses_bound), "bound"),
    ]
    if standing:
        found += [Part(name, count, "exact", "stands already") for name, count in standing.items()]
        worst = [part for part in worst if part.name.split()[0] not in standing]
    elif rows.expected:
        sample = sample_bytes(recipe, width, rows.states, source.documents)
        senses = dictionary_bytes(recipe, width, vocabulary, rows.senses)
        found.append(Part("sample", sample, "estimate", f"{rows.states:,} states"))
        found.append(Part("senses", senses, "estimate", f"{rows.senses:,} rows"))
    return [*found, *students(recipe, shapes)], worst
