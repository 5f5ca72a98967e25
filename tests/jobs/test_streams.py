"""The job that serves streams of requests, from configuration to results."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from skiplab.comparison.prepare import ConfigurationError
from skiplab.jobs.streams import streams
from tests.composed import composed

SMALL = (
    "data.train_size=40",
    "data.valid_size=225",
    "data.test_size=10",
    "speedups=[2]",
    "backbone.num_layers=6",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "streams.requests=8",
    "streams.loads=[0.5]",
    "streams.patterns=[poisson]",
    "streams.slots=3",
    "benchmark.rounds=2",
    "tracking=none",
    "tracking.experiment=streams",
)


def config(*overrides: str) -> DictConfig:
    return composed("experiment=streams", *SMALL, *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams") / "run"
    assert streams(config(), folder)
    return folder


def test_every_system_serves_every_stream(folder: Path) -> None:
    rows = json.loads((folder / "results.json").read_text())["rows"]
    systems = {f"{row['method']} {row['setting']}" for row in rows}
    assert systems == {
        "full 1x", "full 1x static batches", "skipdecode 2x", "skipdecode 2x static batches", "skipdecode 2x constant",
        "skipdecode 2x constant static batches", "calm drawn ~2x",
    }  # fmt: skip
    assert len(rows) == len(systems) * 2
    for row in rows:
        assert row["requests_per_s"] > 0
        assert row["token_ms_p50"] <= row["token_ms_p95"] <= row["token_ms_p99"]
        assert ("load" in row) == (row["arrivals"] != "saturated")
    depth = {row["setting"]: row["mean_depth"] for row in rows if row["arrivals"] == "saturated"}
    assert depth["2x"] == pytest.approx(depth["2x static batches"])
    assert depth["2x"] < depth["1x"] == 6


def test_the_report_has_plots_by_load(folder: Path) -> None:
    assert (folder / "report.html").is_file()
    assert (folder / "plots" / "token_ms_p95_by_load.png").is_file()


def test_finished_rounds_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert streams(config(), folder)
    assert "round 2: already finished" in capsys.readouterr().out


def test_a_trace_can_be_served_instead(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [{"at": 0.01 * number, "prompt_tokens": 3 + number, "new_tokens": 4} for number in range(5)]
    trace.write_text("\n".join(map(json.dumps, lines)))
    assert streams(config(f"streams.trace={trace}", "streams.static=[]"), tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {row["arrivals"] for row in rows} == {"trace"}
    assert {row["requests"] for row in rows} == {5}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("streams.static=[skipdcode]", "names 'skipdcode', which is no method here; did you mean skipdecode"),
        ("streams.peers=[hf_continuous]", "does not run OPT"),
        ("streams.slots=0", "streams.slots"),
        ("streams.loads=[1.5]", "streams.loads"),
        ("streams.trace=none.jsonl", "is not a file"),
    ],
)
def test_impossible_measurements_are_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        streams(config(override), tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
