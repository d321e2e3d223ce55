"""The explorer's data: which words, where everything lies, and what models make of the same contexts."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import explorer_fakes as fakes
import numpy as np
import pytest
import torch

from sensekd.report.explorer import explore
from sensekd.report.projection import fit_plane, nearest
from sensekd.report.states import SampledStates, context_states, place
from sensekd.report.words import choose_words


@pytest.mark.parametrize("shape", [(5, 40), (60, 7)], ids=["wide", "tall"])
def test_the_plane_is_that_of_a_singular_value_decomposition(shape: tuple[int, int]) -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=shape)) * torch.logspace(1, -2, shape[1])
    plane = fit_plane(rows, sigma2=4.0)
    centred = rows.numpy() - rows.numpy().mean(0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T / np.sqrt(4.0 * shape[1])
    found = np.array(plane.place(rows))
    signs = np.sign((expected * found).sum(0))
    assert np.abs(found - expected * signs).max() < 6e-4
    assert plane.explained == pytest.approx((values[:2] ** 2).sum() / (values**2).sum(), abs=1e-9)
    # The sign is a rule, not an accident of the decomposition.
    again = fit_plane(rows.flip(0), sigma2=4.0)
    assert torch.allclose(again.axes, plane.axes, atol=1e-6)
    assert all(float(axis[axis.abs().argmax()]) > 0 for axis in plane.axes)


def test_states_that_span_less_than_a_plane() -> None:
    one = fit_plane(torch.tensor([[3.0, 4.0]]), 1.0)
    assert (one.place(torch.tensor([[9.0, 9.0]])), one.explained) == ([[0.0, 0.0]], 1.0)
    line = fit_plane(torch.tensor([[0.0, 0.0, 5.0], [2.0, 0.0, 5.0], [4.0, 0.0, 5.0]]), 1.0)
    assert line.explained == pytest.approx(1.0)
    # One axis alone: what lies off the line has no second coordinate. A unit is sqrt(3).
    assert line.place(torch.tensor([[2.0 + 3**0.5, 7.0, 5.0]])) == [[1.0, 0.0]]


def test_distances_on_the_map_are_those_of_the_loss() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 1.0], [5.0, -2.0]])
    at = np.array(fit_plane(rows, sigma2=2.0).place(rows))
    for one, other in combinations(range(3), 2):
        squared = float(((at[one] - at[other]) ** 2).sum())
        assert squared == pytest.approx(float(nearest(rows[one][None], rows[other][None], 2.0)[1]), abs=5e-3)


def test_which_words_and_in_which_order() -> None:
    choice = choose_words(fakes.dictionary(), fakes.tokenizer(), fakes.relations(), ["river", " bank", "nowhere"])
    # Asked first; then with both relations; then with one; then whole words of several senses ("ing" may be an ending,
    # money and shore have one sense and no relation).
    assert [word.text for word in choice.words] == ["river", "bank", "slope", "red"]
    assert {word.text: word.tokens for word in choice.words}["bank"] == (1, 2)
    assert (choice.available, choice.missing) == (4, ("nowhere",))
    few = choose_words(fakes.dictionary(), fakes.tokenizer(), fakes.relations(), limit=1)
    assert ([word.text for word in few.words], few.available) == (["bank"], 3)
    assert [word.text for word in choose_words(fakes.dictionary(), fakes.tokenizer()).words] == ["bank", "red"]


def test_the_map_of_a_word_by_hand() -> None:
    bank = fakes.tree(models=False)["words"][0]
    assert bank["word"] == "bank"
    first, second = bank["tokens"]
    # The states -2, 8, 2, 12 have the mean 5, and a unit is 2.
    assert [point[:3] for point in first["points"]] == [[-3.5, 0, 0], [1.5, 0, 1], [-1.5, 0, 0], [3.5, 0, 1]]
    assert [point[3] for point in first["points"]] == ["the", "the money", "the the river", "the river money"]
    assert [(sense["at"], sense["n"], sense["share"]) for sense in first["senses"]] == [
        ([-2.5, 0.0], 6, 0.75), ([2.5, 0.0], 2, 0.25),
    ]  # fmt: skip
    assert first["explained"] == 1.0
    # Shore at 4: 16 / (2 · 2) = 4 from the sense at 0; slope at 6: 4 from the sense at 10, 9 from that at 0.
    assert first["relatives"] == [
        {"text": "shore", "kind": "synonym", "at": [-0.5, 0.0], "d": 4.0},
        {"text": "slope", "kind": "antonym", "at": [0.5, 0.0], "d": 4.0},
    ]
    assert first["senses"][0]["related"] == [["shore", "synonym", 4.0], ["slope", "antonym", 9.0]]
    assert first["senses"][0]["contexts"] == ["the river"]
    assert first["senses"][0]["spread"] == 0.5
    assert "dead" in second["senses"][0]["flags"]
    assert (second["text"], second["spaced"], second["points"]) == ("bank", False, [])


def test_without_a_sample_the_senses_are_the_map() -> None:
    found = explore(fakes.source(sample=False), ["bank"])
    token = found["words"][0]["tokens"][0]
    assert found["sample"] is False
    assert token["points"] == []
    assert [sense["at"] for sense in token["senses"]] == [[-2.5, 0.0], [2.5, 0.0]]


def test_contexts_are_read_to_their_ends_wherever_they_begin() -> None:
    contexts = torch.tensor([[-1, -1, 7], [7, 3, 4], [-1, 7, 4]], dtype=torch.int32)
    assert context_states(fakes.LineModel(10), contexts)[:, 0].tolist() == [11.0, 13.0, 12.0]


def test_states_of_two_models_by_hand() -> None:
    rows = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    teacher, student = torch.tensor([[1.0, 0.0], [9.0, 0.0]]), torch.tensor([[4.0, 0.0], [4.0, 2.0]])
    found = place(student, teacher, rows, sigma2=2.0)
    assert found.sense.tolist() == [0, 0]
    assert found.agrees.tolist() == [True, False]
    assert found.to_sense.tolist() == [16 / 4, (36 + 4) / 4]
    assert found.to_teacher.tolist() == [9 / 4, (25 + 4) / 4]


def test_models_are_run_on_the_same_contexts_and_others_are_named() -> None:
    found = fakes.tree()
    teacher, student = found["models"]
    # Contexts of 1, 2, 3 and 3 tokens: the teacher's states 1, 2, 3, 3 mean the sense at 0; the student's lie 6 further
    # right: 7, 8, 9, 9, nearest to the sense at 10. The other words have no sample and no context on record.
    lies = (1 + 4 + 9 + 9) / 16
    assert teacher == {"name": "teacher", "agrees": 1.0, "to_sense": lies, "to_teacher": 0.0, "contexts": 4}
    assert student["agrees"] == 0.0
    assert student["to_teacher"] == 9.0
    assert student["to_sense"] == pytest.approx((49 + 64 + 81 + 81) / 16, abs=1e-4)
    token: dict[str, Any] = found["words"][0]["tokens"][0]
    assert [each["name"] for each in token["placed"]] == ["teacher", "kd"]
    assert token["placed"][1]["points"] == [[1.0, 0.0, 1], [1.5, 0.0, 1], [2.0, 0.0, 1], [2.0, 0.0, 1]]
    assert found["left_out"] == [{"name": "narrow", "why": "its states have 1 dimensions, the senses 2"}]


def test_single_tokens_are_read_from_a_sample_on_disk(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {
        "tokens": torch.tensor([3, 8]),
        "indptr": torch.tensor([0, 1, 3]),
        "states": torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float16),
        "context": torch.tensor([[1], [2], [3]], dtype=torch.int32),
    }
    save_file(tensors, tmp_path / "sample.safetensors")
    sample = SampledStates(tmp_path)
    found = sample.of(8)
    assert found is not None
    assert found[0].dtype == torch.float32
    assert (found[0].tolist(), found[1].tolist()) == ([[2.0], [3.0]], [[2], [3]])
    assert sample.of(4) is None
