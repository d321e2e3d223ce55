"""A state as its nearest own sense and a few bytes more: product quantisation of what the sense leaves over.

The residual is turned onto its principal axes, and these are dealt out to M subspaces so that each holds about the same
product of variances; every subspace has a codebook of 256 words by k-means. Turning and dealing follow "Optimized
Product Quantization" (Ge, He, Ke and Sun, CVPR 2013, section 4, the parametric solution). Stages of residual
quantisation over the whole space were tried too: at as many bytes they lose more on text that they were not made from.

Shapes: n label positions, D width of the teacher, M subspaces, one byte of code each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensekd.artefacts import atomic_file, canonical_json
from sensekd.errors import InputError
from sensekd.senses.kmeans import Plain, Problems, kmeans
from sensekd.training.digests import digest

WORDS: Final = 256
# Label positions that codebooks are made from, in blocks spread evenly over the text: 64 a word.
SAMPLE: Final = 1 << 14
_ITERATIONS: Final = 16
_SEED: Final = 0
# Rows that are encoded at a time, always so many: a matrix product may round rows of an incomplete tile otherwise.
_ROWS: Final = 1024
_FACTS: Final = "facts"


def _parts(values: Tensor, widths: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The columns of every subspace."""
    found: tuple[Tensor, ...] = torch.split(values, list(widths), dim=1)
    return found


def codebook_bytes(width: int) -> int:
    """Bytes of mean, offset, rotation and words of states of D dimensions: held once, however many positions."""
    return 4 * width * (2 + width + WORDS)


