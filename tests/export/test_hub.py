"""Pushing saved methods to a stand-in for the hub's client, which keeps repositories as folders."""

import inspect
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects, validate_repo_id

from skiplab.backbones.checkpoint import CheckpointError
from skiplab.export.hub import push_to_hub
from skiplab.export.saved_method import load_method
from skiplab.methods.skipdecode import SkipDecode
from tests.export.test_saved_method import PROMPTS, saved, setup


class Hub:
    """The methods of `HfApi` that we call, with the same argument names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tokens: list[str | None] = []
        self.private: dict[str, bool | None] = {}
        self.messages: list[str] = []

    def __call__(self, *, token: str | None) -> "Hub":
        self.tokens.append(token)
        return self

    def create_repo(self, repo_id: str, **options: Any) -> SimpleNamespace:
        check_names(HfApi.create_repo, options)
        assert options["exist_ok"]
        assert options["repo_type"] == "model"
        validate_repo_id(repo_id)
        repo_id = repo_id if "/" in repo_id else f"me/{repo_id}"
        if repo_id not in self.private:
            (self.root / repo_id).mkdir(parents=True)
            self.private[repo_id] = options["private"]
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **options: Any) -> Any:
        check_names(HfApi.upload_folder, options)
        self.messages.append(options["commit_message"])
        files = [str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file()]
        for name in filter_repo_objects(files, allow_patterns=allow_patterns):
            target = self.root / repo_id / name
            target.parent.mkdir(exist_ok=True)
            shutil.copy(folder_path / name, target)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/{len(self.messages)}")


def check_names(function: Any, options: dict[str, Any]) -> None:
    assert set(options) <= set(inspect.signature(function).parameters)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("skiplab.export.hub.HfApi", hub)
    return hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "skipdecode-2x"
    saved(folder, SkipDecode(setup("llama"), speedup=2.0), speedup=2.0)
    return folder


def test_the_pushed_files_are_the_method(hub: Hub, folder: Path) -> None:
    (folder / "notes.md").write_text("mine")
    (folder / "runs").mkdir()
    (folder / "runs" / "data.jsonl").write_text("mine too")
    assert push_to_hub(folder, "someone/name", private=True, token="t") == "https://hub/someone/name/commit/1"
    pushed = hub.root / "someone" / "name"
    assert load_method(pushed).tokens(PROMPTS) == load_method(folder).tokens(PROMPTS)
    assert "SkipDecode at the setting 2x" in (pushed / "README.md").read_text()
    assert (pushed / "custom_generate" / "generate.py").is_file()
    assert not list(pushed.rglob("notes.md")) + list(pushed.rglob("*.jsonl"))
    assert hub.private == {"someone/name": True}
    assert (hub.tokens, hub.messages) == (["t"], ["skiplab: 2x"])


def test_a_second_push_updates_the_same_repository(hub: Hub, folder: Path) -> None:
    push_to_hub(folder, "name", private=True)
    assert push_to_hub(folder, "name", message="again").endswith("me/name/commit/2")
    assert hub.private == {"me/name": True}
    assert hub.messages[1] == "again"


def test_only_complete_methods_are_pushed(hub: Hub, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist"):
        push_to_hub(tmp_path / "none", "name")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    with pytest.raises(CheckpointError, match=r"model.safetensors is truncated"):
        push_to_hub(folder, "name")
    weights.write_bytes(whole)
    (folder / "README.md").unlink()
    with pytest.raises(CheckpointError, match=r"holds no README.md, its model card"):
        push_to_hub(folder, "name")
    assert hub.tokens == []


def test_the_hubs_refusal_is_reported(hub: Hub, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot push .* to a/b/c: .*hf auth login"):
        push_to_hub(folder, "a/b/c")


def test_a_push_offline_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot push .* to someone/name: .*(?i:offline)"):
        push_to_hub(folder, "someone/name", token="t")
