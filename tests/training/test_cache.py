"""A training that reads the cache is the one that runs the teacher; a cache of anything else is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from cache_world import EXACT, LENGTH, Room, cache_blocks, largest_difference, records
from training_world import WIDTH, edges, table, tokenizer

from sensekd.errors import InputError, SenseKDError
from sensekd.senses.residence import HostRows, RowGatherer
from sensekd.senses.store import StoredRows
from sensekd.training.cache import hollow
from sensekd.training.cache.observe import Observer
from sensekd.training.cache.store import TeacherCache
from sensekd.training.distill import distill, supervision_of

CASES: list[dict[str, Any]] = [
    {"loss__push": "relative", "loss__margin": 2.0},
    {"loss__mu": 0.1, "loss__margin": 6.0},
    {"loss__lambda": 0.0, "loss__divergence": "jsd"},
    {"loss__alpha": 0.0, "loss__positions": {"fraction": 0.5, "minimum": 3}},
    {"loss__pull": "teacher", "loss__push": "relative", "loss__positions": {"fraction": 0.8, "minimum": 3}},
]


def observing(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The blocks of every forward of the teacher from here on."""
    seen: list[list[int]] = []
    observe = Observer.observe

    def noted(self: Observer, batch: Any, blocks: Any, numbers: Any) -> Any:
        seen.append(list(numbers))
        return observe(self, batch, blocks, numbers)

    monkeypatch.setattr(Observer, "observe", noted)
    return seen


@pytest.mark.parametrize(("case", "trunk"), [(0, True), (1, False), (1, True), (2, False), (3, True), (4, True)])
def test_with_k_equal_v_the_weights_are_the_live_teacher_s_to_the_bit(
    case: int, trunk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, chosen = Room(tmp_path), CASES[case]
    live, told = room.train(**chosen)
    seen = observing(monkeypatch)
    cache = {"mode": "before", "trunk": trunk, **EXACT}
    written, result = room.train(cache=cache, **chosen)
    assert sorted(chain.from_iterable(seen)) == list(range(24)), "one pass over the blocks"
    assert largest_difference(live, written) == 0
    assert result.shared_layers == (2 if trunk else 0)
    assert records(result) == records(told)
    bare, result = room.train(bare=True, cache=cache, **chosen)
    assert len(seen) == 6, "the teacher was run again"
    assert largest_difference(live, bare) == 0
    assert result.shared_layers == (2 if trunk else 0)


@pytest.mark.parametrize(("packed", "trunk", "pull"), [(False, False, "absolute"), (True, True, "teacher")])
def test_written_during_the_first_epoch_or_before_it_is_the_same(
    packed: bool, trunk: bool, pull: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path)
    chosen = {"loss__mu": 0.1, "packed": packed, "loss__pull": pull}
    before, _ = room.train(root="before", cache={"mode": "before", "top": 9, "trunk": trunk}, **chosen)
    seen = observing(monkeypatch)
    during, told = room.train(
        root="during", steps=12, cache={"mode": "first_epoch", "top": 9, "trunk": trunk}, **chosen
    )
    blocks = len(cache_blocks(packed))
    assert sorted(chain.from_iterable(seen)) == list(range(blocks)), "every block once, though there were two epochs"
    assert told.tokens > 1.5 * blocks * LENGTH
    assert largest_difference(before, during) == 0
    assert room.files("before") == room.files("during")
    # The cache that the first epoch left serves a training without the teacher.
    bare, _ = room.train(root="during", bare=True, cache={"mode": "first_epoch", "top": 9, "trunk": trunk}, **chosen)
    assert largest_difference(bare, before) == 0


def test_in_chunks_the_live_weights_to_rounding(tmp_path: Path) -> None:
    room = Room(tmp_path, family="gemma2")
    live, _ = room.train(steps=4, loss__chunked="on", packed=True)
    cached, result = room.train(
        steps=4, loss__chunked="on", packed=True, cache={"mode": "before", "trunk": True, **EXACT}
    )
    assert result.logits.startswith("in chunks; logits are soft-capped")
    # AdamW makes much of float32's last bits where a gradient is near 0, hence a bound well under a step of 1e-2.
    assert 0 <= largest_difference(live, cached) < 1e-4


def test_fewer_tokens_and_fewer_bits_give_another_student_and_not_a_far_one(tmp_path: Path) -> None:
    room = Room(tmp_path)
    start, _ = room.train(steps=0)
    # The more the KL weighs, the more the tokens that are left out matter.
    live, _ = room.train(loss__alpha=0.7)
    moved = largest_difference(live, start)
    for codec in ("plain", "packed"):
        cached, _ = room.train(cache={"mode": "before", "top": 16, "codec": codec}, loss__alpha=0.7)
        assert 0 < largest_difference(live, cached) < 0.5 * moved


# ---- what is loaded


def test_only_the_layers_that_train_are_read_and_no_teacher_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path)
    cache = {"mode": "before", "trunk": True}
    room.train(steps=1, cache=cache)
    read: list[tuple[int, ...]] = []
    load_layers, parameters = hollow.load_layers, []

    def noted(config: Any, keep: Any) -> Any:
        read.append(tuple(keep))
        model = load_layers(config, keep)
        parameters.append(sum(value.numel() for value in model.parameters()))
        return model

    monkeypatch.setattr(hollow, "load_layers", noted)
    monkeypatch.setattr("sensekd.training.teacher._model", lambda *_: pytest.fail("the whole teacher was loaded"))
    room.train(steps=1, cache=cache, bare=True)
    # The student has the teacher's layers 0 to 2; layer 2 trains. The two below are read when it is saved.
    assert read == [(2,), (0, 1)]
    assert parameters[0] < parameters[1] < sum(value.numel() for value in room.teacher.parameters())
    read.clear()
    room.train(steps=1, cache=cache | {"trunk": False})
    room.train(steps=1, cache=cache | {"trunk": False}, bare=True)
    assert read == [(0, 1, 2)]


