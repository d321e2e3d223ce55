"""Commands under faults: run through the nursery, and folders to compare with those of commands left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sample_results
from tiny_run import write_inputs

from forked import unfollowed
from sensekd.pipeline.stages import content_id

# What differs between equal runs.
DATED = {"seconds", "times", "memory", "tokens_per_second"}
NURSERY = Path(__file__).with_name("nursery.py")


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: signal), what it said, whether its moment came, and the lines that it
    said from then on, each with the file operations and seconds until it."""

    code: int
    said: str
    begun: bool
    marks: list[tuple[str, int, float]]

    def span(self, begin: str, end: str) -> tuple[int, float]:
        """File operations and seconds between two lines; an empty `end` means the end of the command."""
        first = next(mark for mark in self.marks if mark[0].startswith(begin))
        last = self.marks[-1] if not end else next(mark for mark in self.marks if mark[0].startswith(end))
        return max(1, last[1] - first[1]), max(0.001, last[2] - first[2])


class Nursery:
    """Gives orders to the process that forks the commands."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._said = process, folder / "said.txt"

    def run(self, *arguments: str, **order: Any) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order |= {"arguments": list(arguments), "said": str(self._said)}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return Ended(said=self._said.read_text(errors="replace"), **answer)


@contextmanager
def nursery(folder: Path) -> Iterator[Nursery]:
    """A nursery for as long as the block runs."""
    # Coverage would gain nothing: forks that are killed, or end without a farewell, say nothing of what they ran.
    process = subprocess.Popen(
        [sys.executable, str(NURSERY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=unfollowed()
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield Nursery(process, folder)
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def write_world(folder: Path) -> dict[str, Any]:
    """The tiny recipe with gold senses and no student to train."""
    tree = write_inputs(folder)
    gold = [
        {"text": f"w3 w{n} w5 w{n}", "occurrences": [{"word": f"w{n}", "sense": s, "start": at, "end": at + 3}]}
        for n in range(10, 16)
        for s, at in (("a", 3), ("b", 10))
    ]
    (folder / "gold.jsonl").write_text("".join(json.dumps(each) + "\n" for each in gold))
    tree["evaluation"]["gold_senses"] = str(folder / "gold.jsonl")
    tree["compare"] = {"arms": ["pruned"], "baseline": "pruned", "seeds": [0], "workers": 1}
    return tree


def write_results(folder: Path) -> None:
    """A finished run, as far as the page needs one."""
    results, histories = sample_results.results(), sample_results.histories(steps=60)
    (folder / "records").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    for entry in results["arms"]:
        name = f"{entry['arm']}-{entry['seed']}"
        (folder / "records" / f"{name}.json").write_text(json.dumps({"history": histories.get(name, [])}))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in DATED}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def content(folder: Path) -> dict[str, Any]:
    """Every file of a folder by name: bytes, of JSON the tree but for time and memory, of pages that they are whole."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            continue
        if path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text()))
        elif path.suffix == ".html":
            found[name] = path.read_text().rstrip().endswith("</html>")
        else:
            found[name] = path.read_bytes()
    return found


def timeless(run: Path) -> dict[str, Any]:
    """The run's content without what names a time: records hold seconds, so their digests in stamps do so too.

    That every stamp tells the truth of what stands beside it is looked at first.
    """
    dated = ("records/", "distilled/")
    tree = content(run)
    for name in [name for name in tree if name.startswith(dated)]:
        tree[name].pop("resumed_from", None)
    for name in [name for name in tree if name.startswith("stages/")]:
        outputs = tree[name]["outputs"]
        assert outputs == {path: content_id(run / path) for path in outputs}, name
        tree[name]["outputs"] = {path: "" if path.startswith(dated) else outputs[path] for path in outputs}
    tree.get("stages/explorer.json", {}).pop("key", None)  # Made of the stamps of the students.
    return tree


def rests(folder: Path) -> list[str]:
    """What should not be left: temporary names, folders moved aside, locks."""
    return [str(path) for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".lock"]
