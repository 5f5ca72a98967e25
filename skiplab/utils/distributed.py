"""The processes that run one job together: what the first does alone, and work that is dealt out.

In a job of one process all of it is as if this module were not there.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch.distributed as dist

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
# The others wait while the first times, for hours if need be; but not for a rank that failed where they did not.
_LONGEST = timedelta(days=7)
_PATIENCE = timedelta(seconds=60)

_group: Any = None
_meeting: Any = None
_alone = False


def join(backend: str, *, rank: int, world_size: int) -> None:
    """Connect to the other ranks, at `MASTER_ADDR` and `MASTER_PORT`. Lightning uses the connection too.

    Args:
        backend: for gradients, gloo or nccl. What this module sends goes by gloo.
    """
    global _group, _meeting
    dist.init_process_group(backend, rank=rank, world_size=world_size)
    _group = dist.new_group(backend="gloo", timeout=_LONGEST)
    _meeting = dist.new_group(backend="gloo", timeout=_PATIENCE)


def leave() -> None:
    """Disconnect, if connected."""
    global _group
    if _group is not None:
        _group = None
        dist.destroy_process_group()


def processes() -> int:
    """How many processes the job has."""
    return 1 if _group is None else dist.get_world_size(_group)


def world_size() -> int:
    """How many of them work together here; 1 within `on_first`."""
    return 1 if _alone else processes()


def rank() -> int:
    """This process's number, from 0."""
    return 0 if _group is None else dist.get_rank(_group)


def is_first() -> bool:
    """Whether this process is the one that reads and writes files and talks to the user."""
    return rank() == 0


def on_first(call: Callable[[], R]) -> R:
    """What the first rank's call gives, on all ranks; the others wait. To what is called, it is the only rank.

    Raises:
        Exception: what the call raised, on all ranks.
    """
    global _alone
    if world_size() == 1:
        return call()
    name = getattr(call, "__qualname__", None)
    outcome: list[Any] = [name, None, None]
    if is_first():
        _alone = True
        try:
            outcome[1] = call()
        except Exception as error:  # noqa: BLE001 - the others must hear of it
            outcome[2] = error
        finally:
            _alone = False
    dist.broadcast_object_list(outcome, src=0, group=_group)
    if outcome[0] != name:
        raise SystemExit(f"rank {rank()} is at {name}, the first rank at {outcome[0]}: ranks went different ways")
    if outcome[2] is not None:
        raise outcome[2]
    return outcome[1]


def first_only(function: Callable[P, None]) -> Callable[P, None]:
    """A function that does nothing on the other ranks, and waits for none."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> None:
        if is_first():
            function(*args, **kwargs)

    return called


def first_before_others(call: Callable[[], R]) -> R:
    """Each rank's own call, made when the first's is done: the others find what it left in a cache.

    Raises:
        Exception: what the first's call raised, on all ranks.
    """
    kept: list[R] = []
    on_first(lambda: kept.append(call()))
    return kept[0] if kept else call()


def share(work: Sequence[T], do: Callable[[T], R], progress: Callable[[Sequence[T]], Iterable[T]] = iter) -> list[R]:
    """What `do` makes of each piece of work, in order, on all ranks. They take turns in the pieces.

    Raises:
        Exception: what a rank's `do` raised, on all ranks.
    """
    ranks = world_size()
    if ranks == 1:
        return [do(piece) for piece in progress(work)]
    mine: tuple[list[R], Exception | None]
    try:
        mine = [do(piece) for piece in progress(work[rank() :: ranks])], None
    except Exception as error:  # noqa: BLE001 - the others must hear of it
        mine = [], error
    parts: list[Any] = [None] * ranks
    dist.all_gather_object(parts, mine, group=_group)
    for _, error in parts:
        if error is not None:
            raise error
    return [parts[place % ranks][0][place // ranks] for place in range(len(work))]


def meet() -> None:
    """Wait until every rank is here, which after an error tells that all had it.

    Raises:
        RuntimeError: one does not come within a minute. This process must end then, and the others with it.
    """
    if world_size() > 1:
        dist.barrier(_meeting)
