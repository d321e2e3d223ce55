"""Capture against the bare forward of the same teacher over the same windows: time, memory, disk; one thread."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Line, cpu_seconds

if TYPE_CHECKING:
    from sensekd.config import SensesConfig
    from sensekd.corpus import TokenDocuments

COMMAND = "make bench ONLY=capture"
V, WIDTH, LAYERS, WINDOW, BATCH = 4096, 256, 6, 128, 16
DOCUMENTS, ROUNDS = 400, 3


def _teacher() -> Any:
    """A LLaMA with random weights; only its shape matters here."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=V,
        hidden_size=WIDTH,
        intermediate_size=688,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        max_position_embeddings=WINDOW,
    )
    return LlamaForCausalLM(shape).eval()


def _corpus(documents: int) -> TokenDocuments:
    """Documents of one window each, whose words are as frequent as in a text (Zipf)."""
    import numpy as np

    from sensekd.artefacts import Manifest
    from sensekd.corpus import TokenDocuments

    random = np.random.default_rng(0)
    weight = 1 / np.arange(1, V + 1)
    tokens = random.choice(V, documents * (WINDOW + 1), p=weight / weight.sum()).astype(np.uint16)
    indptr = np.arange(documents + 1) * (WINDOW + 1)
    hashes = random.integers(0, 1 << 63, documents, dtype=np.uint64)
    return TokenDocuments(Path("nowhere"), tokens, indptr, hashes, Manifest("tokens", 1, {"tokenizer": "t"}, {}))


def _settings(assignment: str, samples: int) -> SensesConfig:
    from sensekd.config import SensesConfig

    return SensesConfig.model_validate(
        {"assignment": assignment, "samples_per_token": samples, "window": WINDOW, "batch_size": BATCH}
    )


def _bare(teacher: Any, documents: TokenDocuments, assignment: str) -> None:
    """The forward over every window; with the head where the assignment asks what is predicted."""
    import torch

    ids = torch.from_numpy(documents.tokens.astype("int64")).view(-1, WINDOW + 1)[:, :WINDOW]
    run = teacher.base_model if assignment == "next" else teacher
    with torch.no_grad():
        for batch in torch.split(ids, BATCH):
            run(batch, use_cache=False)


def _captured(teacher: Any, documents: TokenDocuments, assignment: str, samples: int, folder: Path) -> None:
    from sensekd.provenance import TeacherIdentity
    from sensekd.senses.capture import CapturePlan, capture_into

    who = TeacherIdentity("random", "w", "t", WIDTH, V)
    plan = CapturePlan(work=folder / "work")
    capture_into(folder / "sample", teacher, documents, _settings(assignment, samples), who, plan=plan)


def _time_ratio(assignment: str) -> float:
    """Median over rounds of capture (to the finished artefact) / bare forward, process CPU time."""
    import statistics

    teacher, documents = _teacher(), _corpus(DOCUMENTS)
    ratios = []
    for number in range(ROUNDS + 1):
        with tempfile.TemporaryDirectory() as name:
            works = {
                "bare": lambda: _bare(teacher, documents, assignment),
                "capture": lambda folder=Path(name): _captured(teacher, documents, assignment, 20, folder),
            }
            order = ("bare", "capture") if number % 2 else ("capture", "bare")
            seconds = {which: cpu_seconds(works[which]) for which in order}
            ratios.append(seconds["capture"] / seconds["bare"])
    return statistics.median(ratios[1:])


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{key}:"))


def _disk(folder: Path) -> int:
    """Bytes that the files of a folder hold; one file of two names counts once."""
    sizes: dict[int, int] = {}
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file():
            sizes[status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


def memory_in_this_process() -> dict[str, int]:
    """Peaks of a capture in a fresh process: resident bytes above the bare forward, disk, and the states kept."""
    import torch

    from sensekd.artefacts import read_manifest

    torch.set_num_threads(1)
    teacher, documents = _teacher(), _corpus(DOCUMENTS)
    _bare(teacher, documents, "next")
    before = _status("VmHWM")
    disk, over = 0, threading.Event()
    with tempfile.TemporaryDirectory() as name:

        def watch() -> None:
            nonlocal disk
            while not over.wait(0.02):
                disk = max(disk, _disk(Path(name)))

        thread = threading.Thread(target=watch)
        thread.start()
        _captured(teacher, documents, "next", 200, Path(name))
        over.set()
        thread.join()
        kept = int(read_manifest(Path(name) / "sample", "sample", 1).facts["kept"])
    return {"resident": _status("VmHWM") - before, "disk": disk, "kept": kept * WIDTH * 4}


def measure() -> list[Line]:
    """Time with and without the head, then peaks of memory and disk."""
    import torch

    torch.set_num_threads(1)
    shape = f"{LAYERS} layers x {WIDTH}, V {V}, {DOCUMENTS} windows of {WINDOW}"
    lines = []
    for assignment in ("predicted", "next"):
        baseline = f"bare forward{' with head' if assignment == 'predicted' else ''}, {shape}"
        ratio = _time_ratio(assignment)
        lines.append(Line(f"capture_{assignment}_time", ratio, "ratio", baseline, 1.05, "most", ROUNDS, COMMAND))
    script = "import json; from benchmarks.capture import memory_in_this_process as m; print(json.dumps(m()))"
    found = json.loads(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    )
    for kind in ("resident", "disk"):
        baseline = f"bytes of the states kept ({found['kept'] / 1e6:.0f} MB), peak above the bare forward"
        ratio = found[kind] / found["kept"]
        lines.append(Line(f"capture_{kind}_bytes", ratio, "ratio", baseline, 1.5, "most", 1, COMMAND))
    return lines
