from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sensekd.config import CorpusConfig
from sensekd.corpus import TokenDocuments, documents, tokenise
from sensekd.errors import InputError

TEXTS = ["one two three", "two", "three one", "two"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({"</s>": 0, "one": 1, "two": 2, "three": 3, "<unk>": 4}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


def jsonl(folder: Path, rows: list[object]) -> CorpusConfig:
    path = folder / "c.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return CorpusConfig(path=str(path))


@pytest.mark.parametrize("separator", [None, "<|end|>"])
def test_text(tmp_path: Path, separator: str | None) -> None:
    path = tmp_path / "c.txt"
    path.write_text((separator or "\n").join([" one two three ", "", "two", "three one", "two"]))
    config = CorpusConfig(path=str(path), format="text", separator=separator)
    assert list(documents(config)) == TEXTS
    limited = config.model_copy(update={"skip_documents": 1, "max_documents": 2})
    assert list(documents(limited)) == TEXTS[1:3]


def test_a_separator_across_the_reading_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensekd.corpus._CHUNK", 3)
    path = tmp_path / "c.txt"
    path.write_text("<|end|>".join(TEXTS))
    assert list(documents(CorpusConfig(path=str(path), format="text", separator="<|end|>"))) == TEXTS


def test_jsonl_and_parquet(tmp_path: Path) -> None:
    config = jsonl(tmp_path, [{"text": text} for text in TEXTS])
    assert list(documents(config)) == TEXTS
    import polars

    path = tmp_path / "c.parquet"
    polars.DataFrame({"body": TEXTS}).write_parquet(path)
    assert list(documents(CorpusConfig(path=str(path), format="parquet", field="body"))) == TEXTS


def test_a_subset_of_a_dataset(tmp_path: Path) -> None:
    """A dataset of two subsets with its card, in a folder as the hub would serve it."""
    folder = tmp_path / "wiki"
    for number, subset in enumerate(("20231101.en", "20231101.de")):
        (folder / subset).mkdir(parents=True)
        (folder / subset / "train.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS[number:]))
    listed = "".join(
        f"- config_name: {name}\n  data_files: {name}/train.jsonl\n" for name in ("20231101.en", "20231101.de")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    config = CorpusConfig(path=str(folder), format="hub", subset="20231101.de")
    assert list(documents(config)) == TEXTS[1:]
    with pytest.raises(InputError, match="cannot be loaded"):
        list(documents(config.model_copy(update={"subset": "20231101.fr"})))


def test_tokens_on_disk(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    found = tokenise(jsonl(tmp_path, [{"text": text} for text in TEXTS]), tokenizer, tmp_path / "tokens")
    assert [found.document(index).tolist() for index in range(len(found))] == [[1, 2, 3, 0], [2, 0], [3, 1, 0], [2, 0]]
    assert found.hashes[1] == found.hashes[3] != found.hashes[0]
    assert isinstance(found.tokens, np.memmap)
    assert found.manifest.facts == {"documents": 4, "tokens": 11}
    again = tokenise(jsonl(tmp_path, [{"text": text} for text in TEXTS]), tokenizer, tmp_path / "again")
    assert again.manifest.id == found.manifest.id


def test_a_token_limit_cuts_the_last_document(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = jsonl(tmp_path, [{"text": text} for text in TEXTS]).model_copy(update={"max_tokens": 5})
    assert tokenise(config, tokenizer, tmp_path / "tokens").tokens.tolist() == [1, 2, 3, 0, 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "no document left"), ([{"text": " "}], "no document left"), ([{"body": "x"}], "no text under 'text'")],
)
def test_refusals_leave_nothing(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, rows: list[object], message: str
) -> None:
    config = jsonl(tmp_path, rows)
    with pytest.raises(InputError, match=message):
        tokenise(config, tokenizer, tmp_path / "tokens")
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_malformed_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "cut')
    with pytest.raises(InputError, match=r"c\.jsonl cannot be read as jsonl"):
        list(documents(CorpusConfig(path=str(path))))


def test_missing_and_badly_encoded_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no corpus at"):
        list(documents(CorpusConfig(path=str(tmp_path / "none"))))
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        list(documents(CorpusConfig(path=str(tmp_path / "latin.txt"), format="text")))


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokens artefact"):
        TokenDocuments.open(tmp_path)
