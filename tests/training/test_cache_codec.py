"""Numbers of a few bits, records of a cache, and how many bytes a label position takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sensekd.losses import TopTeacher
from sensekd.targets import Ragged
from sensekd.training.cache.bits import (
    halved_up,
    pack_logs,
    pack_numbers,
    pack_tail,
    packed_size,
    unpack_logs,
    unpack_numbers,
    unpack_tail,
)
from sensekd.training.cache.layout import Layout, Records
from sensekd.training.cache.observe import forward_rows, slots_of


@pytest.mark.parametrize("bits", [1, 3, 8, 9, 16, 17, 25, 32])
@pytest.mark.parametrize("count", [1, 5, 64])
def test_numbers_come_back(bits: int, count: int) -> None:
    values = torch.randint(1 << bits, (11, count), generator=torch.Generator().manual_seed(bits))
    values[0], values[1] = 0, (1 << bits) - 1
    raw = pack_numbers(values, bits)
    assert raw.shape == (11, packed_size(bits, count))
    assert raw.dtype == torch.uint8
    assert torch.equal(unpack_numbers(raw, bits, count), values)


def test_the_bits_lie_one_after_the_other_lowest_first() -> None:
    # 0b101, 0b011 and 0b110 in three bits each: 110 011 101 read from the highest bit down.
    assert pack_numbers(torch.tensor([[5, 3, 6]]), 3).tolist() == [[0b10011101, 0b1]]
    with pytest.raises(ValueError, match="26 bits"):
        pack_numbers(torch.tensor([[1]]), 26)


def test_log_probabilities_lose_half_a_step_at_most() -> None:
    logs = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)).mul(3).log_softmax(-1)
    found = unpack_logs(pack_logs(logs))
    step = (logs.amax(1) - logs.amin(1)) / 255
    # Half a step, and what float16 takes from the two ends.
    assert bool(((found - logs).abs() <= 0.5 * step[:, None] + 0.01).all())
    assert float((found - logs).abs().max()) > 0
    tails = torch.tensor([-0.01, -1.0, -7.3, -300.0, -torch.inf])
    assert torch.allclose(unpack_tail(pack_tail(tails))[:3], tails[:3], atol=1 / 32)
    assert unpack_tail(pack_tail(tails))[3:].tolist() == [-torch.inf] * 2


def test_a_half_is_the_next_number_that_is_not_below() -> None:
    values = torch.cat([torch.tensor([0.0, 1.0, 1e-9, 6.2e-5, 65504.0, 65505.0, 1e30]), torch.linspace(0, 9, 4001)])
    found = halved_up(values)
    assert found.dtype == torch.float16
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    wanted = halves[np.searchsorted(halves, values.clamp(max=65504).numpy())]
    assert found.float().tolist() == wanted.tolist()


def records(layout: Layout, n: int = 9) -> Records:
    generator = torch.Generator().manual_seed(1)
    logs = torch.randn(n, layout.vocabulary, generator=generator).log_softmax(-1)
    if layout.whole:
        top = TopTeacher(logs)
    else:
        values, ids = logs.topk(layout.top)
        top = TopTeacher(values, ids, torch.log1p(-values.exp().sum(-1)))
    slots = torch.randint(layout.longest, (n, layout.slots), generator=generator)
    slots[::2, -1] = layout.none
    reach = torch.rand(n, generator=generator) * 9 if layout.reach else None
    return Records(top, slots, torch.randn(n, layout.width, generator=generator), reach=reach)


@pytest.mark.parametrize("codec", ["plain", "packed"])
@pytest.mark.parametrize("top", [6, 40])
def test_a_record_comes_back(codec: str, top: int) -> None:
    layout = Layout(40, top, codec, "float32", 3, 260, True, 8, reach=0.25)  # type: ignore[arg-type]
    given = records(layout)
    raw = layout.encode(given)
    assert raw.shape == (9, layout.record)
    found = layout.decode(raw)
    assert torch.equal(layout.decode_slots(raw), given.slots)
    assert torch.equal(found.states, given.states)
    assert (found.top.ids is None) == (top == 40)
    if top == 6:
        assert torch.equal(found.top.ids, given.top.ids)
    exact = codec == "plain"
    assert torch.allclose(found.top.log_probs, given.top.log_probs, atol=0 if exact else 0.05, rtol=0)
    above = layout.decode_reach(raw) / given.reach - 1
    assert bool(((above >= 0) & (above <= (0 if exact else 2**-10))).all())
    assert exact or float(above.max()) > 1e-4
    assert Layout.from_dict(layout.as_dict()) == layout


def test_sixty_four_of_128k_and_five_rows_take_at_most_440_bytes_and_packed_less() -> None:
    plain = Layout(128_256, 64, "plain", "float16", 5, 260)
    assert plain.fields() == {"ids": 256, "tail": 4, "logs": 128, "slots": 20}
    assert plain.record == 408
    packed = Layout(128_256, 64, "packed", "float16", 5, 260)
    # 64 ids of 17 bits, one byte of tail, 64 + 4 of log-probabilities, ten slots of nine bits.
    assert packed.fields() == {"ids": 136, "tail": 1, "logs": 68, "slots": 12}
    assert replace(plain, reach=1.0).record == 410
    assert replace(packed, reach=1.0).record == 219
    for layout in (plain, packed, replace(packed, reach=1.0)):
        assert layout.encode(records(layout, 3)).shape == (3, layout.record)


def test_slots_are_places_in_the_lists_that_rows_were_kept_from() -> None:
    lists = Ragged(torch.tensor([0, 3, 3, 5, 9]), torch.tensor([2, 5, 9, 0, 5, 1, 4, 5, 8]))
    which = torch.tensor([3, 0, 2])
    ids, mask = torch.tensor([[8, 1], [9, 2], [5, 0]]), torch.tensor([[True, True], [True, True], [True, False]])
    assert slots_of(lists, which, ids, mask, 255).tolist() == [[3, 0], [2, 0], [1, 255]]
    empty = torch.zeros(1, 2, dtype=torch.long)
    assert slots_of(lists, torch.tensor([1]), empty, empty.bool(), 255).tolist() == [[255, 255]]


def test_forwards_fill_whole_tiles() -> None:
    assert [forward_rows(4, 16), forward_rows(3, 128), forward_rows(5, 12), forward_rows(1, 1)] == [4, 3, 16, 64]
