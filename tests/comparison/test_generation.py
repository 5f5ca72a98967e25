"""A comparison whose settings sample."""

import json
from pathlib import Path

import pytest

from skiplab.comparison.prepare import ConfigurationError
from skiplab.jobs.compare import compare
from skiplab.jobs.search import search
from tests.comparison.small import small_config

PAPER = ("generation=skipdecode_paper", "generation.num_return_sequences=3", "speedups=[2]", "limit=12")


def test_item_scores_are_means_over_draws(tmp_path: Path) -> None:
    config = small_config(tmp_path, *PAPER, "decode_batch_size=5", experiment="skip_or_terminate")
    assert compare(config, tmp_path / "run")
    rows = {row["method"]: row for row in json.loads((tmp_path / "run" / "results.json").read_text())["rows"]}
    assert rows["hf_generate"]["setting"] == "full depth greedy"
    assert rows["full"]["agreement"] == 1
    records = [json.loads(path.read_text()) for path in (tmp_path / "run" / "settings").iterdir()]
    sampled = next(record for record in records if record["method"] == "skipdecode")
    draws = [sampled["outputs"], *sampled["outputs"]["further"]]
    assert len(draws) == 3
    assert all(len(draw["texts"]) == len(sampled["item_scores"]["rouge_l"]) == 12 for draw in draws)
    assert len({tuple(draw["texts"]) for draw in draws}) > 1
    low, high = rows["skipdecode"]["rouge_l_ci95"]
    assert low <= rows["skipdecode"]["rouge_l"] <= high
    # What is finished is read again, with all draws.
    assert compare(config, tmp_path / "run")


def test_calibrations_are_of_greedy_decoding(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="calibrated settings are certified by greedy decoding alone"):
        compare(small_config(tmp_path, "generation=skipdecode_paper"), tmp_path / "run")


def test_plans_are_searched_by_greedy_decoding(tmp_path: Path) -> None:
    config = small_config(
        tmp_path, "generation.repetition_penalty=1.2", "~methods.skipdecode_calibrated", experiment="search_schedule"
    )
    with pytest.raises(ConfigurationError, match="plans are searched by greedy decoding alone"):
        search(config, tmp_path / "run")
