"""Senses: a teacher's states sampled over a corpus, clustered into a dictionary, read and judged."""

from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.sample import StateSample
from sensekd.senses.shards import merge_samples

# `capture` and `cluster` are modules as well as functions; they are imported from where they stand.
__all__ = ["SenseDictionary", "StateSample", "merge_samples"]
