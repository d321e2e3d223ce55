from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensekd.artefacts import (
    MANIFEST,
    Manifest,
    atomic_directory,
    atomic_file,
    check_made_from,
    fingerprint,
    read_manifest,
    write_manifest,
)
from sensekd.errors import InputError


class CutError(Exception):
    """Stands for a crash in the middle of a write."""


def make(folder: Path, text: str = "one") -> Manifest:
    with atomic_directory(folder) as temporary:
        (temporary / "a.txt").write_text(text)
        return write_manifest(temporary, Manifest("thing", 2, {"teacher": "x"}, {"k": 3}))


def test_a_crash_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path / "thing")

    def write() -> None:
        with atomic_directory(tmp_path / "thing") as temporary:
            (temporary / "a.txt").write_text("half")
            raise CutError

    with pytest.raises(CutError):
        write()
    assert (tmp_path / "thing" / "a.txt").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_crash_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise CutError

    with pytest.raises(CutError):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    make(tmp_path / "thing", "one")
    (tmp_path / "thing" / "stale").write_text("from before")
    make(tmp_path / "thing", "two")
    assert sorted(path.name for path in (tmp_path / "thing").iterdir()) == ["a.txt", MANIFEST]
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_the_id_follows_content_and_making_not_place(tmp_path: Path) -> None:
    one, same, other = make(tmp_path / "1"), make(tmp_path / "2"), make(tmp_path / "3", "two")
    assert one.id == same.id != other.id
    assert read_manifest(tmp_path / "1", "thing", 2, verify=True) == one


def test_fingerprints_do_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "no thing artefact"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "cannot be read"),
        (lambda folder: (folder / "a.txt").write_text("on"), "has 2 bytes"),
        (lambda folder: (folder / "a.txt").unlink(), "has None bytes"),
        (lambda folder: (folder / "a.txt").write_text("two"), "does not match its checksum"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, message: str) -> None:
    make(tmp_path / "thing")
    damage(tmp_path / "thing")  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / "thing", "thing", 2, verify=True)


def test_another_kind_or_format_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "thing")
    with pytest.raises(InputError, match=r"holds 'thing' in format 2"):
        read_manifest(tmp_path / "thing", "thing", 3)
    with pytest.raises(InputError, match=r"holds 'thing' in format 2"):
        read_manifest(tmp_path / "thing", "senses", 2)


def test_an_artefact_of_another_teacher_is_refused_naming_both(tmp_path: Path) -> None:
    manifest = make(tmp_path / "thing")
    check_made_from(manifest, {"teacher": "x"}, command="sensekd run")
    with pytest.raises(InputError) as caught:
        check_made_from(manifest, {"teacher": "y"}, command="sensekd run")
    assert "teacher x" in str(caught.value)
    assert "teacher y" in str(caught.value)
    assert "sensekd run" in str(caught.value)


def test_manifests_are_plain_json(tmp_path: Path) -> None:
    manifest = make(tmp_path / "thing")
    raw = json.loads((tmp_path / "thing" / MANIFEST).read_text())
    assert raw["id"] == manifest.id
    assert raw["files"]["a.txt"]["bytes"] == 3
