"""Figures of a system that serves a stream of requests."""

from typing import Any

from skiplab.utils.figures import Figure, Shown


def _shown(position: int, **options: Any) -> Figure:
    return Figure(shown=(Shown(place="stream", position=position),), **options)


def _latency(name: str, meaning: str, share: int, position: int) -> Figure:
    return _shown(
        position,
        name=f"{name}_ms_p{share}",
        meaning=f"milliseconds {meaning}: {share} in 100 are at most this",
        label=f"{name.replace('_', ' ')} p{share} ms",
        unit="ms",
        form="{:,.1f}",
        sense="minimize",
        interval="quartiles" if share == 95 else None,
    )


STREAM_FIGURES = (
    Figure(name="arrivals", meaning="how the requests of a stream arrive: saturated, poisson, bursty or trace"),
    Figure(name="load", meaning="request rate as a fraction of the system's own capacity", unit="share"),
    Figure(name="slots", meaning="the most requests that a system decodes at a time"),
    Figure(name="requests", meaning="requests of a stream"),
    _shown(
        1,
        name="requests_per_s",
        meaning="requests served per second, from the first arrival to the last token, median over rounds",
        label="requests/s",
        unit="requests/s",
        form="{:,.2f}",
        sense="maximize",
        interval="quartiles",
    ),
    _shown(
        2,
        name="stream_tokens_per_s",
        meaning="tokens per second of a stream, first tokens included, median over rounds",
        label="tokens/s",
        unit="tokens/s",
        form="{:,.0f}",
        sense="maximize",
    ),
    *(_latency("first_token", "from a request's arrival to its first token", share, 3) for share in (50, 95, 99)),
    *(_latency("token", "from one token of a request to its next", share, 4) for share in (50, 95, 99)),
    _shown(
        5,
        name="occupancy",
        meaning="fraction of the slots that are in use while the system works, mean over time",
        unit="share",
        form="{:.2f}",
    ),
    _shown(
        6,
        name="requests_per_s_at_target",
        meaning="highest measured request rate at which the p95 of milliseconds per token meets the target",
        label="requests/s at target",
        unit="requests/s",
        form="{:,.2f}",
        sense="maximize",
    ),
)
