"""The step runner for a policy."""

from skiplab.engine.backbone import Backbone
from skiplab.engine.deferred_kv import Deferred
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.policy import AdaptivePolicy, ExitPolicy, HindsightPolicy, RowwisePolicy
from skiplab.engine.recorded_exits import RecordedExits
from skiplab.engine.recorded_layers import RecordedLayers
from skiplab.engine.recording import Recorder
from skiplab.engine.step_runners import CompactSteps, FreezingSteps, HindsightSteps, PlannedSteps, StepRunner


def step_runner(
    backbone: Backbone,
    policy: ExitPolicy,
    cache: KVCache,
    *,
    rows: int,
    columns: int,
    recorder: Recorder | None = None,
) -> StepRunner:
    """The runner for a policy.

    Args:
        rows, columns: of the cache.
        recorder: records the layers where the policy allows it; None records nothing.
    """
    if recorder is not None and (recorded := _recorded(backbone, policy, cache, rows, recorder)):
        recorded.grow(columns)
        return recorded
    if not isinstance(policy, RowwisePolicy):
        return PlannedSteps(backbone, cache)
    deferred = Deferred(backbone, cache, rows=rows, columns=columns)
    if isinstance(policy, AdaptivePolicy):
        runner = CompactSteps if policy.batch_policy == "compact" else FreezingSteps
        return runner(backbone, policy, cache, deferred)
    assert isinstance(policy, HindsightPolicy)
    return HindsightSteps(backbone, policy, cache, deferred)


def _recorded(
    backbone: Backbone, policy: ExitPolicy, cache: KVCache, rows: int, recorder: Recorder
) -> RecordedLayers | RecordedExits | None:
    if policy.follows_plan:
        return RecordedLayers(backbone, cache, rows=rows, recorder=recorder)
    if isinstance(policy, AdaptivePolicy) and policy.recordable:
        return RecordedExits(backbone, policy, cache, rows=rows, recorder=recorder)
    return None
