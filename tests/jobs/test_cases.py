"""From method nodes to settings."""

import pytest

from skiplab.jobs.cases import expand
from skiplab.module import Optimization, Setup
from tests.tiny import tiny_backbone

SKIP = {"name": "skipdecode", "_target_": "skiplab.skipdecode.SkipDecode", "sweep": {"speedup": [2, 3]}}
FULL = {"name": "full", "_target_": "skiplab.full.Full", "sweep": {}}


def probe() -> Setup:
    return Setup(tiny_backbone(), [10, 12, 14], Optimization(learning_rate=1e-3))


def test_every_swept_value_and_seed_is_a_case() -> None:
    cases = expand({"full": FULL, "skipdecode": SKIP}, [0, 1], probe())
    assert [(case.entry.method, case.entry.setting, case.entry.seed) for case in cases] == [
        ("full", "1x", 0),
        ("skipdecode", "2x", 0),
        ("skipdecode", "2x", 1),
        ("skipdecode", "3x", 0),
        ("skipdecode", "3x", 1),
    ]
    assert cases[1].entry.key == "skipdecode-2x-seed-0"
    assert cases[1].params == {"speedup": 2}


def test_series_name_what_is_swept_beside_the_first_axis() -> None:
    node = {**SKIP, "sweep": {"speedup": [2, 3], "decay": ["linear", "cosine"]}}
    assert {case.series for case in expand({"s": node}, [0], probe())} == {
        "skipdecode decay=linear",
        "skipdecode decay=cosine",
    }


@pytest.mark.parametrize(
    ("node", "seeds", "message"),
    [
        ({**SKIP, "sweep": {"speedup": [9]}}, [0], "method skipdecode: target speedup 9 cannot be reached"),
        ({**SKIP, "decai": "linear"}, [0], "method skipdecode: .*unexpected keyword argument 'decai'"),
        ({**SKIP, "sweep": {"speedup": [2, 2]}}, [0], "two settings are called 'skipdecode-2x-seed-0'"),
    ],
)
def test_bad_nodes_say_what_is_wrong(node: dict, seeds: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand({"x": node}, seeds, probe())
