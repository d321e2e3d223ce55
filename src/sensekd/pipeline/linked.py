"""A lexicon linked to tokenizers without a run: the coverage report of `sensekd lexicon show --tokenizer`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sensekd.config import CorpusConfig, LinkingConfig, TeacherConfig
from sensekd.lexicon import Lexicon
from sensekd.linking import Coverage, Positions

_FORMATS: Final = {".jsonl": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class LinkingReport:
    """What a lexicon reaches with one tokenizer.

    Attributes:
        tokenizer: as it was named.
        vocabulary: its tokens.
        heads: tokens that decode to a related word, and of these the heads and what the published rule finds.
        coverage: what was linked and dropped.
        positions: what of a text is supervised; None without a text.
    """

    tokenizer: str
    vocabulary: int
    heads: dict[str, float]
    coverage: Coverage
    positions: Positions | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        positions = None if self.positions is None else self.positions.as_dict()
        return {
            "tokenizer": self.tokenizer, "vocabulary": self.vocabulary, "heads": self.heads,
            "coverage": self.coverage.as_dict(), "positions": positions,
        }  # fmt: skip


def linking_reports(
    folder: Path, tokenizers: Sequence[str], corpus: Path | None, linking: LinkingConfig | None = None
) -> list[LinkingReport]:
    """Link a built lexicon to tokenizers and count.

    Args:
        folder: a lexicon as `sensekd lexicon build` leaves it.
        tokenizers: Hugging Face folders or hub names.
        corpus: a text (one document a line), JSONL or Parquet file; None counts no positions.
        linking: `max_pieces`; the floors are not applied, since this is where one looks when they were not reached.

    Raises:
        InputError: a file is missing or nothing at all is linked.
    """
    lexicon, settings = Lexicon.load(folder), linking or LinkingConfig()
    return [_report(lexicon, name, corpus, settings.max_pieces) for name in tokenizers]


def _report(lexicon: Lexicon, name: str, corpus: Path | None, max_pieces: int) -> LinkingReport:
    from sensekd.corpus import tokenise
    from sensekd.linking import count_positions, link, word_tokens
    from sensekd.linking.baseline import head_share
    from sensekd.training.teacher import load_tokenizer

    tokenizer = load_tokenizer(TeacherConfig(model=name))
    vocabulary = len(tokenizer)
    relations = link(lexicon, tokenizer, vocabulary=vocabulary, max_pieces=max_pieces)
    positions = None
    if corpus is not None:
        config = CorpusConfig.model_validate({"path": str(corpus), "format": _FORMATS.get(corpus.suffix, "text")})
        with tempfile.TemporaryDirectory() as work:
            documents = tokenise(config, tokenizer, Path(work) / "tokens")
            words = word_tokens(tokenizer, vocabulary)
            positions = count_positions(relations, words, documents.tokens, documents.indptr)
    shares = head_share(lexicon, tokenizer, relations).as_dict()
    return LinkingReport(name, vocabulary, shares, relations.coverage, positions)


def render_reports(reports: Sequence[LinkingReport]) -> str:
    """The reports as one table: a row a number, a column a tokenizer."""
    columns = [_rows(report) for report in reports]
    names = list(dict.fromkeys(name for column in columns for name in column))
    heads = [Path(report.tokenizer).name for report in reports]
    table = [["", *heads], *([name, *(column.get(name, "") for column in columns)] for name in names)]
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def _rows(report: LinkingReport) -> dict[str, str]:
    coverage, heads, positions = report.coverage, report.heads, report.positions
    kept = [a + b for a, b in zip(coverage.synonyms_by_pieces, coverage.antonyms_by_pieces, strict=True)]
    rows = {
        "tokens": f"{report.vocabulary:,}",
        "tokens that decode to a related word": f"{heads['spelling']:,.0f}",
        "  heads": f"{heads['head_share']:.1%}",
        "  heads by the published rule": f"{heads['published_share']:.1%}",
        "heads": f"{coverage.heads:,}",
        "  with synonyms": f"{coverage.synonym_heads:,}",
        "  with antonyms": f"{coverage.antonym_heads:,}",
        "related words": f"{coverage.words:,}",
        "  linked": f"{coverage.words_linked:,}",
        **{f"  no head: {_words(name)}": f"{count:,}" for name, count in (coverage.no_head or {}).items()},
        "relations of tokens": f"{coverage.relations:,}",
        **{
            f"  kept, {at} piece{'s' if at > 1 else ''}": f"{count / max(coverage.relations, 1):.1%}"
            for at, count in enumerate(kept, 1)
        },
        **{f"  dropped: {_words(name)}": f"{count:,}" for name, count in coverage.dropped.items()},
    }
    if positions is None:
        return rows
    shares = {
        "  own senses (token seen twice)": positions.own, "  + synonym": positions.synonym,
        "  + antonym": positions.antonym, "  synonym or antonym": positions.either,
        "  whole words": positions.whole, "  related, but inside a longer word": positions.cut,
    }  # fmt: skip
    labels = max(positions.labels, 1)
    return {**rows, "labels": f"{positions.labels:,}", **{name: f"{n / labels:.1%}" for name, n in shares.items()}}


def _words(name: str) -> str:
    return name.replace("_", " ")
