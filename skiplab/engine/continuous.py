"""Continuous batching: rows arrive and leave at any step, each with its own age (tokens generated so far).

Shapes: N rows whose prompts end, V vocabulary.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.choose_runner import step_runner
from skiplab.engine.depth_order import check_chain
from skiplab.engine.handle import Handle
from skiplab.engine.live_rows import LiveRow, LiveRows
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.read_chunk import Chunk, read_chunk
from skiplab.engine.recorded_layers import RecordedPasses
from skiplab.engine.recording import Recorder
from skiplab.engine.request import RowRequest
from skiplab.engine.row_choice import choose
from skiplab.engine.row_layout import RowPrompt
from skiplab.engine.speculative import Rounds, Speculative
from skiplab.schedules.exit_schedule import LayerPlan, layer_steps

# The cache's width is a multiple of this.
_COLUMN_BLOCK = 64


class QueueFullError(Exception):
    """The queue has no room for another request."""


@final
class Engine:
    """Decodes requests as they arrive; each gets the tokens that it would get if it were decoded alone.

    First come, first served: a request is admitted when a slot is free, its prompt is read in chunks between the
    decode steps of the others, and its slot is freed when it ends.

    Args:
        policy: for requests that have no policy of their own.
        slots: the most rows that decode at a time.
        max_tokens: the most positions of a request, prompt and output together; None is the backbone's. Memory is
            allocated as requests need it.
        chunk: prompt tokens that are read per step.
        max_waiting: requests that may wait for a slot; None is any number.
        record: whether steps run as recorded layers (`RecordedRows`), where the policy allows it; None does so on a
            GPU. The backbone's weights must then stay where they are in memory.

    Raises:
        ValueError: an argument is out of its range, or the policy's plans are not nested.
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: ExitPolicy,
        *,
        slots: int,
        max_tokens: int | None = None,
        chunk: int = 256,
        max_waiting: int | None = None,
        record: bool | None = None,
    ) -> None:
        most = backbone.max_positions
        for name, value in (
            ("slots", slots),
            ("max_tokens", most if max_tokens is None else max_tokens),
            ("chunk", chunk),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if max_tokens is not None and max_tokens > most:
            raise ValueError(f"max_tokens must be at most the backbone's {most} positions, got {max_tokens}")
        self._backbone = backbone
        self._policy = policy
        self._slots = slots
        self._max_tokens = max_tokens or most
        self._chunk = chunk
        self._max_waiting = max_waiting
        self._waiting: deque[Handle] = deque()
        self._running: dict[int, Handle] = {}
        self._submitted = 0
        self._columns = 0
        self._plans: dict[ExitPolicy, set[LayerPlan]] = {}
        self._check_plans(policy)
        cache = backbone.new_cache(slots, [0] * backbone.num_layers)
        records = backbone.device.type == "cuda" if record is None else record
        recorder = Recorder(backbone.device) if records else None
        runner = step_runner(backbone, policy, cache, rows=slots, columns=0, recorder=recorder)
        passes = None
        if recorder is not None and isinstance(policy, Speculative):
            passes = RecordedPasses(backbone, cache, rows=slots, recorder=recorder)
        self._cache = cache
        self._live = LiveRows(backbone, cache, runner, columns=0, passes=passes)
        self._rounds = Rounds(backbone, policy, self._live) if isinstance(policy, Speculative) else None

    @property
    def active(self) -> int:
        """Requests in the slots."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self._live.nbytes

    def check(self, request: RowRequest) -> None:
        """Refuse a request that can never be decoded.

        Raises:
            ValueError: the prompt is empty, the limit is below 1, or together they need more than `max_tokens`
                positions.
        """
        if not request.prompt or request.limit < 1:
            raise ValueError(
                f"a request needs at least one prompt token and one new token, got {len(request.prompt)} and "
                f"{request.limit}"
            )
        if request.columns > self._max_tokens:
            raise ValueError(
                f"a request of {len(request.prompt)} prompt tokens and at most {request.limit} new ones needs "
                f"{request.columns} positions, and this engine has {self._max_tokens}; shorten the prompt or lower "
                "max_new_tokens"
            )

    def submit(
        self,
        request: RowRequest,
        *,
        policy: ExitPolicy | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> Handle:
        """Queue a request.

        Args:
            policy: in place of the engine's. All plans in an engine must be nested in each other, and a policy under
                which rows decide when to exit cannot be mixed with another.
            on_token: called with each of its tokens.

        Raises:
            QueueFullError: `max_waiting` requests are waiting.
            ValueError: as `check`, or the policy cannot be mixed with the engine's.
        """
        self.check(request)
        if policy is not None and not (policy.follows_plan and self._policy.follows_plan):
            raise ValueError(
                "a policy that drafts, or under which rows exit on their own, cannot be mixed with another policy"
            )
        if policy is not None:
            self._check_plans(policy)
        if self._max_waiting is not None and len(self._waiting) >= self._max_waiting:
            raise QueueFullError(f"{len(self._waiting)} of {self._max_waiting} places in the queue are taken")
        policy = policy or self._policy
        row = LiveRow(self._submitted, policy, prompt=_row_prompt(policy, len(request.prompt)))
        handle = Handle(request, row, on_token)
        self._submitted += 1
        self._waiting.append(handle)
        return handle

    @torch.inference_mode()
    def cancel(self, handle: Handle) -> None:
        """End a request with the tokens that it has; its slot is free for the next step."""
        if handle.done:
            return
        handle.done = True
        if self._running.pop(handle.row.index, None) is None:
            self._waiting.remove(handle)
        else:
            self._live.end([handle.row])

    @torch.inference_mode()
    def step(self) -> bool:
        """Admit requests, read a chunk of a prompt, and run one decode step; returns whether work is left."""
        self._admit()
        self._read()
        if self._rounds is not None:
            self._run_round(self._rounds)
        elif self._live.decoding:
            logits_BV, depths = self._live.advance()
            self._take(self._live.decoding, logits_BV, depths)
        return bool(self._running or self._waiting)

    def _check_plans(self, policy: ExitPolicy) -> None:
        if policy in self._plans:
            return
        layer_steps(policy.plan, self._backbone.num_layers, self._max_tokens)
        plans = {policy.plan(step) for step in range(1, self._max_tokens)}
        check_chain(plan for known in (plans, *self._plans.values()) for plan in known)
        self._plans[policy] = plans

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            handle = self._waiting[0]
            if handle.request.columns > self._columns:
                # This may run out of memory, so the request stays in the queue until it has succeeded.
                self._grow(min(-(-handle.request.columns // _COLUMN_BLOCK) * _COLUMN_BLOCK, self._max_tokens))
            self._waiting.popleft()
            self._running[handle.row.index] = handle
            self._live.begin(handle.row)
            if self._rounds is not None:
                self._rounds.admit(handle.request.prompt)

    def _grow(self, columns: int) -> None:
        drafts = self._policy.drafting.length if isinstance(self._policy, Speculative) else 0
        self._cache.grow([columns + drafts] * self._backbone.num_layers)
        self._live.grow(columns + drafts)
        self._columns = columns

    def _read(self) -> None:
        """Read the next chunk of the first unfinished prompt, or as many whole prompts as fit into a chunk."""
        reading = self._live.reading
        if not reading:
            return
        group = [self._running[row.index] for row in self._grouped(reading)]
        first = group[0].row
        rest = [handle.request.prompt[handle.row.column :][: self._chunk] for handle in group]
        rows = slice(found := self._live.rows.index(first), found + len(group))
        chunk = Chunk(rest, first.column, [len(handle.request.prompt) for handle in group])
        h_RTD = read_chunk(self._backbone, self._cache, rows, chunk, first.policy.prompt)
        ends: list[Handle] = []
        places: list[int] = []
        for place, (handle, ids) in enumerate(zip(group, rest, strict=True)):
            handle.row.column += len(ids)
            if handle.row.column == len(handle.request.prompt):
                ends.append(handle)
                places.append(place)
        if ends:
            last_ND = h_RTD[places, [len(rest[place]) - 1 for place in places]]
            depths = [len(handle.row.policy.plan(0)) for handle in ends]
            self._take([handle.row for handle in ends], self._backbone.head(last_ND), depths)

    def _grouped(self, reading: Sequence[LiveRow]) -> list[LiveRow]:
        """Rows to read together: neighbours with the same prompt plan whose whole prompts fit into one chunk."""
        found = [reading[0]]
        widest = self._left(reading[0])
        for row in reading[1:]:
            widest = max(widest, self._left(row))
            same = row.policy.prompt == found[0].policy.prompt and row.column == found[0].column == 0
            if not same or widest * (len(found) + 1) > self._chunk:
                break
            found.append(row)
        return found

    def _left(self, row: LiveRow) -> int:
        return len(self._running[row.index].request.prompt) - row.column

    def _run_round(self, rounds: Rounds) -> None:
        handles = [self._running[row.index] for row in self._live.decoding]
        if not handles:
            return
        room = [handle.request.limit - len(handle.tokens) for handle in handles]
        for handle, found in zip(handles, rounds.run([one.chooser for one in handles], room), strict=True):
            self._extend(handle, found.tokens, len(handle.row.plan))

    def _take(self, rows: Sequence[LiveRow], logits_BV: Tensor, depths: Sequence[int]) -> None:
        handles = [self._running[row.index] for row in rows]
        tokens = choose(logits_BV, [handle.chooser for handle in handles])
        for handle, token, depth in zip(handles, tokens, depths, strict=True):
            self._extend(handle, [token], depth)

    def _extend(self, handle: Handle, tokens: Sequence[int], depth: int) -> None:
        """Append a row's tokens, up to the one that ends it."""
        for token in tokens:
            if handle.done:
                # Cancelled by a callback.
                return
            self._live.take(handle.row, token, depth)
            ended = handle.at_end
            if handle.on_token is not None:
                handle.on_token(token)
            if ended:
                self.cancel(handle)


def _row_prompt(policy: ExitPolicy, length: int) -> RowPrompt | None:
    plan = policy.prompt
    return None if all(map(plan.is_held_whole, plan.layers)) else RowPrompt(plan, length)
