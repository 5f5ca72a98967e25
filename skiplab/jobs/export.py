"""Save a setting of a finished comparison as a folder that `load_method` reads; nothing is trained or decoded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from skiplab.comparison.cases import Case
from skiplab.comparison.config_base import ConfigurationError
from skiplab.comparison.decoders import Decoders
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.records import Records
from skiplab.comparison.reopen import reopen
from skiplab.comparison.save_setting import save_setting
from skiplab.comparison.session import Session
from skiplab.reporting.record import Entry, Record
from skiplab.utils.distributed import ALONE, Ranks


def export(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Save the setting `setting` of `method` from the folder `run` to its `models/`, as `save_models=true` does.

    Raises:
        ConfigurationError: the folder is not a run folder, or has no such setting, or its weights are gone.
        SavedMethodError: the setting cannot be saved.
    """
    session = reopen(cfg, own=("method", "setting", "seed"))
    case = _case(session.prepared.cases, cfg)
    record = _record(session, case)
    models = ModelStore(session)
    assert record.chosen is not None
    _check_weights(session, models, case, record.chosen)
    decoders = Decoders(models, own=session.prepared.calibration.reference == "own")
    folder = save_setting(session, record, case.candidates[record.chosen], decoders.make(case, record.chosen))
    session.screen.print(f"saved: {folder}")
    return True


def _case(cases: Sequence[Case], cfg: DictConfig) -> Case:
    """The requested case. `method` is a node, or a node's name; without it the setting's name must be unique."""
    node: Any = cfg.get("method")
    method = node.get("name") if isinstance(node, DictConfig) else node
    wanted = {"method": method, "setting": cfg.setting, "seed": cfg.seed}
    given = {name: value for name, value in wanted.items() if value is not None}
    found = [case for case in cases if all(getattr(case.entry, name) == value for name, value in given.items())]
    # Without `seed=`, take the first seed, which is the one that was timed.
    found = [case for case in found if cfg.seed is not None or case.entry.seed == found[0].entry.seed]
    if len(found) != 1:
        asked = " ".join(f"{name}={value}" for name, value in given.items()) or "no method and no setting"
        names = dict.fromkeys(f"method={one.method} setting='{one.setting}'" for one in _entries(found or cases))
        raise ConfigurationError(
            f"expected one setting of the run, got {asked}, which matches {len(found) or 'none'}; choose from "
            f"{', '.join(names)}"
        )
    return found[0]


def _entries(cases: Sequence[Case]) -> list[Entry]:
    return [case.entry for case in cases]


def _named(case: Case) -> str:
    return f"{case.entry.label} (seed {case.entry.seed})"


def _record(session: Session, case: Case) -> Record:
    record = Records(session.folder, [case.entry]).get(case.entry)
    if record is None:
        raise ConfigurationError(
            f"{_named(case)} is not finished in {session.folder.path}; the command of that run resumes it"
        )
    if record.chosen is None:
        raise ConfigurationError(
            f"{_named(case)} decodes at full depth, since no faster setting was certified; take method=full"
        )
    return record


def _check_weights(session: Session, models: ModelStore, case: Case, place: int) -> None:
    """Refuse to train missing weights."""
    missing = models.missing(case.candidates[place], case.entry.seed)
    if missing and missing[0] == models.base_folder:
        raise ConfigurationError(
            f"the base of this run is not in the cache: {missing[0]} holds no weights; give the run's cache as "
            "cache_dir=DIR"
        )
    if missing:
        record = session.folder.path / "settings" / f"{case.entry.key}.json"
        raise ConfigurationError(
            f"the weights of {_named(case)} are gone: {missing[0]} holds none; give the run's cache as cache_dir=DIR. "
            f"To train them again, remove {record} and repeat that run's command with save_models=true"
        )
