"""How far a long computation is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class Progress:
    """A bar with rate and time left on a terminal, plain lines elsewhere; silent off the main process."""

    def __init__(self, label: str, start: int, total: int, shown: bool) -> None:
        self.label, self.total, self.shown = label, total, shown
        self.bar = None
        self.begun, self.start, self.last_line = time.perf_counter(), start, time.perf_counter()
        if shown and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=start, desc=label, unit="step", dynamic_ncols=True)

    def update(self, step: int, loss: float, windows_per_s: float) -> None:
        """Show the state after a step."""
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.4f}", windows_per_s=f"{windows_per_s:.0f}", refresh=False)
            self.bar.update(1)
        elif self.shown and (step == self.total or time.perf_counter() - self.last_line > 10):
            self.last_line = time.perf_counter()
            left = (self.last_line - self.begun) / max(1, step - self.start) * (self.total - step)
            rate = f"{windows_per_s:.0f} windows/s, {left:.0f} s left"
            print(f"{self.label}: step {step}/{self.total}, loss {loss:.4f}, {rate}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()