@pytest.mark.parametrize("family", [pytest.param("gemma3", marks=pytest.mark.long), "qwen2"])
def test_a_spaced_student_of_another_family_without_its_teacher(family: str, tmp_path: Path) -> None:
    room = Room(tmp_path, family=family, tied=False)
    for chosen in ({"selection": [0, 1, 3]}, {"selection": "importance"}, {"lora": {"rank": 2}, "train_top": 0}):
        student = {"layers": 3, "train_top": 1, **chosen}
        cache = {"mode": "before", "trunk": True, "top": 8}
        with_teacher, told = room.train(steps=3, student=student, cache=cache)
        without, again = room.train(steps=3, student=student, cache=cache, bare=True)
        assert largest_difference(with_teacher, without) == 0
        assert (told.layers, told.importance, told.shared_layers) == (
            again.layers,
            again.importance,
            again.shared_layers,
        )


def test_without_teacher_and_cache_nothing_is_trained(tmp_path: Path) -> None:
    room = Room(tmp_path)
    with pytest.raises(InputError, match="no teacher-cache artefact"):
        room.train(bare=True, cache={"mode": "before"})
    with pytest.raises(ValueError, match="needs a teacher, or a cache"):
        room.train(bare=True)


# ---- rows on the host


@pytest.mark.parametrize(("push", "pull"), [("absolute", "absolute"), ("relative", "teacher")])
def test_rows_on_the_host_give_the_same_student_and_only_kept_rows_are_brought(
    push: str, pull: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path)
    chosen: dict[str, Any] = {"loss__push": push, "loss__pull": pull, "training__accumulation": 2, "steps": 3}
    cache = {"mode": "before", "top": 8}
    resident, _ = room.train(cache=cache, root="resident", **chosen)
    rows, edge = table().rows, edges()
    host = HostRows((StoredRows(rows[:50]), StoredRows(rows[50:])))
    room.senses = (replace(table(), rows=torch.zeros(0, WIDTH), host=RowGatherer(host, torch.device("cpu"))), edge)
    on_host, _ = room.train(cache=cache, root="host", **chosen)
    assert largest_difference(resident, on_host) == 0
    assert room.files("resident") == room.files("host")
    collected: list[tuple[int, int, int]] = []
    collect = RowGatherer.collect

    def noted(self: RowGatherer, *arguments: Any) -> Any:
        found = collect(self, *arguments)
        collected.append((len(found.ids), self.early, self.late))
        return found

    monkeypatch.setattr(RowGatherer, "collect", noted)
    bare, _ = room.train(cache=cache, root="host", bare=True, **chosen)
    assert largest_difference(resident, bare) == 0
    assert [entry[1:] for entry in collected] == [(number, 0) for number in range(1, 7)], "asked for before the forward"


