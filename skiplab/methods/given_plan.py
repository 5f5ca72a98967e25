"""The plan of every step, as a method's keywords give it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, final

from skiplab.engine.policy import ExitPolicy, Planned, Scheduled
from skiplab.methods.base import Setup
from skiplab.schedules.exit_schedule import PlanKind
from skiplab.schedules.schedule_file import named_plan
from skiplab.schedules.schedule_solver import ScheduleSpec


@final
@dataclass(frozen=True)
class GivenPlan:
    """A plan that was solved for a speedup, or read from a schedule file.

    Attributes:
        plain: values that determine the plan.
        name: for a setting.
        speedup: in layers; None if unknown.
        prompt: keywords of `PromptSpec` in the file; None runs every layer on whole prompts.
    """

    policy: ExitPolicy
    plain: Mapping[str, Any]
    name: str
    speedup: float | None
    prompt: Mapping[str, Any] | None = None

    @classmethod
    def solved(cls, setup: Setup, kind: PlanKind, options: Mapping[str, Any]) -> Self:
        """Of these keywords of `ScheduleSpec`.

        Raises:
            TypeError, ValueError: as `ScheduleSpec` and its solver.
        """
        spec = ScheduleSpec(**options)
        schedule = spec.schedule(setup.backbone.num_layers, setup.lengths)
        return cls(Scheduled(schedule, kind), {"kind": kind, **vars(schedule)}, str(spec), spec.speedup)

    @classmethod
    def read(cls, setup: Setup, schedule: str | Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """Of a schedule file, or what one holds.

        Args:
            options: keywords of `ScheduleSpec`, as for `budget_of`.

        Raises:
            TypeError, ValueError: as `budget_of`, or the file holds no plan for this backbone.
        """
        budget = budget_of(options, "schedule=FILE")
        found = named_plan(schedule, setup.backbone.num_layers)
        speedup = found.layer_speedup if budget is None else budget
        plain = {"steps": list(found.plan.steps_L)}
        return cls(Planned(found.plan.plans()), plain, found.name, speedup, found.prompt)


def budget_of(options: Mapping[str, Any], instead: str) -> float | None:
    """The speedup among keywords of `ScheduleSpec` that stand beside a plan; all others must be at their defaults.

    Args:
        instead: what gives the plan, for the message.

    Raises:
        TypeError: a keyword is unknown.
        ValueError: one has another value than its default.
    """
    defaults = {field.name: field.default for field in fields(ScheduleSpec)}
    unknown = options.keys() - defaults.keys()
    if unknown:
        raise TypeError(f"unexpected keyword argument {', '.join(map(repr, sorted(unknown)))}")
    changed = sorted(name for name, value in options.items() if name != "speedup" and value != defaults[name])
    if changed:
        raise ValueError(f"{instead} fixes the plan of every step; leave {', '.join(changed)} at the default")
    return options.get("speedup")
