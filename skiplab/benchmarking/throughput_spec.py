"""Options of a throughput run, and its figures relative to the machine's bounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, final

import torch

from skiplab.benchmarking.roofline import Ceilings, Footprint, Step, bytes_speedup, least_seconds, steps_of
from skiplab.benchmarking.timing import Timing, Workload
from skiplab.engine.number_format import FORMATS
from skiplab.engine.policy import ExitPolicy, RowwisePolicy
from skiplab.utils.suggestions import suggestion

PEERS = ("hf_generate", "hf_generate_static", "ctranslate2", "llama_cpp")


@final
@dataclass(frozen=True, kw_only=True)
class ThroughputSpec:
    """Options of a throughput run.

    Args:
        batch_sizes: rows per batch.
        prompt_tokens, new_tokens: tokens per row.
        dtypes: number formats.
        peers: other inference engines to time.
        held_out_batches, held_out_speedups: settings on which the cost model is tested, and to which it is not fitted.
    """

    batch_sizes: list[int]
    prompt_tokens: int
    new_tokens: int
    dtypes: list[str]
    peers: list[str]
    held_out_batches: list[int]
    held_out_speedups: list[float]

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError(f"throughput batch_sizes must be at least 1, got {self.batch_sizes}")
        if self.prompt_tokens < 1 or self.new_tokens < 2:
            raise ValueError(
                f"throughput needs at least one prompt token and two new ones, got {self.prompt_tokens} and "
                f"{self.new_tokens}"
            )
        for name, values, known in (("dtypes", self.dtypes, list(FORMATS)), ("peers", self.peers, list(PEERS))):
            for value in values:
                if value not in known:
                    raise ValueError(f"unknown throughput {name} {value!r}{suggestion(value, known)}")
        for peer in ("ctranslate2", "llama_cpp"):
            if peer in self.peers and find_spec(peer) is None:
                raise ValueError(f"throughput's peer {peer} is not installed: pip install 'skiplab[bench]'")

    def check_positions(self, most: int) -> None:
        """Refuse more tokens than a backbone has positions.

        Raises:
            ValueError: the message gives both.
        """
        if self.prompt_tokens + self.new_tokens - 1 > most:
            raise ValueError(
                f"throughput's {self.prompt_tokens} prompt and {self.new_tokens} new tokens do not fit {most} positions"
            )

    def workload(self, batch_size: int, vocab_size: int, pad_id: int) -> Workload:
        """One batch of random prompts."""
        generator = torch.Generator().manual_seed(batch_size)
        prompts = torch.randint(pad_id + 1, vocab_size, (batch_size, self.prompt_tokens), generator=generator)
        return Workload(prompts.tolist(), [self.new_tokens] * batch_size, batch_size, pad_id)


def policy_steps(policy: ExitPolicy, timing: Timing, prompt: int) -> list[Step]:
    """The decode steps of a timing; if rows decide when to exit, each has the mean depth."""
    rows, count = timing.workload.batch_size, timing.workload.lengths[0] - 1
    if isinstance(policy, RowwisePolicy):
        assert timing.layers_per_step is not None
        return steps_of([timing.layers_per_step] * count, rows=rows, prompt=prompt)
    return steps_of([len(policy.plan(step)) for step in range(1, count + 1)], rows=rows, prompt=prompt)


def bound_figures(steps: Sequence[Step], size: Footprint, ceilings: Ceilings, row: dict[str, Any]) -> dict[str, float]:
    """`bytes_speedup`, the share of it that became `decode_speedup`, and the share of the roofline's speed reached."""
    possible = bytes_speedup(steps, size)
    seconds = row["decode_ms_per_step"] * len(steps) / 1e3
    figures = {"bytes_speedup": possible, "roofline_fraction": least_seconds(steps, size, ceilings) / seconds}
    if "decode_speedup" in row:
        figures["realised_fraction"] = row["decode_speedup"] / possible
    return figures
