"""Opening a dictionary of a million rows: time until the first lookup can be made, and memory that it takes.

Every opening happens in a process of its own, whose libraries are loaded before the clock starts. Then the table of
candidates is built with the rows left on the host, for two synonyms a token and an antonym for every tenth: what it
takes beyond the mapped file is its lists. Selection from it is compared with a table whose rows are all there.
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
POSITIONS = 1016
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

_TABLE = """
import json, statistics, sys, time
from pathlib import Path
from types import SimpleNamespace
import torch
from sensekd.senses.dictionary import SenseDictionary
from sensekd.targets import build_table, select

def anonymous():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
tokens, positions = 100_000, int(sys.argv[2])
draw = torch.Generator().manual_seed(0)
relations = SimpleNamespace(
    synonym_indptr=torch.arange(0, 2 * tokens + 1, 2),
    synonym_spans=torch.randint(tokens, (2 * tokens,), generator=draw),
    antonym_indptr=torch.arange(tokens + 1).add(9).div(10, rounding_mode="floor"),
    antonym_spans=torch.randint(tokens, (tokens // 10,), generator=draw),
    span_indptr=torch.arange(tokens + 1), span_pieces=torch.arange(tokens),
)
dictionary = SenseDictionary.load(Path(sys.argv[1]))
before = anonymous()
host = build_table(dictionary, relations, limit=0)
memory = anonymous() - before
device = build_table(dictionary, relations)
whole, states = torch.ones(positions, dtype=torch.bool), torch.randn(positions, 576, generator=draw)
ratios = []
for _ in range(9):
    # Frequent tokens come often, as in text.
    labels = (torch.rand(positions, generator=draw) ** 4 * tokens).long()
    seconds, found = [], []
    for table in (device, host):
        start = time.process_time()
        found.append(select(table, labels, whole, states, 5))
        seconds.append(time.process_time() - start)
    assert torch.equal(found[0].pull_mean, found[1].pull_mean)
    ratios.append(seconds[1] / seconds[0])
print(json.dumps([memory, statistics.median(ratios)]))
"""


def _in_process(script: str, *arguments: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
    found: list[float] = json.loads(done.stdout)
    return found


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
    """Milliseconds and megabytes of opening, the speed of verifying every block, and what rows on the host cost."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "senses"
        size = _write(folder)
        modes = ["verify", *["open"] * (RUNS - 1)]
        found = [_in_process(_OPEN, str(folder), str(TOKENS * SENSES), mode) for mode in modes]
        lists, slower = _in_process(_TABLE, str(folder), str(POSITIONS))
    milliseconds = 1000 * statistics.median(each[0] for each in found)
    megabytes = max(each[1] for each in found) / 1e6
    gigabytes = size / found[0][3] / 1e9
    shape = f"a dictionary of {TOKENS * SENSES} rows x {WIDTH}, {size / 1e9:.1f} GB"
    on_host = f"{shape}, rows on the host"
    resident = f"selection with all rows there, {POSITIONS} positions, one thread"
    return [
        Line("open_dictionary_time", milliseconds, "ms", shape, 50.0, "most", RUNS, COMMAND),
        Line("open_dictionary_memory", megabytes, "MB", shape, 50.0, "most", RUNS, COMMAND),
        Line("open_dictionary_verify", gigabytes, "GB/s", f"{shape}, file in the page cache", 1.0, "least", 1, COMMAND),
        Line("open_dictionary_table_memory", lists / 1e6, "MB", on_host, 300.0, "most", 1, COMMAND),
        Line("open_dictionary_host_selection", slower, "times", resident, 10.0, "most", 9, COMMAND),
    ]
