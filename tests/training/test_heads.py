"""The output embedding's record gives the model's own logits, or the family is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_world import FAMILIES, SHAPE, tiny
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from sensekd.config import LossConfig
from sensekd.errors import InputError
from sensekd.training.heads import SMALL_VOCABULARY, describe, find_head, plan_heads, withhold_inputs
from sensekd.training.trunk import capture_inputs

# (scale, soft cap) that each family's modelling code applies.
EXPECTED: dict[str, tuple[float, float | None]] = dict.fromkeys(FAMILIES, (1.0, None)) | {
    "gemma2": (1.0, 30.0),
    "granite": (1 / 5.0, None),
}
MORE: dict[str, dict[str, Any]] = {"granite": {"logits_scaling": 5.0}}


def others() -> dict[str, tuple[nn.Module, tuple[float, float | None]]]:
    torch.manual_seed(0)
    plain = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    return {
        "cohere": (CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25)), (0.25, None)),
        "hyperclova": (HyperCLOVAXForCausalLM(HyperCLOVAXConfig(**SHAPE, logits_scaling=0.3)), (0.3, None)),
        "phi, with a bias": (PhiForCausalLM(PhiConfig(**SHAPE)), (1.0, None)),
        "gpt2": (GPT2LMHeadModel(GPT2Config(**plain)), (1.0, None)),
    }


def own_logits(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The state that enters the output embedding, and the model's logits; both by the model's own forward."""
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad(), capture_inputs(model.get_output_embeddings()) as last:  # type: ignore[operator]
        logits = model(ids, use_cache=False).logits
    return last[0], logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, dtype: torch.dtype) -> None:
    model = tiny(family, **MORE.get(family, {})).to(dtype)
    head = find_head(model)
    assert (head.scale, head.softcap) == EXPECTED[family]
    states, logits = own_logits(model)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(head.logits(states), logits.float(), **tolerance)
    assert head.weight is model.get_output_embeddings().weight


def test_more_families() -> None:
    for name, (model, expected) in others().items():
        head = find_head(model.eval())  # type: ignore[arg-type]
        assert (head.scale, head.softcap) == expected, name
        assert (head.bias is not None) == (name == "phi, with a bias")
        states, logits = own_logits(model)
        torch.testing.assert_close(head.logits(states), logits, rtol=1e-5, atol=1e-5)


class Shifted(LlamaForCausalLM):  # type: ignore[misc]
    """Makes its logits in a way that no configuration names."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits.sinh()
        return out


def test_an_unknown_way_is_refused_by_name() -> None:
    model = Shifted(tiny().config).eval()
    with pytest.raises(InputError, match="Shifted makes logits of its output embedding's scores"):
        find_head(model)
    assert plan_heads(model, None, LossConfig(chunked="off"))[0] is None
    with pytest.raises(InputError, match="Shifted"):
        plan_heads(model, None, LossConfig(chunked="on"))


def test_another_kind_of_output_embedding_is_refused() -> None:
    class Quantised(nn.Linear):
        pass

    model = tiny()
    model.lm_head = Quantised(16, 64)
    with pytest.raises(InputError, match="is a Quantised"):
        find_head(model)


def test_auto_takes_chunks_where_the_vocabulary_is_large_and_the_way_known() -> None:
    small, large = tiny(), tiny(vocab_size=SMALL_VOCABULARY)
    assert plan_heads(small, small, LossConfig()) == (None, "whole logits: a vocabulary of 64 is small")
    heads, reason = plan_heads(large, large, LossConfig())
    assert heads is not None
    assert heads.teacher is not None
    assert reason == "in chunks; logits are the scores themselves"
    assert plan_heads(large, None, LossConfig())[0].teacher is None  # type: ignore[union-attr]
    assert plan_heads(large, large, LossConfig(chunked="off")) == (None, "whole logits: the recipe asks for them")
    padded = plan_heads(large, tiny(vocab_size=SMALL_VOCABULARY + 8), LossConfig(), SMALL_VOCABULARY)[0]
    assert padded is not None
    assert padded.teacher is not None
    assert len(padded.student.weight) == len(padded.teacher.weight) == SMALL_VOCABULARY
    assert padded.student.weight is large.get_output_embeddings().weight
    strange = Shifted(large.config).eval()
    heads, reason = plan_heads(strange, large, LossConfig())
    assert heads is None
    assert "Shifted makes logits" in reason
    assert describe(find_head(tiny("gemma2"))) == "soft-capped at 30"


def test_withheld_states_are_the_model_s_and_cost_no_logits() -> None:
    model = tiny("gemma2")
    ids = torch.arange(20).reshape(2, 10)
    with withhold_inputs(model.get_output_embeddings()) as last:
        logits = model(ids, use_cache=False).logits
    assert logits.shape == (2, 0, 64)
    assert torch.equal(last[0], own_logits(model)[0])
    assert model(ids, use_cache=False).logits.shape == (2, 10, 64)
