"""Whatever a file holds, a reader reads it or refuses it with one clear error."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import RECIPE, SOURCES, Source, places, put, spoilt

from sensekd.config import Recipe, recipe_from_tree
from sensekd.errors import InputError
from tally import Tally

RELAXED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


def survives(source: Source, folder: Path, content: bytes) -> bool:
    """Whether the reader took the file; whatever else than an `InputError` it raises fails the test."""
    path = folder / source.name
    path.write_bytes(content)
    try:
        source.read(path)
    except InputError:
        return False
    return True


def many(source: Source, folder: Path, cases: int, seed: int, told: Tally) -> None:
    generator, taken = random.Random(seed), 0
    for number in range(cases):
        content = spoilt(source.good, generator)
        told.add("fuzz", "inputs")
        try:
            taken += survives(source, folder, content)
        except Exception as error:
            raise AssertionError(f"input {number} of seed {seed}: {content!r}") from error
    told(f"{cases} inputs, {taken} read, {cases - taken} refused")


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a million files need not go by a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", list(SOURCES))
def test_the_good_input_is_read(tmp_path: Path, name: str) -> None:
    assert survives(SOURCES[name], tmp_path, SOURCES[name].good)


@pytest.mark.parametrize("name", list(SOURCES))
def test_spoilt_inputs(quick: Path, name: str, told: Tally) -> None:
    many(SOURCES[name], quick, SOURCES[name].short, 1, told)


@pytest.mark.long
@pytest.mark.parametrize("name", list(SOURCES))
def test_spoilt_inputs_at_length(quick: Path, name: str, told: Tally) -> None:
    many(SOURCES[name], quick, SOURCES[name].thousands * 1000, 2, told)


BYTES = st.binary(max_size=60)


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.guided])
@settings(max_examples=10, **RELAXED)  # type: ignore[arg-type]
@given(content=BYTES)
def test_any_bytes(quick: Path, told: Tally, name: str, content: bytes) -> None:
    told.add("fuzz", "inputs")
    survives(SOURCES[name], quick, content)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["${SENSEKD_DATA}/x", "${HOME}", "../../x", "/etc", "auto", 10**400, -(10**9), "1" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


PLACES = st.sampled_from(places(RECIPE))
MORE = st.lists(st.tuples(st.sampled_from(list(RECIPE)), VALUES), max_size=1)


def checked(tree: Any, more: list[tuple[str, Any]], told: Tally) -> None:
    told.add("fuzz", "inputs")
    try:
        found = recipe_from_tree(tree, "r", [f"{key}.x={value!r}" for key, value in more], kind=Recipe)
    except InputError:
        return
    json.dumps(found.model_dump(mode="json", by_alias=True))


@settings(max_examples=100, **RELAXED)  # type: ignore[arg-type]
@given(place=PLACES, value=VALUES, more=MORE)
def test_any_value_anywhere_in_a_recipe(
    told: Tally, place: tuple[Any, ...], value: Any, more: list[tuple[str, Any]]
) -> None:
    checked(put(RECIPE, place, value), more, told)


@pytest.mark.long
@settings(max_examples=8_000, **RELAXED)  # type: ignore[arg-type]
@given(place=PLACES, value=VALUES, more=MORE)
def test_any_value_anywhere_in_a_recipe_at_length(
    told: Tally, place: tuple[Any, ...], value: Any, more: list[tuple[str, Any]]
) -> None:
    checked(put(RECIPE, place, value), more, told)


def test_yaml_that_names_python_objects_makes_none(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for text in (f"!!python/object/apply:pathlib.Path.touch [{made}]", f"!!python/object/apply:os.mkdir [{made}]"):
        (tmp_path / "recipe.yaml").write_text(f"name: {text}\n")
        assert not survives(SOURCES["recipe"], tmp_path, (tmp_path / "recipe.yaml").read_bytes())
        assert not made.exists()


def test_yaml_that_unfolds_without_end_is_refused_in_time(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    tree = yaml.safe_dump(RECIPE)
    assert not survives(SOURCES["recipe"], tmp_path, ("\n".join(levels) + "\n" + tree).encode())


# What fuzzing has found: file name, content, kind of reader in `SOURCES`.
FOUND = [
    ("a quotation mark that nothing closes", "mmlu", b'"' + b"q,a\n" * 50_000),
    ("the same, of the authors' file", "original mmlu", b'"' + b"q,a\n" * 50_000),
    ("an index of more digits than Python reads", "coarse", b"9" * 5000 + b"\tthe bank of\n0\tbank it\n"),
    ("no UTF-8 in a sentence", "coarse", b"1\tthe \xbebank of\n0\tbank it\n"),
    ("no UTF-8 in a sentence, evaluated", "evaluated coarse", b"1\tthe \xbebank of\n0\tbank it\n"),
    ("an index of too many digits, evaluated", "evaluated coarse", b"9" * 5000 + b"\tthe bank\n0\tbank it\n"),
    ("no UTF-8 in a label", "coarse labels", b"0\n\xff\n"),
    ("no UTF-8 in a pair", "similarity", SOURCES["similarity"].good + b"\xff\ta\tA\t1\n"),
    ("a rating that is no number", "similarity", SOURCES["similarity"].good + b"a\tb\tA\tnan\n"),
    ("a word before the first of its synset", "wndb", SOURCES["wndb"].good.replace(b"0101 |", b"01-101 |", 1)),
    ("an archive of a version to come", "workbook", SOURCES["workbook"].good.replace(b"\x14\x03\x14", b"\x14\x03K")),
    ("results without end", "results", b'{"arms": ' + b"[" * 100_000),
]


@pytest.mark.parametrize(("name", "content"), [pytest.param(*case[1:], id=case[0]) for case in FOUND])
def test_what_fuzzing_found_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    assert not survives(SOURCES[name], tmp_path, content)


def test_a_parquet_file_damaged_inside_is_refused(tmp_path: Path) -> None:
    """Where its footer is whole, pyarrow says what is wrong with an `OSError` of no number."""
    good = SOURCES["parquet"].good
    refused = 0
    for at in range(4, 64, 3):
        refused += not survives(SOURCES["parquet"], tmp_path, good[:at] + b"\xff\xff" + good[at + 2 :])
    assert refused > 5


@pytest.mark.long
def test_coverage_guided(quick: Path, tmp_path: Path, told: Tally) -> None:
    """A process of its own: atheris takes it over."""
    pytest.importorskip("atheris", reason="atheris is not installed: the readers are fuzzed without coverage")
    script, asked = Path(__file__).with_name("guided.py"), 8_000
    command = [
        sys.executable,
        str(script),
        str(quick),
        f"-artifact_prefix={tmp_path}/",
        f"-runs={asked}",
        "-timeout=120",
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]
    done = re.search(r"^Done (\d+) runs", ended.stderr, re.MULTILINE)
    edges = [int(found) for found in re.findall(r"\bcov: (\d+)", ended.stderr)]
    assert done is not None
    assert edges[-1] > edges[0], "it is guided"
    told.add("fuzz", "inputs", int(done[1]))
    told(f"{done[1]} inputs, guided by coverage: {edges[0]} edges with the good inputs, {edges[-1]} in the end")
