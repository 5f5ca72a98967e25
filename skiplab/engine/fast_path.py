"""Decoding by the fastest means of the device: packed weights on a CPU, recorded steps on a GPU."""

from collections.abc import Collection, Generator
from typing import final

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch_run import DecodeResult
from skiplab.engine.cuda_graphs import StepGraphs
from skiplab.engine.decode import Step, decode_request, decode_steps
from skiplab.engine.kept_batches import DraftBatches, ExitBatches
from skiplab.engine.number_format import NumberFormat
from skiplab.engine.policy import AdaptivePolicy, ExitPolicy
from skiplab.engine.recorded_batches import RecordedBatches, unrecordable
from skiplab.engine.request import Request
from skiplab.engine.speculative import Speculative

# How many batch sizes may have recorded steps at a time.
_MAX_RECORDED = 4
# Recorded steps are made for lengths rounded up to multiples of these, so that later batches fit.
_PROMPT_COLUMNS = 64
_NEW_TOKENS = 64


def recorded_batches(policy: ExitPolicy) -> type[StepGraphs] | type[ExitBatches] | type[DraftBatches]:
    """The class of recorded batches for a policy."""
    if isinstance(policy, AdaptivePolicy):
        return ExitBatches
    return DraftBatches if isinstance(policy, Speculative) else StepGraphs


@final
class FastPath:
    """Decodes batches one after another. Weights are packed and steps recorded at the first batch that needs them, and
    kept; there is one weight layout for single rows, and one for larger batches.

    Args:
        number_format: must have the backbone's dtype for states. None neither packs weights nor records steps.
        records: whether to use `RecordedBatches`; None does so on a GPU.
    """

    def __init__(
        self, backbone: Backbone, policy: ExitPolicy, number_format: NumberFormat | None, *, records: bool | None = None
    ) -> None:
        self._backbone = backbone
        self._policy = policy
        self._format = number_format
        on_gpu = backbone.device.type == "cuda"
        recordable = number_format is not None and not unrecordable(policy)
        self._records = (on_gpu if records is None else records) and recordable
        self._packed: dict[bool, Backbone] = {}
        self._graphs: dict[int, RecordedBatches] = {}

    def decode(self, request: Request) -> DecodeResult:
        """As `decode_request`."""
        backbone, graphs = self._for(request)
        return decode_request(backbone, self._policy, request, graphs=graphs)

    def steps(self, request: Request) -> Generator[Step, Collection[int] | None, DecodeResult]:
        """As `decode_steps`."""
        backbone, graphs = self._for(request)
        return decode_steps(backbone, self._policy, request, graphs=graphs)

    def backbone(self, rows: int) -> Backbone:
        """The backbone with weights packed for `rows` rows."""
        if self._format is None:
            return self._backbone
        if (single := rows == 1) not in self._packed:
            self._packed[single] = self._format.fast_path(self._backbone, rows)
        return self._packed[single]

    def _for(self, request: Request) -> tuple[Backbone, RecordedBatches | None]:
        # Checked first, so that nothing is packed for a request that cannot be decoded.
        request.check(self._backbone.max_positions)
        backbone = self.backbone(len(request.prompts))
        return backbone, self._recorded(request, backbone)

    def _recorded(self, request: Request, backbone: Backbone) -> RecordedBatches | None:
        kind = recorded_batches(self._policy)
        if not self._records or kind.lacks(request.choosing):
            return None
        rows, columns, longest = len(request.prompts), request.columns, request.longest
        graphs = self._graphs.pop(rows, None)
        if graphs is None or not graphs.fits(rows, columns, longest):
            before = (graphs.prompt_columns, graphs.new_tokens) if graphs else (0, 0)
            # Free the old tensors before new ones are allocated.
            del graphs
            while len(self._graphs) >= _MAX_RECORDED:
                self._graphs.pop(next(iter(self._graphs)))
            graphs = kind(
                backbone, self._policy, rows=rows,
                prompt_columns=max(_whole(columns, _PROMPT_COLUMNS), before[0]),
                new_tokens=max(_whole(longest, _NEW_TOKENS), before[1]),
            )  # fmt: skip
        # The dictionary is in order of use: the least recently used is dropped first.
        self._graphs[rows] = graphs
        return graphs


def _whole(count: int, part: int) -> int:
    return -(-count // part) * part
