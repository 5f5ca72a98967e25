"""Requirements for every method (all files of `experiments/method/`) on every backbone layout and device.

A decoded token must have exactly the logits of a parallel forward in which each layer updates only the positions that
ran it, and attends to the keys and values of all positions.
"""

import itertools
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from skiplab.comparison.cases import expand
from skiplab.engine import packed_linear
from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.batch import Batch, collate, left_pad
from skiplab.engine.decode import DecodeResult, decode
from skiplab.engine.fast_path import recorded_batches
from skiplab.engine.parallel_forward import causal_mask, planned_logits, positions
from skiplab.engine.policy import ExitPolicy, PromptPlanned, RowwisePolicy
from skiplab.engine.recorded_batches import unrecordable
from skiplab.engine.speculative import Speculative
from skiplab.methods.base import ExitModule, Optimization, Setup
from skiplab.methods.spec import MethodSpec
from skiplab.schedules.exit_schedule import layer_steps
from skiplab.schedules.prompt_plan import PromptPart, PromptPlan
from tests.composed import composed
from tests.tiny import DEVICES, EOS, LAYOUTS, PAD, prompts, tiny_backbone

STEPS = 14
LENGTHS = [6, 9, 10, 12, 12, 14]
ROOT = files("experiments") / "method"
# Overrides of a method file that change what it computes.
VARIANTS = {
    "skipdecode prompt decay": ["method.prompt={form: decay}"],
    "skipdecode prompt ends": ["method.prompt={form: ends, from_layer: 2, first: 1, last: 2}"],
    "skipdecode prompt project": ["method.prompt={form: project, from_layer: 3}"],
}
METHODS = sorted(entry.name.removesuffix(".yaml") for entry in ROOT.iterdir() if entry.name.endswith(".yaml"))
METHODS += VARIANTS


@cache
def node_of(method: str) -> Any:
    """The node of a method file with two speedups, as plain values."""
    overrides = [f"method={method.split()[0]}", "speedups=[1.5,2.5]", *VARIANTS.get(method, [])]
    return OmegaConf.to_container(composed(*overrides).method, resolve=True)


