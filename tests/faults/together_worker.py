"""One process of several commands in a row, started by torchrun. Arguments: a file with the commands, a folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sensekd.cli.main import app

if __name__ == "__main__":
    codes = [app(command, standalone_mode=False) or 0 for command in json.loads(Path(sys.argv[1]).read_text())]
    (Path(sys.argv[2]) / f"codes-{os.environ['RANK']}.json").write_text(json.dumps(codes))
