"""The tutorial and the how-tos can be followed: their blocks are run in order, in one folder, as a reader would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml
from blocks import blocks, last_line, script

from forked import unfollowed
from sensekd.cli.main import app
from sensekd.config import Recipe, recipe_from_tree

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])
WALK: Final = ("tutorial", "howto-corpus", "howto-language", "howto-loss", "howto-cluster")

# The demo without its comparison, which tests/pipeline/test_demo.py makes in small.
WORLD: Final = """
from pathlib import Path
from sensekd.cli.console import Lines
from sensekd.pipeline.demo import TeacherSettings, WorldSettings, build_demo_teacher, build_demo_world
from sensekd.pipeline.stages import Stages

stages = Stages(Path("runs/demo"), Lines())
world = build_demo_world(stages, WorldSettings(seed=0, documents=600, heldout=60))
build_demo_teacher(stages, world, TeacherSettings(seed=0, steps=8))
"""
# What the short form changes: less of everything, and a teacher that has learned nothing.
SHORTER: Final = {
    "tutorial": {
        "sensekd demo --set 'compare.arms=[kd,dskd]' --set 'compare.seeds=[0]'": f"python - <<'END'\n{WORLD}END",
        "texts[:1500]": "texts[:150]",
        "texts[-200:]": "texts[-40:]",
        "  window: 96 ": "  assignment: next\n  window: 96 ",
        "steps: 300": "steps: 4",
        "arms: [pruned, kd, dskd]": "arms: [kd, dskd]",
        "seeds: [0, 1]": "seeds: [0]",
    },
    "howto-corpus": {"[1500:1800]": "[300:400]"},
    # The one trains a German teacher, the other starts two processes that load every library.
    "howto-language": {"sensekd demo --language de": ": sensekd demo --language de"},
    "howto-cluster": {"torchrun --nproc-per-node 2": ": torchrun --nproc-per-node 2"},
}


@contextmanager
def forker(folder: Path, *options: str) -> Iterator[dict[str, str]]:
    """The environment of a shell whose `sensekd` and `python` are forks of a process with the libraries in it."""
    commands = folder / "bin"
    commands.mkdir()
    helpers = [str(ROOT / "tests" / name) for name in ("faults", "pipeline")]
    path = os.pathsep.join([*helpers, str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forker.py")), str(commands), str(folder / "line"), *options],
        stdout=subprocess.PIPE, text=True, env={**unfollowed(), "PYTHONPATH": path}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield {
            **unfollowed(),
            "PYTHONPATH": path,
            "PATH": os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # With it the command that an interrupted test leaves.
        process.wait(30)
        process.stdout.close()


def follow(page: str, text: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a page's script and give all that it said; a block that fails fails the test with the line of its page."""
    done = subprocess.run(
        ["bash", "-c", text], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    tail = done.stdout[-3000:]
    assert done.returncode == 0, f"docs/{page}.md, block at line {last_line(done.stdout)}:\n{tail}"
    return done.stdout


def shortened(page: str) -> str:
    text = script(DOCS / f"{page}.md")
    for old, new in SHORTER.get(page, {}).items():
        assert text.count(old) == 1, f"docs/{page}.md no longer says {old!r} once"
        text = text.replace(old, new)
    return text


def test_the_pages_can_be_followed_in_small(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with forker(tmp_path, "inside") as environment:
        said = {page: follow(page, shortened(page), home, environment) for page in WALK}
    refused = "  - student.layers is 7, but the teacher has 4 layers"
    assert refused in (DOCS / "tutorial.md").read_text()
    for line in (refused, "exit code 2", "mine/recipe.yaml: no problem found", "2 layers"):
        assert line in said["tutorial"], line
    assert (home / "runs/mine/students/dskd-0/config.json").is_file()
    assert (home / "runs/mine/report.html").read_text().rstrip().endswith("</html>")


@pytest.mark.long
def test_the_pages_can_be_followed_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with forker(tmp_path) as environment:
        said = {page: follow(page, script(DOCS / f"{page}.md"), tmp_path / "home", environment) for page in WALK}
    assert "' bank' (token 727)" in said["tutorial"]


def test_a_block_that_fails_is_named_by_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n```bash\ntrue\n```\n\n<!-- not run: why -->\n```bash\nfalse\n```\n\n```bash\nfalse\n```\n"
    )
    assert [(block.line, block.reason) for block in blocks(page, "bash")] == [(3, None), (8, "why"), (12, None)]
    with pytest.raises(AssertionError, match="line 12"):
        follow("page", script(page), tmp_path, dict(os.environ))


def commands_of(page: Path) -> list[list[str]]:
    """Every `sensekd …` of a page's blocks (fenced or indented) and spans, as words."""
    text = re.sub(r" *\\\n *", " ", page.read_text(encoding="utf-8"))
    lines = re.findall(r"(?:^ *|`|\$ |-m )(?:\.venv/bin/)?sensekd(?:\.cli\.main)? ([^`\n]+)", text, re.MULTILINE)
    return [re.split(r"\s{2,}| \|\|?| &| > | #", line)[0].split() for line in lines]


def unknown(words: list[str]) -> str | None:
    """What of a command line the program does not know, if anything."""
    command: Any = typer.main.get_command(app)
    options = {option for each in command.params for option in each.opts}
    for word in words:
        word = word.strip("[]")
        if hasattr(command, "commands") and re.fullmatch(r"[a-z]+", word):
            known = command.commands.get(word)
            if known is None:
                return word
            command = known
            options |= {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        elif word.startswith("--") and word.partition("=")[0] not in {*options, "--help"}:
            return word
    return None


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "cli.md"], ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    wrong = [(words, what) for words in commands_of(page) if (what := unknown(words))]
    assert not wrong


def test_an_unknown_command_or_option_is_noticed() -> None:
    named = {words[0] for page in PAGES for words in commands_of(page)}
    assert {"demo", "run", "compare", "check", "senses", "lexicon"} <= named
    assert unknown(["senses", "build", "RECIPE", "--shard", "1/2"]) is None
    assert unknown(["senses", "bild", "RECIPE"]) == "bild"
    assert unknown(["check", "RECIPE", "--rates", "3"]) == "--rates"


def base() -> dict[str, Any]:
    """The least that a recipe needs."""
    text = {"path": "text.jsonl"}
    return {
        "name": "base", "output": "runs/base", "teacher": {"model": "teacher"}, "corpus": text,
        "student": {"layers": 2}, "training": {"steps": 1}, "evaluation": {"corpus": text},
    }  # fmt: skip


SNIPPETS = [
    pytest.param(block.text, id=f"{page.name}:{block.line}")
    for page in sorted(DOCS.glob("*.md"))
    for block in blocks(page, "yaml")
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_yaml_is_part_of_a_valid_recipe(snippet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSEKD_DATA", "data")
    tree, found = base(), yaml.safe_load(snippet)
    for section, values in found.items():
        keep = section not in ("corpus", "evaluation") and isinstance(values, dict)
        tree[section] = {**tree.get(section, {}), **values} if keep else values
    recipe_from_tree(tree, "the snippet", kind=Recipe)
