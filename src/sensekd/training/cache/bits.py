"""Whole numbers of a few bits, and log-probabilities of eight, as bytes; everything runs on the tensor's device.

Shapes: n rows, m numbers a row. Byte order is little-endian, rows begin at whole bytes.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

# An unpacked number is cut out of four bytes, from any bit of the first.
_WIDEST: Final = 25
_VIEWS: Final = {8: torch.uint8, 16: torch.int16, 32: torch.int32}
_LEVELS: Final = 255
# A tail is stored as -16 log(tail), rounded: a step is 6 % of the mass. The last level is an empty tail.
_TAIL_STEPS: Final = 16


def as_bytes(values: Tensor) -> Tensor:
    """[n, m] of any dtype as uint8 [n, m · size]."""
    return values.contiguous().view(torch.uint8).reshape(len(values), -1)


def from_bytes(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `as_bytes`."""
    return raw.contiguous().view(-1).view(dtype).reshape(len(raw), -1)


def packed_size(bits: int, count: int) -> int:
    """Bytes of a row of `count` numbers."""
    return -(-bits * count // 8)


def pack_numbers(values: Tensor, bits: int) -> Tensor:
    """[n, m] int64 numbers of 0 to 2^bits - 1 as uint8 [n, bytes].

    Raises:
        ValueError: a width that is neither 32 nor at most 25 bits.
    """
    if bits in _VIEWS:
        # The lowest bytes of little-endian int64, whatever their sign bit says.
        low = values.contiguous().view(torch.uint8).reshape(*values.shape, 8)[..., : bits // 8]
        return low.reshape(len(values), -1)
    _refuse(bits)
    shifts = torch.arange(bits, device=values.device)
    stream = (values[..., None] >> shifts & 1).reshape(len(values), -1)
    size = packed_size(bits, values.shape[1])
    stream = torch.nn.functional.pad(stream, (0, 8 * size - stream.shape[1])).reshape(len(values), size, 8)
    return (stream << torch.arange(8, device=values.device)).sum(-1).to(torch.uint8)


def unpack_numbers(raw: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack_numbers`: [n, count] int64."""
    if bits in _VIEWS:
        return from_bytes(raw, _VIEWS[bits]).long() & ((1 << bits) - 1)
    _refuse(bits)
    at = torch.arange(count, device=raw.device) * bits
    first, shift = at // 8, at % 8
    padded = torch.nn.functional.pad(raw, (0, 3)).long()
    window = sum((padded[:, first + byte] << (8 * byte) for byte in range(4)), padded.new_zeros(()))
    return window >> shift & ((1 << bits) - 1)


def _refuse(bits: int) -> None:
    if not 0 < bits <= _WIDEST:
        raise ValueError(f"numbers of {bits} bits: 1 to {_WIDEST}, or 32")


def pack_logs(logs: Tensor) -> Tensor:
    """[n, k] log-probabilities as uint8 [n, k + 4]: 255 even steps between the largest and the smallest of a row.

    The two ends are float16 and stand first.
    """
    ends = _ends(torch.stack([logs.amax(1), logs.amin(1)], dim=1).half())
    high, low = ends.float().unbind(1)
    step = ((high - low) / _LEVELS).clamp(min=1e-12)
    levels = ((logs - low[:, None]) / step[:, None]).round().clamp(0, _LEVELS)
    return torch.cat([as_bytes(ends), levels.to(torch.uint8)], dim=1)


def unpack_logs(raw: Tensor) -> Tensor:
    """The inverse of `pack_logs` but for rounding: [n, k] float32."""
    high, low = from_bytes(raw[:, :4], torch.float16).float().unbind(1)
    return low[:, None] + raw[:, 4:].float() * ((high - low) / _LEVELS)[:, None]


def _ends(ends: Tensor) -> Tensor:
    # Below float16's range a probability is 0 for every purpose.
    return ends.clamp(min=torch.finfo(torch.float16).min)


def pack_tail(log_tail: Tensor) -> Tensor:
    """[n] logarithms of masses as uint8 [n, 1]."""
    return (-_TAIL_STEPS * log_tail).round().clamp(0, _LEVELS).to(torch.uint8)[:, None]


def unpack_tail(raw: Tensor) -> Tensor:
    """The inverse of `pack_tail` but for rounding: [n] float32, -inf for the last level."""
    levels = raw[:, 0].float()
    return torch.where(levels == _LEVELS, -torch.inf, -levels / _TAIL_STEPS)


def halved_up(values: Tensor) -> Tensor:
    """Float32 numbers, not negative, as the next float16 that is not below them; its largest number above its range."""
    values = values.clamp(max=torch.finfo(torch.float16).max)
    near = values.half()
    # Bits of a non-negative float order like the float: the next number is the next whole number.
    return (near.view(torch.int16) + (near.float() < values)).to(torch.int16).view(torch.float16)
