"""What a report says about the comparison itself."""

from pathlib import Path

import pytest

from skiplab.comparison.facts import backbone_name, backbone_slug, commands, facts, header, machine
from skiplab.comparison.prepare import Prepared, prepare
from skiplab.reporting.record import Entry
from tests.comparison.small import small_config

MACHINE = {"cpu": "a processor", "cores": 2, "threads": 1, "git_revision": "a" * 40, "git_dirty": True}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(small_config(tmp_path_factory.mktemp("facts")))


def test_a_backbone_is_named_by_its_shape_or_checkpoint() -> None:
    shape = {"_target_": "skiplab.backbones.shapes.OPTSpec", "num_layers": 12, "hidden_size": 64}
    assert backbone_name(shape) == "OPT, 12 layers of width 64, trained from scratch"
    assert backbone_slug(shape) == "opt-12x64"
    loaded = {**shape, "pretrained": True, "checkpoint": {"name": "facebook/opt-1.3b"}}
    assert backbone_name(loaded) == "OPT, 12 layers of width 64, facebook/opt-1.3b"
    assert backbone_slug(loaded) == "opt-1.3b"


def test_facts_name_task_backbone_items_and_revision(prepared: Prepared) -> None:
    found = dict(facts(prepared, MACHINE))
    assert found["task"] == "restaurants"
    assert found["machine"] == machine(MACHINE) == "a processor, 2 cores, 1 thread"
    assert found["revision"] == "aaaaaaaaaa with changes"
    assert f"test {len(prepared.data.rows('test'))}" in found["items per split"]
    assert "parameters" in found


def test_commands_make_run_and_page_again() -> None:
    assert commands("python -m skiplab.run", Path("/a b"))[0] == ("the run", "python -m skiplab.run")
    assert [command for _, command in commands(None, Path("/a b"))] == [
        "python -m skiplab.run experiment=report run='/a b'"
    ]


def test_the_consoles_header_counts_settings_by_method(prepared: Prepared, tmp_path: Path) -> None:
    entries = [Entry("full", "1x", 0), Entry("skipdecode", "2x", 0), Entry("skipdecode", "3x", 0)]
    lines = header(prepared, MACHINE, tmp_path, entries, finished=1, workers=2)
    assert "  settings  3 (full 1, skipdecode 2); 1 already finished" in lines
    assert f"  folder    {tmp_path}" in lines
    assert "  workers   2 processes make the settings" in lines
    assert any(line.startswith("  time      estimated") for line in lines)
    assert not any(
        line.startswith("  time") for line in header(prepared, MACHINE, tmp_path, entries, finished=len(entries))
    )
