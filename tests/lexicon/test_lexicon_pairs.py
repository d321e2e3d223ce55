from __future__ import annotations

from pathlib import Path

import pytest

from sensekd.errors import InputError
from sensekd.lexicon import ANTONYM, SYNONYM
from sensekd.lexicon.pairs import read_pairs


def write(folder: Path, text: str) -> Path:
    path = folder / "pairs.txt"
    path.write_bytes(text.encode())
    return path


def test_two_columns(tmp_path: Path) -> None:
    frame = read_pairs(write(tmp_path, "big\tlarge\n\nhot dog\tsausage\r\n"), SYNONYM, language="de")
    assert frame.select("head", "tail").rows() == [("big", "large"), ("hot dog", "sausage")]
    assert frame.select("relation", "language", "source", "weight").unique().rows() == [
        (SYNONYM, "de", "pairs.txt", 1.0)
    ]


def test_spaces_as_delimiter_may_end_a_line(tmp_path: Path) -> None:
    frame = read_pairs(write(tmp_path, "males females \nold new\n"), ANTONYM, delimiter=" ")
    assert frame.select("head", "tail").rows() == [("males", "females"), ("old", "new")]


def test_the_third_column_chooses_the_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "big\tlarge\t0\nbig\tsmall\t1\n")
    assert read_pairs(path, ANTONYM, label="1")["tail"].to_list() == ["small"]
    assert read_pairs(path, SYNONYM, label="0")["tail"].to_list() == ["large"]


@pytest.mark.parametrize(
    ("text", "label"),
    [("a\tb\nbig large\n", None), ("a\tb\nc\td\t1\n", None), ("a\tb\nc\t\n", None), ("a\tb\t1\nc\td\n", "1")],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, label: str | None) -> None:
    with pytest.raises(InputError, match=r"pairs\.txt:2: ") as caught:
        read_pairs(write(tmp_path, text), SYNONYM, label=label)
    assert caught.value.hint is not None


def test_no_file_no_text_no_delimiter(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pair file"):
        read_pairs(tmp_path / "absent", SYNONYM)
    (tmp_path / "binary").write_bytes(b"a\tb\n\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_pairs(tmp_path / "binary", SYNONYM)
    with pytest.raises(InputError, match="delimiter is empty"):
        read_pairs(write(tmp_path, "a\tb\n"), SYNONYM, delimiter="")
