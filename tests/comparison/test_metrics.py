"""A user's own metric: one file outside the repository."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig

from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.data.restaurants import Restaurants
from skiplab.evaluation.metric import Outputs
from skiplab.jobs.compare import compare
from skiplab.jobs.search import checked_spec
from skiplab.utils.figures import FIGURES
from tests.comparison.small import small_config

OWN = """
from skiplab.evaluation.metric import TextMetric, quality_figure

BREVITY = TextMetric(
    quality_figure("brevity", "one over the number of words", label="brevity of text"),
    lambda output, references: 1 / max(1, len(output.split())),
)
WORDS = TextMetric(
    quality_figure("words", "number of words", unit="words", form="{:.1f}", sense="minimize"),
    lambda output, references: len(output.split()),
)
ROGUE = TextMetric(quality_figure("rouge_l", "another ROUGE-L"), lambda output, references: 1.0)
LOUD = TextMetric(quality_figure("loud", "beyond its unit"), lambda output, references: 7.0)
BROKEN = TextMetric(quality_figure("broken", "raises"), lambda output, references: references["a"])
NUMBER = 3
"""
FEW = ("~methods.calm", "~methods.calm_calibrated", "speedups=[2]", "benchmark.batch_sizes=[]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An importable folder with the file of the metrics."""
    home = tmp_path_factory.mktemp("metrics")
    (home / "package").mkdir()
    (home / "package" / "my_metrics.py").write_text(OWN)
    page = (Path(__file__).parents[2] / "docs" / "adding_a_metric.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (home / "package" / "exact_match.py").write_text(example)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home / "package")
        # Registrations are undone after this module.
        patch.setattr(FIGURES, "_by_name", dict(FIGURES._by_name))
        yield home


def with_metrics(home: Path, *overrides: str, names: tuple[str, ...] = ("BREVITY", "WORDS"), **more: str) -> DictConfig:
    paths = ",".join(f"my_metrics.{name}" for name in names)
    return small_config(home, f"metrics=[{paths}]", *overrides, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A comparison with the metrics, one of which is used for calibration."""
    calibrated = ("calibration.delta=[0.3]", "calibration.epsilon=0.9", "calibration.metric=brevity")
    assert compare(with_metrics(home, *FEW, *calibrated), home / "run") is True
    return home / "run"


def test_it_is_a_key_in_the_results_with_its_interval(run: Path) -> None:
    content = json.loads((run / "results.json").read_text())
    for row in content["rows"]:
        for name in ("brevity", "words"):
            low, high = row[f"{name}_ci95"]
            assert low <= row[name] <= high
    header = (run / "results.csv").read_text().splitlines()[0]
    assert "brevity,brevity_ci95,words,words_ci95" in header
    (compared,) = (row for row in content["summary"] if row["method"] == "multi_layer")
    assert compared["against"] == "skipdecode 2x"
    assert {"brevity", "brevity_ci95", "brevity_difference", "brevity_difference_ci95", "brevity_p_value"} <= set(
        compared
    )


def test_it_is_a_column_and_a_plot(run: Path) -> None:
    page = (run / "report.html").read_text()
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    assert any("brevity of text" in table and "brevity of text difference" in table for table in tables)
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", page)
    assert "brevity of text" in drawn, "the axis of the plot of quality against speed"
    assert "words, difference" in drawn, "the axis of the plot of differences"
    assert "one over the number of words" in page, "the vocabulary says what it means"


def test_it_can_be_used_for_calibration(run: Path) -> None:
    (kept,) = run.rglob("calibration-skipdecode-calibrated*.json")
    assert json.loads(kept.read_text())["metric"] == "brevity"
    (row,) = (row for row in json.loads((run / "results.json").read_text())["rows"] if "calibrated" in row)
    assert row["calibrated"] == "full depth" or 0 <= row["test_loss"] <= 1


@pytest.mark.parametrize(("objective", "sense"), [("brevity", "maximize"), ("words", "minimize")])
def test_it_is_a_search_objective(home: Path, objective: str, sense: str) -> None:
    spec = checked_spec(prepare(searching(home, f"+search.objectives.{objective}={sense}")))
    assert (spec.quality, spec.sense, spec.decodes) == (objective, sense, True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+search.objectives.brevty=maximize", "objectives.brevty is not a figure of a trial; did you mean brevity?"),
        ("+search.objectives.brevity=minimize", "search.objectives.brevity must be maximize, got minimize"),
        ("+search.constraints.word.at_least=3", "constraints.word is not a figure of a trial; did you mean words?"),
        ("+search.objectives.bertscore_f1=maximize", "bertscore_f1 is not a figure of a trial"),
        ("calibration.metric=brevty", "for this data, got 'brevty'; did you mean brevity?"),
        ("calibration.metric=words", "calibration metric must be one of rouge_1, .*brevity for this data, got 'words'"),
    ],
)
def test_misspelt_and_unavailable_names_are_refused(home: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("?", r"\?")):
        checked_spec(prepare(searching(home, override)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_metrics.NUMBER", "metrics: my_metrics.NUMBER is not a metric but 3; it must be a"),
        ("my_metrics.NOTHING", "metrics: cannot import my_metrics.NOTHING: .*NOTHING"),
        ("no_such_module.X", "metrics: cannot import no_such_module.X: .*no_such_module"),
        ("my_metrics.ROGUE", "'rouge_l' cannot be added: 'rouge_l' is taken by 'rouge_l'"),
        ("my_metrics.LOUD", r"my_metrics.LOUD gives a test item 7, and a figure with unit 'share' is in \[0, 1\]"),
        ("my_metrics.BROKEN", "my_metrics.BROKEN fails on a test item: TypeError"),
    ],
)
def test_objects_that_are_not_metrics_are_refused(home: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        prepare(small_config(home, f"metrics=[{name}]"))


def test_the_example_in_the_docs_works(home: Path) -> None:
    *_, metric = prepare(small_config(home, "metrics=[exact_match.EXACT_MATCH]")).metrics
    outputs = Outputs(["", ""], [["a b", "c"], ["d"]], ["c", "e"], [[1], [1]], [[1], [1]])
    assert metric.measure(outputs).by_item == {"exact_match": [1.0, 0.0]}


def test_a_score_of_the_task_that_is_not_a_figure_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Restaurants, "item_scores", lambda self, prompt, output: {"politeness": 1.0})
    with pytest.raises(ConfigurationError, match="the data scores 'politeness', which is not a registered figure"):
        prepare(small_config(home, "calibration.metric=rouge_l"))


def searching(home: Path, *overrides: str) -> DictConfig:
    own = ("search.objectives.loss=null", *(f"search.space.{key}=[1,4]" for key in ("max_exit", "min_exit")))
    space = ("search.space.warmup=[0,2]", f"search.storage={home}/study.log", f"search.artifacts={home}/artifacts")
    return with_metrics(home, *own, *space, *overrides, experiment="search_schedule")
