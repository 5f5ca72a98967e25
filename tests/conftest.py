"""Shared fixtures: tiny random backbones in both OPT layouts and Llama's, one thread, no network."""

import gc
import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="skiplab-datasets-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"

from collections.abc import Iterator

import pytest
import torch
from matplotlib.figure import Figure

from skiplab.engine.backbone import Backbone
from tests.tiny import LAYOUTS, tiny_backbone
from tests.undrawn import savefig

torch.set_num_threads(1)


# If these started last, a worker could be without work while they run.
LONG = (
    "test_types.py",
    "test_conformance.py",
    "test_comparison.py",
    "test_killed.py",
    "test_launch.py",
    "test_search.py",
    "test_experiments.py",
    "test_calm.py",
    "test_killed_search.py",
    "test_method.py",
    "test_papers.py",
    "test_scale.py",
    "test_growth.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish() -> None:
    gc.set_threshold(50_000, 20, 20)
    keep_what_lives()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        keep_what_lives()


def keep_what_lives() -> None:
    """Exclude what lives now, such as imported modules, from later garbage collections, which take time otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no plots in the test."""
    monkeypatch.setattr(Figure, "savefig", savefig)
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda self: None)


@pytest.fixture(scope="module")
def no_plots_in_module() -> Iterator[None]:
    """Draw no plots in the module's tests and in the fixtures that request this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        patch.setattr(Figure, "draw_without_rendering", lambda self: None)
        yield


@pytest.fixture(params=LAYOUTS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)
