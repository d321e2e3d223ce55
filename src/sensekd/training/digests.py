"""Fingerprints of tensors, for what a checkpoint or a cache was made from."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import xxhash


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """Fingerprint of the bytes of tensors, one after the other, wherever they are."""
    found = xxhash.xxh3_128()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return str(found.hexdigest())
