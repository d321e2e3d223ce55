"""A dictionary on a line, a sample around it, models whose states are arithmetic, and an explorer full of bad text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from sensekd.provenance import TeacherIdentity
from sensekd.report.explorer import FORMAT, Source, explore
from sensekd.report.words import RULE
from sensekd.senses.dictionary import SenseDictionary

PIECES = ["<s>", "Ġbank", "bank", "Ġriver", "Ġmoney", "Ġshore", "Ġslope", "Ġthe", "ing", "Ġred", "Ġ3d"]
OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}"
EVIL = "<script>window.hit = 1</script>"


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(PIECES)}, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


def dictionary() -> SenseDictionary:
    """On a line of width 2, σ² = 2, so that one unit of the map is sqrt(4) = 2: `Ġbank` at 0 and 10, `bank` at 1, river
    at 2, money at 13, shore at 4, slope at 6, and two senses each of `ing` and red."""
    rows = {1: [0.0, 10.0], 2: [1.0], 3: [2.0], 4: [13.0], 5: [4.0], 6: [6.0], 8: [0.0, 1.0], 9: [7.0, 8.0]}
    places = [place for token in sorted(rows) for place in rows[token]]
    context = torch.full((len(places), 2, 3), -1, dtype=torch.int32)
    context[0, 0] = torch.tensor([-1, 7, 3])
    context[1, 0] = torch.tensor([7, 4, 7])
    counts = torch.tensor([len(rows.get(token, [])) for token in range(len(PIECES))])
    return SenseDictionary(
        indptr=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
        centroids=torch.tensor([[place, 0.0] for place in places]),
        support=torch.tensor([6, 2, 1, 5, 5, 5, 5, 9, 9, 3, 2], dtype=torch.int32),
        spread=torch.ones(len(places)),
        context=context,
        sigma2=2.0,
        identity=TeacherIdentity("fake", "weights", "tokenizer", 2, len(PIECES)),
        corpus="c",
        settings={"minimum_support": 2},
    )


def relations() -> Any:
    """bank ~ shore, bank ⊣ slope; slope ~ bank."""
    size = len(PIECES)

    def indptr(**counts: int) -> Tensor:
        found = torch.zeros(size, dtype=torch.int64)
        for name, count in counts.items():
            found[PIECES.index(f"Ġ{name}")] = count
        return torch.nn.functional.pad(found.cumsum(0), (1, 0))

    return SimpleNamespace(
        vocabulary=size,
        synonym_indptr=indptr(bank=1, slope=1),
        synonym_spans=torch.tensor([1, 0]),
        antonym_indptr=indptr(bank=1),
        antonym_spans=torch.tensor([2]),
        span_indptr=torch.tensor([0, 1, 2, 3]),
        span_pieces=torch.tensor([1, 5, 6]),
    )


class FakeSample:
    """Four states of bank: at -2, 2 and 8, 12; every context ends in another token."""

    def of(self, token: int) -> tuple[Tensor, Tensor] | None:
        if token != 1:
            return None
        states = torch.tensor([[-2.0, 0.0], [8.0, 0.0], [2.0, 0.0], [12.0, 0.0]])
        contexts = torch.tensor([[-1, -1, 7], [-1, 7, 4], [7, 7, 3], [7, 3, 4]], dtype=torch.int32)
        return states, contexts


class LineModel(nn.Module):
    """Its state at a position is [shift + the number of tokens so far, 0, …], of `width` dimensions."""

    def __init__(self, shift: float, width: int = 2) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(len(PIECES), width)
        self.shift = shift

    def base_model(self, ids: Tensor, use_cache: bool = True) -> SimpleNamespace:
        states = torch.zeros(*ids.shape, self.embeddings.embedding_dim)
        states[..., 0] = self.shift + torch.arange(1, ids.shape[1] + 1)
        return SimpleNamespace(last_hidden_state=states)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings


def source(sample: bool = True) -> Source:
    found: Any = FakeSample() if sample else None
    return Source(dictionary(), tokenizer(), found, relations())


def tree(models: bool = True) -> dict[str, Any]:
    """The explorer of the fakes, with a teacher, a student 6 further right, and one of another width."""
    ran = [("teacher", lambda: LineModel(0)), ("kd", lambda: LineModel(6)), ("narrow", lambda: LineModel(0, 1))]
    return explore(source(), ["bank"], models=ran if models else ())


def hostile() -> dict[str, Any]:
    """An explorer in which every string is markup or reorders its line."""
    bad = f"{EVIL}{OVERRIDE}&amp;\N{LINE SEPARATOR}"
    points = [[0.0, 0.0, 0, f"{bad} left of it"], [1.0, 1.0, 1, bad]]
    senses = [
        {
            "n": 3, "share": 0.5, "spread": 0.1, "at": [float(at), 0.5], "contexts": [bad], "flags": {"dead": bad},
            "related": [[bad, "synonym", 1.0], [bad, "antonym", 2.0]],
        }
        for at in range(2)
    ]  # fmt: skip
    numbers = {"agrees": 1.0, "to_sense": 0.0, "to_teacher": 0.0, "contexts": 2}
    placed = [{"name": name, "points": [[0.0, 0.0, 0], [1.0, 1.0, 1]], **numbers} for name in ("teacher", bad)]
    related = [{"text": bad, "kind": kind, "at": [0.2, 0.3], "d": 1.0} for kind in ("synonym", "antonym")]
    token = {
        "text": f" {bad}", "id": 7, "spaced": True, "samples": 6, "explained": 0.9, "senses": senses, "points": points,
        "relatives": related, "placed": placed,
    }  # fmt: skip
    plain = {**token, "text": " plain", "placed": []}
    models = [{"name": name, **numbers} for name in ("teacher", bad)]
    return {
        "format": FORMAT, "units": "σ²", "sigma2": 1.0, "rule": RULE, "available": 2, "missing": [], "sample": True,
        "models": models, "left_out": [{"name": bad, "why": bad}], "length": 24, "placed_words": 2,
        "words": [{"word": bad, "tokens": [token]}, {"word": "plain", "tokens": [plain]}],
    }  # fmt: skip
