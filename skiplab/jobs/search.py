"""Search exit schedules: Optuna studies, layer importances, then a comparison of the finalists."""

from pathlib import Path

from omegaconf import DictConfig

from skiplab.comparison.config_generation import check_greedy
from skiplab.comparison.prepare import prepare
from skiplab.comparison.session import open_session
from skiplab.search.search import Search, checked_spec, studies_of
from skiplab.utils.distributed import ALONE, Ranks

# Keys that may change when a search is resumed.
MAY_CHANGE = (
    "workers", "search.trials", "search.storage", "search.artifacts", "search.select", "search.profile_items",
)  # fmt: skip


def search(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Run or resume a search into a folder; True if every setting of its comparison has its figures.

    Raises:
        ConfigurationError: before anything is trained or written.
    """
    prepared = prepare(cfg)
    check_greedy(prepared.config.generation, "plans are searched")
    spec = checked_spec(prepared)
    session = open_session(prepared, run_dir, ranks=ranks, free=MAY_CHANGE, shared=True)
    return Search(session, spec, studies_of(prepared, spec)).run()
