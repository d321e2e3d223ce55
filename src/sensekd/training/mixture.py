"""One token set of one or several corpora, of each a share that follows from what its documents say.

Whether a document is chosen depends on a hash of its content and the corpus's seed alone: not on its place, on the
other documents, or on how the files were cut. So a share can be grown, and equal documents are chosen alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from sensekd.corpus import TokenDocuments, tokenise, write_documents
from sensekd.errors import InputError
from sensekd.training.encoding import Encoder
from sensekd.training.records import Record, content, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sensekd.config import CorpusConfig
    from sensekd.training.chat import Encoded
    from sensekd.training.respond import Responses

_BATCH: Final = 512
_SPACE: Final = 1 << 64
_MASK: Final = _SPACE - 1


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    source = iter(records)
    while batch := list(islice(source, _BATCH)):
        yield batch


def priority(record: Record, seed: int) -> int:
    """A document's place in the order in which documents are chosen: 64 bits of its content and the seed."""
    return xxhash.xxh3_64_intdigest(content(record), seed=seed & _MASK)


def _bound(config: CorpusConfig) -> int:
    """Documents of a priority below it are chosen."""
    bound = math.ceil(config.fraction * _SPACE)
    if config.limit is None:
        return bound
    found = np.fromiter((priority(record, config.seed) for record in read_records(config)), dtype=np.uint64)
    if len(found) > config.limit:
        bound = min(bound, int(np.partition(found, config.limit - 1)[config.limit - 1]) + 1)
    return bound


def _copies(first: int, config: CorpusConfig) -> int:
    """How often a document stands in the set; for what exceeds a whole number, another hash decides."""
    whole, rest = divmod(config.repeat, 1)
    again = xxhash.xxh3_64_intdigest(first.to_bytes(8, "little"), seed=1)
    return int(whole) + (again < rest * _SPACE)


def choose(config: CorpusConfig, *, once: bool = False) -> Iterator[Record]:
    """The chosen documents of one corpus (no mixture), in the order of its source.

    `fraction` of them, at most about `limit` (equal documents are chosen together), each `repeat` times on average. The
    source is read once for every copy, so that copies of a document do not stand side by side, and once more for
    `limit`.

    Args:
        config: the corpus.
        once: every chosen document once, whatever `repeat` says.
    """
    bound = _bound(config)
    for copy in range(1 if once else math.ceil(config.repeat)):
        for record in read_records(config):
            first = priority(record, config.seed)
            if first < bound and (copy == 0 or copy < _copies(first, config)):
                yield record


def prompts(config: CorpusConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """The ids of every chosen record of one corpus up to where its completion begins."""
    encoder = Encoder(tokenizer, config)
    longest = math.inf if config.longest is None else config.longest
    for batch in _batches(choose(config, once=True)):
        yield from (ids for ids in encoder.prompts(batch) if len(ids) <= longest)


def _encoded(
    config: CorpusConfig, tokenizer: PreTrainedTokenizerBase, responses: Responses | None, counts: Counter[str]
) -> Iterator[Encoded]:
    encoder = Encoder(tokenizer, config)
    left = math.inf if config.max_tokens is None else config.max_tokens
    longest = math.inf if config.longest is None else config.longest
    for batch in _batches(choose(config)):
        if responses is None:
            whole = encoder.documents(batch)
            found = [document for document in whole if len(document.ids) <= longest]
        else:
            short = [ids for ids in encoder.prompts(batch) if len(ids) <= longest]
            found = [encoder.answered(ids, responses.of(ids)) for ids in short]
        counts["too_long"] += len(batch) - len(found)
        for document in found:
            left -= len(document.ids)
            if left < 0:
                return
            yield document


def tokenise_corpus(
    config: CorpusConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    responses: Mapping[int, Responses] | None = None,
) -> TokenDocuments:
    """Tokenise a corpus or a mixture into `folder`, part after part, with the completions marked where there are any.

    Args:
        config: the corpus. `longest` leaves out documents of more tokens (prompts, where the teacher answers), counted
            in the manifest as `too_long`. `max_tokens` of a part whose documents are chosen, or have completions,
            leaves the first document that would exceed it out, with all that follow; in other plain text it cuts that
            document.
        tokenizer: the teacher's.
        folder: where the token set goes.
        responses: the teacher's continuations, by the number of the part whose targets they are.

    Raises:
        InputError: a part is missing, malformed or empty, or the teacher's continuations are missing.
    """
    if _is_plain(config):
        return tokenise(config, tokenizer, folder)
    answers = responses or {}
    for number, part in enumerate(config.parts):
        if part.respond is not None and number not in answers:
            raise InputError(
                f"{part.path} has no continuations of the teacher yet", "targets for every prompt",
                "sensekd respond RECIPE",
            )  # fmt: skip
    made_from: dict[str, Any] = {f"responses-{number}": each.manifest.id for number, each in sorted(answers.items())}
    counts: Counter[str] = Counter()
    rows = _parts(config.parts, tokenizer, answers, counts)
    return write_documents(rows, config, tokenizer, folder, made_from, counts)


def _parts(
    parts: Sequence[CorpusConfig],
    tokenizer: PreTrainedTokenizerBase,
    answers: Mapping[int, Responses],
    counts: Counter[str],
) -> Iterator[Encoded]:
    for number, part in enumerate(parts):
        empty = True
        for document in _encoded(part, tokenizer, answers.get(number), counts):
            empty = False
            yield document
        if empty and len(parts) > 1:
            raise InputError(
                f"the part {part.path} of the mixture has no document left", "at least one document of every part",
                "raise its fraction or max_tokens, or take it out",
            )  # fmt: skip


def _is_plain(config: CorpusConfig) -> bool:
    """Whether every document of one plain-text corpus is taken once."""
    chosen = config.fraction == 1 and config.limit is None and config.repeat == 1 and config.longest is None
    return not config.mixture and config.records == "text" and chosen
