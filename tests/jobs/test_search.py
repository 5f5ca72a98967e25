"""A whole small search: its studies, runs, files and failures."""

import json
import re
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
import yaml
from optuna.trial import TrialState

from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.comparison.session import Session
from skiplab.jobs.compare import compare
from skiplab.jobs.search import checked_spec, search
from skiplab.schedules.nested_plan import NestedPlan
from skiplab.search.judge import Judge
from skiplab.search.study import RUN, open_storage
from skiplab.search.trials import DUPLICATE, ERROR, FIGURES, STEPS
from skiplab.utils.run_folder import RunFolder
from tests.comparison.small import small_config
from tests.jobs.small_search import CALIBRATED, NO_SPEED, OTHERS, small, trials


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search in which the evaluation of the third plan failed."""
    home = tmp_path_factory.mktemp("search")
    real, asked = Judge.figures, []

    def figures(self: Judge, plan: NestedPlan, *rest: Any) -> dict[str, float]:
        asked.append(plan)
        if len(asked) == 3:
            raise RuntimeError("not this one today")
        return real(self, plan, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "figures", figures)
        assert search(small(home, *CALIBRATED), home / "run") is True
    return home


def test_trials_are_evaluated_reused_pruned_or_failed(home: Path) -> None:
    found = trials(home)
    judged = [trial for trial in found if trial.state == TrialState.COMPLETE and DUPLICATE not in trial.user_attrs]
    assert len(judged) == 8
    assert len({tuple(trial.user_attrs[STEPS]) for trial in judged}) == 8, "no plan is evaluated twice"
    for trial in found:
        if trial.state == TrialState.COMPLETE:
            assert trial.values == [trial.user_attrs[FIGURES][name] for name in ("loss", "layer_speedup")]
            assert trial.constraints == {"schedule": 0.0}
        if trial.state == TrialState.PRUNED:
            assert trial.constraints["schedule"] > 0
        if (twin := trial.user_attrs.get(DUPLICATE)) is not None:
            assert trial.values == found[twin].values
            assert trial.user_attrs[STEPS] == found[twin].user_attrs[STEPS]
    (failed,) = (trial for trial in found if trial.state == TrialState.FAIL)
    assert failed.user_attrs[ERROR] == "RuntimeError: not this one today"
    assert found[0].user_attrs["warm_start"] == "2x linear"


def test_the_layer_speedup_is_computed_from_the_bases_output_lengths(home: Path) -> None:
    (stored,) = (home / "cache").glob("base-*/selection-lengths.json")
    from skiplab.schedules.exit_schedule import decode_steps

    reach = decode_steps(json.loads(stored.read_text()))
    for trial in trials(home):
        if trial.state == TrialState.COMPLETE:
            plan = NestedPlan(tuple(trial.user_attrs[STEPS]))
            assert trial.values[1] == plan.layer_speedup(reach)


def test_every_trial_has_a_nested_run_with_links_in_both_directions(home: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    names = {0: "search_schedule", 1: "search_schedule-random"}
    tracked = json.loads((home / "run" / "mlflow.json").read_text())
    for name in names.values():
        parent = client.get_run(tracked[f"study {name}"])
        assert parent.data.tags["mlflow.parentRunId"] == tracked["parent"]
        assert parent.data.metrics["hypervolume"] >= 0
        for trial in trials(home, name):
            run = client.get_run(trial.user_attrs[RUN])
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.data.tags["optuna.trial"] == str(trial.number)
            assert run.info.status == ("FAILED" if trial.state == TrialState.FAIL else "FINISHED")
            assert set(run.data.params) == set(trial.params)
            if trial.state == TrialState.COMPLETE:
                assert run.data.metrics["loss"] == trial.values[0]


def test_the_dashboard_has_metric_names_and_pictures_of_plans(home: Path) -> None:
    storage = open_storage(f"{home}/journal.log")
    study = optuna.load_study(study_name="search_schedule", storage=storage)
    assert study.metric_names == ["loss", "layer_speedup"]
    for trial in study.trials:
        if STEPS in trial.user_attrs:
            (picture,) = optuna.artifacts.get_all_artifact_meta(trial, storage=storage)
            assert picture.mimetype == "image/svg+xml"
            assert (home / "artifacts" / picture.artifact_id).read_text().startswith("<svg")


def test_the_comparison_has_finalists_baselines_and_the_profiles_plan(home: Path) -> None:
    results = json.loads((home / "run" / "results.json").read_text())
    assert results["job"] == "search"
    settings = [row["setting"] for row in results["rows"]]
    for pattern in ("1x", "2x", r"searched 2x #\d+", r"random 2x #\d+", "profile 2x"):
        assert [setting for setting in settings if re.fullmatch(pattern, setting)], pattern
    assert all(row["against"] == "skipdecode 2x" for row in results["summary"] if "searched 2x" in row["setting"])
    page = (home / "run" / "report.html").read_text()
    for text in (
        "Do the cheap losses rank",
        "Seconds of trials",
        'id="plot-search_front"',
        'id="plot-layer_importance"',
    ):
        assert text in page
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    parent = json.loads((home / "run" / "mlflow.json").read_text())["parent"]
    assert {item.path for item in client.list_artifacts(parent)} >= {"report.html", "schedules", "plots"}


def test_an_exported_schedule_reproduces_its_quality(home: Path, tmp_path: Path) -> None:
    (file,) = (home / "run" / "schedules").glob("searched-2x-trial-*.yaml")
    name = yaml.safe_load(file.read_text())["name"]
    (searched,) = (
        row for row in json.loads((home / "run" / "results.json").read_text())["rows"] if row["setting"] == name
    )
    again = small_config(
        home, "method=skipdecode", f"method.schedule={file}", "methods.full.sweep.fine_tune=[false]",
        "benchmark.batch_sizes=[]", "tracking.experiment=again", *CALIBRATED,
    )  # fmt: skip
    assert compare(again, tmp_path / "again") is True
    (row,) = (
        row for row in json.loads((tmp_path / "again" / "results.json").read_text())["rows"] if row["setting"] == name
    )
    assert row == searched | {name: row[name] for name in ("target_speedup", "train_cpu_s")}


def test_a_finished_search_is_not_made_again(home: Path) -> None:
    before, numbers = trials(home), len(list((home / "run" / "settings").iterdir()))
    assert (
        search(small(home, *CALIBRATED, "search.select.speedup=null", "search.select.guarantee=0.3"), home / "run")
        is True
    )
    assert trials(home) == before
    assert len(list((home / "run" / "settings").iterdir())) == numbers


def test_a_study_of_another_space_is_refused(home: Path) -> None:
    other = small(home, *CALIBRATED, "search.space.warmup=[1,2]")
    with pytest.raises(ConfigurationError, match=r"study 'search_schedule' in this storage belongs to another search"):
        search(other, home / "other")


def test_a_single_objective_is_pruned_under_a_constraint(tmp_path: Path) -> None:
    overrides = (
        NO_SPEED, "search.fidelity=fine_tune", "search.pruner=median", "search.tune_steps=4", "search.tune_reports=2",
        "+search.constraints.layer_speedup.at_least=1.5", "search.baselines=[]",
        "search.sampler=random", "search.trials=9", "trainer.batch_size=4",
        "+search.space.training={learning_rate:[1e-3,1e-2],distill:[0.1,1]}",
    )  # fmt: skip
    assert search(small(tmp_path, *overrides), tmp_path / "run") is True
    found = trials(tmp_path)
    cut_short = [trial for trial in found if trial.state == TrialState.PRUNED and trial.intermediate_values]
    whole = [trial for trial in found if trial.state == TrialState.COMPLETE]
    assert cut_short
    assert all(len(trial.intermediate_values) == 2 for trial in whole if DUPLICATE not in trial.user_attrs)
    for trial in whole:
        assert trial.user_attrs[FIGURES]["layer_speedup"] >= 1.5
    slow = [trial for trial in found if trial.constraints.get("layer_speedup", 0) > 0]
    assert slow
    assert all(trial.state == TrialState.PRUNED and not trial.intermediate_values for trial in slow)
    best = min(whole, key=lambda trial: trial.values[0])
    settings = [row["setting"] for row in json.loads((tmp_path / "run" / "results.json").read_text())["rows"]]
    rate, weight = best.params["learning_rate"], best.params["distill"]
    assert f"searched #{best.number} distilled {weight:g}*logits lr {rate:.3g}" in settings


def test_quality_and_speed_can_be_decoded_and_timed(tmp_path: Path) -> None:
    prepared = prepare(
        small(
            tmp_path, *OTHERS,
            "benchmark.batch_sizes=[2]", "search.fidelity=base",
        )
    )  # fmt: skip
    spec = checked_spec(prepared)
    session = Session(prepared, RunFolder(tmp_path / "run"))
    judge = Judge(session, ModelStore(session), spec)
    figures = judge.figures(NestedPlan((48, 1, 1, 48)))
    assert 0 <= figures["slot_accuracy"] <= 1
    assert figures["decode_speedup"] > 0
    assert {"bleu", "rouge_l", "agreement", "loss", "layer_speedup", "mean_depth"} <= figures.keys()


def test_prompt_plans_are_searched_with_the_schedules(tmp_path: Path) -> None:
    overrides = (
        NO_SPEED, "+search.objectives.prefill_layer_speedup=maximize", "search.fidelity=base", "search.baselines=[]",
        "+search.space.prompt={form:[whole,decay,ends,project],end:[0.1,1],from_layer:[1,3],last:[1,8]}",
        "speedups=[1.5]", "search.select.speedup=1.5",
    )  # fmt: skip
    assert search(small(tmp_path, *overrides), tmp_path / "run") is True
    whole = [trial for trial in trials(tmp_path) if trial.state == TrialState.COMPLETE]
    assert len({trial.params["prompt"] for trial in whole}) > 1
    for trial in whole:
        assert (trial.user_attrs[FIGURES]["prefill_layer_speedup"] == 1) is (trial.params["prompt"] == "whole")
    (chosen,) = (tmp_path / "run").glob("schedule.yaml")
    schedule = yaml.safe_load(chosen.read_text())
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    (row,) = (row for row in rows if row["setting"].startswith(schedule["name"]))
    assert f" prompt {schedule['prompt']['form']}" in row["setting"]
    assert row["prefill_layer_speedup"] >= 1.5
