"""How long a comparison has run, and how long its settings may still take."""

from time import monotonic
from typing import final

from skiplab.reporting.screen import clock


@final
class Pace:
    """Elapsed time, and the time left by the mean of the settings made so far."""

    def __init__(self) -> None:
        self._start = monotonic()
        self._made: list[float] = []

    def made(self, seconds: float) -> None:
        """Count a setting that was made in so many seconds."""
        self._made.append(seconds)

    @property
    def elapsed(self) -> str:
        return f"{clock(monotonic() - self._start)} elapsed"

    def with_left(self, settings: int) -> str:
        """Elapsed time, and that left for a number of settings if any were made before."""
        if not self._made or not settings:
            return self.elapsed
        left = settings * sum(self._made) / len(self._made)
        return f"{self.elapsed}, about {clock(left)} left before timing and report"
