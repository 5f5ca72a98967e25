"""Every command of README and docs that starts a run can be composed, and its names and values are checked.

`python scripts/check_docs.py` runs them.
"""

import re

import pytest
from hydra import compose, initialize_config_module

from scripts.check_docs import Line, lines
from skiplab.comparison.config import load
from skiplab.comparison.config_base import launch


def overrides() -> list[tuple[str, ...]]:
    """The overrides of each such command, without Hydra's own, once each."""
    found: dict[tuple[str, ...], Line] = {}
    for line in lines():
        starts = [place for place, word in enumerate(line.argv) if word in ("skiplab", "skiplab.run")]
        # Files of the user's own are tried by the tests of their pages.
        if not starts or "--config-dir" in line.argv:
            continue
        words = line.argv[starts[0] + 1 :]
        given = tuple(word for word in words if "=" in word and not re.match(r"-|hydra[./]|install=", word))
        if given:
            found.setdefault(given, line)
    return list(found)


@pytest.mark.parametrize("given", overrides(), ids=" ".join)
def test_a_documented_command_is_valid(given: tuple[str, ...]) -> None:
    with initialize_config_module("experiments", version_base="1.3"):
        config = compose("config", overrides=[*given, "tracking.experiment=docs"])
    if "experiment=export" in given:
        assert launch(config).job == "skiplab.jobs.export.export"
    else:
        assert load(config).method_nodes["full"]


def test_there_are_commands() -> None:
    assert len(overrides()) > 20
