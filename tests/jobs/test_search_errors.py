"""Searches that are refused before their first trial."""

from pathlib import Path

import pytest

from skiplab.comparison.prepare import ConfigurationError
from skiplab.jobs.search import search
from tests.jobs.small_search import NO_LOSS, NO_SPEED, small
from tests.store import written


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.space.max_exit=[4,2]"], r"search.space.max_exit is inverted: \[4, 2\]"),
        (["search.space.decay=[]"], "search.space.decay must list distinct values of linear"),
        (["search.space.max_exit=[1,9]"], "between 1 and the 4 layers of the backbone"),
        (["search.space.horizon=[double,half]"], "horizon is inverted"),
        (["+search.objectives.bleu=maximize"], "takes a quality and a speed, or one"),
        ([NO_LOSS, "+search.objectives.blue=maximize"], "blue is not a figure of a trial; did you mean 'bleu'"),
        (["search.objectives.loss=maximize"], "objectives.loss must be minimize, got maximize"),
        (["search.objectives.loss=down"], "objectives.loss must be one of minimize, maximize, got 'down'"),
        ([NO_SPEED, "+search.objectives.bleu=maximize"], "a quality and one of layer_speedup, decode_speedup"),
        (["+search.constraints.blue.at_least=1"], "constraints.blue is no figure"),
        (["+search.constraints.loss.below=1"], "constraints.loss takes at_least: X or at_most: X"),
        (["search.pruner=median"], "needs fidelity=fine_tune, whose training it cuts short, and one objective"),
        (["+search.space.training={distill:[0,1]}"], "training needs search.fidelity=fine_tune, whose training"),
        (["search.pruner=asha"], "unknown search.pruner 'asha'; choose one of median, hyperband"),
        (["search.sampler=cma"], "unknown search.sampler 'cma'; choose one of tpe, nsga2, gp, random"),
        (["search.fidelity=half"], "search.fidelity must be 'once_for_all', 'base' or 'fine_tune', got 'half'"),
        (["search.trials=0"], "search.trials must be at least 1"),
        (["+search.select.luck=1"], "search.select takes one of"),
        (["search.select.speedup=null", "search.select.guarantee=0.5"], "guarantee=0.5 must be one of"),
        (["workers=0"], "workers must be at least 1, got 0"),
        (["decode_dtype=bfloat16"], "evaluates schedules in the weights' own number format, got decode_dtype=bfloat16"),
        ([NO_SPEED, "+search.objectives.decode_speedup=maximize"], "benchmark.batch_sizes, which is empty"),
        (["+search.sampeler=tpe"], "sampeler"),
    ],
)  # fmt: skip
def test_bad_searches_are_refused_before_the_first_trial(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        search(small(tmp_path, *overrides), tmp_path / "run")
    assert written(tmp_path) == []


def test_a_storage_that_cannot_be_reached_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"search.storage=sqlite:.* cannot be used"):
        search(small(tmp_path, f"search.storage=sqlite:///{tmp_path}/file/study.db"), tmp_path / "run")
