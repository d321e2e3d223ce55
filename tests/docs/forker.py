"""`sensekd` and `python` for scripts of the documentation, forked off a process that has loaded the libraries.

`python forker.py FOLDER SOCKET [inside]` writes the two commands into FOLDER, listens on SOCKET and says "ready". A
command hands over its arguments, folder, environment and standard streams, and ends with the exit code of the fork.
With `inside` a comparison runs its jobs in the fork and starts no worker.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from inside import jobs_inside
from nursery import load

# -S -E: nothing but the standard library, so that it starts in a few hundredths of a second.
_CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({path!r})
    order = {{"arguments": [{name!r}, *sys.argv[1:]], "folder": os.getcwd(), "environment": dict(os.environ)}}
    data = json.dumps(order).encode()
    socket.send_fds(line, [len(data).to_bytes(8, "big")], [0, 1, 2])
    line.sendall(data)
    sys.exit(int(line.makefile().readline() or 70))
"""


def run(name: str, arguments: list[str], jobs: AbstractContextManager[None]) -> None:
    """What the command itself would do."""
    sys.argv = [name, *arguments]
    if name == "sensekd":
        from sensekd.cli.main import entry

        with jobs:
            entry()
    elif arguments == ["-"]:
        exec(compile(sys.stdin.read(), "<block>", "exec"), {"__name__": "__main__"})
    else:
        raise SystemExit(f"python {arguments}: only `python -` is served")


def child(order: dict[str, Any], streams: list[int], jobs: AbstractContextManager[None]) -> int:
    """Take the order's place in the world, run it, and give the exit code."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    name, *arguments = order["arguments"]
    code = 0
    try:
        run(name, arguments, jobs)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve(line: socket.socket, jobs: AbstractContextManager[None]) -> None:
    """One command: fork it, wait, send its exit code."""
    head, streams, _, _ = socket.recv_fds(line, 8, 3)
    size, data = int.from_bytes(head, "big"), b""
    while len(data) < size:
        data += line.recv(size - len(data))
    if (number := os.fork()) == 0:
        os._exit(child(json.loads(data), streams, jobs))
    for stream in streams:
        os.close(stream)
    code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    line.sendall(f"{code if code >= 0 else 128 - code}\n".encode())


def main() -> None:
    """Serve until standard input is closed, which a thread would cost a fork; so the socket wakes every second."""
    folder, path = Path(sys.argv[1]), sys.argv[2]
    for name in ("sensekd", "python"):
        (folder / name).write_text(_CLIENT.format(python=sys.executable, path=path, name=name))
        (folder / name).chmod(0o755)
    load()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.settimeout(1.0)
        print("ready", flush=True)
        parent = os.getppid()
        while os.getppid() == parent:
            try:
                line, _ = listening.accept()
            except TimeoutError:
                continue
            line.settimeout(None)
            with line:
                serve(line, jobs_inside() if "inside" in sys.argv[3:] else nullcontext())


if __name__ == "__main__":
    main()
