"""Records and shares of corpora: formats, masks, and choices that depend on nothing but what a document says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_world import CHATML, byte_tokenizer, runs, write_jsonl
from pydantic import ValidationError

from sensekd.config import CorpusConfig
from sensekd.corpus import TokenDocuments, tokenise
from sensekd.errors import InputError
from sensekd.training.mixture import choose, prompts, tokenise_corpus
from sensekd.training.questions import READERS
from sensekd.training.records import Exchange, Text, read_records

ARC = {
    "id": "1",
    "question": {"stem": "Which?", "choices": [{"text": "one", "label": "1"}, {"text": "two ", "label": "2"}]},
    "answerKey": "2",
}


def texts(folder: Path, count: int = 400, name: str = "texts.jsonl") -> CorpusConfig:
    return CorpusConfig(path=str(write_jsonl(folder / name, [{"text": f"text {n}"} for n in range(count)])))


def said(documents: TokenDocuments) -> list[str]:
    tokenizer = byte_tokenizer()
    return [tokenizer.decode(documents.document(d), skip_special_tokens=True) for d in range(len(documents))]


# ---- prompts and completions


def test_a_completion_is_masked_from_its_first_token(tmp_path: Path) -> None:
    rows = [{"prompt": "Q: ü?\nA:", "completion": " yes"}, {"prompt": "x", "completion": "yz"}]
    config = CorpusConfig(path=str(write_jsonl(tmp_path / "p.jsonl", rows)), records="completion")
    tokenizer = byte_tokenizer()
    documents = tokenise_corpus(config, tokenizer, tmp_path / "tokens")
    assert documents.supervised is not None
    assert runs(tokenizer, documents.tokens, documents.supervised) == [" yes</s>", "yz</s>"]
    assert tokenizer.decode(documents.document(0)) == "<s>Q: ü?\nA: yes</s>"
    assert list(prompts(config, tokenizer)) == [
        list(tokenizer("Q: ü?\nA:")["input_ids"]),
        [1, *tokenizer("x")["input_ids"][1:]],
    ]
    again = TokenDocuments.open(tmp_path / "tokens")
    assert np.array_equal(again.supervised, documents.supervised)


def test_a_prompt_in_the_chat_template(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "Q", "completion": " A"}])
    tokenizer = byte_tokenizer(CHATML)
    config = CorpusConfig(path=str(path), records="completion", chat=True)
    documents = tokenise_corpus(config, tokenizer, tmp_path / "tokens")
    assert runs(tokenizer, documents.tokens, documents.supervised) == ["A<|im_end|>"]
    assert (
        tokenizer.decode(next(prompts(config, tokenizer))) == "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    )


def test_conversations_of_a_file(tmp_path: Path) -> None:
    rows = [
        {"talk": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]} for n in range(3)
    ]
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    template = tmp_path / "chat.jinja"
    template.write_text(CHATML)
    tokenizer = byte_tokenizer()
    config = CorpusConfig(
        path=str(path),
        records="messages",
        messages_field="talk",
        template=str(template),
        skip_documents=1,
        max_documents=1,
    )
    documents = tokenise_corpus(config, tokenizer, tmp_path / "tokens")
    assert runs(tokenizer, documents.tokens, documents.supervised) == ["a1<|im_end|>"]


@pytest.mark.parametrize(
    ("rows", "records", "message"),
    [
        ([{"prompt": 3, "completion": "x"}], "completion", "no text under 'prompt'"),
        ([{"prompt": "x"}], "completion", "no text under 'completion'"),
        ([{"messages": [{"role": "user"}]}], "messages", "no conversation under 'messages'"),
        ([{"messages": []}], "messages", "no conversation under 'messages'"),
        ([{"question": {"stem": "x", "choices": []}, "answerKey": "A"}], "arc", "line 1 is no such question"),
        ([{k: v for k, v in ARC.items() if k != "answerKey"}], "csqa", "no answer to the prompt"),
        ([{"goal": "x", "sol1": "y"}], "piqa", "line 1 is no such question"),
        ([{"data": 3}], "squad", "is not SQuAD v2"),
        ([{"data": 3}], "mmlu", "row 1 has 1 columns"),
    ],
)
def test_bad_records_are_refused(rows: list[Any], records: Any, message: str, tmp_path: Path) -> None:
    config = CorpusConfig(path=str(write_jsonl(tmp_path / "bad.jsonl", rows)), records=records)
    with pytest.raises(InputError, match=message) as caught:
        tokenise_corpus(config, byte_tokenizer(CHATML), tmp_path / "tokens")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "tokens").exists()


# ---- question sets


def test_labels_of_choices_become_letters(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "arc.jsonl", [ARC])
    assert list(READERS["arc"](str(path))) == [("Question: Which?\nA. one\nB. two\nAnswer:", " B")]


def test_piqa_with_and_without_answers(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "dev.jsonl", [{"goal": "g", "sol1": "s", "sol2": "t"}] * 2)
    assert [answer for _, answer in READERS["piqa"](str(path))] == [None, None]
    (tmp_path / "dev-labels.lst").write_text("1\n0\n")
    assert [answer for _, answer in READERS["piqa"](str(path))] == [" B", " A"]


def test_mmlu_is_read_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b_test.csv").write_text('"two\nlines, said",1,2,3,4,D\n')
    (tmp_path / "a_test.csv").write_text("q,w,x,y,z,A\n")
    found = list(READERS["mmlu"](str(tmp_path)))
    assert found[0] == ("Question: q\nA. w\nB. x\nC. y\nD. z\nAnswer:", " A")
    assert found[1] == ("Question: two\nlines, said\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", " D")


def test_squad_takes_the_shortest_answer_or_none(tmp_path: Path) -> None:
    questions = [
        {"question": "who?", "answers": [{"text": "the old man"}, {"text": "man"}], "is_impossible": False},
        {"question": "why?", "answers": [], "is_impossible": True},
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": " C. ", "qas": questions}]}]}))
    assert list(READERS["squad"](str(path))) == [
        ("Context: C.\nQuestion: who?\nAnswer:", " man"),
        ("Context: C.\nQuestion: why?\nAnswer:", " unanswerable"),
    ]


@pytest.mark.data
def test_real_question_sets(data_dir: Path) -> None:
    sets = {
        "arc": ("arc/ARC-Challenge/ARC-Challenge-Train.jsonl", 1119),
        "csqa": ("csqa/train_rand_split.jsonl", 9741),
        "piqa": ("piqa/valid.jsonl", 1838),
        "mmlu": ("mmlu/dev", 285),
        "squad": ("squad2/dev-v2.0.json", None),
    }
    for name, (path, count) in sets.items():
        found = list(READERS[name](str(data_dir / "benchmarks" / path)))
        assert count is None or len(found) == count
        assert len(found) > 200
        assert all(prompt.endswith("Answer:") and answer and answer.startswith(" ") for prompt, answer in found)


@pytest.mark.data
@pytest.mark.parametrize("name", ["llama3", "mistral-7b-v0.1", "gpt2-base", "Qwen1.5-1.8B"])
def test_real_tokenizers_mask_the_prompt_alone(name: str, data_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data_dir / "tokenizers" / name)
    rows = [("Question: ü?\nAnswer:", " B"), ("Say it. ", "Unanswerable"), ("ab", "cd\n")]
    written = [{"prompt": prompt, "completion": completion} for prompt, completion in rows]
    config = CorpusConfig(path=str(write_jsonl(tmp_path / "p.jsonl", written)), records="completion")
    documents = tokenise_corpus(config, tokenizer, tmp_path / "tokens")
    assert documents.supervised is not None
    for number, (prompt, completion) in enumerate(rows):
        ids = documents.document(number)
        mask = documents.supervised[documents.indptr[number] : documents.indptr[number + 1]]
        asked, answer = (tokenizer.decode(ids[kept], skip_special_tokens=True) for kept in (~mask, mask))
        # A token over the border is the completion's: the prompt may lose its end to it, never the completion its own.
        assert answer.strip().endswith(completion.strip())
        assert prompt.strip().startswith(asked.strip())
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == (prompt + completion).strip()
        # What is asked of a teacher is, but for such a token, what stands before the answer.
        if number == 0:
            assert next(prompts(config, tokenizer)) == ids[~mask].tolist()


# ---- shares


def chosen(config: CorpusConfig) -> list[str]:
    return [record.text for record in choose(config) if isinstance(record, Text)]


def test_a_share_does_not_depend_on_the_order(tmp_path: Path) -> None:
    config = texts(tmp_path).model_copy(update={"fraction": 0.25})
    quarter = chosen(config)
    assert 70 < len(quarter) < 130
    rows = [{"text": f"text {n}"} for n in range(400)]
    random.Random(0).shuffle(rows)
    shuffled = config.model_copy(update={"path": str(write_jsonl(tmp_path / "shuffled.jsonl", rows))})
    assert chosen(shuffled) != quarter
    assert sorted(chosen(shuffled)) == sorted(quarter)
    half = chosen(config.model_copy(update={"fraction": 0.5}))
    assert set(quarter) < set(half)
    other = chosen(config.model_copy(update={"seed": 1}))
    # Independent quarters of 400 have about 25 in common.
    assert len(set(other) & set(quarter)) < 50


def test_a_limit_takes_the_first_of_the_same_order(tmp_path: Path) -> None:
    config = texts(tmp_path)
    few, more = (chosen(config.model_copy(update={"limit": n})) for n in (7, 30))
    assert (len(few), len(more)) == (7, 30)
    assert set(few) < set(more)
    assert set(more) < set(chosen(config.model_copy(update={"fraction": 0.5, "limit": 390})))
    assert len(chosen(config.model_copy(update={"limit": 1000}))) == 400


def test_repeats_do_not_stand_side_by_side(tmp_path: Path) -> None:
    config = texts(tmp_path, 200).model_copy(update={"repeat": 2.5})
    found = chosen(config)
    counts = [found.count(f"text {n}") for n in range(200)]
    assert set(counts) == {2, 3}
    assert 60 < counts.count(3) < 140
    assert found[:200] == [f"text {n}" for n in range(200)]


def test_a_mixture_is_its_parts_in_order(tmp_path: Path) -> None:
    one = texts(tmp_path, 40, "one.jsonl").model_copy(update={"fraction": 0.5})
    rows = [{"prompt": f"p{n}", "completion": f" c{n}"} for n in range(30)]
    two = CorpusConfig(path=str(write_jsonl(tmp_path / "two.jsonl", rows)), records="completion", limit=4)
    mixture = CorpusConfig(mixture=(one, two))
    tokenizer = byte_tokenizer()
    documents = tokenise_corpus(mixture, tokenizer, tmp_path / "tokens")
    exchanges = [r.prompt + (r.completion or "") for r in choose(two) if isinstance(r, Exchange)]
    assert said(documents) == chosen(one) + exchanges
    assert documents.supervised is not None
    boundary = int(documents.indptr[len(chosen(one))])
    assert documents.supervised[:boundary].all()
    answers = runs(tokenizer, documents.tokens[boundary:], documents.supervised[boundary:])
    assert answers == [f" {text[text.index('c') :]}</s>" for text in exchanges]
    again = tokenise_corpus(mixture, tokenizer, tmp_path / "again")
    assert again.manifest.id == documents.manifest.id


def test_max_tokens_of_a_part_keeps_whole_records(tmp_path: Path) -> None:
    rows = [{"prompt": "abcd", "completion": "e"} for _ in range(5)]
    config = CorpusConfig(path=str(write_jsonl(tmp_path / "p.jsonl", rows)), records="completion", max_tokens=16)
    documents = tokenise_corpus(config, byte_tokenizer(), tmp_path / "tokens")
    assert np.diff(documents.indptr).tolist() == [7, 7]


def test_what_is_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "abcd" * n, "completion": "e"} for n in (1, 3, 1)]
    path = str(write_jsonl(tmp_path / "p.jsonl", rows))
    config = CorpusConfig(path=path, records="completion", longest=7)
    documents = tokenise_corpus(config, byte_tokenizer(), tmp_path / "tokens")
    assert said(documents) == ["abcde", "abcde"]
    assert documents.manifest.facts["too_long"] == 1
    assert [len(ids) for ids in prompts(config, byte_tokenizer())] == [5, 5]


def test_plain_text_is_what_it_was(tmp_path: Path) -> None:
    config = texts(tmp_path, 20)
    tokenizer = byte_tokenizer()
    one, other = tokenise(config, tokenizer, tmp_path / "a"), tokenise_corpus(config, tokenizer, tmp_path / "b")
    assert one.manifest.id == other.manifest.id
    assert one.supervised is None
    # The way over records writes the same tokens.
    third = tokenise_corpus(CorpusConfig(mixture=(config,)), tokenizer, tmp_path / "c")
    assert np.array_equal(third.tokens, one.tokens)
    assert third.supervised is None


def test_an_empty_part_is_refused(tmp_path: Path) -> None:
    one = texts(tmp_path, 3).model_copy(update={"fraction": 1e-9})
    with pytest.raises(InputError, match="no document left"):
        tokenise_corpus(one, byte_tokenizer(), tmp_path / "tokens")
    with pytest.raises(InputError, match=r"the part .* has no document left"):
        tokenise_corpus(CorpusConfig(mixture=(texts(tmp_path, 3), one)), byte_tokenizer(), tmp_path / "tokens")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "either `path` or `mixture`"),
        ({"path": "a", "mixture": [{"path": "b"}]}, "either `path` or `mixture`"),
        ({"mixture": [{"mixture": [{"path": "b"}]}]}, "a mixture in a mixture"),
        ({"mixture": [{"path": "b"}], "fraction": 0.5}, "fraction: set it in the parts"),
        ({"path": "a", "respond": {}}, "needs records with a prompt"),
        ({"path": "a", "chat": True}, "needs records with a prompt"),
        ({"path": "a", "records": "arc", "format": "text"}, "cannot stand in a text file"),
        ({"path": "a", "fraction": 0}, "greater than 0"),
    ],
)
def test_impossible_corpora_are_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CorpusConfig.model_validate(tree)


def test_read_records_of_text_is_documents(tmp_path: Path) -> None:
    assert list(read_records(texts(tmp_path, 2))) == [Text("text 0"), Text("text 1")]
