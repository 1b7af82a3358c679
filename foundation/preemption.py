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
    asked = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
