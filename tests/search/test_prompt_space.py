"""Prompt plans in a search's space."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiplab.schedules.prompt_spec import PromptSpec
from skiplab.search.prompt_space import check_prompt_space, prompt_of, suggest_prompt
from skiplab.search.space import InfeasibleScheduleError, SearchSpace, training_of
from tests.search.test_space import LENGTHS, OPTIONS, Drawn

SPACE: dict[str, Any] = {
    "form": ["whole", "decay", "ends", "project"],
    "start": [0, 0.5],
    "end": [0.25, 1],
    "from_layer": [2, 7],
    "first": [0, 4],
    "last": [1, 16],
}


@given(st.integers(0, 10**6))
def test_parameters_make_a_prompt_plan_or_say_why_not(seed: int) -> None:
    trial = Drawn(seed)
    params = SearchSpace(**OPTIONS, prompt=SPACE).suggest(trial, LENGTHS)
    assert list(params) == trial.names
    if params.get("prompt_start", 0.0) > params.get("prompt_end", 1.0):
        with pytest.raises(InfeasibleScheduleError) as caught:
            training_of(params)
        assert caught.value.excess > 0
        return
    found = training_of(params)
    if params["prompt"] == "whole":
        assert found == {}
    else:
        plan = PromptSpec.of(found["prompt"])
        assert plan is not None
        assert plan.form == params["prompt"]
        plan.plan(8, (0, 6, 7))


def test_without_prompt_plans_the_space_is_what_it_was() -> None:
    space = SearchSpace(**OPTIONS)
    assert suggest_prompt(Drawn(0), space.prompt) == {}
    assert prompt_of({}) is None
    assert "prompt" not in space.plain
    assert SearchSpace(**OPTIONS, prompt=SPACE).plain["prompt"]["form"] == SPACE["form"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"form": []}, "prompt.form takes different values of whole, decay, ends, project"),
        ({"end": [0.5, 1]}, "prompt.form takes"),
        ({"form": ["decay", "fall"]}, "prompt.form takes"),
        ({"form": ["decay"], "last": [1, 4]}, "takes form and end, start with these forms, got 'last'"),
        ({"form": ["ends"]}, "needs a range of from_layer"),
        ({"form": ["ends"], "from_layer": [5, 2]}, "prompt.from_layer is inverted"),
        ({"form": ["ends"], "from_layer": [0, 2]}, "prompt.from_layer must begin at 1 or above"),
        ({"form": ["ends"], "from_layer": [2, 8]}, "must begin at 1 or above and end at 7 or below"),
        ({"form": ["decay"], "end": [0.5, 1.5]}, "prompt.end must begin at 0 or above and end at 1 or below"),
        ({"form": ["project"], "from_layer": [2, 4], "last": [0, 4]}, "prompt.last must begin at 1 or above"),
    ],
)
def test_bad_spaces(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_prompt_space(space, 8)
