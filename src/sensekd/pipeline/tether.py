"""A worker ends when the run that started it does, however that ends: what the run locked is free then.

Nothing here takes long to import, so that the tether holds before anything else is loaded.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Final

from sensekd.errors import EXIT_INTERRUPTED

# Seconds between two looks at whether the run still lives.
_GLANCE: Final = 0.2
_PR_SET_PDEATHSIG: Final = 1


def end_with(parent: int) -> None:
    """End this process when the process `parent`, which started it, has ended.

    Linux does it at once, even while a library loads; elsewhere a thread looks now and then.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        # Also where the run had ended before it was asked for.
        while os.getppid() == parent:
            time.sleep(_GLANCE)
        os._exit(EXIT_INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()