@dataclass(frozen=True)
class ResidualCode:
    """Codebooks, and what they were found to lose.

    Attributes:
        mean: [D] mean state; stands in the place of the sense of a label that has none.
        offset: [D] mean residual.
        rotation: [D, D] orthogonal; its columns are the axes of the first subspace, then those of the second, …
        widths: M numbers of axes that sum to D.
        words: [256, D] codewords of all subspaces side by side.
        errors: of the sample the codebooks were made from, E|h - s|² / E|h - mean|² of the nearest own sense s
            (`sense`) and E|h - h~|² / E|h - mean|² of what is decoded (`coded`).
    """

    mean: Tensor
    offset: Tensor
    rotation: Tensor
    widths: tuple[int, ...]
    words: Tensor
    errors: Mapping[str, float]

    def to(self, device: torch.device | str) -> ResidualCode:
        """The same on another device."""
        names = ("mean", "offset", "rotation", "words")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    # ---- codes

    def encode(self, residuals: Tensor) -> Tensor:
        """[n, D] float32 residuals as uint8 [n, M]; a row's code does not depend on the rows beside it."""
        found = []
        for piece in torch.split(residuals, _ROWS):
            turned = (F.pad(piece, (0, 0, 0, _ROWS - len(piece))) - self.offset) @ self.rotation
            parts = zip(_parts(turned, self.widths), _parts(self.words, self.widths), strict=True)
            # |y - c|² without |y|², which is the same for all words.
            nearest = [(words.square().sum(1) - 2 * part @ words.T).argmin(1) for part, words in parts]
            found.append(torch.stack(nearest, dim=1)[: len(piece)].to(torch.uint8))
        return torch.cat(found) if found else residuals.new_zeros((0, len(self.widths)), dtype=torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """The inverse of `encode` but for what is lost: uint8 [n, M] as [n, D] float32."""
        places = codes.long() + WORDS * torch.arange(len(self.widths), device=codes.device)
        return F.embedding_bag(places, self._turned_back, mode="sum") + self.offset

    @cached_property
    def _turned_back(self) -> Tensor:
        """[256 M, D] every codeword in the directions of the states: a sum of M rows is a decoded residual."""
        parts = zip(_parts(self.words, self.widths), _parts(self.rotation, self.widths), strict=True)
        return torch.cat([words @ axes.T for words, axes in parts])

    # ---- on disk

    def save(self, path: Path) -> None:
        """Write the codebooks, with their checksum beside them."""
        from safetensors.torch import save_file

        tensors = {name: value.contiguous().cpu() for name, value in self._tensors().items()}
        facts = {"checksum": digest(tensors.values()), "errors": dict(self.errors)}
        with atomic_file(path) as temporary:
            # One entry: several would stand in another order in every file.
            save_file(tensors, temporary, {_FACTS: canonical_json(facts).decode()})

    def _tensors(self) -> dict[str, Tensor]:
        widths = torch.tensor(self.widths)
        return {name: getattr(self, name) for name in ("mean", "offset", "rotation", "words")} | {"widths": widths}

    @classmethod
    def load(cls, path: Path) -> ResidualCode:
        """What was saved.

        Raises:
            InputError: none there, or not as it was written.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})[_FACTS])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            widths = tuple(tensors.pop("widths").tolist())
            found = cls(**tensors, widths=widths, errors=facts["errors"])
            if digest(found._tensors().values()) != facts["checksum"]:
                raise ValueError("its bytes do not match their checksum")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError(
                f"the codebooks {path} cannot be read: {error}", "as they were written",
                "remove the folder of the cache; it is then written anew",
            ) from error  # fmt: skip
        return found


def deal_axes(variances: Tensor, subspaces: int) -> list[list[int]]:
    """Deal principal axes out so that the products of variances in all subspaces are about the same.

    From the largest variance down each axis goes to the subspace with the smallest product so far, of those that are
    not full.

    Args:
        variances: [D], falling.
        subspaces: M, at most D.

    Returns:
        M lists of axes, each of ⌊D / M⌋ or ⌈D / M⌉.
    """
    width = len(variances)
    room = [width // subspaces + (number < width % subspaces) for number in range(subspaces)]
    dealt: list[list[int]] = [[] for _ in range(subspaces)]
    product = [0.0] * subspaces
    # Axes without variance need no words; far below the largest they are all alike.
    logs = variances.clamp(min=max(float(variances[0]) * 1e-6, 1e-30)).log().tolist()
    for axis, log in enumerate(logs):
        chosen = min((number for number in range(subspaces) if room[number]), key=lambda number: product[number])
        dealt[chosen].append(axis)
        product[chosen] += log - logs[-1]
        room[chosen] -= 1
    return dealt


def _words(points: Tensor, number: int) -> Tensor:
    """[256, w] codewords of points [n, w]; where there are fewer points than words the first word fills up."""
    clusters = min(WORDS, len(points))
    valid = torch.ones(1, len(points), dtype=torch.bool, device=points.device)
    token = torch.tensor([number], device=points.device)
    labels = kmeans(Problems(Plain(points[None]), valid, clusters, token), _SEED, 1, _ITERATIONS).labels[0]
    sums = torch.zeros(clusters, points.shape[1], dtype=torch.float64, device=points.device)
    sums.index_add_(0, labels, points.double())
    means = (sums / torch.bincount(labels, minlength=clusters).clamp(min=1)[:, None]).float()
    return torch.cat([means, means[:1].expand(WORDS - clusters, -1)])


@torch.no_grad()
def fit_residual_code(states: Tensor, senses: Tensor, known: Tensor, subspaces: int) -> ResidualCode:
    """Codebooks for the residuals of a sample of states.

    Args:
        states: [n, D] float32 teacher states h^T.
        senses: [n, D] float32 nearest own sense of each label; of a label without senses the row is not read.
        known: [n] bool, the label has senses.
        subspaces: M.

    Raises:
        InputError: more subspaces than dimensions, or no state at all.
    """
    if not 0 < subspaces <= states.shape[1] or not len(states):
        raise InputError(
            f"cache.residual is {subspaces}, for {len(states)} states of width {states.shape[1]}",
            f"1 to {states.shape[1]} bytes, and at least one label position", "lower cache.residual",
        )  # fmt: skip
    mean = states.double().mean(0).float()
    residuals = states - torch.where(known[:, None], senses, mean)
    offset = residuals.double().mean(0).float()
    centred = residuals - offset
    values, vectors = torch.linalg.eigh(centred.double().T @ centred.double() / len(centred))
    dealt = deal_axes(values.flip(0), subspaces)
    order = torch.tensor([axis for axes in dealt for axis in axes], device=states.device)
    rotation = vectors.flip(1)[:, order].float().contiguous()
    widths = tuple(len(axes) for axes in dealt)
    parts = _parts(centred @ rotation, widths)
    words = torch.cat([_words(part.contiguous(), number) for number, part in enumerate(parts)], dim=1)
    found = ResidualCode(mean, offset, rotation, widths, words, {})
    total = max(float((states - mean).double().square().sum()), 1e-30)
    left = (residuals, residuals - found.decode(found.encode(residuals)))
    sense, coded = (float(each.double().square().sum()) / total for each in left)
    return replace(found, errors={"sense": sense, "coded": coded})
