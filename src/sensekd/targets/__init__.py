"""Which sense rows every position is pulled to and pushed from."""

from sensekd.targets.records import Kept, Ragged, SenseTargets
from sensekd.targets.selection import nearest, select, squared_distances, targets_of
from sensekd.targets.spans import compose_spans
from sensekd.targets.table import SenseTable, build_table, whole_words

__all__ = [
    "Kept",
    "Ragged",
    "SenseTable",
    "SenseTargets",
    "build_table",
    "compose_spans",
    "nearest",
    "select",
    "squared_distances",
    "targets_of",
    "whole_words",
]
