"""Save a finished setting as a folder that `load_method` loads."""

from pathlib import Path

from skiplab.comparison.decoders import Decoder
from skiplab.comparison.facts import backbone_slug
from skiplab.comparison.session import Session
from skiplab.export.saved_method import save_method
from skiplab.methods.spec import MethodSpec
from skiplab.reporting.record import Entry, Record
from skiplab.reporting.tables import slug


def setting_folder(session: Session, entry: Entry) -> Path:
    """Where a setting of a run is saved."""
    return session.folder.path / "models" / entry.key


def save_setting(session: Session, record: Record, spec: MethodSpec, decoder: Decoder) -> Path:
    """Save a setting in `models/` of the run folder, and register it with the tracker.

    Args:
        spec: the spec from which the setting was built.
        decoder: must have a module.

    Returns:
        The folder.

    Raises:
        SavedMethodError: the policy needs validation data.
    """
    assert decoder.module is not None
    entry, config, data = record.entry, session.prepared.config, session.prepared.data
    folder = setting_folder(session, entry)
    save_method(
        folder,
        decoder.module,
        decoder.policy,
        data.encoding,
        params=spec.params,
        max_new_tokens=data.max_new_tokens,
        facts={"task": data.source.name, **record.row},
        options=config.generation,
    )
    # With backbone and data, or models of different ones would be versions of one.
    parts = (config.tracking.experiment, slug(data.source.name), backbone_slug(config.plain["backbone"]), entry.slug)
    name = "-".join(parts)
    session.tracker.register_method(folder, name, tags={"seed": entry.seed})
    return folder
