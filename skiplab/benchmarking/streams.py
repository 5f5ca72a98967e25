"""Serve a stream of requests with a system, and measure when each token comes.

The stream has its own clock: it advances by the time that the system's steps take, and jumps over idle time.
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Protocol, final

import numpy as np

from skiplab.benchmarking.arrivals import Arrival
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch_run import DecodeResult
from skiplab.engine.continuous import Engine
from skiplab.engine.decode import Step, decode_steps
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.request import Request, RowRequest


class Decoded(Protocol):
    """A request that a system has taken: the number of layers that ran for each of its tokens so far."""

    @property
    def depths(self) -> list[int]: ...


class StreamSystem(ABC):
    """Accepts requests at any time, and decodes them step by step."""

    @abstractmethod
    def submit(self, request: RowRequest, on_token: Callable[[int], None]) -> Decoded:
        """Accept a request; `on_token` is called with each of its tokens."""

    @abstractmethod
    def step(self) -> bool:
        """Do one step of work; returns whether any is left."""

    @property
    @abstractmethod
    def active(self) -> int:
        """The number of requests being decoded, at most `slots`."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes currently allocated for keys and values."""


@final
class Continuous(StreamSystem):
    """Requests join and leave at any step."""

    def __init__(self, backbone: Backbone, policy: ExitPolicy, *, slots: int, chunk: int) -> None:
        self._engine = Engine(backbone, policy, slots=slots, chunk=chunk)

    def submit(self, request: RowRequest, on_token: Callable[[int], None]) -> Decoded:
        return self._engine.submit(request, on_token=on_token)

    def step(self) -> bool:
        return self._engine.step()

    @property
    def active(self) -> int:
        return self._engine.active

    @property
    def nbytes(self) -> int:
        return self._engine.nbytes


@final
@dataclass
class _Waiting:
    request: RowRequest
    on_token: Callable[[int], None]
    depths: list[int] = field(default_factory=list)


@final
class StaticBatches(StreamSystem):
    """Waiting requests form a batch, up to `slots`; requests that arrive later wait until it ends."""

    def __init__(self, backbone: Backbone, policy: ExitPolicy, *, slots: int, pad_id: int) -> None:
        self._backbone = backbone
        self._policy = policy
        self._slots = slots
        self._pad_id = pad_id
        self._queue: deque[_Waiting] = deque()
        self._batch: list[_Waiting] = []
        self._steps: Generator[Step, Any, DecodeResult] | None = None
        self._active = self._nbytes = 0

    def submit(self, request: RowRequest, on_token: Callable[[int], None]) -> Decoded:
        self._queue.append(waiting := _Waiting(request, on_token))
        return waiting

    def step(self) -> bool:
        if self._steps is None:
            self._batch = [self._queue.popleft() for _ in range(min(self._slots, len(self._queue)))]
            requests = [one.request for one in self._batch]
            prompts, limits = [one.prompt for one in requests], [one.limit for one in requests]
            request = Request(prompts, limits, requests[0].eos_ids, self._pad_id)
            self._steps = decode_steps(self._backbone, self._policy, request)
        try:
            step = next(self._steps)
        except StopIteration as end:
            self._steps, self._active, self._nbytes = None, 0, end.value.kv_bytes
        else:
            self._active = len(step.index_A)
            for index, token in zip(step.index_A.tolist(), step.token_A.tolist(), strict=True):
                self._batch[index].depths.append(len(self._policy.plan(step.step)))
                self._batch[index].on_token(token)
        return self._steps is not None or bool(self._queue)

    @property
    def active(self) -> int:
        return self._active

    @property
    def nbytes(self) -> int:
        return self._nbytes


@dataclass(frozen=True)
class Served:
    """The timing of one served request.

    Attributes:
        at: when it arrived, in seconds of the stream's clock.
        tokens_at: when each of its tokens came.
        depths: number of layers that ran for each token.
    """

    at: float
    tokens_at: list[float]
    depths: list[int]

    @property
    def first_token_s(self) -> float:
        """Seconds from arrival to the first token."""
        return self.tokens_at[0] - self.at

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between its tokens."""
        return np.diff(self.tokens_at).tolist()


@dataclass(frozen=True)
class Stream:
    """The measurements of a served stream.

    Attributes:
        occupied_s: seconds that requests were in slots, summed over requests.
        busy_s: seconds in which the system worked.
        nbytes: the most bytes that keys and values took.
    """

    served: list[Served]
    occupied_s: float
    busy_s: float
    nbytes: int

    @property
    def seconds(self) -> float:
        """Seconds from the first arrival to the last token."""
        return max(one.tokens_at[-1] for one in self.served) - min(one.at for one in self.served)

    @property
    def requests_per_s(self) -> float:
        return len(self.served) / self.seconds

    def figures(self, slots: int) -> dict[str, float]:
        """Figures of a result row."""
        tokens = sum(len(one.tokens_at) for one in self.served)
        first = np.array([one.first_token_s for one in self.served]) * 1e3
        gaps = np.array([gap for one in self.served for gap in one.gaps_s]) * 1e3
        depths = [depth for one in self.served for depth in one.depths[1:]]
        return {
            "requests_per_s": self.requests_per_s,
            "stream_tokens_per_s": tokens / self.seconds,
            **{f"first_token_ms_p{share}": float(np.percentile(first, share)) for share in (50, 95, 99)},
            **{f"token_ms_p{share}": float(np.percentile(gaps, share)) for share in (50, 95, 99)},
            "mean_depth": mean(depths),
            "occupancy": self.occupied_s / self.busy_s / slots,
            "kv_bytes": self.nbytes,
        }


def serve(
    system: StreamSystem,
    stream: Sequence[Arrival],
    prompt: Callable[[int], Sequence[int]],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Stream:
    """Serve a stream to its end.

    Args:
        stream: in order of arrival.
        prompt: makes the token ids of a prompt of a given length.
    """
    now = occupied = busy = 0.0
    nbytes, more = 0, False
    new: list[list[float]] = []
    tokens: list[list[float]] = [[] for _ in stream]
    handles: list[Decoded] = []
    while more or len(handles) < len(stream):
        if not more:
            now = max(now, stream[len(handles)].at)
        while len(handles) < len(stream) and stream[len(handles)].at <= now:
            one, came = stream[len(handles)], tokens[len(handles)]
            request = RowRequest(prompt(one.prompt_tokens), one.new_tokens)
            handles.append(system.submit(request, lambda _, came=came: new.append(came)))
        began = clock()
        more = system.step()
        took = clock() - began
        now, busy, occupied = now + took, busy + took, occupied + took * system.active
        nbytes = max(nbytes, system.nbytes)
        for came in new:
            came.append(now)
        new.clear()
    served = [Served(one.at, came, handle.depths) for one, came, handle in zip(stream, tokens, handles, strict=True)]
    return Stream(served, occupied, busy, nbytes)