# ---- interruptions


class _KilledError(Exception):
    pass


def dying_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Let a process die in the middle of a block: its bytes stand, half of them, its checksum does not."""
    write, count = TeacherCache.write, iter(range(writes))

    def dies(self: TeacherCache, blocks: Any, given: torch.Tensor, trunk: Any) -> None:
        if next(count, None) is None:
            offset, size = self._span(blocks[0])
            with (self.folder / "blocks.bin").open("r+b") as file:
                file.seek(offset)
                file.write(b"\xff" * (size // 2))
            raise _KilledError
        write(self, blocks, given, trunk)

    monkeypatch.setattr(TeacherCache, "write", dies)


@pytest.mark.parametrize("mode", ["before", "first_epoch"])
def test_an_interrupted_cache_is_written_to_its_end_with_the_same_bytes(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, cache = Room(tmp_path), {"mode": mode, "top": 9}
    whole, _ = room.train(root="whole", cache=cache)
    with monkeypatch.context() as patch:
        dying_after(patch, 2)
        with pytest.raises(_KilledError):
            room.train(root="cut", cache=cache)
    with pytest.raises(InputError, match="has 8 of 24 blocks"):
        room.train(root="cut", cache=cache, bare=True)
    seen = observing(monkeypatch)
    again, _ = room.train(root="cut", cache=cache)
    # Without a checkpoint a first epoch starts anew: only a batch that is whole in the cache is not run again.
    assert sum(len(numbers) for numbers in seen) == 16
    assert largest_difference(whole, again) == 0
    assert room.files("whole") == room.files("cut")


def test_a_block_whose_bytes_are_not_its_checksum_s_is_written_again(tmp_path: Path) -> None:
    room, cache = Room(tmp_path), {"mode": "before", "top": 9}
    room.train(cache=cache)
    wanted = room.files()
    (folder,) = (tmp_path / "caches").iterdir()
    (folder / "manifest.json").unlink()
    data = bytearray(wanted["blocks.bin"])
    data[1000] ^= 1
    (folder / "blocks.bin").write_bytes(bytes(data))
    found = TeacherCache._open(folder, TeacherCache._begun(folder))
    assert len(found.missing()) == 1
    # Killed while its manifest was written: what is left of that is no part of the cache.
    (folder / ".manifest.json.abcd_123").write_bytes(b"{")
    room.train(cache=cache)
    assert room.files() == wanted


def test_a_damaged_block_is_not_trained_on(tmp_path: Path) -> None:
    room, cache = Room(tmp_path), {"mode": "before", "top": 9}
    room.train(cache=cache)
    (folder,) = (tmp_path / "caches").iterdir()
    data = bytearray((folder / "blocks.bin").read_bytes())
    data[-1] ^= 1
    (folder / "blocks.bin").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"block 23 \(bytes .* is damaged"):
        room.train(cache=cache, bare=True)
    with pytest.raises(InputError, match="does not match its checksum"):
        TeacherCache.open(folder, verify=True)


def test_a_teacher_that_is_not_finite_is_not_stored(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.teacher.get_input_embeddings().weight.data[7] = float("nan")
    with pytest.raises(SenseKDError, match=r"not finite in one of the documents 0 \(0000000000000000\)"):
        room.train(cache={"mode": "before"}, loss__chunked="off", student={"layers": 3, "shared_trunk": "off"})


# ---- whose it is

OTHERS: dict[str, dict[str, Any]] = {
    "tau": {"loss__tau": 3.0},
    "kappa": {"loss__kappa": 3},
    "push": {"loss__push": "relative"},
    "stored": {"cache": {"mode": "before", "top": 9}},
    "states": {"loss__mu": 1.0},
    "student": {"cache": {"mode": "before", "trunk": True}},
    "computed": {"teacher": {"model": "none", "dtype": "bfloat16"}},
    "threads": {"training__threads": 2},
}


def refused(room: Room, key: str, **changed: Any) -> str:
    """The message of a training that is pointed at the cache of another."""
    settings = room.recipe(cache={"mode": "before"})
    blocks = cache_blocks()
    folder = room.request(settings, blocks).folder
    other = room.recipe(**{"cache": {"mode": "before"}, **changed.pop("overrides", {})})
    made_from = room.request(other, changed.pop("blocks", blocks)).made_from | changed
    for opened in (
        lambda: TeacherCache.open(folder, made_from),
        lambda: distill(
            None, tokenizer(), settings, 1, blocks, senses=room.senses,
            folders=(room.folder / "s", room.folder / "w"),
            cache=replace(room.request(settings, blocks), made_from=made_from),
        ),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            opened()
        assert f"was made from {key} " in str(caught.value)
        assert f"expected: {key} " in str(caught.value)
    return str(caught.value)


def test_a_cache_of_anything_else_is_refused_with_both_sides_named(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.train(steps=1, cache={"mode": "before"})
    for key, overrides in OTHERS.items():
        refused(room, key, overrides=overrides)
    distances = room.request(room.recipe(cache={"mode": "before"}), cache_blocks()).made_from["reach"]
    refused(room, "reach", reach=distances | {"unit": 64.0})
    message = refused(room, "tau", overrides=OTHERS["tau"])
    assert "made from tau 2.0" in message
    assert "expected: tau 3.0" in message
    refused(room, "packing", blocks=cache_blocks(packed=True))
    shorter = cache_blocks()
    shorter.length = 8
    refused(room, "block_length", blocks=shorter, rows=4)
    refused(room, "tokens", tokens="others")
    refused(room, "teacher", teacher={"weights": "others"})
    starts, ends = room.senses[1]
    room.senses = (room.senses[0], (~starts, ends))
    relations = room.request(room.recipe(cache={"mode": "before"}), cache_blocks()).made_from["relations"]
    room.senses = (table(), edges())
    refused(room, "relations", relations=relations)
    refused(room, "dictionary", dictionary="others")


def test_one_that_was_begun_for_something_else_is_refused_too(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.train(steps=1, cache={"mode": "before"})
    settings, blocks = room.recipe(cache={"mode": "before"}), cache_blocks()
    request = room.request(settings, blocks)
    (request.folder / "manifest.json").unlink()
    other = room.request(room.recipe(loss__tau=3.0, cache={"mode": "before"}), blocks)
    shutil.copytree(request.folder, other.folder)
    with pytest.raises(InputError, match=r"made from tau 2\.0"):
        room.train(steps=1, loss__tau=3.0, cache={"mode": "before"})
    begun = json.loads((request.folder / "begun.json").read_text())
    (request.folder / "begun.json").write_text(json.dumps(begun | {"format": 0}))
    with pytest.raises(InputError, match="in format 0"):
        room.train(steps=1, cache={"mode": "before"})


def test_students_of_other_shapes_and_weights_of_the_loss_share_a_cache(tmp_path: Path) -> None:
    room, blocks = Room(tmp_path), cache_blocks()
    one = room.request(room.recipe(cache={"mode": "before"}), blocks)
    alike = [{"student": {"layers": 2}}, {"loss__lambda": 2.0}, {"loss__margin": 3.0}, {"seed": 9}]
    for overrides in alike:
        assert room.request(room.recipe(cache={"mode": "first_epoch"}, **overrides), blocks) == one
    assert supervision_of(None) is None


def test_bytes_per_position_from_the_file(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.train(steps=1, cache={"mode": "before", "top": 9}, packed=True)
    found = room.files()
    blocks = cache_blocks(packed=True)
    positions = sum(int((blocks[number]["labels"][1:] >= 0).sum()) for number in range(len(blocks)))
    # Nine ids of one byte, nine float16, a tail of four bytes, four slots of one byte, a distance of two.
    assert len(found["blocks.bin"]) == positions * (9 + 18 + 4 + 4 + 2)
    assert json.loads(found["manifest.json"])["facts"]["bytes_per_position"] == 37
