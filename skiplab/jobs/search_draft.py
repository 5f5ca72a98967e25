"""Search drafters for self-speculative decoding by their measured speed."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from skiplab.comparison.cases import Case
from skiplab.comparison.config_drafts import Drafts
from skiplab.comparison.prepare import ConfigurationError, Prepared, configuring, prepare
from skiplab.comparison.session import open_session
from skiplab.methods.spec import MethodSpec
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
    case = _drafting_case(prepared)
    with configuring():
        study = open_study(
            open_storage(options.storage), options.study, directions={"decode_speedup": "maximize"},
            identity=_identity(prepared, options, case.candidates[0]),
        )  # fmt: skip
    # A study that goes on must not be offered its first suggestions again.
    study.sampler = new_sampler("tpe", options.seed + 1_000_003 * len(study.trials))
    session = open_session(prepared, run_dir, ranks=ranks, free=("drafts.trials", "drafts.storage"))
    with session.run("parent", session.name, nested=False):
        rows, costs, errors = DraftSearch(session, options, study, case).run()
        write_findings(session, rows, costs, errors)
    return True


def _identity(prepared: Prepared, options: Drafts, spec: MethodSpec) -> dict[str, Any]:
    """What the speeds of all trials of a study share."""
    config = prepared.config
    return {
        "space": options.model_dump(include={"kind", "depth", "length", "threshold", "batch_size"}),
        "generation": config.plain["generation"],
        "benchmark": config.plain["benchmark"],
        "base": prepared.base_key,
        "trainer": {**prepared.trainer.recipe, "passes": spec.passes, "seed": config.seeds[0]},
        "method": {"training": spec.training, "vocabulary": (spec.params.get("draft") or {}).get("vocabulary")},
        "decoding": {"dtype": config.decode_dtype, "device": prepared.device.type},
    }


def _drafting_case(prepared: Prepared) -> Case:
    """The first setting of a drafting method.

    Raises:
        ConfigurationError: there is none.
    """
    for case in prepared.cases:
        if case.candidates[0].method is SelfSpeculative:
            return case
    raise ConfigurationError(
        "experiment=search_draft needs a drafting method, whose weights it takes; add method=speculative"
    )


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
