"""Progress on stderr: a bar with rate and time left on a terminal, else a plain line every few seconds."""

import sys
import time
from typing import Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """How far a command is. ``total`` is None where it is not known beforehand.

    tqdm draws the bar, without colours, as NO_COLOR demands.
    """

    def __init__(self, unit: str, *, total: int | None = None, quiet: bool = False) -> None:
        self._unit = unit
        self._total = total
        self._done = 0
        self._started = self._told = time.monotonic()
        terminal = sys.stderr.isatty()
        self._lines = not quiet and not terminal
        self._bar = tqdm(total=total, unit=f" {unit}", disable=quiet or not terminal, dynamic_ncols=True)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the bar, so that the next line of output has a line of its own."""
        self._bar.close()

    def advance(self, number: int = 1) -> None:
        """Note that so many more are done."""
        self._done += number
        self._bar.update(number)
        now = time.monotonic()
        if self._lines and now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            print(self._line(now - self._started), file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """Print a message on a line of its own, above the bar."""
        self._bar.write(message, file=sys.stderr)

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        if not self._total:
            return f"{self._done} {self._unit}, {rate:.0f} a second"
        left = (self._total - self._done) / rate if rate else 0.0
        share = 100 * self._done // self._total
        return f"{self._done} of {self._total} {self._unit} ({share} %), {rate:.0f} a second, {left:.0f} s left"
