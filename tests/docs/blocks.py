"""Fenced blocks of the pages, and a script that runs those of one page one after the other."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# A fence, the line before it (which may say that the block is not run), and what stands in it.
_FENCE: Final = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_MARK: Final = "#### line "


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of the page that it begins on, why it is not run."""

    language: str
    text: str
    line: int
    reason: str | None


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page, in order; of the named languages, or all."""
    source = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(source):
        line = source.count("\n", 0, match.start("text"))
        cut = len(match["indent"])
        text = "".join(each[cut:] if each.strip() else each for each in match["text"].splitlines(keepends=True))
        found.append(Block(match["language"], text, line, match["reason"]))
    return [block for block in found if not languages or block.language in languages]


def script(page: Path) -> str:
    """A bash script of all blocks of a page that are run; each says first on which line of the page it stands."""
    parts = ["set -euo pipefail"]
    for block in blocks(page, "bash", "python"):
        if block.reason is not None:
            continue
        parts.append(f"echo {shlex.quote(_MARK + str(block.line))} >&2")
        if block.language == "python":
            parts.append(f"python - <<'END_OF_PYTHON'\n{block.text}END_OF_PYTHON")
        else:
            parts.append(block.text)
    return "\n".join(parts) + "\n"


def last_line(said: str) -> str:
    """The line of the page whose block was the last to begin."""
    return said.rpartition(_MARK)[2].partition("\n")[0]
