"""Original files become the rows that lm-eval's tasks read; what is malformed is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from paper_world import SUBJECTS, World

from sensekd.errors import InputError
from sensekd.evaluation.originals import read_originals


def test_every_format(tmp_path: Path) -> None:
    world = World(tmp_path)
    found = read_originals(tmp_path)
    subjects = {f"mmlu_{subject}" for subject in SUBJECTS}
    assert set(found) == {"arc_challenge", "arc_easy", "commonsense_qa", "piqa", "squad_v2"} | subjects
    row, raw = found["arc_challenge"].splits["test"][1], world.arc[1]
    assert row["choices"]["label"] == ["1", "2", "3", "4"]
    assert row["answerKey"] == raw["answerKey"]
    assert row["choices"]["text"] == [choice["text"] for choice in raw["question"]["choices"]]
    assert row["question"] == raw["question"]["stem"]
    assert [row["label"] for row in found["piqa"].splits["validation"]] == world.piqa_labels
    anatomy = found["mmlu_anatomy"]
    raw_mmlu = world.mmlu["anatomy"]["test"][2]
    assert anatomy.splits["test"][2] == {
        "question": raw_mmlu[0], "subject": "anatomy", "choices": raw_mmlu[1:5], "answer": "ABCD".index(raw_mmlu[5]),
    }  # fmt: skip
    assert len(anatomy.splits["dev"]) == 5
    squad = found["squad_v2"].splits["validation"]
    assert [row["id"] for row in squad][:3] == ["Birds00", "Birds01", "Birds10"]
    assert squad[0]["answers"]["text"] == []
    assert squad[1]["answers"]["text"] == [
        answer["text"] for answer in world.squad[0]["paragraphs"][0]["qas"][1]["answers"]
    ]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("arc/ARC-Easy/ARC-Easy-Test.jsonl", "{no json", r"ARC-Easy-Test.jsonl:1: "),
        ("arc/ARC-Easy/ARC-Easy-Test.jsonl", "\n\n", r"no question"),
        ("arc/ARC-Easy/ARC-Easy-Test.jsonl",
         '{"id": "x", "question": {"stem": "s", "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}]},'
         ' "answerKey": "C"}', r"the answer is 'C', the labels are \['A', 'B'\]"),
        ("arc/ARC-Easy/ARC-Easy-Test.jsonl", '{"id": "x", "question": {"stem": "s"}, "answerKey": "C"}', "no key"),
        ("csqa/dev_rand_split.jsonl",
         '{"id": "x", "question": {"stem": "s", "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}]},'
         ' "answerKey": "B"}', r"dev_rand_split.jsonl:1: the labels are \['A', 'B'\]"),
        ("piqa/valid-labels.lst", "0\n1\n", r"2 labels .* for 8 questions"),
        ("piqa/valid-labels.lst", "2\n" * 8, r"8 labels \(\['2'\]\)"),
        ("mmlu/test/anatomy_test.csv", "q,a,b,c,d\n", r"row 1: 5 columns"),
        ("mmlu/test/anatomy_test.csv", "q,a,b,c,d,E\n", r"row 1: 6 columns, the last \['E'\]"),
        ("mmlu/test/anatomy_test.csv", 'q,a,b,c,d,A\n"an open quote,a,b,c,d,B\nq,a,b,c,d,C\n', r"row 2: unexp"),
        ("mmlu/dev/virology_dev.csv", "", r"virology_dev.csv: no question"),
        ("squad2/dev-v2.0.json", '{"data": [{"title": "T", "paragraphs": [{"context": "c"}]}]}', r"question 1: KeyErr"),
        ("squad2/dev-v2.0.json", '{"data": []}', r"no question"),
    ],
)  # fmt: skip
def test_malformed_files_are_named(tmp_path: Path, name: str, content: str, match: str) -> None:
    World(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=match):
        read_originals(tmp_path)


def test_folders_that_do_not_serve(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        read_originals(tmp_path / "absent")
    with pytest.raises(InputError, match="no benchmark under"):
        read_originals(tmp_path)
    World(tmp_path)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "dev-v2.0.json").write_text(json.dumps({"data": []}))
    with pytest.raises(InputError, match=r"dev-v2\.0\.json 2 times"):
        read_originals(tmp_path)
    (tmp_path / "copy" / "dev-v2.0.json").rename(tmp_path / "copy" / "anatomy_test.csv")
    with pytest.raises(InputError, match=r"anatomy_test\.csv 2 times: copy"):
        read_originals(tmp_path)
    (tmp_path / "copy" / "anatomy_test.csv").unlink()
    (tmp_path / "mmlu" / "dev" / "virology_dev.csv").unlink()
    with pytest.raises(InputError, match=r"no virology_dev\.csv"):
        read_originals(tmp_path)
    World(tmp_path / "latin")
    (tmp_path / "latin" / "mmlu" / "test" / "anatomy_test.csv").write_bytes(b"caf\xe9,a,b,c,d,A\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_originals(tmp_path / "latin")


def test_a_byte_order_mark_and_a_folder_of_the_name_of_a_file_are_no_part_of_the_data(tmp_path: Path) -> None:
    world = World(tmp_path)
    path = tmp_path / "mmlu" / "test" / "anatomy_test.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (tmp_path / "again" / "dev-v2.0.json").mkdir(parents=True)
    found = read_originals(tmp_path)
    assert found["mmlu_anatomy"].splits["test"][0]["question"] == world.mmlu["anatomy"]["test"][0][0]
    assert found["squad_v2"].files == (tmp_path / "squad2" / "dev-v2.0.json",)
