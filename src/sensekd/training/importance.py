"""Block importance: how far each of the teacher's layers turns the hidden state, measured on the corpus."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from sensekd.errors import SenseKDError
from sensekd.training.trunk import layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sensekd.training.data import TokenBlocks

# Tokens of one forward: enough to fill a device, few enough that L pairs of states need no thought.
_FORWARD_TOKENS: Final = 4096


@dataclass(frozen=True)
class BlockImportance:
    """Scores of the teacher's layers.

    Attributes:
        scores: for each layer the mean angle between its input and its output, in units of π: 0 (unchanged) to 1.
        tokens: positions that the mean is over.
    """

    scores: tuple[float, ...]
    tokens: int


def angular_distance(a: Tensor, b: Tensor) -> Tensor:
    """Angle between vectors in units of π, float32 [...] from [..., D].

    By the half-angle form 2 atan2(|â - b̂|, |â + b̂|): arccos loses half the digits at small angles, and those are what
    tells the layers apart. The angle with a zero vector is 0.
    """
    a, b = (nn.functional.normalize(each.float(), dim=-1) for each in (a, b))
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)) / torch.pi


def _watch(layer: nn.Module, found: Callable[[Tensor], None]) -> tuple[Any, Any]:
    """Two hooks on a layer that hand the angle [B, T] of every forward to `found`."""
    entered: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    def after(_: nn.Module, args: Any, output: Any) -> None:
        left = output[0] if isinstance(output, tuple) else output
        found(angular_distance(entered.pop(), left))

    return layer.register_forward_pre_hook(before, with_kwargs=True), layer.register_forward_hook(after)


@torch.no_grad()
def block_importance(teacher: PreTrainedModel, blocks: TokenBlocks, tokens: int) -> BlockImportance:
    """Mean angular distance between every layer's input and output over the first blocks of the training tokens.

    The measure is that of Gromov et al. (arXiv 2403.17887), for single layers. The blocks are read in their order on
    disk, so the scores follow from the teacher and the tokens alone.

    Args:
        teacher: in evaluation mode, on its device.
        blocks: training data; positions that a block's `attention_mask` leaves out do not count.
        tokens: how many tokens to read at least, rounded up to whole blocks; all blocks where there are fewer.

    Raises:
        SenseKDError: a layer's state is not finite.
    """
    layers = layers_of(teacher)
    sums = torch.zeros(len(layers), dtype=torch.float64)
    length, count = len(blocks[0]["input_ids"]), 0
    wanted = min(len(blocks), -(-tokens // length))
    rows = max(1, _FORWARD_TOKENS // length)
    with ExitStack() as hooks:
        angles: list[Tensor] = []
        for layer in layers:
            for handle in _watch(layer, angles.append):
                hooks.callback(handle.remove)
        for start in range(0, wanted, rows):
            items = [blocks[index] for index in range(start, min(start + rows, wanted))]
            reads = {key: torch.stack([item[key] for item in items]).to(teacher.device) for key in _read_keys(items)}
            mask = reads.get("attention_mask", torch.ones_like(reads["input_ids"])).bool()
            angles.clear()
            teacher(**reads, use_cache=False, logits_to_keep=1)
            sums += torch.stack([torch.where(mask, angle, 0.0).double().sum().cpu() for angle in angles])
            count += int(mask.sum())
    if not torch.isfinite(sums).all():
        bad = int((~torch.isfinite(sums)).nonzero()[0])
        raise SenseKDError(f"layer {bad} of the teacher gives states that are not finite; its importance has no value")
    return BlockImportance(tuple((sums / max(count, 1)).tolist()), count)


def _read_keys(items: list[dict[str, Tensor]]) -> list[str]:
    return [key for key in ("input_ids", "attention_mask", "position_ids") if key in items[0]]
