"""The section `drafts`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from skiplab.comparison.config_base import ConfigurationError, Name, Number, PositiveInt, Section, Seed

DraftKind = Literal["skip", "terminate", "spaced"]
Ends = Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
Share = Annotated[Number, Field(gt=0, lt=1)]


class Drafts(Section):
    """What `experiment=search_draft` searches, and how long.

    Attributes:
        study, storage: of Optuna; a study of this name is resumed.
        trials: finished ones, those that repeat another included.
        seed: of the sampler.
        batch_size: rows decoded at once.
        kind: which layers draft at a given depth: `skip` SkipDecode's, `terminate` the bottom ones, `spaced` evenly
            spaced ones.
        depth: range of the number of layers that draft, both ends included.
        length: range of the number of drafts per round, both ends included.
        threshold: confidences at which a round may end early; drafting without one is always tried too.
    """

    study: Name
    storage: Name
    trials: Annotated[int, Field(ge=8)]
    seed: Seed
    batch_size: PositiveInt
    kind: Annotated[list[DraftKind], Field(min_length=1)]
    depth: Ends
    length: Ends
    threshold: list[Share]

    @model_validator(mode="after")
    def _ascending(self) -> "Drafts":
        for name in ("depth", "length"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigurationError(f"drafts.{name} must be an ascending range, got [{low}, {high}]")
        return self
