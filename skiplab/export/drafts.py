"""A saved method that decodes with drafts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from skiplab.engine.policy import FullDepth
from skiplab.engine.speculative import Speculative
from skiplab.export.description import NO_DATA
from skiplab.export.method import SavedMethod
from skiplab.methods.base import Optimization, Setup
from skiplab.methods.speculative import SelfSpeculative


def with_drafts(method: SavedMethod, options: Mapping[str, Any]) -> SavedMethod:
    """The same output, decoded by `skiplab.engine.speculative`.

    Args:
        options: keywords of `SelfSpeculative`, such as `{"speedup": 3, "draft": {"length": 6}}`.

    Raises:
        ValueError: the method does not decode at full depth, or an option is unknown or invalid.
    """
    if not isinstance(method.policy, FullDepth | Speculative):
        raise ValueError(
            f"drafts keep the output of full depth, but {method.description['setting']} decodes with fewer layers, for "
            "which its weights are trained; save the method full, or one of method/speculative"
        )
    setup = Setup(method.backbone, method.description["lengths"], Optimization(learning_rate=1.0))
    try:
        drafting = SelfSpeculative(setup, **options)
    except TypeError as error:
        raise ValueError(f"draft: {error}; its keys are those of method/speculative.yaml") from error
    policy = drafting.exit_policy(NO_DATA)
    return replace(method, policy=policy, description={**method.description, "setting": drafting.setting})
