"""Request streams: arrival times, and prompt and output lengths."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

Pattern = Literal["saturated", "poisson", "bursty"]
PATTERNS: tuple[str, ...] = get_args(Pattern)
_BURST = 8


@dataclass(frozen=True)
class Arrival:
    """A request.

    Attributes:
        at: arrival time in seconds from the beginning of the stream.
        prompt_tokens, new_tokens: the lengths of prompt and output.
    """

    at: float
    prompt_tokens: int
    new_tokens: int


def arrivals(lengths: Sequence[tuple[int, int]], *, count: int, pattern: str, rate: float, seed: int) -> list[Arrival]:
    """A stream of requests.

    Args:
        lengths: pairs of prompt and new tokens, from which each request's lengths are drawn.
        pattern: `saturated`: all arrive at once; `poisson`: a Poisson process; `bursty`: bursts of eight on average,
            whose times are a Poisson process.
        rate: mean requests per second; with the same seed, it only scales the arrival times.
    """
    draw = np.random.default_rng(seed)
    chosen = [lengths[index] for index in draw.integers(len(lengths), size=count)]
    if pattern == "saturated":
        times = np.zeros(count)
    elif pattern == "poisson":
        times = draw.exponential(size=count).cumsum() / rate
    else:
        sizes = draw.geometric(1 / _BURST, size=count)
        starts = (draw.exponential(size=count) * _BURST).cumsum() / rate
        times = np.repeat(starts, sizes)[:count]
    return [Arrival(float(at), *one) for at, one in zip(times, chosen, strict=True)]


def read_trace(path: Path) -> list[Arrival]:
    """Requests of a trace: a JSON object per line with `at` (seconds), `prompt_tokens` and `new_tokens`.

    Raises:
        ValueError: the file is missing, empty, or a line is broken; the message names file and line.
    """
    if not path.is_file():
        raise ValueError(f"streams.trace={path} is not a file")
    lines = path.read_text().splitlines()
    found = [_arrival(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise ValueError(f"streams.trace={path} has no requests")
    return sorted(found, key=lambda one: one.at)


def _arrival(line: str, place: str) -> Arrival:
    try:
        given = json.loads(line)
        at, prompt, new = (given[name] for name in ("at", "prompt_tokens", "new_tokens"))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f'{place}: expected {{"at": 0.5, "prompt_tokens": 20, "new_tokens": 30}}, got {line.strip():.80}'
        ) from error
    whole = all(isinstance(value, int) and not isinstance(value, bool) and value >= 1 for value in (prompt, new))
    if not whole or isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at) or at < 0:
        raise ValueError(f"{place}: at must be a number >= 0, and both token counts integers >= 1, got {line.strip()}")
    return Arrival(float(at), prompt, new)
