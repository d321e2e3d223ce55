"""`python -m benchmarks.study texts | teachers | run [NAME…] | tables`."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """What the first word asks for."""
    from benchmarks.study.plan import ROOT
    from benchmarks.study.run import run_all
    from benchmarks.study.texts import write_texts

    if not arguments or ("SENSEKD_DATA" not in os.environ and arguments[0] in {"texts", "run"}):
        raise SystemExit(f"{__doc__}\nSENSEKD_DATA names the folder of docs/data.md")
    word, *names = arguments
    if word == "texts":
        print(write_texts(Path(os.environ["SENSEKD_DATA"]), ROOT / "texts"))
    elif word == "teachers":
        from benchmarks.study.teacher import VOCABULARIES, train

        for name in names or VOCABULARIES:
            print(name, train(name, ROOT / "texts", ROOT / name), flush=True)
    elif word == "run":
        run_all(names)
    elif word == "tables":
        from benchmarks.study.tables import write_tables

        write_tables(Path("docs/study.md"))
    else:
        raise SystemExit(__doc__)


main(sys.argv[1:])
