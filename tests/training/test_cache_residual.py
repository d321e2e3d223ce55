"""States as a sense and a few bytes: what comes back is what the definition says, and trains in the state's place."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_world import LENGTH, Room, cache_blocks, largest_difference
from training_world import WIDTH, edges, table

from sensekd.config import Recipe
from sensekd.errors import InputError
from sensekd.losses import Head, TopTeacher
from sensekd.senses.residence import HostRows, RowGatherer
from sensekd.senses.store import StoredRows
from sensekd.training.cache.feed import TeacherFeed
from sensekd.training.cache.layout import Layout, Records
from sensekd.training.cache.refine import KeptBlocks, Refiner, make_refiner
from sensekd.training.cache.residual import ResidualCode, deal_axes, fit_residual_code
from sensekd.training.cache.store import TeacherCache
from sensekd.training.data import collate

HIDDEN: dict[str, Any] = {"loss__lambda": 0.0, "loss__mu": 1.0}
CODED = {"mode": "before", "top": 9, "residual": 5}


def sample(n: int = 700, width: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States about senses, the senses, and whether there are any; variances fall from axis to axis."""
    generator = torch.Generator().manual_seed(3)
    senses = torch.randn(n, width, generator=generator) * 4
    states = senses + torch.randn(n, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return states, senses, torch.arange(n) % 7 > 0


# ---- the quantiser


def test_axes_are_dealt_so_that_products_of_variances_are_alike() -> None:
    dealt = deal_axes(torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0]), 2)
    # 16 to the first, 8 and then 4 to the second (8 < 16), 2 to the first (16 < 32), and the last where there is room.
    assert dealt == [[0, 3, 4], [1, 2]]
    assert sorted(axis for axes in deal_axes(torch.linspace(9, 0, 23), 6) for axis in axes) == list(range(23))
    assert sorted(map(len, deal_axes(torch.linspace(9, 0, 23), 6))) == [3, 4, 4, 4, 4, 4]


def test_a_code_names_the_nearest_word_of_every_subspace() -> None:
    states, senses, known = sample()
    code = fit_residual_code(states, senses, known, 3)
    residuals = states - torch.where(known[:, None], senses, states.mean(0))
    found = code.encode(residuals)
    assert found.shape == (700, 3)
    assert found.dtype == torch.uint8
    turned = ((residuals - code.offset) @ code.rotation).numpy()
    decoded = np.zeros_like(turned)
    first = 0
    for number, width in enumerate(code.widths):
        words = code.words[:, first : first + width].numpy()
        distance = ((turned[:, None, first : first + width] - words) ** 2).sum(-1)
        chosen = distance[np.arange(700), found[:, number].long().numpy()]
        assert bool((chosen <= distance.min(1) + 1e-3).all())
        decoded[:, first : first + width] = words[found[:, number].long().numpy()]
        first += width
    wanted = torch.from_numpy(decoded) @ code.rotation.T + code.offset
    assert torch.allclose(code.decode(found), wanted, atol=1e-4)
    assert torch.allclose(code.rotation.T @ code.rotation, torch.eye(11), atol=1e-5)
    # What it says of itself, counted again.
    total = (states - states.mean(0)).square().sum()
    assert code.errors["sense"] == pytest.approx(float(residuals.square().sum() / total), rel=1e-5)
    assert code.errors["coded"] == pytest.approx(float((residuals - wanted).square().sum() / total), rel=1e-3)


def test_more_bytes_lose_less_and_as_many_words_as_states_lose_nothing() -> None:
    states, senses, known = sample()
    errors = [fit_residual_code(states, senses, known, bytes_).errors["coded"] for bytes_ in (1, 3, 6, 11)]
    assert all(few > 1.3 * many for few, many in itertools.pairwise(errors)), errors
    few = fit_residual_code(states[:40], senses[:40], known[:40], 2)
    assert few.errors["coded"] < 1e-6
    with pytest.raises(InputError, match="1 to 11 bytes"):
        fit_residual_code(states, senses, known, 12)


def test_a_row_s_code_does_not_depend_on_the_rows_beside_it() -> None:
    states, senses, known = sample(1500)
    code = fit_residual_code(states, senses, known, 4)
    residuals = states - senses
    whole = code.encode(residuals)
    assert torch.equal(code.encode(residuals[1100:1105]), whole[1100:1105])
    assert code.encode(residuals[:0]).shape == (0, 4)


