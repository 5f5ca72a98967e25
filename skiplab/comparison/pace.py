"""How long the settings of a comparison may still take."""

from typing import final

from skiplab.reporting.screen import clock


@final
class Pace:
    """The time left, by the mean of the settings made so far."""

    def __init__(self) -> None:
        self._made: list[float] = []

    def made(self, seconds: float) -> None:
        """Count a setting that was made in so many seconds."""
        self._made.append(seconds)

    def left(self, settings: int) -> str:
        """The time left for a number of settings, in words; empty if none was made yet."""
        if not self._made or not settings:
            return ""
        return f"about {clock(settings * sum(self._made) / len(self._made))} left before timing and report"
