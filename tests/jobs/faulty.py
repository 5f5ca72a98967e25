"""Methods that fail on purpose."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from skiplab.batch import Batch
from skiplab.module import ExitModule
from skiplab.policy import ExitPolicy


class FailsInTraining(ExitModule):
    """Raises in its first training step."""

    @property
    def setting(self) -> str:
        return "always"

    @property
    def target_speedup(self) -> float | None:
        return None

    @property
    def recipe(self) -> dict[str, Any] | None:
        return {"loss": "none"}

    def loss(self, batch: Batch) -> Tensor:
        raise RuntimeError("no loss today")

    def exit_policy(self, valid: Sequence[Batch]) -> ExitPolicy:
        raise RuntimeError("no policy today")


class FailsInDecoding(FailsInTraining):
    """Trains nothing, and has no policy."""

    @property
    def recipe(self) -> dict[str, Any] | None:
        return None
