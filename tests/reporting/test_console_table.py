"""The table on terminals of different widths."""

import io

import pytest
from rich.console import Console

from skiplab.reporting.console_table import console_table
from skiplab.reporting.results import Row
from tests.reporting.test_tables import ROWS

LABELS = ("skipdecode 3x", "skipdecode calibrated delta=0.02", "calm classifier calibrated delta=0.05")
SUMMARY: list[Row] = [
    {"method": "full", "setting": "1x", "seeds": [0], "bleu": 40.0, "slot_accuracy": 0.99, "layer_speedup": 1.0},
    *(
        {
            "method": label.split(" ", 1)[0],
            "setting": label.split(" ", 1)[1],
            "seeds": [0],
            "bleu": 38.5,
            "slot_accuracy": 0.95,
            "slot_accuracy_ci95": [0.94, 0.96],
            "slot_accuracy_from_full": -0.04,
            "slot_accuracy_from_full_ci95": [-0.05, -0.03],
            "layer_speedup": 3.0,
            "train_passes": 4,
            "against": "skipdecode 2x",
            "slot_accuracy_difference": -0.021,
            "slot_accuracy_difference_ci95": [-0.03, -0.01],
            "slot_accuracy_p_value": 0.0001,
        }
        for label in LABELS
    ),
]


def printed(width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(console_table(ROWS, SUMMARY, width))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_every_setting_and_figure_is_whole(width: int) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    assert all(line.strip() for line in lines)
    assert "…" not in "".join(lines)
    text = " ".join(" ".join(lines).split())
    assert all(word in text.split() for label in LABELS for word in label.split())
    for figure in ("3.00x", "2.90x", "2.70x", "0.950", "-0.040", "38.5", "lost <b> failed"):
        assert figure in text
    assert ("-0.021 skipdecode 2x" in text) == (width == 120)
    assert ("-0.021 [-0.030, -0.010] p=<0.001 skipdecode 2x" in text) == (width == 200)
    assert ("2.90x [2.80, 3.00]" in text) == (width == 200)
    assert ("passes" in text) == (width > 80)
    assert sum(line.endswith(" 4") for line in lines) == (len(LABELS) if width > 80 else 0)
