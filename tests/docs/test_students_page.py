"""The page on students: its YAML is valid, and the reasons it lists are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sensekd.config import StudentConfig, TeacherConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "students.md").read_text()
SNIPPETS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 6


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_are_valid(snippet: str) -> None:
    tree = yaml.safe_load(snippet)
    assert set(tree) <= {"student", "teacher", "training"}
    if "student" in tree:
        StudentConfig.model_validate(tree["student"])
    if "teacher" in tree:
        TeacherConfig.model_validate(tree["teacher"])


def test_every_key_is_on_the_page() -> None:
    keys = {*StudentConfig.model_fields, *TeacherConfig.model_fields} - {"model", "revision", "trust_remote_code"}
    missing = {key for key in keys if not re.search(rf"\b{key}\b", PAGE)}
    assert not missing


def test_the_reasons_are_those_of_the_code() -> None:
    folder = ROOT / "src" / "sensekd" / "training"
    source = "".join((folder / name).read_text() for name in ("trunk.py", "assembly.py"))
    for words in (
        "the student keeps one layer of its own", "gets adapters", "is trainable", "the embeddings are trainable",
        "the embeddings differ", "dropout is active in the student", "the teacher is quantised, the student is not",
        "changes inputs_embeds on the way in", "no term of the loss looks at the teacher", "the recipe turns it off",
    ):  # fmt: skip
        assert words in source, words
        assert words in PAGE, words
