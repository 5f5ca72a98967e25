"""Any plan over prompt positions is one function: in parallel, step by step, batched, alone and in chunks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skiplab.engine.batch import collate
from skiplab.engine.continuous import Engine
from skiplab.engine.cuda_graphs import StepGraphs
from skiplab.engine.decode import decode
from skiplab.engine.draft_length import Drafting
from skiplab.engine.parallel_forward import planned_logits
from skiplab.engine.policy import ExitPolicy, FullDepth, Planned, PromptPlanned, Scheduled
from skiplab.engine.prompt_columns import batch_columns, columns_of
from skiplab.engine.request import RowRequest
from skiplab.engine.speculative import Speculative
from skiplab.schedules.exit_schedule import ExitSchedule
from skiplab.schedules.prompt_plan import ALL, NONE, PromptPart, PromptPlan
from tests.test_conformance import check_leaving_rows, decode_with_logits, reference_logits
from tests.tiny import LAYOUTS, PAD, CoordinateExit, prompt_policies, prompts, tiny_backbone

BACKBONES = {layout: tiny_backbone(layout) for layout in LAYOUTS}
SKIP = Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=8), "skip")
ALIVE = st.one_of(
    st.just(ALL),
    st.builds(PromptPart, share=st.floats(0, 0.99), first=st.integers(0, 3), last=st.integers(1, 4)),
)
DROPPED = st.one_of(st.just(NONE), st.builds(PromptPart, share=st.floats(0, 0.99)), ALIVE)


@st.composite
def policies(draw: st.DrawFn) -> ExitPolicy:
    """Any prompt plan, followed by any schedule that it allows."""
    kept = draw(st.sets(st.integers(0, 5), min_size=1))
    parts = tuple(draw(ALIVE if layer in kept else DROPPED) for layer in range(6))
    first, later = tuple(sorted(kept)), tuple(sorted(draw(st.sets(st.sampled_from(sorted(kept)), min_size=1))))
    decoding = Planned([first, *[first] * draw(st.integers(1, 4)), later])
    return PromptPlanned(decoding, PromptPlan(parts, projects=draw(st.booleans())))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(LAYOUTS)), policies(), st.integers(0, 50), st.integers(1, 9))
def test_any_prompt_plan_is_one_function(layout: str, policy: ExitPolicy, seed: int, chunk: int) -> None:
    backbone, rows, steps = BACKBONES[layout], prompts(4, seed=seed), 7
    result, seen = decode_with_logits(backbone, policy, rows, steps)
    with torch.inference_mode():
        parallel_BGV = planned_logits(backbone, policy, collate(rows, result.sequences(), PAD))
    engine = Engine(backbone, policy, slots=3, chunk=chunk)
    handles = [engine.submit(RowRequest(row, steps)) for row in rows]
    while engine.step():
        pass
    for row, tokens in enumerate(result.sequences()):
        stepwise_GV = torch.stack([seen[row, step] for step in range(steps)])
        close(stepwise_GV, reference_logits(backbone, policy, rows[row], tokens, result.depth_BT[row].tolist()))
        close(stepwise_GV, parallel_BGV[row])
        alone = decode(backbone, policy, [rows[row]], max_new_tokens=steps, eos_id=None, pad_id=PAD)
        assert alone.sequences()[0] == tokens == handles[row].tokens
        assert alone.depth_BT[0].tolist() == result.depth_BT[row].tolist() == handles[row].depths


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_end_leave_without_touching_the_others(layout: str) -> None:
    for policy in prompt_policies(SKIP).values():
        check_leaving_rows(BACKBONES[layout], policy, prompts(5, seed=4), [3, 14, 1, 6, 2])


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_rows_of_different_prompt_plans_share_an_engine(data: st.DataObject) -> None:
    backbone = BACKBONES[data.draw(st.sampled_from(sorted(LAYOUTS)))]
    kinds = [SKIP, FullDepth(6), *prompt_policies(SKIP).values(), *prompt_policies(FullDepth(6)).values()]
    engine = Engine(backbone, SKIP, slots=data.draw(st.integers(1, 4)), chunk=data.draw(st.integers(1, 9)))
    rows = prompts(7, seed=data.draw(st.integers(0, 9)))
    chosen = [data.draw(st.sampled_from(kinds)) for _ in rows]
    handles = []
    for row, policy in zip(rows, chosen, strict=True):
        handles.append(engine.submit(RowRequest(row, data.draw(st.integers(1, 10))), policy=policy))
        for _ in range(data.draw(st.integers(0, 4))):
            engine.step()
    while engine.step():
        pass
    for handle, policy in zip(handles, chosen, strict=True):
        limit = handle.request.limit
        alone = decode(backbone, policy, [handle.request.prompt], max_new_tokens=limit, eos_id=None, pad_id=PAD)
        assert (handle.tokens, handle.depths) == (alone.sequences()[0], alone.depth_BT[0].tolist())


@torch.inference_mode()
def test_the_forms_differ_in_what_they_compute() -> None:
    backbone, batch = BACKBONES["pre_norm"], collate(prompts(3, seed=2), [[5, 6, 7]] * 3, PAD)
    found = [planned_logits(backbone, policy, batch) for policy in (SKIP, *prompt_policies(SKIP).values())]
    for place, one in enumerate(found):
        assert all(not torch.allclose(one, other, atol=1e-3) for other in found[place + 1 :])


def test_gradients_flow_through_projected_keys_and_values() -> None:
    backbone, batch = tiny_backbone(), collate([[5, 6, 7, 8]], [[5, 6, 7]], PAD)
    h_BTD = []
    embed = backbone.embed
    backbone.embed = lambda *inputs: h_BTD.append(embed(*inputs).detach().requires_grad_()) or h_BTD[0]  # type: ignore[method-assign]
    for projects in (False, True):
        h_BTD.clear()
        plan = PromptPlan((NONE, *[PromptPart(last=1)] * 5), projects=projects)
        policy = PromptPlanned(Planned([(), (1, 2, 3, 4, 5)]), plan)
        planned_logits(backbone, policy, batch).sum().backward()
        assert h_BTD[0].grad is not None
        assert bool((h_BTD[0].grad[:, :3] != 0).any()) is projects


def test_a_layers_columns_are_right_aligned_and_fillers_do_not_run_it() -> None:
    mask = torch.tensor([[True] * 6, [False] * 3 + [True] * 3])
    plan = PromptPlan((ALL, PromptPart(first=1, last=3), PromptPart(share=0.5), NONE))
    whole, ends, share, none = batch_columns(plan, [3, 2, 0, 0], mask)
    assert (whole.count, whole.index_BC, none.count) == (8, None, 0)
    assert ends.index_BC is not None
    assert ends.index_BC.tolist() == [[0, 3, 4, 5, 6], [2, 3, 4, 5, 6]]
    assert ends.real_BC is not None
    assert ends.real_BC.tolist() == [[True] * 5, [False, *[True] * 4]]
    assert share.index_BC is not None
    assert share.index_BC.tolist() == [[0, 1, 2], [4, 5, 3]]
    values = torch.arange(16.0).view(2, 8, 1)
    put = ends.put(values, ends.take(values) + 100)
    assert (put - values)[:, :, 0].tolist() == [[100, 0, 0, 100, 100, 100, 100, 0], [0, 0, 0, 100, 100, 100, 100, 0]]


def test_columns_at_the_beginning_of_all_rows_are_a_prefix() -> None:
    columns = columns_of(torch.tensor([[True, True, False]] * 2), align="left")
    assert (columns.count, columns.index_BC) == (2, None)


def test_prompts_that_the_parts_cover_run_as_whole_ones() -> None:
    covered = PromptPlanned(SKIP, PromptPlan((PromptPart(first=4, last=5),) * 6, projects=True))
    rows = prompts(4, longest=9)
    for backbone in BACKBONES.values():
        found, expected = (
            decode(backbone, policy, rows, max_new_tokens=9, eos_id=None, pad_id=PAD) for policy in (covered, SKIP)
        )
        assert torch.equal(found.tokens_BT, expected.tokens_BT)
        assert found.kv_bytes == expected.kv_bytes


def test_layers_store_what_the_plan_says() -> None:
    backbone, rows = BACKBONES["pre_norm"], [[5] * 20, [6] * 20]
    sizes = {}
    for form, part in {"whole": ALL, "ends": PromptPart(first=2, last=3)}.items():
        plan = PromptPlan((*[ALL] * 3, *[part] * 3))
        result = decode(backbone, PromptPlanned(FullDepth(6), plan), rows, max_new_tokens=11, eos_id=None, pad_id=PAD)
        sizes[form] = result.kv_bytes / (2 * 2 * backbone.hidden_size * 4)
    assert sizes == {"whole": 6 * 30, "ends": 3 * 30 + 3 * 15}


def test_what_cannot_be_decoded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"leaves out \[3, 4, 5\] there"):
        PromptPlanned(FullDepth(6), PromptPlan((*[ALL] * 3, *[PromptPart(share=0.5)] * 3)))
    for policy in (CoordinateExit(1.0), Speculative(SKIP, 6, Drafting())):
        with pytest.raises(ValueError, match=f"the same plan and one token per step, got {type(policy).__name__}"):
            PromptPlanned(policy, PromptPlan.whole(tuple(range(6))))
    ends = PromptPlanned(FullDepth(6), PromptPlan((PromptPart(last=1),) * 6))
    with pytest.raises(ValueError, match="keys and values of the whole prompt, which this prompt plan does not give"):
        StepGraphs(BACKBONES["pre_norm"], ends, rows=1, prompt_columns=4, new_tokens=4)


def test_the_trivial_plan_is_every_policys_own() -> None:
    assert FullDepth(3).prompt == PromptPlan((ALL,) * 3)
    assert Planned([(0, 2), (0,)]).prompt == PromptPlan((ALL, NONE, ALL))
    assert CoordinateExit(1.0).prompt.is_whole
