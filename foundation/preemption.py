"""A stop that is asked for: SIGTERM, as SLURM sends before a job's time is over, becomes a flag that a loop reads."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# What a shell reports of a process that SIGTERM ended.
EXIT_STATUS = 128 + signal.SIGTERM


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Catch SIGTERM; yields a function that tells whether one has come. Outside the main thread nothing is caught."""
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked  # a plain flag: the lock of an Event may be held by the very code that the signal interrupts
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def ignore_stop_requests(worker: int) -> None:
    """For processes that read ahead: a SIGTERM to the whole job must not end them before the run has saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
