"""The processes that run one job together: work of the first rank on behalf of all, and work shared by all."""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Self, TypeVar, final

import torch.distributed as dist

R = TypeVar("R")
T = TypeVar("T")
# The other ranks wait while the first one runs the timing, which can take hours.
_COLLECTIVE_TIMEOUT = timedelta(days=7)
BARRIER_TIMEOUT = timedelta(seconds=60)


@final
class Ranks:
    """The ranks of a job as one of them sees them. `Ranks()` is a job of one process.

    Args:
        group: process group for objects that the ranks exchange; None means a single process.
        barrier: process group with a short timeout, for `barrier`.
    """

    def __init__(self, group: Any = None, barrier: Any = None) -> None:
        self._group = group
        self._barrier = barrier
        # Within `on_first` the first rank works for all: to what it calls, it is the only one.
        self._alone = False

    @classmethod
    def join(cls, backend: str, *, rank: int, world_size: int, barrier_timeout: timedelta = BARRIER_TIMEOUT) -> Self:
        """Connect to the other ranks, at `MASTER_ADDR` and `MASTER_PORT`. Lightning uses the same connection.

        Args:
            backend: of the gradients: gloo or nccl. All else goes by gloo.
            barrier_timeout: how long `barrier` waits for a rank.
        """
        dist.init_process_group(backend, rank=rank, world_size=world_size)
        return cls(
            dist.new_group(backend="gloo", timeout=_COLLECTIVE_TIMEOUT),
            dist.new_group(backend="gloo", timeout=barrier_timeout),
        )

    def leave(self) -> None:
        """Disconnect, if connected."""
        if self._group is not None:
            self._group = self._barrier = None
            dist.destroy_process_group()

    @property
    def processes(self) -> int:
        """Number of processes of the job."""
        return 1 if self._group is None else dist.get_world_size(self._group)

    @property
    def world_size(self) -> int:
        """Number of ranks that work together at this point; 1 within `on_first`."""
        return 1 if self._alone else self.processes

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return 0 if self._group is None else dist.get_rank(self._group)

    @property
    def is_first(self) -> bool:
        """Whether this process reads and writes files and talks to the user."""
        return self.rank == 0

    def on_first(self, call: Callable[[], R]) -> R:
        """Call on the first rank while the others wait; its result on all ranks.

        Raises:
            Exception: what the call raised, on all ranks.
        """
        if self.world_size == 1:
            return call()
        name = getattr(call, "__qualname__", None)
        outcome: list[Any] = [name, None, None]
        if self.is_first:
            self._alone = True
            try:
                outcome[1] = call()
            except Exception as error:  # noqa: BLE001 - the other ranks raise it too
                outcome[2] = error
            finally:
                self._alone = False
        dist.broadcast_object_list(outcome, src=0, group=self._group)
        if outcome[0] != name:
            raise SystemExit(f"rank {self.rank} is at {name}, the first rank at {outcome[0]}: the ranks have diverged")
        if outcome[2] is not None:
            raise outcome[2]
        return outcome[1]

    def first_before_others(self, call: Callable[[], R]) -> R:
        """Call on every rank, on the first one before the others, which then read its result from a cache.

        Raises:
            Exception: what the first rank's call raised, on all ranks.
        """
        kept: list[R] = []
        self.on_first(lambda: kept.append(call()))
        return kept[0] if kept else call()

    def share(
        self, work: Sequence[T], do: Callable[[T], R], progress: Callable[[Sequence[T]], Iterable[T]] = iter
    ) -> list[R]:
        """Apply `do` to each piece of work, shared out round robin; all results in order, on all ranks.

        Raises:
            Exception: what a rank's `do` raised, on all ranks.
        """
        ranks = self.world_size
        if ranks == 1:
            return [do(piece) for piece in progress(work)]
        mine: tuple[list[R], Exception | None]
        try:
            mine = [do(piece) for piece in progress(work[self.rank :: ranks])], None
        except Exception as error:  # noqa: BLE001 - the other ranks raise it too
            mine = [], error
        parts: list[Any] = [None] * ranks
        dist.all_gather_object(parts, mine, group=self._group)
        for _, error in parts:
            if error is not None:
                raise error
        return [parts[place % ranks][0][place // ranks] for place in range(len(work))]

    def barrier(self) -> None:
        """Wait until every rank is here; after an error it confirms that every rank failed.

        Raises:
            RuntimeError: a rank does not come in time. This process must end then, and the others with it.
        """
        if self.world_size > 1:
            dist.barrier(self._barrier)


ALONE = Ranks()
"""A job of one process."""
