"""The section `streams`."""

from typing import Annotated, Literal

from pydantic import Field

from skiplab.comparison.config_base import Name, Number, PositiveInt, Section

Load = Annotated[Number, Field(gt=0, le=1)]


class Streams(Section):
    """What `experiment=streams` measures.

    Attributes:
        requests: per stream; with a trace, those of the file instead.
        loads: request rates, as fractions of a system's own capacity.
        patterns: how requests arrive at these rates.
        static: names of method nodes that are also served in static batches.
        vocabulary: vocabulary size of the random weights; None is the task's.
        peers: systems other than skiplab, of which only the capacity is measured.
        trace: a file of requests that every system serves instead of drawn ones.
    """

    requests: Annotated[int, Field(ge=8)]
    loads: list[Load]
    patterns: list[Literal["poisson", "bursty"]]
    slots: PositiveInt
    chunk: PositiveInt
    dtype: Literal["float32", "bfloat16", "float16", "int8"]
    static: list[Name]
    vocabulary: PositiveInt | None
    peers: list[Literal["hf_continuous"]]
    trace: Name | None
