"""Names of default run folders."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiplab.comparison.run_name import UNNAMED, run_name
from skiplab.comparison.session import MAY_CHANGE
from skiplab.jobs.search import MAY_CHANGE as SEARCH_MAY_CHANGE
from skiplab.utils.run_folder import DESCRIPTIVE


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "compare_calm"),
        (["tracking=none", "workers=2", "cache_dir=/x", "tracking.uri=null", "trainer.devices=2"], "compare_calm"),
        (["method=skipdecode", "method.decay=cosine"], "compare_calm+method-skipdecode+method.decay-cosine"),
        (["speedups=[2,3]", "limit=8", "limit=9"], "compare_calm+limit-9+speedups-2-3"),
        (["+method@methods.d3=d3", "~methods.calm"], "compare_calm+method@methods.d3-d3+without-methods.calm"),
        (["base.learning_rate=1e-3"], "compare_calm+base.learning_rate-1e-3"),
    ],
)
def test_the_name_has_the_overrides(overrides: list[str], name: str) -> None:
    assert run_name("compare_calm", ["experiment=compare_calm", *overrides]) == name
    if len({one.partition("=")[0] for one in overrides}) == len(overrides):
        assert run_name("compare_calm", overrides[::-1]) == name, "the order does not matter"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["data.dir=/a/b"], ["data.dir=/a-b"]),
        (["x=[1,2]"], ["x=[1-2]"]),
        (["x=[[1],2]"], ["x=[[1,2]]"]),
        (["x=é"], ["x=è"]),
        (["x=" + 300 * "a" + "1"], ["x=" + 300 * "a" + "2"]),
        (["trainer=gpu"], ["trainer=cpu"]),
        (["x=a", "y=b"], ["x='a+y=b'"]),
    ],
)
def test_different_overrides_have_different_names(one: list[str], other: list[str]) -> None:
    assert run_name("a", one) != run_name("a", other)


@given(st.lists(st.text(min_size=1, max_size=120), max_size=4))
@settings(max_examples=50, deadline=None)
def test_any_name_is_a_short_file_name_without_quotes(overrides: list[str]) -> None:
    name = run_name("compare_calm", overrides)
    assert re.fullmatch(r"[A-Za-z0-9_.@+-]+", name)
    assert len(name) < 200
    assert name.startswith("compare_calm")


def test_keys_that_may_change_are_not_in_the_name() -> None:
    assert {*DESCRIPTIVE, *MAY_CHANGE, *SEARCH_MAY_CHANGE} <= set(UNNAMED)
