"""Losses: tensors in, `LossTerm(sum, count)` out; they know no model and no configuration."""

from sensekd.losses.chunked import ChunkedTerms, Head, chunked_terms
from sensekd.losses.confidence import Confidence, confidence_of_logits, confidence_of_states, confidence_of_top
from sensekd.losses.divergence import Divergence, Objective, divergence, kl_divergence
from sensekd.losses.terms import IGNORE, LossTerm, Push, cross_entropy, divisor, hidden_mse, sense_pull, sense_push
from sensekd.losses.top import TopTeacher, top_divergence

__all__ = [
    "IGNORE",
    "ChunkedTerms",
    "Confidence",
    "Divergence",
    "Head",
    "LossTerm",
    "Objective",
    "Push",
    "TopTeacher",
    "chunked_terms",
    "confidence_of_logits",
    "confidence_of_states",
    "confidence_of_top",
    "cross_entropy",
    "divergence",
    "divisor",
    "hidden_mse",
    "kl_divergence",
    "sense_pull",
    "sense_push",
    "top_divergence",
]
