"""Runs the experiments one after the other and keeps what each found as one JSON file."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.study.plan import RESULTS, ROOT, Experiment, plan

KEPT = ("arms", "summary", "differences", "multiplicity", "equal_time", "tuning", "coverage", "factors", "from_default",
        "failed", "skipped", "items")  # fmt: skip

START: dict[str, dict[str, Any]] = {
    "loss": {"alpha": 0.7, "kappa": 5, "pull": "absolute"},
    "senses": {"assignment": "predicted"},
}
"""What the study started from; its results are the defaults now."""


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def _portable(value: Any) -> Any:
    """Without the place of the data: that is the reader's."""
    data = os.environ["SENSEKD_DATA"]
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return value.replace(data, "${SENSEKD_DATA}") if isinstance(value, str) else value


def as_run(experiment: Experiment) -> dict[str, Any]:
    """The recipe of an experiment, with what it leaves to the defaults of its time."""
    return {**experiment.tree, **{name: {**keys, **experiment.tree.get(name, {})} for name, keys in START.items()}}


def run(experiment: Experiment) -> Path:
    """Run one experiment, going on where it was left, and write `docs/study/<name>.json`."""
    output = Path(experiment.tree["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    recipe = ROOT / "recipes" / f"{experiment.name}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(as_run(experiment), sort_keys=False, allow_unicode=True)
    recipe.write_text(text, encoding="utf-8")
    command = [str(Path(sys.executable).with_name("sensekd")), "compare", str(recipe)]
    before = _cpu()
    subprocess.run([*command, *(["--sensitivity"] if experiment.sensitivity else [])], check=True)
    name = "sensitivity.json" if experiment.sensitivity else "results.json"
    found = json.loads((output / name).read_text(encoding="utf-8"))
    kept = {
        "name": experiment.name,
        "question": experiment.question,
        "commit": _commit(),
        # Of this call: what stood already cost nothing.
        "cpu_seconds": round(_cpu() - before),
        "recipe": experiment.tree,
        **{key: found[key] for key in KEPT if key in found},
        "seconds": found.get("times", {}).get("arms", {}),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{experiment.name}.json"
    if path.exists():
        kept["cpu_seconds"] += json.loads(path.read_text(encoding="utf-8")).get("cpu_seconds", 0)
    path.write_text(json.dumps(_portable(kept), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def run_all(names: list[str]) -> None:
    """Run the experiments of these names, or all."""
    experiments = plan()
    unknown = set(names) - experiments.keys()
    if unknown:
        raise SystemExit(f"error: no experiment {sorted(unknown)}; there are {list(experiments)}")
    for name in names or experiments:
        print(f"== {name}: {experiments[name].question}", flush=True)
        print(run(experiments[name]), flush=True)
