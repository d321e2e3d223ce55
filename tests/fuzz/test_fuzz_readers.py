"""Whatever a file holds, a reader reads it or refuses it with one clear error."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import RECIPE, SOURCES, Source, places, put, spoilt

from sensekd.config import Recipe, recipe_from_tree
from sensekd.errors import InputError

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


def many(source: Source, folder: Path, cases: int, seed: int) -> str:
    generator, taken = random.Random(seed), 0
    for number in range(cases):
        content = spoilt(source.good, generator)
        try:
            taken += survives(source, folder, content)
        except Exception as error:
            raise AssertionError(f"input {number} of seed {seed}: {content!r}") from error
    return f"{cases} inputs, {taken} read, {cases - taken} refused"


@pytest.mark.parametrize("name", list(SOURCES))
def test_the_good_input_is_read(tmp_path: Path, name: str) -> None:
    assert survives(SOURCES[name], tmp_path, SOURCES[name].good)


@pytest.mark.parametrize("name", list(SOURCES))
def test_spoilt_inputs(tmp_path: Path, name: str, told: Callable[[str], None]) -> None:
    told(many(SOURCES[name], tmp_path, 150 if SOURCES[name].fast else 12, 1))


@pytest.mark.long
@pytest.mark.parametrize("name", list(SOURCES))
def test_spoilt_inputs_at_length(tmp_path: Path, name: str, told: Callable[[str], None]) -> None:
    told(many(SOURCES[name], tmp_path, 60_000 if SOURCES[name].fast else 4_000, 2))


BYTES = st.binary(max_size=60)


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.fast])
@settings(max_examples=10, **RELAXED)  # type: ignore[arg-type]
@given(content=BYTES)
def test_any_bytes(tmp_path: Path, name: str, content: bytes) -> None:
    survives(SOURCES[name], tmp_path, content)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["${SENSEKD_DATA}/x", "${HOME}", "../../x", "/etc", "auto", 10**400, -(10**9), "1" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def checked(tree: Any, overrides: list[str]) -> None:
    try:
        found = recipe_from_tree(tree, "r", overrides, kind=Recipe)
    except InputError:
        return
    json.dumps(found.model_dump(mode="json", by_alias=True))


@settings(max_examples=120, **RELAXED)  # type: ignore[arg-type]
@given(st.sampled_from(places(RECIPE)), VALUES, st.lists(st.tuples(st.sampled_from(list(RECIPE)), VALUES), max_size=1))
def test_any_value_anywhere_in_a_recipe(place: tuple[Any, ...], value: Any, more: list[tuple[str, Any]]) -> None:
    checked(put(RECIPE, place, value), [f"{key}.x={value!r}" for key, value in more])


@pytest.mark.long
@settings(max_examples=20_000, **RELAXED)  # type: ignore[arg-type]
@given(st.sampled_from(places(RECIPE)), VALUES, st.lists(st.tuples(st.sampled_from(list(RECIPE)), VALUES), max_size=1))
def test_any_value_anywhere_in_a_recipe_at_length(
    place: tuple[Any, ...], value: Any, more: list[tuple[str, Any]]
) -> None:
    checked(put(RECIPE, place, value), [f"{key}.x={value!r}" for key, value in more])


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


atheris_missing = "atheris is not installed: the readers are fuzzed without coverage"


@pytest.mark.long
def test_coverage_guided(tmp_path: Path, told: Callable[[str], None]) -> None:
    """A process of its own: atheris takes it over."""
    import subprocess
    import sys

    pytest.importorskip("atheris", reason=atheris_missing)
    script = Path(__file__).with_name("guided.py")
    ended = subprocess.run([sys.executable, str(script), "-runs=200000", str(tmp_path)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]
    told("200000 inputs, guided by coverage")
