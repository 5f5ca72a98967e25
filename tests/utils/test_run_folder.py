"""`RunFolder`: the folder of one run."""

from pathlib import Path

import pytest

from skiplab.utils.files import load_json, save_json, write_text
from skiplab.utils.run_folder import RunFolder


def test_a_folder_is_bound_to_one_configuration(tmp_path: Path) -> None:
    RunFolder(tmp_path).bind({"data": {"seed": 0}, "seeds": [0]})
    RunFolder(tmp_path).bind({"data": {"seed": 0}, "seeds": [0]})
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"another configuration \(it differs in data.seed, limit\); choose another"):
        RunFolder(tmp_path).bind({"data": {"seed": 1}, "seeds": [0], "limit": 3})
    assert (tmp_path / "config.json").read_bytes() == before


def test_saved_values_are_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.load("settings/a") is None
    folder.save("settings/a", {"x": [1, 2.5, None]})
    assert folder.load("settings/a") == {"x": [1, 2.5, None]}


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    save_json(path, {"old": 1})
    with pytest.raises(TypeError):
        save_json(path, {"new": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert load_json(path) == {"old": 1}


def test_a_folder_with_old_module_names_is_resumed(tmp_path: Path) -> None:
    RunFolder(tmp_path).bind({"methods": {"full": {"_target_": "skiplab.full.Full"}}, "on": [1]})
    RunFolder(tmp_path).check({"methods": {"full": {"_target_": "skiplab.methods.full.Full"}}, "on": [1]})


def test_a_folder_without_a_newer_list_option_is_resumed_if_the_list_is_empty(tmp_path: Path) -> None:
    RunFolder(tmp_path).bind({"seeds": [0]})
    RunFolder(tmp_path).check({"seeds": [0], "metrics": []})
    with pytest.raises(ValueError, match="differs in metrics"):
        RunFolder(tmp_path).check({"seeds": [0], "metrics": ["a.B"]})


def test_a_folder_made_with_another_description_is_resumed(tmp_path: Path) -> None:
    RunFolder(tmp_path).bind({"description": "a first wording", "seeds": [0]})
    reworded = {"description": "a second wording", "seeds": [0]}
    RunFolder(tmp_path).bind(reworded)
    assert load_json(tmp_path / "config.json") == reworded
    RunFolder(tmp_path).bind({"seeds": [0]})
    with pytest.raises(ValueError, match=r"\(it differs in seeds\)"):
        RunFolder(tmp_path).check({"description": "a third wording", "seeds": [1]})
