"""The linked lexicon: relations between tokens and spans of pieces, as tensors and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from sensekd.artefacts import Manifest, atomic_directory, check_made_from, read_manifest, readable, write_manifest
from sensekd.linking.coverage import Coverage

_KIND: Final = "relations"
_FORMAT: Final = 2
_TENSORS: Final = "relations.safetensors"


@dataclass(frozen=True, eq=False)
class TokenRelations:
    """Relations between tokens (heads) and spans of pieces (neighbours). All tensors are on the CPU.

    Attributes:
        vocabulary: V.
        synonym_indptr, antonym_indptr: [V+1] int64; spans of head v are `*_spans[indptr[v]:indptr[v+1]]`, ascending.
        synonym_spans, antonym_spans: int64 span ids.
        span_indptr: [S+1] int64; the pieces of span s are `span_pieces[span_indptr[s]:span_indptr[s+1]]`.
        span_pieces: int64 token ids. Spans are unique and ordered by (length, pieces).
        starts_word, ends_word: [V] bool: the token's text begins / ends inside a word, as `sensekd.linking.boundaries`
            tells it. Between tokens a, b lies a boundary unless `ends_word[a] and starts_word[b]`. False for special
            tokens and for ids that the tokenizer does not have.
        coverage: what was linked and what was lost.
        made_from: identities of lexicon and tokenizer.
        config: `vocabulary` and `max_pieces`.
    """

    vocabulary: int
    synonym_indptr: torch.Tensor
    synonym_spans: torch.Tensor
    antonym_indptr: torch.Tensor
    antonym_spans: torch.Tensor
    span_indptr: torch.Tensor
    span_pieces: torch.Tensor
    starts_word: torch.Tensor
    ends_word: torch.Tensor
    coverage: Coverage
    made_from: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def save(
        self, folder: Path, made_from: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write the tensors and the manifest; `made_from` and `config` add to what `link` noted itself."""
        from safetensors.torch import save_file

        tensors = {name: value for name, value in self.__dict__.items() if isinstance(value, torch.Tensor)}
        made_from, config = {**self.made_from, **(made_from or {})}, {**self.config, **(config or {})}
        facts = {"vocabulary": self.vocabulary, "coverage": self.coverage.as_dict()}
        with atomic_directory(folder) as temporary:
            save_file(tensors, str(temporary / _TENSORS))
            return write_manifest(temporary, Manifest(_KIND, _FORMAT, made_from, config, facts))

    @classmethod
    def load(cls, folder: Path, expect: Mapping[str, Any] | None = None) -> TokenRelations:
        """Read what `save` wrote.

        Args:
            folder: the artefact.
            expect: entries of `made_from` that must be equal, such as `tokenizer`.

        Raises:
            InputError: missing, damaged, of another format, or made from anything else than `expect`.
        """
        from safetensors.torch import load_file

        manifest = read_manifest(folder, _KIND, _FORMAT, verify=True)
        check_made_from(manifest, expect or {}, command="sensekd run RECIPE links the lexicon again")
        with readable(folder):
            return cls(
                vocabulary=int(manifest.facts["vocabulary"]),
                coverage=Coverage.from_dict(manifest.facts["coverage"]),
                made_from=manifest.made_from,
                config=manifest.config,
                **load_file(str(folder / _TENSORS)),
            )


def single_token_neighbours(relations: TokenRelations, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbours that are one token each: `indptr` [V+1] and token ids, ascending per head (both int64).

    Args:
        relations: the linked lexicon.
        kind: `synonym` or `antonym`.
    """
    indptr, spans = getattr(relations, f"{kind}_indptr"), getattr(relations, f"{kind}_spans")
    single = relations.span_indptr.diff()[spans] == 1
    kept_before = torch.cat([torch.zeros(1, dtype=torch.int64), single.cumsum(0)])
    return kept_before[indptr], relations.span_pieces[relations.span_indptr[spans[single]]]


def single_token_antonyms(relations: TokenRelations) -> tuple[torch.Tensor, torch.Tensor]:
    """Antonyms that are one token each: `indptr` [V+1] and token ids, ascending per head (both int64)."""
    return single_token_neighbours(relations, "antonym")


def without_neighbours(
    all_of: tuple[torch.Tensor, torch.Tensor], known: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The neighbours of `all_of` that are none in `known`, head by head.

    Args:
        all_of, known: `indptr` [V+1] and token ids, as `single_token_neighbours` gives them, of one vocabulary.
    """
    vocabulary = len(all_of[0]) - 1
    pairs = [
        torch.arange(vocabulary).repeat_interleave(indptr.diff()) * vocabulary + ids for indptr, ids in (all_of, known)
    ]
    other = ~torch.isin(*pairs)
    kept_before = torch.cat([torch.zeros(1, dtype=torch.int64), other.cumsum(0)])
    return kept_before[all_of[0]], all_of[1][other]
