"""Shared by the tests of faults: a comparison without a fault."""

from pathlib import Path

import pytest

from tests.faults.comparisons import command, results
from tests.forked_run import output


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("undisturbed")
    assert command(home) == 0, output(home)
    assert all("error" not in row for row in results(home)["rows"])
    return home
