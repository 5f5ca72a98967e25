"""Every command of README and docs that starts a run can be composed, and its names and values are checked.

`python scripts/check_docs.py` runs them.
"""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from scripts import check_docs
from scripts.check_docs import Line, lines
from skiplab.comparison.config import load
from skiplab.comparison.config_base import launch


def overrides(*, printed: bool) -> list[tuple[str, ...]]:
    """The overrides of each such command, without Hydra's own, once each.

    Args:
        printed: of the commands that only print their configuration, in place of those that run.
    """
    found: dict[tuple[str, ...], Line] = {}
    for line in lines():
        starts = [place for place, word in enumerate(line.argv) if word in ("skiplab", "skiplab.run")]
        # Files of the user's own are tried by the tests of their pages.
        if not starts or "--config-dir" in line.argv:
            continue
        words = line.argv[starts[0] + 1 :]
        given = tuple(word for word in words if "=" in word and not re.match(r"-|hydra[./]|install=", word))
        if given and printed == bool({"--cfg", "--info"} & set(line.argv)):
            found.setdefault(given, line)
    return list(found)


@pytest.mark.parametrize("given", overrides(printed=True), ids=" ".join)
def test_a_documented_command_can_print_its_configuration(given: tuple[str, ...]) -> None:
    with initialize_config_module("experiments", version_base="1.3"):
        assert "methods" in compose("config", overrides=[*given, "tracking.experiment=docs"])


@pytest.mark.parametrize("given", overrides(printed=False), ids=" ".join)
def test_a_documented_command_is_valid(given: tuple[str, ...]) -> None:
    with initialize_config_module("experiments", version_base="1.3"):
        config = compose("config", overrides=[*given, "tracking.experiment=docs"])
    if "experiment=export" in given:
        assert launch(config).job == "skiplab.jobs.export.export"
    else:
        assert load(config).method_nodes["full"]


def test_a_command_that_takes_too_long_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_docs, "_PATIENCE", 0.2)
    code, said = check_docs.run(("python", "-c", "import time; time.sleep(9)"), tmp_path, port=0)
    assert (code, said) == (124, "took more than 0.2 s")


def test_there_are_commands() -> None:
    assert len(overrides(printed=False)) > 20
    assert overrides(printed=True)