def candidates(method: str, backbone: Backbone) -> list[MethodSpec]:
    """The specs of a method file for two speedups; of a calibration's hypotheses only a few, from first to last."""
    cases = expand({"only": node_of(method)}, [0], setup(backbone), deltas=[0.1])
    return [candidate for case in cases for candidate in case.candidates[:: max(1, len(case.candidates) // 2)]]


def setup(backbone: Backbone) -> Setup:
    return Setup(backbone, LENGTHS, Optimization(learning_rate=1e-3))


def some_batch(seed: int = 1, device: torch.device | None = None) -> Batch:
    targets = [[*target, EOS] for target in prompts(5, seed=seed + 50, longest=STEPS - 1)]
    return on(device, collate(prompts(5, seed=seed), targets, PAD))


def on(device: torch.device | None, batch: Batch) -> Batch:
    return Batch(*(tensor.to(device) for tensor in batch))


def train_probes(module: ExitModule, steps: int = 20) -> None:
    """Train each of the module's probes for a few steps, as a run would."""
    device = module.backbone.device
    for probe in module.probes:
        probe.to(device)
        optimizer = torch.optim.Adam(probe.parameters(), lr=2e-2)
        for step in range(steps):
            optimizer.zero_grad()
            probe.loss(some_batch(step % 5, device)).backward()
            optimizer.step()
        probe.on_train_end()
        probe.eval()


@pytest.fixture(params=itertools.product(METHODS, LAYOUTS, DEVICES), ids="-".join, scope="module")
def modules(request: pytest.FixtureRequest) -> list[ExitModule]:
    method, layout, device = request.param
    backbone = tiny_backbone(layout).to(device)
    built = [candidate.build(setup(backbone)).eval().to(device) for candidate in candidates(method, backbone)]
    for module in built:
        train_probes(module)
    return built


@pytest.fixture(scope="module")
def policies(modules: list[ExitModule]) -> list[ExitPolicy]:
    return [module.exit_policy([some_batch(device=module.backbone.device)]) for module in modules]


@pytest.fixture(scope="module")
def engine(modules: list[ExitModule]) -> Backbone:
    return modules[0].backbone


def decode_with_logits(
    backbone: Backbone, policy: ExitPolicy, rows: list[list[int]], limit: int = STEPS, eos_id: int | None = None
) -> tuple[DecodeResult, dict[tuple[int, int], Tensor]]:
    """The result of decoding, and the logits by (row, step)."""
    seen: dict[tuple[int, int], Tensor] = {}

    def on_step(step: int, index_B: Tensor, logits_BV: Tensor) -> None:
        seen.update({(row, step): logits for row, logits in zip(index_B.tolist(), logits_BV, strict=True)})

    result = decode(backbone, policy, rows, max_new_tokens=limit, eos_id=eos_id, pad_id=PAD, on_step=on_step)
    return result, seen


@torch.inference_mode()
def reference_logits(backbone: Backbone, policy: ExitPolicy, prompt: list[int], tokens: list[int], depths: list[int]):
    """Logits of each generated token, computed with the layers that its step ran, without cache or prefix slicing."""
    ids_1T = torch.tensor([[*prompt, *tokens[:-1]]], device=backbone.device)
    valid_1T = torch.ones_like(ids_1T, dtype=torch.bool)
    ran_LT = prompt_runs(policy.prompt, backbone.num_layers, len(prompt), ids_1T.shape[1]).to(backbone.device)
    seen_LT = ran_LT.clone() | policy.prompt.projects
    seen_LT[:, len(prompt) :] = True
    for step, depth in enumerate(depths[1:], start=1):
        ran_LT[list(policy.plan(step)[:depth]), len(prompt) - 1 + step] = True
    position_1T = positions(valid_1T)
    h_1TD = backbone.embed(ids_1T, position_1T)
    rotary = backbone.rotary(position_1T)
    for layer in range(backbone.num_layers):
        context = Context(causal_mask(seen_LT[layer][None], h_1TD.dtype), rotary=rotary)
        updated = backbone.layer(layer, h_1TD, context)
        h_1TD = torch.where(ran_LT[layer][None, :, None], updated, h_1TD)
    return backbone.head(h_1TD[0, len(prompt) - 1 :])


def prompt_runs(plan: PromptPlan, num_layers: int, length: int, columns: int) -> Tensor:
    """Which prompt positions run each layer, (L, T), position by position; False after the prompt."""
    ran_LT = torch.zeros(num_layers, columns, dtype=torch.bool)
    for layer in range(num_layers):
        leading, trailing = plan.part(layer).ends(length)
        for position in range(length):
            ran_LT[layer, position] = position < leading or position >= length - trailing
    return ran_LT


def check_parallel_forward(backbone: Backbone, policy: ExitPolicy, rows: list[list[int]]) -> DecodeResult:
    """Check that the logits of every decoded token are those of the layers that its step ran."""
    result, seen = decode_with_logits(backbone, policy, rows)
    for row, tokens in enumerate(result.sequences()):
        expected_TV = reference_logits(backbone, policy, rows[row], tokens, result.depth_BT[row].tolist())
        actual_TV = torch.stack([seen[row, step] for step in range(len(tokens))])
        torch.testing.assert_close(actual_TV, expected_TV, atol=1e-4, rtol=1e-4)
    return result


def check_rows_alone(backbone: Backbone, policy: ExitPolicy, rows: list[list[int]]) -> None:
    """Check that a row of a padded batch gets the tokens and depths that it gets alone."""
    batched = decode(backbone, policy, rows, max_new_tokens=STEPS, eos_id=EOS, pad_id=PAD)
    for row, prompt in enumerate(rows):
        single = decode(backbone, policy, [prompt], max_new_tokens=STEPS, eos_id=EOS, pad_id=PAD)
        assert single.sequences()[0] == batched.sequences()[row]
        length = int(single.length_B[0])
        assert single.depth_BT[0, :length].tolist() == batched.depth_BT[row, :length].tolist()


def check_leaving_rows(backbone: Backbone, policy: ExitPolicy, rows: list[list[int]], limits: list[int]) -> None:
    """Check that rows that end do not affect the others."""
    free = decode(backbone, policy, rows, max_new_tokens=STEPS, eos_id=None, pad_id=PAD)
    cut = decode(backbone, policy, rows, max_new_tokens=limits, eos_id=None, pad_id=PAD)
    assert cut.sequences() == [tokens[:limit] for tokens, limit in zip(free.sequences(), limits, strict=True)]
    assert cut.length_B.tolist() == limits
    for row, limit in enumerate(limits):
        assert cut.depth_BT[row, :limit].tolist() == free.depth_BT[row, :limit].tolist()


def test_step_by_step_equals_parallel_forward(engine: Backbone, policies: list[ExitPolicy]) -> None:
    for policy in policies:
        check_parallel_forward(engine, policy, prompts(4))


def test_recorded_steps_give_the_same_tokens(engine: Backbone, policies: list[ExitPolicy]) -> None:
    rows = prompts(4)
    for policy in policies:
        if unrecordable(policy):
            with pytest.raises(ValueError, match="recorded steps need"):
                recorded_batches(policy)(engine, policy, rows=4, prompt_columns=9, new_tokens=STEPS)
            continue
        graphs = recorded_batches(policy)(engine, policy, rows=4, prompt_columns=9, new_tokens=STEPS)
        expected = decode(engine, policy, rows, max_new_tokens=STEPS, eos_id=EOS, pad_id=PAD)
        actual = decode(engine, policy, rows, max_new_tokens=STEPS, eos_id=EOS, pad_id=PAD, graphs=graphs)
        assert torch.equal(actual.tokens_BT, expected.tokens_BT)
        assert torch.equal(actual.depth_BT, expected.depth_BT)


def test_prepacked_weights_give_the_same_tokens(
    engine: Backbone, policies: list[ExitPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_linear, "_SMALL_BYTES", 0)
    fast = packed_linear.prepack(engine, rows=4)
    rows = prompts(4)
    for policy in policies:
        expected = decode(engine, policy, rows, max_new_tokens=STEPS, eos_id=EOS, pad_id=PAD)
        actual = decode(fast, policy, rows, max_new_tokens=STEPS, eos_id=EOS, pad_id=PAD)
        assert torch.equal(actual.tokens_BT, expected.tokens_BT)
        assert torch.equal(actual.depth_BT, expected.depth_BT)


def test_step_by_step_equals_prefix_sliced_forward(engine: Backbone, policies: list[ExitPolicy]) -> None:
    rows = prompts(4)
    for policy in policies:
        if isinstance(policy, RowwisePolicy):
            continue
        result, seen = decode_with_logits(engine, policy, rows)
        with torch.inference_mode():
            logits_BGV = planned_logits(engine, policy, on(engine.device, collate(rows, result.sequences(), PAD)))
        for row in range(len(rows)):
            actual_GV = torch.stack([seen[row, step] for step in range(STEPS)])
            torch.testing.assert_close(actual_GV, logits_BGV[row], atol=1e-4, rtol=1e-4)


def test_batched_and_padded_equals_single(engine: Backbone, policies: list[ExitPolicy]) -> None:
    for policy in policies:
        check_rows_alone(engine, policy, prompts(6, seed=3))


def test_rows_that_end_do_not_affect_the_others(engine: Backbone, policies: list[ExitPolicy]) -> None:
    for policy in policies:
        check_leaving_rows(engine, policy, prompts(5, seed=4), [3, STEPS, 1, 6, 2])


def test_plans_are_nested_and_depths_follow_them(engine: Backbone, policies: list[ExitPolicy]) -> None:
    for policy in policies:
        layer_steps(policy.plan, engine.num_layers, 4 * STEPS)
        result = decode(engine, policy, prompts(3), max_new_tokens=STEPS, eos_id=None, pad_id=PAD)
        planned = [len(policy.plan(step)) for step in range(STEPS)]
        for depths in result.depth_BT.tolist():
            assert depths[0] == planned[0]
            assert depths == planned or isinstance(policy, RowwisePolicy)
            assert all(1 <= depth <= most for depth, most in zip(depths, planned, strict=True))


def test_kv_memory_is_what_the_plan_needs(engine: Backbone, policies: list[ExitPolicy]) -> None:
    rows = prompts(3)
    for policy in policies:
        result = decode(engine, policy, rows, max_new_tokens=STEPS, eos_id=None, pad_id=PAD)
        steps_L = [sum(layer in policy.plan(step) for step in range(1, STEPS)) for layer in range(engine.num_layers)]
        drafts = policy.drafting.length if isinstance(policy, Speculative) else 0
        held_L = [max(policy.prompt.held(layer, len(row), 99) for row in rows) for layer in range(engine.num_layers)]
        slots = sum(held + steps + drafts for held, steps in zip(held_L, steps_L, strict=True) if steps)
        width = engine.kv_heads * engine.head_size
        assert result.kv_bytes == 2 * len(rows) * slots * width * 4


def with_gradient(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.grad is not None}


def test_loss_trains_every_parameter_that_decoding_uses(
    engine: Backbone, modules: list[ExitModule], policies: list[ExitPolicy]
) -> None:
    for module, policy in zip(modules, policies, strict=True):
        if module.recipe is None:
            continue
        module.zero_grad()
        batch = some_batch(device=engine.device)
        planned_logits(engine, policy, batch).sum().backward()
        used = with_gradient(module)
        for mode in (True, False):
            module.train(mode).zero_grad()
            module.loss(batch).backward()
            assert used <= with_gradient(module)
        for probe in module.probes:
            probe.zero_grad()
            probe.loss(batch).backward()
            assert with_gradient(probe) == {name for name, _ in probe.named_parameters()}


def test_hyperparameters_are_plain_values(modules: list[ExitModule]) -> None:
    for module in modules:
        plain = (int, float, str, bool, type(None), dict, list)
        assert all(isinstance(value, plain) for value in module.hparams.values())
        assert "setup" not in module.hparams


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_full_depth_equals_hugging_face_greedy(layout: str, device: str, prompted: bool) -> None:
    backbone = tiny_backbone(layout).to(device)
    policy = candidates("full", backbone)[0].build(setup(backbone)).exit_policy([])
    if prompted:
        # As many last positions as any prompt has.
        policy = PromptPlanned(policy, PromptPlan((PromptPart(last=64),) * backbone.num_layers))
    rows = prompts(6, seed=5)
    ids_BP, mask_BP = left_pad(rows, PAD)
    out_BT = backbone.model.generate(  # type: ignore[operator]
        ids_BP.to(device), attention_mask=mask_BP.long().to(device), max_new_tokens=30, do_sample=False,
        eos_token_id=EOS, pad_token_id=PAD,
    )[:, ids_BP.shape[1] :]  # fmt: skip
    expected = [row[: row.index(EOS) + 1] if EOS in row else row for row in out_BT.tolist()]
    result = decode(backbone, policy, rows, max_new_tokens=30, eos_id=EOS, pad_id=PAD)
    assert result.sequences() == expected
    assert len({tuple(tokens) for tokens in expected}) > 1
