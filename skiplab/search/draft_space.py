"""Drafters that a search may try. No torch."""

from typing import Any

from skiplab.comparison.config_drafts import DraftKind, Drafts
from skiplab.schedules.exit_schedule import LayerPlan, skip_plan, terminate_plan
from skiplab.search.space import Suggests


def draft_layers(kind: DraftKind, depth: int, num_layers: int) -> LayerPlan:
    """The layers that draft: of one to all but one."""
    if kind == "skip":
        return skip_plan(num_layers, depth, 1)
    if kind == "terminate" or depth == 1:
        return terminate_plan(depth)
    return tuple(round(place * (num_layers - 1) / (depth - 1)) for place in range(depth))


def suggest(trial: Suggests, options: Drafts) -> dict[str, Any]:
    """A trial's kind, depth, draft length and threshold."""
    return {
        "kind": trial.suggest_categorical("kind", list(options.kind)),
        "depth": trial.suggest_int("depth", *options.depth),
        "length": trial.suggest_int("length", *options.length),
        "threshold": trial.suggest_categorical("threshold", [None, *options.threshold]),
    }


def hyperparameters(params: dict[str, Any], num_layers: int, vocabulary: Any = None) -> dict[str, Any]:
    """A trial's parameters as keywords of `SelfSpeculative`.

    Args:
        vocabulary: of `Drafting`; not searched.
    """
    layers = draft_layers(params["kind"], params["depth"], num_layers)
    drafting = {"length": params["length"], "threshold": params["threshold"], "vocabulary": vocabulary}
    return {"layers": list(layers), "draft": drafting}
