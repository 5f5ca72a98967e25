"""Losses that are not finite in the middle of a comparison."""

from pathlib import Path

from tests.faults.comparisons import command, results
from tests.forked_run import output


def test_a_training_that_diverges_fails_only_its_setting(undisturbed: Path, tmp_path: Path) -> None:
    blown = ("trainer.learning_rate=1e30", "trainer.gradient_clip=1e30", "trainer.warmup_fraction=0")
    base = ("+base.gradient_clip=1.0", "+base.warmup_fraction=0.1")
    assert command(tmp_path, *blown, *base) == 1
    rows = {row["method"]: row for row in results(tmp_path)["rows"]}
    for name in ("skipdecode", "calm"):
        assert rows[name]["error"].startswith("NonFiniteLossError: validation loss is nan at step 4: lower the")
    expected = {row["method"]: row for row in results(undisturbed)["rows"]}
    for name in ("full", "hf_generate"):
        assert rows[name] == expected[name]
    assert "failed skipdecode 2x: NonFiniteLossError" in output(tmp_path)
