"""The dictionary of a run: its form on disk, its checksums, where its rows stay, and `senses show` on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_run import write_inputs, write_recipe, write_teacher
from typer.testing import CliRunner

from sensekd.cli.main import app
from sensekd.config import load_recipe
from sensekd.errors import InputError
from sensekd.pipeline.single import build_senses_of, distill_arm
from sensekd.pipeline.stages import Progress
from sensekd.senses.dictionary import SenseDictionary


class Notes:
    """Keeps which stages were started."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def note(self, text: str) -> None:
        if text.endswith(": started"):
            self.started.append(text.removesuffix(": started"))

    def progress(self, name: str) -> Progress:
        return lambda done, total: None


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of the inputs and of a run whose senses stand, and its recipe."""
    folder = tmp_path_factory.mktemp("store")
    recipe = write_recipe(folder, write_inputs(folder))
    build_senses_of(load_recipe(recipe), Notes())
    return folder / "run", recipe


@contextmanager
def flipped(folder: Path) -> Iterator[None]:
    """One bit in the middle of the dictionary is another one."""
    file = folder / "senses.safetensors"
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    try:
        yield
    finally:
        file.write_bytes(whole)


def show(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["senses", "show", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("store", ["bfloat16", "float16", "int8"])
def test_another_form_is_clustered_anew_from_the_same_sample(store: str, built: tuple[Path, Path]) -> None:
    run, recipe = built
    exact = SenseDictionary.load(run / "senses").take(torch.arange(20))
    build_senses_of(load_recipe(recipe, [f"senses.store={store}"]), notes := Notes())
    assert notes.started == ["senses"]
    found = SenseDictionary.load(run / "senses", verify=True)
    assert found.stored.name == store
    rows = found.take(torch.arange(20))
    assert not torch.equal(rows, exact)
    torch.testing.assert_close(rows, exact, rtol=2**-8, atol=float(exact.abs().max()) / 254)
    build_senses_of(load_recipe(recipe), Notes())
    assert torch.equal(SenseDictionary.load(run / "senses").take(torch.arange(20)), exact)


def test_where_the_rows_stay_rebuilds_nothing(built: tuple[Path, Path]) -> None:
    build_senses_of(load_recipe(built[1], ["senses.residence=host"]), notes := Notes())
    assert notes.started == []


def test_a_flipped_bit_stops_the_next_run(built: tuple[Path, Path]) -> None:
    run, recipe = built
    with flipped(run / "senses"), pytest.raises(InputError, match="does not match its checksum between bytes 0"):
        build_senses_of(load_recipe(recipe), Notes())
    build_senses_of(load_recipe(recipe), Notes())


def test_a_named_dictionary_is_verified_and_its_teacher_compared(built: tuple[Path, Path], tmp_path: Path) -> None:
    run, recipe = built
    named = [f"senses.dictionary={run / 'senses'}", f"output={tmp_path / 'run'}"]
    build_senses_of(load_recipe(recipe, named), Notes())
    with flipped(run / "senses"), pytest.raises(InputError, match="does not match its checksum"):
        build_senses_of(load_recipe(recipe, named), Notes())
    write_teacher(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="made from weights") as caught:
        build_senses_of(load_recipe(recipe, [*named, f"teacher.model={tmp_path / 'other'}"]), Notes())
    assert str(caught.value.expected).startswith("weights ")


def test_a_student_does_not_depend_on_where_the_rows_stay(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_inputs(tmp_path))
    students = []
    for residence in ("device", "host"):
        output = tmp_path / residence
        overrides = ["senses.store=int8", f"senses.residence={residence}", f"output={output}"]
        distill_arm(load_recipe(recipe, overrides), "dskd", Notes())
        students.append((output / "students" / "dskd-0" / "model.safetensors").read_bytes())
    assert students[0] == students[1]


def test_show_takes_a_run_before_the_word(built: tuple[Path, Path]) -> None:
    run, _ = built
    code, text = show(str(run), "w3", "--verify")
    assert (code, show("w3", "--run", str(run))) == (0, (0, text))
    assert text.startswith("Squared distances per dimension in units of σ²; ")
    assert "'w3' (token 3): " in text
    assert "[w3]" in text
    assert "     synonyms  w4 " in text
    assert "     antonyms  w9 " in text


def test_show_reads_a_dictionary_without_a_run(built: tuple[Path, Path]) -> None:
    run, _ = built
    code, text = show(str(run / "senses"), "w3", "--json")
    assert code == 0
    data = json.loads(text)
    of_run = json.loads(show(str(run), "w3", "--json")[1])
    assert [sense["row"] for sense in data["senses"]] == [sense["row"] for sense in of_run["senses"]]
    assert data["senses"][0]["synonyms"] == []
    assert of_run["senses"][0]["synonyms"][0][0] == "w4"
    assert {"support", "share", "contexts", "neighbours", "flags"} <= set(data["senses"][0])


def test_show_refuses(built: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = built
    with flipped(run / "senses"):
        assert show(str(run), "w3", "--verify")[0] == 2
    for arguments, said in (
        (("a", "b", "c"), "3 arguments"),
        ((str(tmp_path), "w3"), "no run at"),
        ((str(run), "zebra"), "zebra"),
    ):
        code, text = show(*arguments)
        assert code == 2
        assert said in text
