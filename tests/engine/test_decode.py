"""The step loop: limits, ends and refused calls. Properties of every method are in the conformance tests."""

import pytest

from skiplab.engine.backbone import Backbone
from skiplab.engine.decode import decode
from skiplab.engine.policy import FullDepth
from tests.tiny import PAD, prompts, tiny_backbone


def test_the_result_lists_tokens_depths_and_lengths() -> None:
    backbone = tiny_backbone()
    free = decode(backbone, FullDepth(6), prompts(2), max_new_tokens=8, eos_id=None, pad_id=PAD)
    eos = free.sequences()[0][3]
    result = decode(backbone, FullDepth(6), prompts(2), max_new_tokens=8, eos_id=eos, pad_id=PAD)
    first = free.sequences()[0]
    assert result.sequences()[0] == first[: first.index(eos) + 1]
    end = int(result.length_B[0])
    assert result.tokens_BT[0, end:].tolist() == [PAD] * (8 - end)
    assert result.depth_BT[0].tolist() == [6] * end + [0] * (8 - end)


def test_on_step_sees_the_rows_that_still_decode() -> None:
    seen: list[tuple[int, list[int]]] = []
    decode(
        tiny_backbone(), FullDepth(6), prompts(3), max_new_tokens=[1, 3, 2], eos_id=None, pad_id=PAD,
        on_step=lambda step, index_B, logits_BV: seen.append((step, sorted(index_B.tolist()))),
    )  # fmt: skip
    assert seen == [(0, [0, 1, 2]), (1, [1, 2]), (2, [1])]


@pytest.mark.parametrize(
    ("rows", "limit", "message"),
    [
        ([[5], []], 3, "row 1 needs at least one prompt token and one new token, got 0 and 3"),
        ([[5]], 0, "got 1 and 0"),
        ([[5]], [3, 3], "expected one max_new_tokens per prompt, got 2 for 1"),
        ([[5] * 60], 10, "needs 60 prompt . 9 generated positions, the backbone has 64"),
    ],
)
def test_batches_that_cannot_be_decoded_are_refused(backbone: Backbone, rows: list, limit: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(backbone, FullDepth(6), rows, max_new_tokens=limit, eos_id=None, pad_id=PAD)
