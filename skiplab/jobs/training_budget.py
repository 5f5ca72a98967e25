"""Compare methods at several training budgets."""

from pathlib import Path

from omegaconf import DictConfig

from skiplab.comparison.comparison import Comparison
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.comparison.session import open_session
from skiplab.comparison.supplement import Supplement
from skiplab.comparison.training_budgets import budget_supplement
from skiplab.comparison.workers import helped_by, join
from skiplab.utils.distributed import ALONE, Ranks


def training_budget(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Run the comparison into a folder, with the tables and the plot of budgets; True if every setting has its figures.

    Raises:
        ConfigurationError: before anything is trained or written, for example if no method sweeps its passes.
    """
    prepared = prepare(cfg)
    if not any(case.passes for case in prepared.cases):
        raise ConfigurationError(
            "training_budget compares numbers of passes, and no method sweeps them: give one a sweep, as in "
            "methods.skipdecode.sweep.passes=[1,2,4]"
        )
    supplement = Supplement("training_budget", budget_supplement(prepared))
    session = open_session(prepared, run_dir, ranks=ranks, grows=True, meanwhile=join)
    return Comparison(session, supplement, helpers=helped_by).run()
