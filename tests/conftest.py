"""Shared fixtures: tiny random backbones in both OPT layouts and Llama's, one thread, no network."""

import gc
import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="skiplab-datasets-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"

import pytest
import torch

from skiplab.engine.backbone import Backbone
from tests.tiny import LAYOUTS, tiny_backbone

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What the tests' modules imported is never garbage, so no collection need look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=LAYOUTS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)
