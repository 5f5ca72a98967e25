"""Dry runs of the paper's comparisons: every step, on a CPU, with OPT's layout scaled down."""

import json
from pathlib import Path

import pytest

from skiplab.jobs.compare import compare
from tests.comparison.small import small_config
from tests.papers import EXPERIMENTS, SCALED_DOWN, local_copy

# Their small files share prompts.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.* split are in the .* split too"),
    pytest.mark.usefixtures("no_plots"),
]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_dry_run_passes_every_step(tmp_path: Path, experiment: str, capsys: pytest.CaptureFixture[str]) -> None:
    # The paper's smallest and largest; the other tasks differ only in their data.
    speedups = [1, 5] if experiment == "paper_e2e" else [3]
    size = ("limit=4", f"speedups={speedups}", "max_new_tokens=32", "trainer.max_epochs=1", "benchmark.prompts=2")
    overrides = (*SCALED_DOWN, *size)
    task = local_copy(experiment, tmp_path / "data")
    config = small_config(tmp_path, *overrides, experiment=experiment, task=task)
    assert compare(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "random weights instead of facebook/opt-1.3b, and a tokenizer of" in printed
    assert ("ROUGE-1" in printed) == (experiment != "paper_e2e")
    assert "random weights instead of" in (tmp_path / "run" / "report.html").read_text()
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {row["batch_size"] for row in rows} == {1, 4}
    methods = ("skipdecode", "multi_layer", "calm")
    settings = {(row["method"], row["setting"]) for row in rows if row["method"] in methods}
    expected = {(method, f"{speedup}x") for method in methods[:2] for speedup in speedups}
    expected |= {("calm", f"{measure} ~{speedup}x") for measure in ("softmax", "state") for speedup in speedups}
    assert settings == expected
    for row in rows:
        assert {"bleu", "bleu_signature", "rouge_1", "rouge_2", "rouge_l", "decode_speedup"} <= row.keys()
        assert ("slot_accuracy" in row) == (experiment == "paper_e2e")
