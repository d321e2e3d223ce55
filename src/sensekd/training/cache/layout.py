"""How a block of the cache lies on disk: one record of fixed size a label position, then the state after the trunk.

Shapes: n label positions of a batch, k tokens, κ kept rows, D width of the teacher, T tokens of a block.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from sensekd.losses import TopTeacher
from sensekd.training.cache.bits import (
    as_bytes,
    from_bytes,
    halved_up,
    pack_logs,
    pack_numbers,
    pack_tail,
    packed_size,
    unpack_logs,
    unpack_numbers,
    unpack_tail,
)

# Fields that came later, and the one whose default leaves them unwritten: such a layout is that of the versions before.
_LATER: Final = {"residual": "residual", "own": "residual", "reach": "reach"}


@dataclass(frozen=True)
class Records:
    """What is known of the teacher at n label positions.

    Attributes:
        top: its softmax at τ; None where the loss does not look at it.
        slots: [n, 2 κ (+ 1)] int64 indices into the position's candidate lists: of the kept rows of P_t, of N_t, and of
            the own sense nearest to the teacher's state (relative push); `Layout.none` where there is no such row.
        states: [n, D] last hidden states, or None.
        sense: [n] int64 index of the nearest own sense among those of the label, `Layout.senseless` where the label has
            none; None where states are not coded.
        codes: [n, M] uint8, what the state differs from that sense by (`ResidualCode`), or None.
        reach: [n] squared distance per dimension of the state to the mean of its kept rows of P_t, not in units of σ²;
            0 where there are none, None where the pull does not end there.
    """

    top: TopTeacher | None = None
    slots: Tensor | None = None
    states: Tensor | None = None
    sense: Tensor | None = None
    codes: Tensor | None = None
    reach: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """Which fields a record has, and how each is written.

    Attributes:
        vocabulary: V, the tokens that CE and KL are over.
        top: k; V stores all of them, without ids; 0 stores none.
        codec: `plain` writes whole bytes, `packed` as few bits as ids and slots need, and 8-bit log-probabilities.
        logs: dtype of plain log-probabilities.
        kappa: κ; 0 without senses.
        longest: the longest list of candidates.
        relative: the own sense nearest to the teacher's state is stored too.
        width: D of the last states; 0 stores none.
        trunk: (T, D) of the state after the trunk; None stores none.
        dtype: of states.
        residual: M, bytes of the code that stands for a last state together with its nearest own sense; 0 stores the
            state itself.
        own: the longest list of own senses, where states are coded.
        reach: what squared distances of states to their kept rows are divided by when they are stored, a power of two;
            0 stores none.
    """

    vocabulary: int
    top: int
    codec: Literal["plain", "packed"] = "plain"
    logs: str = "float16"
    kappa: int = 0
    longest: int = 0
    relative: bool = False
    width: int = 0
    trunk: tuple[int, int] | None = None
    dtype: str = "float32"
    residual: int = 0
    own: int = 0
    reach: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a manifest; without what came later it is that of the versions before."""
        unused = {name for name, decides in _LATER.items() if not getattr(self, decides)}
        found = {name: value for name, value in asdict(self).items() if name not in unused}
        return found | {"trunk": None if self.trunk is None else list(self.trunk)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Layout:
        """The inverse of `as_dict`."""
        trunk = values.get("trunk")
        return cls(**{**values, "trunk": None if trunk is None else tuple(trunk)})

    @property
    def whole(self) -> bool:
        """Whether all of the vocabulary is stored."""
        return self.top >= self.vocabulary

    @property
    def id_bits(self) -> int:
        """Bits of a token id."""
        return self._width(self.vocabulary - 1)

    @property
    def slot_bits(self) -> int:
        """Bits of an index into a list of candidates; the number with all bits set says that there is none."""
        return self._width(self.longest)

    @property
    def none(self) -> int:
        """The slot that stands for no row."""
        return (1 << self.slot_bits) - 1

    @property
    def sense_bits(self) -> int:
        """Bits of the nearest own sense among those of its label."""
        return self._width(self.own)

    @property
    def senseless(self) -> int:
        """The sense of a label that has none."""
        return (1 << self.sense_bits) - 1

    def _width(self, largest: int) -> int:
        exact = max(1, largest.bit_length())
        whole = next(bits for bits in (8, 16, 32) if exact <= bits)
        return exact if self.codec == "packed" and exact <= 25 else whole

    @property
    def slots(self) -> int:
        """Slots of a record."""
        return 2 * self.kappa + self.relative if self.kappa else 0

    def fields(self) -> dict[str, int]:
        """Bytes of every field of a record, in order."""
        found: dict[str, int] = {}
        if self.top:
            if not self.whole:
                found["ids"] = packed_size(self.id_bits, self.top)
                found["tail"] = 1 if self.codec == "packed" else 4
            size = torch.finfo(getattr(torch, self.logs)).bits // 8
            found["logs"] = self.top + 4 if self.codec == "packed" else self.top * size
        if self.slots:
            found["slots"] = packed_size(self.slot_bits, self.slots)
        if self.reach:
            found["reach"] = torch.finfo(self.reach_dtype).bits // 8
        if self.residual:
            found["sense"] = packed_size(self.sense_bits, 1)
            found["codes"] = self.residual
        elif self.width:
            found["states"] = self.width * self._state_bytes
        return found

    @property
    def reach_dtype(self) -> torch.dtype:
        """Of stored distances: that of plain log-probabilities, half precision where these are packed."""
        return torch.float32 if (self.codec, self.logs) == ("plain", "float32") else torch.float16

    @property
    def record(self) -> int:
        """Bytes of a label position."""
        return sum(self.fields().values())

    @property
    def sense_target(self) -> int:
        """Bytes of a label position that say which senses and which state the student is drawn to."""
        return sum(size for name, size in self.fields().items() if name not in ("ids", "tail", "logs"))

    @property
    def _state_bytes(self) -> int:
        return torch.finfo(getattr(torch, self.dtype)).bits // 8

    @property
    def constant(self) -> int:
        """Bytes of a block besides its records."""
        return 0 if self.trunk is None else self.trunk[0] * self.trunk[1] * self._state_bytes

    def encode(self, records: Records) -> Tensor:
        """uint8 [n, record]."""
        parts: list[Tensor] = []
        packed = self.codec == "packed"
        if self.top:
            top = records.top
            assert top is not None
            if not self.whole:
                assert top.ids is not None
                assert top.log_tail is not None
                parts.append(pack_numbers(top.ids, self.id_bits))
                parts.append(pack_tail(top.log_tail) if packed else as_bytes(top.log_tail.float()[:, None]))
            logs = top.log_probs
            parts.append(pack_logs(logs) if packed else as_bytes(logs.to(getattr(torch, self.logs))))
        if self.slots:
            assert records.slots is not None
            parts.append(pack_numbers(records.slots, self.slot_bits))
        if self.reach:
            assert records.reach is not None
            parts.append(self._encode_reach(records.reach))
        if self.residual:
            assert records.sense is not None
            assert records.codes is not None
            parts += [pack_numbers(records.sense[:, None], self.sense_bits), records.codes]
        elif self.width:
            assert records.states is not None
            parts.append(as_bytes(records.states.to(getattr(torch, self.dtype))))
        return torch.cat(parts, dim=1)

    def _encode_reach(self, reach: Tensor) -> Tensor:
        # Up, never down: so a student that equals its teacher is not pulled from half precision either.
        reach = reach.float() / self.reach
        return as_bytes((halved_up(reach) if self.reach_dtype == torch.float16 else reach)[:, None])

    def _split(self, raw: Tensor) -> dict[str, Tensor]:
        sizes = self.fields()
        return dict(zip(sizes, torch.split(raw, list(sizes.values()), dim=1), strict=True))

    def decode_slots(self, raw: Tensor) -> Tensor:
        """The slots alone, [n, slots] int64, of records uint8 [n, record]."""
        return unpack_numbers(self._split(raw)["slots"], self.slot_bits, self.slots)

    def decode_reach(self, raw: Tensor) -> Tensor:
        """The distances alone, [n] float32 and not in units of σ², of records uint8 [n, record]."""
        return from_bytes(self._split(raw)["reach"], self.reach_dtype)[:, 0].float() * self.reach

    def decode(self, raw: Tensor) -> Records:
        """The inverse of `encode`, but for what the codec rounds; slots and distances are left to `decode_slots` and
        `decode_reach`.

        Args:
            raw: uint8 [n, record].
        """
        found = self._split(raw)
        packed, top, states = self.codec == "packed", None, None
        if self.top:
            logs = unpack_logs(found["logs"]) if packed else from_bytes(found["logs"], getattr(torch, self.logs))
            ids = tail = None
            if not self.whole:
                ids = unpack_numbers(found["ids"], self.id_bits, self.top)
                tail = unpack_tail(found["tail"]) if packed else from_bytes(found["tail"], torch.float32)[:, 0]
            top = TopTeacher(logs.float(), ids, tail)
        if self.residual:
            sense = unpack_numbers(found["sense"], self.sense_bits, 1)[:, 0]
            return Records(top, None, None, sense, found["codes"].contiguous())
        if self.width:
            states = from_bytes(found["states"], getattr(torch, self.dtype))
        return Records(top, None, states)
