"""Lexical relations: which words mean the same, and which the opposite."""

from sensekd.lexicon.build import build_lexicon, lexicon_identity, lexicon_settings
from sensekd.lexicon.merging import merge
from sensekd.lexicon.relations import ANTONYM, HYPERNYM, SYNONYM, Lexicon, relation_frame
from sensekd.lexicon.withholding import withheld_pairs

__all__ = [
    "ANTONYM",
    "HYPERNYM",
    "SYNONYM",
    "Lexicon",
    "build_lexicon",
    "lexicon_identity",
    "lexicon_settings",
    "merge",
    "relation_frame",
    "withheld_pairs",
]
