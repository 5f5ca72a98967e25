"""Exit policies: the layers that run at a generation step.

Shapes: B rows, D hidden size, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, final

from torch import Tensor

from skiplab.engine.batch import Batch
from skiplab.schedules.exit_schedule import ExitSchedule, LayerPlan, PlanKind, terminate_plan
from skiplab.schedules.prompt_plan import PromptPlan, check_prompt

Head = Callable[[Tensor], Tensor]
BatchPolicy = Literal["freeze", "min", "compact"]
Propagation = Literal["lazy", "eager"]


class ExitPolicy(ABC):
    """Chooses the layers of each decode step. Plans must be nested: a layer that a step omits never runs again.

    Attributes:
        follows_plan: whether a step runs exactly the layers of its plan, for all rows, and yields one token per row.
    """

    follows_plan: ClassVar[bool] = True
    _prompt: PromptPlan | None = None

    @abstractmethod
    def plan(self, step: int) -> LayerPlan:
        """Ascending indices of the layers that may run at a generation step; step 0 is the prompt's last position."""

    def fitted(self, valid: Sequence[Batch]) -> "ExitPolicy":
        """The policy with what it takes from validation batches; most take nothing.

        Raises:
            ValueError: it needs some, and there are none.
        """
        return self

    @final
    @property
    def prompt(self) -> PromptPlan:
        """The part of the prompt that each layer runs: the whole of it for the layers of step 0, unless the policy is
        a `PromptPlanned`."""
        return PromptPlan.whole(self.plan(0)) if self._prompt is None else self._prompt


class RowwisePolicy(ExitPolicy, ABC):
    """A policy under which each row may exit before the end of the plan. The layers above its exit compute keys and
    values from the state in which it exited."""

    follows_plan = False


class AdaptivePolicy(RowwisePolicy, ABC):
    """Each row decides from its hidden state, layer by layer, when to exit.

    Args:
        exit_layers: layers after which `exits` is asked.
        batch_policy: how rows are handled that exit at different layers. `freeze`: a row's state stays as it was at
            its exit, and layers run on all rows until all have exited. `min`: all rows exit when the least confident
            row does. `compact`: exited rows leave the computation.
        propagation: when the layers that a step did not run get its keys and values: `lazy`, when a later step
            reaches them, or `eager`, at once.

    Attributes:
        on_device: whether `exits` is computed only from tensors on the states' device and never waits for it, so that
            it can be recorded.
    """

    on_device: ClassVar[bool] = False

    def __init__(
        self,
        exit_layers: Sequence[int],
        *,
        batch_policy: BatchPolicy = "freeze",
        propagation: Propagation = "lazy",
    ) -> None:
        self.exit_layers = exit_layers
        self.batch_policy: BatchPolicy = batch_policy
        self.propagation: Propagation = propagation

    @final
    @property
    def recordable(self) -> bool:
        """Whether its steps can be recorded: exits are decided on the device, and rows stay in the batch."""
        return self.on_device and self.batch_policy != "compact"

    @abstractmethod
    def exits(self, h_BD: Tensor, below_BD: Tensor, *, layer: int, step_B: Tensor, head: Head) -> Tensor:
        """Rows that need no further layer, as a boolean tensor of shape (B,).

        Args:
            h_BD: the output state of a layer of `exit_layers`.
            below_BD: the input state of that layer.
            layer: its index.
            step_B: each row's generation step; on the host, or on the states' device if `on_device`.
            head: final norm and language-model head, (B, D) to logits (B, V).
        """


class HindsightPolicy(RowwisePolicy, ABC):
    """For analysis: every layer runs, and each row's exit is chosen from the states after all layers.

    Args:
        exact_kv: whether the layers above an exit keep the keys and values of the full pass.
    """

    def __init__(self, *, exact_kv: bool) -> None:
        self.exact_kv = exact_kv

    @abstractmethod
    def exit_depths(self, states: Sequence[Tensor], *, step_B: Tensor, head: Head) -> Tensor:
        """Number of the plan's layers that each row's token takes, integers of shape (B,).

        Args:
            states: the state (B, D) below the first layer of the plan, then after each.
            step_B: each row's generation step, on the host.
        """


@final
class FullDepth(ExitPolicy):
    """Every layer at every step."""

    def __init__(self, num_layers: int) -> None:
        self._plan = terminate_plan(num_layers)

    def plan(self, step: int) -> LayerPlan:
        return self._plan


@final
class Scheduled(ExitPolicy):
    """The layers that an `ExitSchedule` gives for the step, the same for all rows."""

    def __init__(self, schedule: ExitSchedule, kind: PlanKind) -> None:
        self.schedule = schedule
        self.kind: PlanKind = kind

    def plan(self, step: int) -> LayerPlan:
        return self.schedule.plan(step, self.kind)


@final
class Planned(ExitPolicy):
    """A list of plans by step, the same for all rows; the last one holds for all later steps.

    Args:
        plans: at least one; the first is that of the prompt pass.
    """

    def __init__(self, plans: Sequence[LayerPlan]) -> None:
        self._plans = list(plans)

    def plan(self, step: int) -> LayerPlan:
        return self._plans[min(step, len(self._plans) - 1)]


@final
class PromptPlanned(ExitPolicy):
    """The decode steps of another policy, after a prompt of which layers run only parts.

    Args:
        decoding: must follow its plan (`ExitPolicy.follows_plan`).

    Raises:
        ValueError: rows decide when to exit, tokens are drafted, or the prompt's last position leaves out a layer of
            step 1.
    """

    def __init__(self, decoding: ExitPolicy, prompt: PromptPlan) -> None:
        if not decoding.follows_plan:
            raise ValueError(
                "a prompt plan needs a policy that gives all rows the same plan and one token per step, got "
                f"{type(decoding).__name__}"
            )
        check_prompt(prompt, [decoding.plan(1)])
        self._decoding = decoding
        self._prompt = prompt

    def plan(self, step: int) -> LayerPlan:
        return self._decoding.plan(step) if step else self.prompt.last_layers
