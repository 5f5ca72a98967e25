"""Interleaved timing, and the figures computed from it."""

import pytest
import torch

from skiplab.benchmarking.hf_systems import hf_generate_system
from skiplab.benchmarking.rounds import Round, Rounds
from skiplab.benchmarking.timing import (
    Clock,
    Timing,
    Workload,
    engine_system,
    interleave,
    quartiles,
)
from skiplab.engine.draft_length import Drafting
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.policy import FullDepth, Planned, Scheduled
from skiplab.engine.speculative import Speculative
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.tiny import PAD, prompts, tiny_backbone

CPU = torch.device("cpu")
WORKLOAD = Workload(prompts=prompts(5), lengths=[4, 7, 3, 9, 2], batch_size=2, pad_id=PAD)


def test_sampled_tokens_are_timed_without_ends_of_sequence() -> None:
    backbone = tiny_backbone()
    options = GenerationOptions(do_sample=True, temperature=1.0, top_k=0, seed=3)
    system = engine_system(backbone, FullDepth(6), options=options)
    drafting = Speculative(Planned([tuple(range(6)), (0, 5)]), 6, Drafting(length=2))
    drafts = engine_system(backbone, drafting, options=options)
    for rows, lengths in WORKLOAD.batches():
        full, drafted = system(rows, lengths, PAD, Clock(CPU)), drafts(rows, lengths, PAD, Clock(CPU))
        assert full is not None
        assert drafted is not None
        assert list(map(len, full.sequences())) == lengths
        assert full.sequences() == drafted.sequences()
        assert full.sequences() != engine_system(backbone, FullDepth(6))(rows, lengths, PAD, Clock(CPU)).sequences()  # type: ignore[union-attr]


def test_every_system_generates_the_requested_lengths() -> None:
    backbone = tiny_backbone()
    for system in (engine_system(backbone, FullDepth(6)), hf_generate_system(backbone)):
        for rows, lengths in WORKLOAD.batches():
            clock = Clock(CPU)
            result = system(rows, lengths, PAD, clock)
            assert len(clock.times()) == max(lengths)
            assert result is None or result.length_B.tolist() == list(lengths)


def test_systems_take_turns_and_a_failure_does_not_affect_the_others() -> None:
    turns: list[str] = []
    backbone = tiny_backbone()
    good = engine_system(backbone, FullDepth(6))

    def system(name: str, fails_at: int | None = None):
        def run(*arguments):
            turns.append(name)
            if turns.count(name) == fails_at:
                raise RuntimeError("broken")
            return good(*arguments)

        return run

    one_batch = Workload(prompts=prompts(2), lengths=[3, 3], batch_size=2, pad_id=PAD)
    systems = {"a": system("a"), "b": system("b", fails_at=2), "c": system("c")}
    timings, errors = interleave(systems, one_batch, rounds=Rounds(2), device=CPU)
    assert turns == ["a", "b", "c", "a", "b", "c", "a", "c"]
    assert timings.keys() == {"a", "c"}
    assert [str(error) for error in errors.values()] == ["broken"]
    assert len(timings["a"].rounds) == 2


def test_figures_by_hand() -> None:
    workload = Workload(prompts=[[5], [5], [5]], lengths=[3, 5, 2], batch_size=2, pad_id=PAD)
    base = Timing([Round(0.1, t, 0.1 + t, [1.0]) for t in (1.0, 2.0, 4.0)], workload, 64, 6.0, [])
    fast = Timing([Round(0.1, t, 0.1 + t, [1.0]) for t in (0.5, 0.5, 1.0)], workload, 32, 2.0, [])
    row = fast.row(base)
    # 10 tokens, 7 of them after the first of their row; batches of 4 and 1 decode steps.
    assert row["decode_tokens_per_s"] == pytest.approx(14)
    assert row["decode_ms_per_step"] == pytest.approx(100)
    assert row["prefill_ms"] == pytest.approx(50)
    assert row["end_to_end_tokens_per_s"] == pytest.approx(10 / 0.6)
    assert row["decode_speedup"] == pytest.approx(4)
    assert row["decode_speedup_quartiles"] == pytest.approx([3, 4])
    assert row["prefill_speedup"] == 1
    assert row["end_to_end_speedup"] == pytest.approx(2.1 / 0.6)
    assert row["step_layer_speedup"] == pytest.approx(3)
    assert row["kv_bytes"] == 32
    assert quartiles([1, 2, 3, 4, 5]) == [2, 4]


def test_memory_is_counted_on_request_and_includes_keys_and_values() -> None:
    systems = {"full": engine_system(tiny_backbone(), FullDepth(6))}
    counted, _ = interleave(systems, WORKLOAD, rounds=Rounds(2), device=CPU, count_memory=True)
    row = counted["full"].row(None)
    assert row["peak_memory_bytes"] > row["kv_bytes"]
    plain, _ = interleave(systems, WORKLOAD, rounds=Rounds(2), device=CPU)
    assert "peak_memory_bytes" not in plain["full"].row(None)


def test_a_batchs_step_counts_its_deepest_row() -> None:
    backbone = tiny_backbone()
    schedule = ExitSchedule(num_layers=6, max_exit=4, min_exit=2, horizon=3)
    systems = {
        "full": engine_system(backbone, FullDepth(6)),
        "skip": engine_system(backbone, Scheduled(schedule, "skip")),
    }
    timings, _ = interleave(systems, WORKLOAD, rounds=Rounds(2), device=CPU)
    # Batches of 6, 8 and 1 steps, depths 4, 3, 2, 2, ...
    assert timings["skip"].layers_per_step == pytest.approx((4 + 3 + 2 * 4 + 4 + 3 + 2 * 6 + 4) / 15)
    assert timings["full"].row(timings["full"])["decode_speedup"] == 1
    assert len(timings["full"].step_ms()) == 8


@pytest.mark.parametrize(("narrow", "rounds"), [(1e6, 5), (1e-9, 8), (None, 8)])
def test_rounds_end_early_once_times_are_steady(narrow: float | None, rounds: int) -> None:
    systems = {"a": engine_system(tiny_backbone(), FullDepth(6)), "b": engine_system(tiny_backbone(), FullDepth(6))}
    timings, _ = interleave(systems, WORKLOAD, rounds=Rounds(8, narrow=narrow), device=CPU)
    assert [len(timings[name].rounds) for name in systems] == [rounds] * 2
    assert timings["a"].row(timings["b"])["timing_rounds"] == rounds
