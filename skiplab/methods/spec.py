"""Specification of a method's setting, which needs no weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, final

from skiplab.methods.base import ExitModule, PlannedModule, Setup
from skiplab.schedules.exit_schedule import LayerPlan
from skiplab.utils.files import fingerprint


def settled(params: Mapping[str, Any], threshold: float) -> dict[str, Any]:
    """Hyperparameters with a threshold in place of the speedup or quantile for which it was found."""
    return {**params, **{name: None for name in ("speedup", "quantile") if name in params}, "threshold": threshold}


@final
@dataclass(frozen=True)
class MethodSpec:
    """A method's class and hyperparameters, and the properties that follow from them.

    Attributes:
        method: the LightningModule's class.
        params: its hyperparameters, plain values.
        setting: its name, such as `3x`.
        target_speedup: the target layer speedup; None if it has none.
        plan: layers by generation step, up to the longest output; None if rows decide when to exit.
        training: key of its training, from everything that the weights depend on besides base, data, trainer and seed.
            Settings with equal keys share one training; None is no training.
        probes: such keys for the small modules that are trained on its frozen weights.
        passes: over the training split; None is the trainer's number, and 0 is no training.
    """

    method: type[ExitModule]
    params: Mapping[str, Any] = field(hash=False)
    setting: str
    target_speedup: float | None
    plan: tuple[LayerPlan, ...] | None
    training: str | None
    probes: tuple[str, ...]
    passes: int | None = None

    @classmethod
    def of(
        cls, method: type[ExitModule], params: Mapping[str, Any], setup: Setup, *, passes: int | None = None
    ) -> Self:
        """Build a module, read its properties, and discard it.

        Args:
            setup: its backbone needs no weights; the meta device will do.

        Raises:
            TypeError, ValueError: the module refuses its hyperparameters.
        """
        module = method(setup, **params)
        if passes == 0:
            module.check_untrained()
        steps = range(max(setup.lengths, default=1))
        plan = tuple(module.policy.plan(step) for step in steps) if isinstance(module, PlannedModule) else None
        return cls(
            method=method,
            params=params,
            setting=module.setting,
            target_speedup=module.target_speedup,
            plan=plan,
            training=None
            if module.recipe is None or passes == 0
            else fingerprint(recipe=module.recipe, code=module.code),
            probes=tuple(
                fingerprint(of=[module.recipe, module.code], probe=[probe.recipe, probe.code])
                for probe in module.probes
            ),
            passes=passes,
        )

    def resolved(self, setup: Setup) -> Self:
        """The same class and hyperparameters for other output lengths or another backbone."""
        return type(self).of(self.method, self.params, setup, passes=self.passes)

    def settled(self, threshold: float | None) -> Self:
        """A copy that takes a threshold instead of finding it on validation data; the same without one."""
        return self if threshold is None else replace(self, params=settled(self.params, threshold))

    def build(self, setup: Setup) -> ExitModule:
        """The module on a backbone."""
        return self.method(setup, **self.params)

    @property
    def budget(self) -> tuple[Any, ...]:
        """Settings of different methods are compared if this is equal: a speedup, or exit layers."""
        return tuple(self.params.get(name) for name in ("speedup", "max_exit", "min_exit"))
