"""How long the settings of a comparison may still take."""

from typing import final

from skiplab.reporting.screen import clock


@final
class Pace:
    """The time left, by what was measured so far: the mean training pass, and the mean setting without its training."""

    def __init__(self) -> None:
        self._passes = 0
        self._training = 0.0
        self._settings: list[float] = []
        self._before = 0.0

    def trained(self, passes: int, seconds: float) -> None:
        """Count a training of so many passes that took so many seconds."""
        self._passes += passes
        self._training += seconds

    def begin(self) -> None:
        """A setting begins: trainings from here on are its own."""
        self._before = self._training

    def made(self, seconds: float) -> None:
        """Count a setting that was made in so many seconds, its trainings included."""
        self._settings.append(seconds - (self._training - self._before))

    def left(self, settings: int, passes: int = 0, *, workers: int = 1) -> str:
        """The time left, in words; empty if too little was measured yet.

        Args:
            settings: that are not made yet.
            passes: of the trainings that they still need.
            workers: processes that share them.
        """
        if not self._settings or not settings or (passes and not self._passes):
            return ""
        seconds = settings * sum(self._settings) / len(self._settings)
        if passes:
            seconds += passes * self._training / self._passes
        return f"about {clock(seconds / min(workers, settings))} left before timing and report"
