"""Decode time by layer."""

import pytest

from baselines.calm_policy import ConfidenceExit
from baselines.calm_threshold import Threshold
from baselines.confidence import exit_confidences, softmax_confidence
from skiplab.benchmarking.layer_times import TimedBackbone, layer_times
from skiplab.benchmarking.timing import Workload
from skiplab.engine.decode import decode
from skiplab.engine.policy import FullDepth
from tests.test_conformance import some_batch
from tests.tiny import PAD, prompts, tiny_backbone

WORKLOAD = Workload(prompts(6), [5, 6, 7, 8, 9, 10], 3, PAD)


def test_rows_by_layer_are_those_that_ran() -> None:
    found = layer_times(tiny_backbone(), FullDepth(6), WORKLOAD)
    steps, tokens = (7 - 1) + (10 - 1), sum(WORKLOAD.lengths) - 6
    assert [layer["rows"] for layer in found[:-1]] == pytest.approx([tokens / steps] * 6)
    assert all(layer["layer_ms"] > 0 and layer["kv_ms"] == 0 for layer in found[:-1])
    assert found[-1]["other_ms"] > 0


def test_rows_leave_a_compact_batch_and_defer_keys_and_values() -> None:
    backbone = tiny_backbone()
    confidences, _ = exit_confidences(backbone, some_batch(), softmax_confidence, range(5))
    policy = ConfidenceExit(6, Threshold(value=float(confidences.median())), softmax_confidence, batch_policy="compact")
    found = layer_times(backbone, policy, WORKLOAD)
    rows = [layer["rows"] for layer in found[:-1]]
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < rows[0]
    assert sum(layer["kv_ms"] for layer in found[:-1]) > 0


def test_timing_changes_no_token() -> None:
    backbone = tiny_backbone()
    options = {"max_new_tokens": 8, "eos_id": None, "pad_id": PAD}
    timed = decode(TimedBackbone(backbone), FullDepth(6), prompts(4), **options)
    assert timed.sequences() == decode(backbone, FullDepth(6), prompts(4), **options).sequences()
