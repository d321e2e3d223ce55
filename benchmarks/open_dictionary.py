"""Opening a dictionary of a million rows: time until the first lookup can be made, and memory that it takes.

Every opening happens in a process of its own, whose libraries are loaded before the clock starts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Line

COMMAND = "make bench ONLY=open_dictionary"
TOKENS, SENSES, WIDTH, RUNS = 100_000, 10, 576, 5

_OPEN = """
import json, resource, sys, time
from pathlib import Path
import torch, safetensors.torch
from sensekd.senses.dictionary import SenseDictionary

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

before, start = resident(), time.perf_counter()
dictionary = SenseDictionary.load(Path(sys.argv[1]))
seconds, memory = time.perf_counter() - start, resident() - before
assert len(dictionary) == int(sys.argv[2]) and dictionary.rows(7).shape == (10, 576)
start = time.perf_counter()
first, rows = dictionary.lookup(torch.arange(0, 100_000, 97))
lookup = time.perf_counter() - start
start = time.perf_counter()
if sys.argv[3] == "verify":
    SenseDictionary.load(Path(sys.argv[1]), verify=True)
print(json.dumps([seconds, memory, lookup, time.perf_counter() - start]))
"""


def _write(folder: Path) -> int:
    """A synthetic dictionary of a million rows; the number of bytes on disk."""
    import torch

    from sensekd.provenance import TeacherIdentity
    from sensekd.senses.dictionary import SenseDictionary

    rows = TOKENS * SENSES
    manifest = SenseDictionary(
        indptr=torch.arange(0, rows + 1, SENSES),
        # Numbers of the same few kilobytes: what they are does not matter to opening.
        centroids=torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0)).repeat(rows, 1),
        support=torch.full((rows,), 20, dtype=torch.int32),
        spread=torch.ones(rows),
        context=torch.full((rows, 3, 24), -1, dtype=torch.int32),
        sigma2=1.0,
        identity=TeacherIdentity("synthetic", "w", "t", WIDTH, TOKENS),
        corpus="c",
        settings={},
    ).save(folder)
    return sum(int(entry["bytes"]) for entry in manifest.files.values())


def measure() -> list[Line]:
    """Milliseconds and megabytes of opening, and the speed of verifying every block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "senses"
        size = _write(folder)
        found = []
        for number in range(RUNS):
            verify = "verify" if number == 0 else "open"
            arguments = [sys.executable, "-c", _OPEN, str(folder), str(TOKENS * SENSES), verify]
            done = subprocess.run(arguments, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout))
    milliseconds = 1000 * statistics.median(each[0] for each in found)
    megabytes = max(each[1] for each in found) / 1e6
    gigabytes = size / found[0][3] / 1e9
    shape = f"a dictionary of {TOKENS * SENSES} rows x {WIDTH}, {size / 1e9:.1f} GB"
    return [
        Line("open_dictionary_time", milliseconds, "ms", shape, 50.0, "most", RUNS, COMMAND),
        Line("open_dictionary_memory", megabytes, "MB", shape, 50.0, "most", RUNS, COMMAND),
        Line("open_dictionary_verify", gigabytes, "GB/s", f"{shape}, file in the page cache", 1.0, "least", 1, COMMAND),
    ]
