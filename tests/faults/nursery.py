"""A process that has loaded every library and forks commands off: a fault costs the command, not the imports.

It reads one JSON object a line, {"arguments", "said", "begin", "event" or "delay", "fail", "within"}, and answers with
{"code", "begun", "marks"}: the exit code (negative: the signal), whether a line that begins with `begin` was said, and
for every line from that one on [text, file operations so far, seconds so far]. A child is killed with SIGKILL at file
operation `event` after `begin`, or `delay` seconds after it. `fail` (["ENOSPC", n]) lets every file operation that
writes below the folder `within`, from number n on, fail instead. `append` ([n, path, text]) writes the text to a file
at operation n, as somebody else would. `environment` holds variables to set, `limit` the most bytes of a file that the
system lets the command write, `space` the number of a process in whose namespaces (of users and mounts) it runs.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

_WATCHED = {
    "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "tempfile.mkstemp",
    "tempfile.mkdtemp", "os.utime",
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def enter(process: int) -> None:
    """Join the namespaces of another process: what is mounted there is mounted here."""
    library = ctypes.CDLL(None, use_errno=True)
    for kind in ("user", "mnt"):
        with Path(f"/proc/{process}/ns/{kind}").open("rb") as handle:
            if library.setns(handle.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"setns {kind}")


class Moment:
    """Counts the file operations of one command from a line of its output on, and acts on one of them."""

    def __init__(self, order: dict[str, Any], channel: int) -> None:
        self.order, self.channel = order, channel
        self.armed = False
        self.events = 0
        self.failed = False
        self.start = 0.0
        self.marks: list[tuple[str, int, float]] = []

    def note(self, text: str) -> None:
        begin = self.order.get("begin")
        if not self.armed and (begin is None or text.startswith(begin)):
            self.armed = True
            self.start = time.monotonic()
            os.write(self.channel, b"!")
        if self.armed:
            self.marks.append((text, self.events, time.monotonic() - self.start))

    def audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self.armed and name in _WATCHED:
            writes = name != "open" or (isinstance(arguments[2], int) and bool(arguments[2] & _WRITING))
            self.step(str(arguments[0]), writes)

    def step(self, where: str, writes: bool) -> None:
        self.events += 1
        if self.events == self.order.get("event"):
            os.kill(os.getpid(), signal.SIGKILL)
        append = self.order.get("append")
        if append and self.events == append[0]:
            self.armed = False  # Writing it is an operation too.
            Path(append[1]).write_text(append[2], encoding="utf-8")
            self.armed = True
        fail = self.order.get("fail")
        if fail and writes and self.order["within"] in where and (self.failed or self.events >= fail[1]):
            self.failed = True
            number = getattr(errno, fail[0])
            raise OSError(number, os.strerror(number), where)


def run(order: dict[str, Any], channel: int) -> None:
    """Run one command as `sensekd` would, and end the process."""
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ.update(order.get("environment", {}))
    if "limit" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], order["limit"]))
    if "space" in order:
        enter(order["space"])
    moment = Moment(order, channel)
    from sensekd.cli import console
    from sensekd.cli.main import app

    plain, fsync = console.Lines.note, os.fsync

    def note(self: Any, text: str) -> None:
        plain(self, text)
        moment.note(text)

    def sync(descriptor: int) -> None:
        if moment.armed:
            moment.step(str(Path(f"/proc/self/fd/{descriptor}").readlink()), True)
        fsync(descriptor)

    console.Lines.note = note  # type: ignore[method-assign]
    os.fsync = sync
    sys.addaudithook(moment.audit)
    if not order.get("begin"):
        moment.note("")
    code: Any = 1
    try:
        app(order["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    moment.note("")
    moment.armed = False
    os.write(channel, b"\n" + json.dumps(moment.marks).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def tend(order: dict[str, Any]) -> dict[str, Any]:
    """Fork the command, kill it when its time has come, and say what became of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        run(order, writing)
    os.close(writing)
    begun = os.read(reading, 1) == b"!"
    if begun and order.get("delay") is not None:
        time.sleep(order["delay"])
        os.kill(child, signal.SIGKILL)
    told = b""
    while piece := os.read(reading, 4096):
        told += piece
    os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    marks = told.partition(b"\n")[2]
    return {"code": code, "begun": begun, "marks": json.loads(marks) if marks else []}


def load() -> None:
    """Import whatever the commands will import; nothing is computed, so that no thread is there to be lost."""
    import datasets  # noqa: F401
    import jinja2  # noqa: F401
    import polars  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401
    from transformers.models.llama import LlamaForCausalLM  # noqa: F401

    import sensekd

    torch.set_num_threads(1)
    root = Path(sensekd.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        __import__(name)
    gc.freeze()  # The Trainer collects garbage, a fork would then copy all that it walks over.


def main() -> None:
    """Serve orders until standard input ends."""
    load()
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print("ready", file=channel)
    for line in sys.stdin:
        print(json.dumps(tend(json.loads(line))), file=channel)


if __name__ == "__main__":
    main()
