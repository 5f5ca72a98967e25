"""A comparison that decodes by sampling."""

import json
from pathlib import Path

import pytest

from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.comparison.session import open_session
from skiplab.engine.generation import GenerationOptions
from skiplab.export.saved_method import load_method
from skiplab.jobs.compare import compare
from skiplab.jobs.search import search
from tests.comparison.small import small_config

pytestmark = pytest.mark.usefixtures("no_plots")

PAPER = (
    "generation=skipdecode_paper",
    "generation.num_return_sequences=3",
    "generation.temperature=1.5",
    "speedups=[2]",
    "limit=12",
    "seeds=[0]",
    "~methods.early_termination",
    "~methods.multi_layer",
    "tracking.uri=null",
    "save_models=true",
    "benchmark.batch_sizes=[1]",
)


def test_item_scores_are_means_over_samples(tmp_path: Path) -> None:
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
    saved = load_method(tmp_path / "run" / "models" / "skipdecode-2x-seed-0")
    prompts = [item.prompt for item in prepare(config).data.items("test")]
    assert saved.defaults == GenerationOptions.of(do_sample=True, temperature=1.5, top_p=0.7, top_k=0)
    again = saved.tokens(prompts, seed=0, num_return_sequences=3)
    assert [again[number::3] for number in range(3)] == [draw["tokens"] for draw in draws]
    # A second run reads the finished settings, with all samples.
    assert compare(config, tmp_path / "run")


def test_calibration_needs_greedy_decoding(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="calibrated settings are certified only with greedy decoding"):
        compare(small_config(tmp_path, "generation=skipdecode_paper"), tmp_path / "run")


def test_a_search_needs_greedy_decoding(tmp_path: Path) -> None:
    config = small_config(
        tmp_path, "generation.repetition_penalty=1.2", "~methods.skipdecode_calibrated", experiment="search_schedule"
    )
    with pytest.raises(ConfigurationError, match="plans are searched only with greedy decoding"):
        search(config, tmp_path / "run")


def test_a_folder_is_bound_to_its_generation_options(tmp_path: Path) -> None:
    """Except the seed, which greedy decoding does not use."""
    greedy = prepare(small_config(tmp_path))
    open_session(greedy, tmp_path / "run")
    assert "generation" not in json.loads((tmp_path / "run" / "config.json").read_text())
    seeded = prepare(small_config(tmp_path, "generation.seed=3"))
    open_session(seeded, tmp_path / "run")
    ended = prepare(
        small_config(
            tmp_path, "generation.eos_token_id=[2]", "~methods.calm_calibrated", "~methods.skipdecode_calibrated"
        )
    )
    with pytest.raises(ConfigurationError, match=r"it differs in generation\b"):
        open_session(ended, tmp_path / "run")
