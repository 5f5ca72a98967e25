"""The time that settings may still take."""

from skiplab.comparison.pace import Pace


def test_the_time_left_is_that_of_the_mean_setting() -> None:
    pace = Pace()
    assert pace.left(3) == ""
    pace.made(10)
    pace.made(20)
    assert pace.left(4) == "about 1:00 left before timing and report"
    assert pace.left(0) == ""
