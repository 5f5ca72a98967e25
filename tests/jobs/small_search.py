"""A search small enough for tests."""

from pathlib import Path

import optuna
from omegaconf import DictConfig
from optuna.trial import FrozenTrial

from skiplab.search.study import open_storage
from tests.comparison.small import small_config

SPACE = ("search.space.max_exit=[1,4]", "search.space.min_exit=[1,4]", "search.space.warmup=[0,2]")
NO_LOSS, NO_SPEED = "search.objectives.loss=null", "search.objectives.layer_speedup=null"
OTHERS = (
    NO_LOSS, "+search.objectives.slot_accuracy=maximize",
    NO_SPEED, "+search.objectives.decode_speedup=maximize",
)  # fmt: skip
SHORT = ("search.trials=8", "search.profile_parts=2", "search.profile_stages=1", "speedups=[2]", "seeds=[0]")
# With this epsilon every loss passes; with a usual one, so few items could certify nothing.
CALIBRATED = ("calibration.delta=[0.3]", "calibration.epsilon=0.9")


def small(home: Path, *overrides: str) -> DictConfig:
    stores = (f"search.storage={home}/journal.log", f"search.artifacts={home}/artifacts", "benchmark.batch_sizes=[]")
    return small_config(home, *SPACE, *SHORT, *stores, *overrides, experiment="search_schedule")


def trials(home: Path, name: str = "search_schedule") -> list[FrozenTrial]:
    return optuna.load_study(study_name=name, storage=open_storage(f"{home}/journal.log")).trials
