"""What can be named on the command line."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pytest

from skiplab.comparison.catalog import KINDS, choices, described, list_names
from skiplab.comparison.config_base import ConfigurationError
from skiplab.reporting.vocabulary import FIGURES


def listed(arguments: Sequence[str]) -> list[str]:
    found: list[str] = []
    list_names(arguments, found.append)
    return found


def test_everything_is_listed_with_a_line_each() -> None:
    found = listed([])
    assert [line.partition(":")[0] for line in found if line and not line.startswith(" ")] == list(KINDS)
    for group in ("experiment", "method", "backbone", "data", "trainer", "generation", "tracking"):
        for entry in (files("experiments") / group).iterdir():
            name = entry.name.removesuffix(".yaml")
            (line,) = (line for line in found if line.split()[:1] == [name])
            assert len(line.split()) > 2, f"{entry.name} says what it is"
    assert any(line.split()[:1] == ["slot_accuracy"] and FIGURES["slot_accuracy"].meaning in line for line in found)
    assert not any(line.split()[:1] == ["method"] for line in found)


@pytest.mark.parametrize(
    ("yaml", "text"),
    [
        ("# @package _global_\ndescription: which? all\n", "which? all"),
        ("# One thing.\n# More of it.\nname: one\n", "One thing"),
        ("# A sentence\n# (arXiv 1.2) goes on.\nname: one\n# Not this.\n", "A sentence (arXiv 1.2) goes on"),
        ("name: one\n# Not this.\n", ""),
    ],
)
def test_a_file_describes_itself_first(yaml: str, text: str) -> None:
    assert described(yaml) == text


def test_a_folder_of_ones_own_is_listed_too(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# My method.\nname: mine\n")
    assert "  mine                   My method" in listed(["methods", "--config-dir", str(tmp_path)])
    assert choices("method", tmp_path).keys() == choices("method").keys() | {"mine"}
    assert choices("data", tmp_path) == choices("data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method"], "there is no list of method; did you mean methods?"),
        (["xyzzy"], "there is no list of xyzzy; choose from experiments, methods"),
        (["methods", "--config-dir", "none"], "--config-dir must be a folder, got none"),
    ],
)
def test_unknown_lists_and_folders_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("?", r"\?")):
        listed(arguments)
