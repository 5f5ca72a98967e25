"""Recorded decode steps that serve one batch after another.

Shapes: B rows, P prompt columns.
"""

from abc import ABC, abstractmethod
from typing import final

from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch_run import BatchRun, Prefilled
from skiplab.engine.kv_cache import KVStore
from skiplab.engine.policy import AdaptivePolicy, ExitPolicy
from skiplab.engine.recording import Recorder
from skiplab.engine.request import Request
from skiplab.engine.speculative import Speculative
from skiplab.engine.token_choice import Choosing


def unrecordable(policy: ExitPolicy) -> str | None:
    """What the decode steps of a policy lack to be recorded; None if they can be."""
    if isinstance(policy, AdaptivePolicy):
        return None if policy.recordable else "exits that are decided on the device, and rows that stay in the batch"
    if isinstance(policy, Speculative):
        return None
    if not policy.follows_plan:
        return "exits that are decided while the step runs"
    if not all(map(policy.prompt.is_held_whole, policy.plan(1))):
        return "layers that have keys and values of the whole prompt, which this prompt plan does not give them"
    return None


class RecordedBatches(ABC):
    """The recorded steps of a policy for one batch size, and the tensors that they work on.

    Args:
        rows: the exact number of rows per batch.
        prompt_columns, new_tokens: the most that a batch may have.
        record: whether a GPU records; otherwise the work runs as it is, so that a profiler sees it.

    Raises:
        ValueError: the policy's steps cannot be recorded.
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: ExitPolicy,
        *,
        rows: int,
        prompt_columns: int,
        new_tokens: int,
        record: bool = True,
    ) -> None:
        if reason := unrecordable(policy):
            raise ValueError(f"recorded steps need {reason}")
        self.backbone = backbone
        self.policy = policy
        self.rows = rows
        self.prompt_columns = prompt_columns
        self.new_tokens = new_tokens
        self._recorder = Recorder(backbone.device, record=record)
        self._weights = self._addresses()
        self._allocate()

    @abstractmethod
    def _allocate(self) -> None:
        """Make the tensors, and what works on them."""

    @final
    def _moved(self) -> bool:
        """Whether weights are elsewhere than at the last call, so that recordings read freed memory."""
        before, self._weights = self._weights, self._addresses()
        return before != self._weights

    @final
    def _addresses(self) -> list[int]:
        return [weight.data_ptr() for weight in self.backbone.parameters()]

    @final
    def fits(self, rows: int, prompt_columns: int, new_tokens: int) -> bool:
        """Whether a batch can run on these tensors."""
        return rows == self.rows and prompt_columns <= self.prompt_columns and new_tokens <= self.new_tokens

    @staticmethod
    @abstractmethod
    def lacks(choosing: Choosing | None) -> str | None:
        """A feature of token choice that the recorded steps do not have; None if they have all."""

    @abstractmethod
    def prompt_cache(self) -> KVStore:
        """The cache, ready for a prompt pass."""

    @abstractmethod
    def begin(self, prefilled: Prefilled, request: Request, prompt_BP: Tensor) -> BatchRun:
        """The decode steps of a batch whose prompt pass filled the cache."""
