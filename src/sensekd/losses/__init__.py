"""Losses: tensors in, `LossTerm(sum, count)` out; they know no model and no configuration."""

from sensekd.losses.chunked import ChunkedTerms, Head, chunked_terms
from sensekd.losses.divergence import Divergence, Objective, divergence, kl_divergence
from sensekd.losses.terms import IGNORE, LossTerm, cross_entropy, hidden_mse, sense_pull, sense_push
from sensekd.losses.top import TopTeacher, top_divergence

__all__ = [
    "IGNORE",
    "ChunkedTerms",
    "Divergence",
    "Head",
    "LossTerm",
    "Objective",
    "TopTeacher",
    "chunked_terms",
    "cross_entropy",
    "divergence",
    "hidden_mse",
    "kl_divergence",
    "sense_pull",
    "sense_push",
    "top_divergence",
]
