"""The job that searches drafters, from configuration to results."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.jobs.search_draft import _identity, search_draft
from skiplab.search.study import open_storage, open_study
from tests.comparison.small import small_config


def config(folder: Path, *overrides: str) -> DictConfig:
    small = (
        "tracking.uri=null", f"drafts.storage=sqlite:///{folder}/optuna.db", "drafts.trials=10", "drafts.depth=[1,3]",
        "drafts.length=[1,3]", "drafts.threshold=[0.5]", "trainer.max_epochs=1", "methods.speculative.passes=1",
        "methods.speculative.draft.vocabulary=20",
    )  # fmt: skip
    return small_config(folder, *small, *overrides, experiment="search_draft")


def test_a_search_is_resumed_and_its_drafters_are_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search_draft(config(tmp_path, "drafts.trials=8"), tmp_path / "run")
    before = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert search_draft(config(tmp_path), tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {row["setting"] for row in before} <= {row["setting"] for row in rows}
    assert len({row["setting"] for row in rows}) == len(rows), "a plan is timed once, whatever its kind"
    speeds = [row["decode_speedup"] for row in rows]
    assert speeds == sorted(speeds, reverse=True)
    for row in rows:
        assert 1 <= row["tokens_per_verification"] <= 4
        assert 0 <= row["draft_agreement"] <= 1
        assert row["method"] == "speculative"
        assert row["setting"].endswith(" of 20 tokens")
    assert "times as fast as full depth" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "run" / "report.html").is_file()


def test_drafters_are_searched_in_sampling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampling = config(tmp_path, "drafts.trials=8", "generation=skipdecode_paper")
    assert search_draft(sampling, tmp_path / "run")
    assert "as fast as full depth in sampling" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ConfigurationError, match="belongs to another search \\(it differs in generation\\)"):
        search_draft(config(tmp_path, "drafts.trials=8"), tmp_path / "greedy")


@pytest.mark.parametrize(
    ("override", "differs"),
    [
        ("backbone.hidden_size=64", "base"),
        ("methods.speculative.passes=2", "trainer"),
        ("methods.speculative.draft.vocabulary=30", "method"),
        ("benchmark.prompts=3", "benchmark"),
    ],
)
def test_speeds_of_different_models_do_not_mix(tmp_path: Path, override: str, differs: str) -> None:
    prepared = prepare(config(tmp_path))
    options = prepared.config.section("drafts")
    open_study(
        open_storage(options.storage), options.study, directions={"decode_speedup": "maximize"},
        identity=_identity(prepared, options, prepared.cases[-1].candidates[0]),
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=f"belongs to another search \\(it differs in {differs}\\)"):
        search_draft(config(tmp_path, override), tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["drafts.depth=[1,4]"], "drafts.depth must end below the 4 layers of the backbone, got \\[1, 4\\]"),
        (["drafts.length=[3,2]"], "drafts.length must be an ascending range, got \\[3, 2\\]"),
        (["method=skipdecode"], "needs a drafting method, whose weights it takes; add method=speculative"),
        (["generation.repetition_penalty=1.2"], "or in sampling with only temperature, top_k, .*; leave out other"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    cfg = config(tmp_path, *overrides)
    with pytest.raises(ConfigurationError, match=message):
        search_draft(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()
