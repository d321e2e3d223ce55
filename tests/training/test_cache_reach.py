"""A pull that ends at the teacher, from the cache: which caches keep its distances, and who reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cache_world import Room, cache_blocks, largest_difference
from safetensors.torch import load_file
from training_world import tokenizer

from sensekd.training.cache.sharing import serving
from sensekd.training.cache.store import TeacherCache
from sensekd.training.distill import distill


@pytest.mark.parametrize(("codec", "logs"), [("plain", "float32"), ("packed", "float16")])
def test_a_pull_that_ends_at_the_teacher_reads_distances_that_others_skip(
    codec: str, logs: str, tmp_path: Path
) -> None:
    room, blocks = Room(tmp_path), cache_blocks()
    cache = {"mode": "before", "top": "all", "codec": codec, "log_probs": logs}
    chosen = {"steps": 2, "training__log_every": 1}
    plain, reach = (
        room.recipe(cache=cache, training__log_every=1, loss__pull=pull) for pull in ("absolute", "teacher")
    )
    alone, _ = room.train(cache=cache, root="alone", loss__pull="absolute", **chosen)
    served = serving(room.request(reach, blocks, "alone"))
    assert served == room.request(reach, blocks, "alone"), "a cache without distances serves no such training"
    pulled, told = room.train(cache=cache, loss__pull="teacher", **chosen)
    request = serving(room.request(plain, blocks))
    assert request.folder == room.request(reach, blocks).folder
    layout, other = TeacherCache.open(request.folder).layout, TeacherCache.open(*(tmp_path / "alone").iterdir()).layout
    assert layout.record == other.record + (4 if logs == "float32" else 2)
    assert layout.reach == 0.5, "the power of two next to a σ² of 0.7"
    folders = (tmp_path / "student", tmp_path / "work")
    distill(None, tokenizer(), plain, 2, blocks, senses=room.senses, folders=folders, cache=request)
    assert largest_difference(alone, load_file(folders[0] / "model.safetensors")) == 0
    # Against the live teacher, before a weight has moved: half precision ends the pull a little earlier, by at most
    # 2^-10 of a distance at every position, and single precision where it ends.
    live, wanted = room.train(loss__pull="teacher", **chosen)
    lost = wanted.history[0]["pull"] - told.history[0]["pull"]
    if logs == "float32":
        assert lost == largest_difference(live, pulled) == 0
    else:
        assert 0 < lost < 2**-10 * 4
        assert largest_difference(live, pulled) < largest_difference(live, alone)


def test_distances_are_kept_where_they_are_read_alone(tmp_path: Path) -> None:
    room, blocks = Room(tmp_path), cache_blocks()
    cache = {"mode": "before"}
    plain = room.recipe(cache=cache, loss__pull="absolute")
    made_from = room.request(plain, blocks).made_from
    assert "reach" not in made_from
    # Without a sense loss nothing is pulled, wherever it would end.
    alike = [
        room.request(room.recipe(cache=cache, loss__lambda=0.0, loss__pull=pull), blocks)
        for pull in ("absolute", "teacher")
    ]
    assert alike[0] == alike[1]
    dictionary, edge = room.senses
    room.senses = (replace(dictionary, sigma2=3.0), edge)
    assert room.request(plain, blocks).made_from == made_from, "row ids know no unit"
    reach = room.request(room.recipe(cache=cache, loss__pull="teacher"), blocks).made_from
    assert reach == {**made_from, "reach": {"unit": 4.0, "codec": "plain", "log_probs": "float16"}}
