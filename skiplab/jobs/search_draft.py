"""Search drafters for self-speculative decoding by their measured speed."""

from pathlib import Path

from omegaconf import DictConfig

from skiplab.comparison.config_drafts import Drafts
from skiplab.comparison.prepare import ConfigurationError, Prepared, configuring, prepare
from skiplab.comparison.session import open_session
from skiplab.methods.speculative import SelfSpeculative
from skiplab.search.draft_findings import write_findings
from skiplab.search.draft_search import DraftSearch
from skiplab.search.study import new_sampler, open_storage, open_study
from skiplab.utils.distributed import ALONE, Ranks


def search_draft(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Run or resume a search into a folder.

    Raises:
        ConfigurationError: before anything is trained or written.
    """
    prepared = prepare(cfg)
    options: Drafts = prepared.config.section("drafts")
    _check(prepared, options)
    with configuring():
        study = open_study(
            open_storage(options.storage), options.study, directions={"decode_speedup": "maximize"},
            identity={
                "space": options.model_dump(include={"kind", "depth", "length", "threshold", "batch_size"}),
                "generation": prepared.config.plain["generation"],
            },
            sampler=new_sampler("tpe", options.seed),
        )  # fmt: skip
    session = open_session(prepared, run_dir, ranks=ranks, free=("drafts.trials", "drafts.storage"))
    with session.run("parent", session.name, nested=False):
        rows, costs, errors = DraftSearch(session, options, study).run()
        write_findings(session, rows, costs, errors)
    return True


def _check(prepared: Prepared, options: Drafts) -> None:
    if not prepared.config.generation.depends_on_scores_alone:
        raise ConfigurationError(
            "drafters are timed in greedy decoding, or in sampling with only temperature, top_k, top_p, min_p, "
            "typical_p, epsilon_cutoff, eta_cutoff and seed; leave out other options of generation"
        )
    layers = prepared.probe().backbone.num_layers
    if options.depth[1] >= layers:
        raise ConfigurationError(
            f"drafts.depth must end below the {layers} layers of the backbone, got {list(options.depth)}"
        )
    if not any(case.candidates[0].method is SelfSpeculative for case in prepared.cases):
        raise ConfigurationError(
            "experiment=search_draft needs a drafting method, whose weights it takes; add method=speculative"
        )
