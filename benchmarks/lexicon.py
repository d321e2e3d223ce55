"""Reading Wiktextract lines, against bare `orjson.loads` over the same lines; and what memory a larger file takes.

Lines are real ones where SENSEKD_DATA names them, repeated with other words; generated ones otherwise.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import Line, paired_ratio

COMMAND = "make bench ONLY=lexicon"
ROUNDS, SIZE, SMALL, LARGE = 7, 96 << 20, 30 << 20, 240 << 20
# Peak memory of a fresh process that reads one file, in MB.
_CHILD = """
import sys
from pathlib import Path
from sensekd.lexicon.wiktionary import read_wiktionary
found = read_wiktionary(Path(sys.argv[1]), language=sys.argv[2])
# Not ru_maxrss, which begins with the parent's.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024, found.relations.height)
"""


def _generated(number: int) -> bytes:
    """An entry of the shape that the German edition has; one in three states relations."""
    word = f"wort{number}"
    entry: dict[str, object] = {
        "word": word, "pos": "noun", "lang_code": "de", "lang": "Deutsch",
        "senses": [{"glosses": [f"Bedeutung {i} von {word}"], "sense_index": str(i)} for i in range(1, 4)],
        "translations": [{"word": f"w{i}", "lang_code": "xx", "sense_index": "1"} for i in range(60)],
        "sounds": [{"ipa": f"[{word}]"}], "forms": [{"form": f"{word}{i}", "tags": ["plural"]} for i in range(20)],
    }  # fmt: skip
    if number % 3 == 0:
        entry["synonyms"] = [{"word": f"wort{number + i}", "sense_index": str(1 + i % 3)} for i in range(1, 6)]
    return json.dumps(entry, ensure_ascii=False).encode()


def _sources() -> dict[str, list[bytes]]:
    """Lines by language."""
    folder = Path(os.environ.get("SENSEKD_DATA", "")) / "lexicon/kaikki"
    found: dict[str, list[bytes]] = {}
    for file in sorted(folder.glob("*.jsonl")) if os.environ.get("SENSEKD_DATA") else []:
        language = file.name.removeprefix("bench-")[:2]
        found.setdefault("en" if language == "si" else language, []).extend(file.read_bytes().splitlines())
    return found or {"de": [_generated(number) for number in range(300)]}


def _repeated(lines: list[bytes], size: int) -> Iterator[bytes]:
    """The lines again and again, every round with a number in all of their words, until `size` bytes are reached."""
    total, number = 0, 0
    word = re.compile(rb'"word": "([^"\\\\]+)"')
    while total < size:
        number += 1
        for line in lines:
            changed = word.sub(rb'"word": "\g<1>%d"' % number, line) + b"\n"
            total += len(changed)
            yield changed


def _bare(files: dict[str, Path]) -> None:
    import orjson

    for file in files.values():
        with file.open("rb") as handle:
            for line in handle:
                orjson.loads(line)


def _read(files: dict[str, Path], *, polarity: bool) -> None:
    from sensekd.lexicon.wiktionary import read_wiktionary

    for language, file in files.items():
        read_wiktionary(file, language=language, polarity=polarity)


def _peak(file: Path, language: str) -> float:
    run = subprocess.run(
        [sys.executable, "-c", _CHILD, str(file), language], capture_output=True, text=True, check=True
    )
    return float(run.stdout.split()[0])


def measure() -> list[Line]:
    """Speed without and with polarity; peak memory, and what a file of eight times the size adds to it."""
    sources = _sources()
    whole = sum(len(line) for lines in sources.values() for line in lines)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {language: folder / language for language in sources}
        for language, lines in sources.items():
            share = SIZE * sum(map(len, lines)) // whole
            files[language].write_bytes(b"".join(_repeated(lines, share)))
        bare = partial(_bare, files)
        speed = {on: 1 / paired_ratio(partial(_read, files, polarity=on), bare, ROUNDS) for on in (False, True)}
        largest = max(sources, key=lambda language: sum(map(len, sources[language])))
        peaks = []
        for size in (SMALL, LARGE):
            file = folder / "large"
            with file.open("wb") as handle:
                handle.writelines(_repeated(sources[largest], size))
            peaks.append(_peak(file, largest))
    baseline = f"orjson.loads over the same {SIZE >> 20} MB, each language read as its own ({', '.join(sources)})"
    memory = f"{LARGE >> 20} MB of lines of {largest}"
    growth = f"{memory} against {SMALL >> 20} MB"
    return [
        Line("wiktionary_read_speed", speed[False], "times", baseline, 1.2, "least", ROUNDS, COMMAND),
        Line("wiktionary_polarity_speed", speed[True], "times", baseline, 0.5, "least", ROUNDS, COMMAND),
        Line("wiktionary_read_memory", peaks[1], "MB", memory, 400, "most", 1, COMMAND),
        Line("wiktionary_memory_growth", peaks[1] - peaks[0], "MB", growth, 60, "most", 1, COMMAND),
    ]
