"""Decode 10,000 random arrivals with rows of mixed ages, and each again in batches of equal ages: no token may differ.

python -m scripts.check_arrivals [COUNT]
"""

import random
import sys
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.progress import track

from skiplab.engine.backbone import Backbone
from skiplab.engine.continuous import Engine, Handle
from skiplab.engine.decode import decode
from skiplab.engine.policy import ExitPolicy, Scheduled
from skiplab.engine.request import RowRequest
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.tiny import EOS, LAYOUTS, PAD, VOCABULARY, tiny_backbone

POLICIES: tuple[ExitPolicy, ...] = (
    Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=8), "skip"),
    Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=1, horizon=9, warmup=0), "terminate"),
)


def main(count: int) -> int:
    """Exit code 1 if a request's tokens differ."""
    torch.set_num_threads(1)
    pairs = [(layout, policy) for layout in LAYOUTS for policy in POLICIES]
    each = -(-count // len(pairs))
    differing = sum(_differing(tiny_backbone(layout), policy, each) for layout, policy in track(pairs, "checking"))
    Console().print(f"{each * len(pairs)} arrivals, {differing} of them with other tokens than alone", highlight=False)
    return 1 if differing else 0


def _differing(backbone: Backbone, policy: ExitPolicy, count: int) -> int:
    draw = random.Random(5)
    requests = [
        RowRequest([draw.randrange(3, VOCABULARY) for _ in range(draw.randint(1, 9))], draw.randint(1, 14), (EOS,))
        for _ in range(count)
    ]
    handles = _streamed(Engine(backbone, policy, slots=16, chunk=draw.randint(4, 32)), requests, draw)
    found = 0
    for first in range(0, count, 64):
        part = requests[first : first + 64]
        expected = decode(
            backbone, policy, [one.prompt for one in part], max_new_tokens=[one.limit for one in part],
            eos_id=EOS, pad_id=PAD,
        )  # fmt: skip
        served = [one.tokens for one in handles[first : first + 64]]
        found += sum(one != other for one, other in zip(served, expected.sequences(), strict=True))
    return found


def _streamed(engine: Engine, requests: Sequence[RowRequest], draw: random.Random) -> list[Handle]:
    handles: list[Handle] = []
    while engine.step() or len(handles) < len(requests):
        handles += [engine.submit(one) for one in requests[len(handles) :][: draw.choice([0, 0, 1, 2, 3])]]
    return handles


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
