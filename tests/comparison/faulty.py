"""Methods that fail on purpose."""

from collections.abc import Sequence

from torch import Tensor

from skiplab.engine.batch import Batch
from skiplab.engine.policy import ExitPolicy
from skiplab.methods.base import ExitModule


class FailsInTraining(ExitModule):
    """A method that raises in its first training step."""

    @property
    def setting(self) -> str:
        return "always"

    @property
    def target_speedup(self) -> float | None:
        return None

    def loss(self, batch: Batch) -> Tensor:
        raise RuntimeError("no loss today")

    def exit_policy(self, valid: Sequence[Batch]) -> ExitPolicy:
        raise RuntimeError("no policy today")


class FailsInDecoding(FailsInTraining):
    """A method that trains nothing and has no policy."""

    trains = False
