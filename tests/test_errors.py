from __future__ import annotations

import subprocess
import sys

import pytest

from forked import unfollowed
from sensekd.errors import EXIT_FAILED, EXIT_INPUT, InputError, SenseKDError, require


def test_the_message_says_found_expected_and_what_to_do() -> None:
    error = InputError("3 layers", "at most 2", "lower student.layers")
    assert str(error) == "3 layers\n  expected: at most 2\n  do:       lower student.layers"
    assert (error.exit_code, SenseKDError("x").exit_code) == (EXIT_INPUT, EXIT_FAILED)


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(InputError, match=r"pip install 'sensekd\[wordnet\]'"):
        require("no_such_module_anywhere", "wordnet")
    assert require("json", "wordnet").dumps(1) == "1"


EXTRAS = {"eval": ["lm_eval", "sklearn", "scipy"], "wordnet": ["wn"], "report": ["bokeh", "jinja2"]}

# Its classes are lm-eval's own tasks; it is imported where a suite runs, behind `require`.
BEHIND_A_WALL = "sensekd.evaluation.harness"

BLOCKED = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}))  # None: the import fails, as if it were not installed
import pkgutil, sensekd
for module in pkgutil.walk_packages(sensekd.__path__, "sensekd."):
    if module.name != {behind!r}:
        __import__(module.name)
print("imported")
"""


def test_extras_are_walls_every_module_imports_without_them() -> None:
    blocked = sorted(name for names in EXTRAS.values() for name in names)
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked, behind=BEHIND_A_WALL)],
        capture_output=True, text=True, env=unfollowed(),
    )  # fmt: skip
    assert done.stdout.strip() == "imported", done.stderr


def test_the_command_line_starts_without_heavy_libraries() -> None:
    code = "import sys, sensekd.cli.main; print(sorted({'torch', 'transformers', 'lm_eval'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
