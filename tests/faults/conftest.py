"""The tiny run of tests/pipeline and the small worlds of other folders serve these tests too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from commands import Nursery, nursery


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Where commands are forked; loading the libraries costs seconds, so there is one for all tests."""
    with nursery(tmp_path_factory.mktemp("nursery")) as found:
        yield found
