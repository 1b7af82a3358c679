"""How far a long computation is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class Progress:
    """A bar with rate and time left on a terminal, plain lines elsewhere; silent off the main process."""

    def __init__(self, label: str, start: int, total: int, shown: bool, unit: str = "step") -> None:
        self.label, self.total, self.shown, self.unit = label, total, shown, unit
        self.step = start
        self.bar = None
        self.begun, self.start, self.last_line = time.perf_counter(), start, time.perf_counter()
        if shown and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=start, desc=label, unit=unit, dynamic_ncols=True)

    def update(self, **numbers: str) -> None:
        """One more is done; show it with some numbers."""
        self.step += 1
        if self.bar is not None:
            self.bar.set_postfix(numbers, refresh=False)
            self.bar.update(1)
        elif self.shown and (self.step == self.total or time.perf_counter() - self.last_line > 10):
            self.last_line = time.perf_counter()
            left = (self.last_line - self.begun) / max(1, self.step - self.start) * (self.total - self.step)
            parts = [
                f"{self.unit} {self.step}/{self.total}",
                *(f"{k.replace('_', ' ')} {v}" for k, v in numbers.items()),
            ]
            print(f"{self.label}: {', '.join(parts)}, {left:.0f} s left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()