def test_codebooks_come_back_from_the_disk_and_damage_is_seen(tmp_path: Path) -> None:
    code = fit_residual_code(*sample(), 3)
    path = tmp_path / "codebooks.safetensors"
    code.save(path)
    found = ResidualCode.load(path)
    assert found.widths == code.widths
    assert found.errors == code.errors
    assert all(torch.equal(getattr(found, name), getattr(code, name)) for name in ("mean", "rotation", "words"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="do not match their checksum"):
        ResidualCode.load(path)
    path.write_bytes(data[:100])
    with pytest.raises(InputError, match="cannot be read"):
        ResidualCode.load(path)


# ---- the records


@pytest.mark.parametrize("codec", ["plain", "packed"])
def test_a_record_is_one_byte_of_sense_and_the_code(codec: Any) -> None:
    layout = Layout(50, 0, codec=codec, width=192, residual=15, own=10)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(256, (6, 15), generator=generator).to(torch.uint8)
    sense = torch.tensor([0, 9, 3, layout.senseless, 1, 2])
    raw = layout.encode(Records(sense=sense, codes=codes))
    assert raw.shape == (6, 16)
    assert layout.sense_target == 16
    found = layout.decode(raw)
    assert found.states is None
    assert found.sense is not None
    assert torch.equal(found.sense, sense)
    assert found.codes is not None
    assert torch.equal(found.codes, codes)
    assert Layout.from_dict(layout.as_dict()) == layout


def test_without_codes_layout_and_recipe_are_written_as_before_there_were_any(tmp_path: Path) -> None:
    assert not {"residual", "own", "reach"} & Layout(50, 9).as_dict().keys()
    assert "residual" not in Layout(50, 9, kappa=1, reach=0.5).as_dict()
    assert "reach" not in Layout(50, 9, residual=5, own=3).as_dict()
    room = Room(tmp_path)
    assert "residual" not in room.recipe(cache={"mode": "before"}).model_dump(mode="json")["cache"]
    coded = room.recipe(cache=CODED)
    assert Recipe.model_validate(coded.model_dump(mode="json", by_alias=True)) == coded
    # A loss without hidden states has no use for codes: it shares the cache of one that names none.
    plain = room.recipe(cache={"mode": "before", "top": 9})
    blocks = cache_blocks()
    assert room.request(coded, blocks).folder == room.request(plain, blocks).folder
    assert room.request(room.recipe(cache={"mode": "before"}, loss__mu=1.0), blocks).made_from["states"] is True


# ---- trainings


def decoded_states(room: Room, settings: Recipe) -> tuple[torch.Tensor, TeacherCache, torch.Tensor]:
    """Of the first four blocks: decoded states [n, D], the cache, and their labels [n]."""
    blocks = cache_blocks()
    cache = TeacherCache.open(room.request(settings, blocks).folder)
    feed = TeacherFeed(cache, blocks)
    batch = feed.collate([blocks[number] for number in range(4)])
    states = feed.recall(batch, room.senses[0]).states
    assert states is not None
    return states.flatten(0, 1), cache, batch["labels"][:, 1:].reshape(-1)


def test_what_is_decoded_is_the_nearest_own_sense_and_what_the_code_says(tmp_path: Path) -> None:
    room, senses = Room(tmp_path), table()
    room.train(steps=1, cache=CODED, **HIDDEN)
    found, cache, labels = decoded_states(room, room.recipe(cache=CODED, **HIDDEN))
    batch = collate([cache_blocks()[number] for number in range(4)])
    with torch.no_grad():
        wanted = room.teacher.model(batch["input_ids"]).last_hidden_state[:, :-1].flatten(0, 1)
    code, without = cache.code, 0
    for state, got, label in zip(wanted, found, labels.tolist(), strict=True):
        own = senses.rows[senses.own.ids[senses.own.indptr[label] : senses.own.indptr[label + 1]]]
        without += not len(own)
        centre = own[(own - state).square().sum(-1).argmin()] if len(own) else code.mean
        again = centre + code.decode(code.encode((state - centre)[None]))[0]
        assert torch.allclose(got, again, atol=1e-4)
    assert 0 < without < len(labels), "both kinds of labels"
    error = float((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())
    assert error < 0.6 * code.errors["sense"]
    facts = json.loads((cache.folder / "manifest.json").read_text())["facts"]
    assert facts["sense_target_bytes"] == 6
    assert facts["bytes_per_position"] == 6 + 9 + 18 + 4
    assert facts["relative_error"] == code.errors
    assert facts["codebook_bytes"] == 4 * (2 * WIDTH + WIDTH * WIDTH + 256 * WIDTH)


def test_it_trains_as_the_state_does_up_to_what_is_lost(tmp_path: Path) -> None:
    room = Room(tmp_path)
    states = {**CODED, "residual": None}
    plain, _ = room.train(cache=CODED, **{**HIDDEN, "loss__mu": 0.0})
    exact, _ = room.train(cache=states, **HIDDEN)
    finest, _ = room.train(cache={**CODED, "residual": WIDTH}, **HIDDEN)
    coarse, _ = room.train(cache={**CODED, "residual": 1}, **HIDDEN)
    moved = largest_difference(plain, exact)
    assert largest_difference(finest, exact) < 0.2 * moved
    assert largest_difference(finest, exact) < largest_difference(coarse, exact)
    bare, _ = room.train(cache={**CODED, "residual": 1}, bare=True, **HIDDEN)
    assert largest_difference(bare, coarse) == 0


@pytest.mark.parametrize("packed", [False, True])
def test_during_the_first_epoch_before_it_and_with_rows_on_the_host_the_bytes_are_the_same(
    packed: bool, tmp_path: Path
) -> None:
    room = Room(tmp_path)
    chosen: dict[str, Any] = {"packed": packed, "steps": 7, "loss__mu": 1.0, "loss__push": "relative"}
    before, _ = room.train(root="before", cache=CODED, **chosen)
    during, _ = room.train(root="during", cache={**CODED, "mode": "first_epoch"}, **chosen)
    assert room.files("before") == room.files("during")
    assert largest_difference(before, during) == 0
    rows = table().rows
    host = HostRows((StoredRows(rows[:50]), StoredRows(rows[50:])))
    room.senses = (replace(table(), rows=torch.zeros(0, WIDTH), host=RowGatherer(host, torch.device("cpu"))), edges())
    on_host, _ = room.train(root="host", cache=CODED, **chosen)
    assert room.files("host") == room.files("before")
    assert largest_difference(on_host, before) == 0


def test_codebooks_of_a_killed_writer_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path)
    room.train(steps=1, root="whole", cache=CODED, **HIDDEN)
    with monkeypatch.context() as patch:
        patch.setattr(TeacherCache, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            room.train(steps=1, root="cut", cache=CODED, **HIDDEN)
    monkeypatch.setattr("sensekd.training.cache.observe.fit_residual_code", lambda *_: pytest.fail("made again"))
    room.train(steps=1, root="cut", cache=CODED, **HIDDEN)
    assert room.files("cut") == room.files("whole")


def test_whose_codes_they_are(tmp_path: Path) -> None:
    room, blocks = Room(tmp_path), cache_blocks()
    one = room.request(room.recipe(cache=CODED, **HIDDEN), blocks)
    assert one.made_from["states"] == {"residual": 5, "sample": 1 << 14}
    # Weights, and what selection would look at, do not matter; the number of bytes and the senses do.
    assert room.request(room.recipe(cache=CODED, **{**HIDDEN, "loss__mu": 3.0, "loss__kappa": 1}), blocks) == one
    other = room.request(room.recipe(cache={**CODED, "residual": 6}, **HIDDEN), blocks)
    assert other.folder != one.folder
    room.senses = (replace(table(), rows=table().rows + 1), edges())
    assert room.request(room.recipe(cache=CODED, **HIDDEN), blocks).folder != one.folder
    with pytest.raises(InputError, match=f"have {WIDTH} dimensions"):
        room.train(steps=1, cache={**CODED, "residual": WIDTH + 1}, **HIDDEN)


# ---- corrected by the scores


def scored(k: int | None, bias: bool = False) -> tuple[Refiner, TopTeacher, torch.Tensor, torch.Tensor]:
    """States [30, 11], what was decoded of them, and the scores of a head over 23 tokens at τ = 2."""
    generator = torch.Generator().manual_seed(5)
    states, weight = torch.randn(30, 11, generator=generator), torch.randn(23, 11, generator=generator)
    head = Head(weight, torch.randn(23, generator=generator) if bias else None, 0.5)
    logs = (head.logits(states) / 2).log_softmax(1)
    decoded = states + 0.3 * torch.randn(30, 11, generator=generator)
    if k is None:
        return Refiner(head, 2.0), TopTeacher(logs), states, decoded
    values, ids = logs.topk(k)
    return Refiner(head, 2.0), TopTeacher(values, ids, torch.zeros(30)), states, decoded


@pytest.mark.parametrize("bias", [False, True])
def test_scores_of_all_tokens_are_the_state(bias: bool) -> None:
    refiner, top, states, decoded = scored(None, bias)
    assert torch.allclose(refiner.refine(decoded, top), states, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_scores_of_some_tokens_correct_the_state_in_their_directions_alone(bias: bool) -> None:
    refiner, top, states, decoded = scored(5, bias)
    found = refiner.refine(decoded, top)
    assert top.ids is not None
    rows = refiner.head.weight[top.ids]
    rows = rows - rows.mean(1, keepdim=True)
    for state, before, after, axes in zip(states, decoded, found, rows, strict=True):
        # In the span of the rows the state comes back but for the ridge; what is orthogonal to it is not touched.
        span = torch.linalg.qr(axes[:-1].T.double()).Q
        wanted = (state - before).double()
        moved = (after - before).double()
        assert torch.allclose(moved, span @ (span.T @ wanted), atol=0.02)
    assert float((found - states).square().sum()) < 0.75 * float((decoded - states).square().sum())


def test_a_block_is_corrected_once_and_by_itself() -> None:
    refiner, top, _, decoded = scored(5)
    refiner = replace(refiner, kept=KeptBlocks(2 * 10 * 11 * 4))
    alone = [refiner.refine(decoded[start : start + 10], top.rows(slice(start, start + 10))) for start in (0, 10, 20)]
    for _ in range(2):
        found = refiner.refine_blocks(decoded, top, [7, 5, 8, 9], [10, 0, 10, 10])  # One without labels among them.
        assert torch.equal(found, torch.cat(alone))
    assert list(refiner.kept.states) == [7, 5, 8]  # There is no room for the last.
    refiner.kept.states[8] = torch.zeros(10, 11)
    assert torch.equal(refiner.refine_blocks(decoded[10:20], top.rows(slice(10, 20)), [8], [10]), torch.zeros(10, 11))


def test_what_is_kept_changes_no_bit_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room, solved = Room(tmp_path), []
    whole = Refiner.refine
    monkeypatch.setattr(Refiner, "refine", lambda *given: solved.append(len(given[1])) or whole(*given))
    kept, _ = room.train(cache={**CODED, "refine": True}, **HIDDEN)
    once = len(solved)
    monkeypatch.setattr("sensekd.training.cache.refine.make_refiner", without_room(make_refiner))
    anew, _ = room.train(cache={**CODED, "refine": True}, **HIDDEN)
    assert once < len(solved) - once
    assert largest_difference(kept, anew) == 0


def without_room(make: Any) -> Any:
    return lambda *given: replace(make(*given), kept=KeptBlocks(0))


def test_refining_trains_as_the_state_does_where_the_scores_are_whole(tmp_path: Path) -> None:
    room = Room(tmp_path)
    whole = {**CODED, "top": "all", "log_probs": "float32", "residual": 1}
    exact, _ = room.train(cache={**whole, "residual": None}, **HIDDEN)
    coarse, _ = room.train(cache=whole, **HIDDEN)
    refined, _ = room.train(cache={**whole, "refine": True}, **HIDDEN)
    assert largest_difference(refined, exact) < 0.02 * largest_difference(coarse, exact)
    bare, _ = room.train(cache={**whole, "refine": True}, bare=True, **HIDDEN)
    assert largest_difference(bare, refined) == 0
    with pytest.raises(ValueError, match="set `residual` too"):
        room.recipe(cache={"mode": "before", "refine": True})
    with pytest.raises(ValueError, match="another width"):
        room.recipe(cache={**whole, "refine": True}, student={"layers": 2, "width": 8}, **HIDDEN)


def test_arms_of_a_comparison_may_differ_in_their_cache(tmp_path: Path) -> None:
    from sensekd.config import arm_recipe

    room = Room(tmp_path)
    arm = {"loss.lambda": 0.0, "loss.mu": 3.0, "cache.mode": "before", "cache.residual": 15}
    settings = room.recipe(compare={"custom": {"kd+coded": arm}})
    coded, _ = arm_recipe(settings, "kd+coded", 0)
    assert (coded.cached, coded.cache.residual, coded.loss.mu) == (True, 15, 3.0)
    assert not arm_recipe(settings, "kd+hidden", 0)[0].cached
    with pytest.raises(ValueError, match=r"custom arm 'kd\+coded'.*residual"):
        room.recipe(compare={"custom": {"kd+coded": {**arm, "cache.residual": 0}}})
    with pytest.raises(ValueError, match=r"`loss\.\*` and `cache\.\*` keys"):
        room.recipe(compare={"custom": {"kd+coded": {**arm, "training.steps": 3}}})


def test_a_check_counts_codes_and_codebooks(tmp_path: Path) -> None:
    from sensekd.pipeline.check.volume import cache_part

    settings = Room(tmp_path).recipe(cache={"mode": "before", "residual": 15}, **HIDDEN)
    part = cache_part(settings, 192, 4096, 10 * LENGTH)
    # Ids and log-probabilities of 64 tokens in two bytes each, a tail of four, a sense of one, a code of fifteen.
    record = 64 * 4 + 4 + 1 + 15
    assert part.bytes == 10 * (LENGTH - 1) * record + 4 * 192 * (1 + 1 + 192 + 256)
    assert part.note == f"{record} bytes a label, 16 of them senses and codes"
    notes = [
        cache_part(Room(tmp_path).recipe(cache={"mode": "before"}, loss__pull=pull, **more), 192, 4096, LENGTH).note
        for pull, more in (("absolute", {}), ("teacher", {}), ("teacher", {"loss__lambda": 0.0}))
    ]
    kept = 2 * 2 * settings.loss.kappa
    assert notes == [f"{64 * 4 + 4 + more} bytes a label" for more in (kept, kept + 2, 0)]
