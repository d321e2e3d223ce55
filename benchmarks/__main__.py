"""`make bench`: run the benchmarks and write `runs/bench.json`; exits 0 whether or not targets hold."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import platform
from pathlib import Path

import benchmarks
from sensekd.artefacts import write_json

SKIPPED = {"__main__", "measure", "gpu_step"}


def modules() -> list[str]:
    """Names of the benchmarks; a package beside them is none."""
    found = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.ispkg]
    return sorted(set(found) - SKIPPED)


def main() -> None:
    """Run every module of this package that has `measure`, or the one asked for."""
    names = modules()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=names)
    only = parser.parse_args().only
    lines = []
    for name in [only] if only else names:
        for line in importlib.import_module(f"benchmarks.{name}").measure():
            lines.append(line.as_dict())
            verdict = "holds" if line.holds else "MISSED"
            print(
                f"{line.name:<34} {line.value:8.3f} {line.unit:<8} at {line.at} {line.target:g}  {verdict}", flush=True
            )
        write_json(Path("runs/bench.json"), lines)
    print(f"runs/bench.json written ({platform.machine()}, {platform.python_version()})")


if __name__ == "__main__":
    main()
