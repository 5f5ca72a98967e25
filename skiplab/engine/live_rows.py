"""The ragged step: one decode step of rows that each have their own length, age and plan.

Shapes: B rows that decode, T new positions, S key positions, D hidden size, V vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context, Rotary
from skiplab.engine.depth_order import LayerRun, exchanges, layer_runs
from skiplab.engine.draft_rounds import Tally
from skiplab.engine.kv_cache import KVCache, Place
from skiplab.engine.policy import ExitPolicy, Head
from skiplab.engine.recorded_layers import RecordedPasses
from skiplab.engine.row_layout import Layout, RowPrompt, layouts
from skiplab.engine.step_runners import Span, StepRows, StepRunner
from skiplab.schedules.exit_schedule import LayerPlan


@final
@dataclass(eq=False)
class LiveRow:
    """A row of a batch.

    Attributes:
        index: the row's number, chosen by the caller.
        policy: gives its plan by generation step.
        pad: columns of left padding.
        column: the cache column of its next key and value.
        tokens: generated so far; empty while its prompt is being read.
        depths: number of layers that ran for each of these tokens.
        plan: the layers of its next step.
        prompt: its prompt, if layers lack positions of it; None if every layer has the columns below `column`.
        drafts: what became of tokens that were drafted for it.
    """

    index: int
    policy: ExitPolicy
    pad: int = 0
    column: int = 0
    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    plan: LayerPlan = ()
    ended: bool = False
    prompt: RowPrompt | None = None
    drafts: Tally = field(default_factory=Tally)

    @property
    def step(self) -> int:
        """The next generation step."""
        return len(self.tokens)

    @property
    def rank(self) -> tuple[int, int]:
        """Sort key: decoding rows from deep to shallow, then rows whose prompts are being read, then ended ones."""
        if self.ended:
            return 2, 0
        return (0, -len(self.plan)) if self.tokens else (1, 0)

    def filled(self, layer: int) -> int:
        """The number of leading columns in a layer's cache that are written, padding included."""
        return self.column if self.prompt is None else self.prompt.filled(layer, self.column - self.pad)

    def padding(self, layer: int) -> int:
        """The columns of left padding in a layer's cache."""
        return self.pad if self.prompt is None else self.prompt.padding(layer)


@final
class LiveRows:
    """The rows of a batch, in descending order of the depth of their next step.

    The invariant: plans are nested from row to row, so the rows that run layer `l` are the first `n_l`, and each layer
    works on one contiguous slice `h[:n_l]`, keys and values included: nothing is gathered or copied. Plans are nested
    from step to step too, so a row that runs a layer has the keys and values of all its positions there, and one length
    per row masks every layer; layers that lack positions of a prompt have lengths of their own (`row_layout`). A row
    that arrives, ends or reaches a smaller depth costs at most one swap of two rows' keys and values per distinct depth
    that it passes.

    Rows whose prompts are being read come after those that decode.

    Args:
        columns: width of the cache's longest layer.
        passes: runs the passes of `look_ahead`; None runs them without recordings.

    Attributes:
        rows: all rows, in order.
    """

    def __init__(
        self,
        backbone: Backbone,
        cache: KVCache,
        runner: StepRunner,
        *,
        columns: int,
        passes: RecordedPasses | None = None,
    ) -> None:
        self._backbone = backbone
        self._cache = cache
        self._runner = runner
        self._passes = passes
        self._columns = columns
        # For so many rows in their present order; 0 after a change.
        self._laid_out = 0
        self._layouts: list[Layout] = []
        self._plans: dict[tuple[ExitPolicy, int], LayerPlan] = {}
        self.rows: list[LiveRow] = []

    @property
    def decoding(self) -> list[LiveRow]:
        """The rows whose prompts are read: they have at least one token."""
        return [row for row in self.rows if row.tokens]

    @property
    def nbytes(self) -> int:
        """Bytes of the cache."""
        return self._cache.nbytes

    @property
    def recordings(self) -> int:
        """Number of recordings made so far, which take longer than the work that they record."""
        return 0 if self._passes is None else self._passes.recordings

    @property
    def reading(self) -> list[LiveRow]:
        """The rows whose prompts are being read; they are neighbours in `rows` and in the cache."""
        self._arrange()
        return [row for row in self.rows if not row.tokens]

    def begin(self, row: LiveRow) -> None:
        """Add a row whose prompt is still to be read."""
        self.rows.append(row)

    def grow(self, columns: int) -> None:
        """Make room for more columns; the cache must have grown before."""
        self._runner.grow(columns)
        if self._passes is not None:
            self._passes.grow(columns)
        self._columns, self._laid_out = columns, 0

    def take(self, row: LiveRow, token: int, depth: int) -> None:
        """Append a row's next token, and the number of layers that ran for it."""
        row.tokens.append(token)
        row.depths.append(depth)
        row.plan = self._plan(row)

    def advance(self) -> tuple[Tensor, list[int]]:
        """Run a decode step for all decoding rows: logits (B, V), and the number of layers that each ran."""
        self._arrange()
        rows, device = self.decoding, self._backbone.device
        token_B1 = torch.tensor([row.tokens[-1:] for row in rows], device=device)
        position_B1 = torch.tensor([[row.column - row.pad] for row in rows], device=device)
        step = self._step(rows, self._backbone.rotary(position_B1))
        h_B1D, depths = self._runner.run(self._backbone.embed(token_B1, position_B1), step)
        for row in rows:
            row.column += 1
        return self._backbone.head(h_B1D[:, -1]), depths

    def look_ahead(self, token_BT: Tensor, plan: LayerPlan, *, offset: int = 0, head: Head | None = None) -> Tensor:
        """Run the layers of one plan on tokens that follow the decoding rows' positions: their logits (B, T, V).

        Their keys and values are stored, but the rows' columns stay; the next pass may write there again.

        Args:
            offset: columns between a row's own and that of its first token.
            head: in place of the backbone's.
        """
        self._arrange()
        rows, device = self.decoding, self._backbone.device
        columns, pads = [row.column + offset for row in rows], [row.pad for row in rows]
        column_BT = torch.tensor(columns, device=device)[:, None] + torch.arange(token_BT.shape[1], device=device)
        # Tokens behind a row's limit may stand behind the last position; nobody reads their logits.
        position_BT = column_BT - torch.tensor(pads, device=device)[:, None]
        position_BT = position_BT.clamp(max=self._backbone.max_positions - 1)
        h_BTD, rotary = self._backbone.embed(token_BT, position_BT), self._backbone.rotary(position_BT)
        if self._passes is None:
            h_BTD = self._pass(h_BTD, rotary, plan, column_BT, columns, pads)
        else:
            reading = [row.column for row in self.rows[len(rows) :]]
            h_BTD = self._passes.run(h_BTD, rotary, plan, columns=columns, pads=pads, reading=reading)
        return (head or self._backbone.head)(h_BTD)

    def _pass(
        self,
        h_BTD: Tensor,
        rotary: Rotary | None,
        plan: LayerPlan,
        column_BT: Tensor,
        columns: Sequence[int],
        pads: Sequence[int],
    ) -> Tensor:
        width, level = h_BTD.shape[1], min(columns) == max(columns)
        end, mask_BTS = max(columns) + width, None
        if width > 1 or not level or any(pads):
            column_S, pad_B = torch.arange(end, device=h_BTD.device), torch.tensor(pads, device=h_BTD.device)
            hidden_BTS = (column_S < pad_B[:, None, None]) | (column_S > column_BT[..., None])
            mask_BTS = torch.zeros_like(hidden_BTS, dtype=h_BTD.dtype).masked_fill_(hidden_BTS, -torch.inf)
        self._cache.seek(Place(slice(0, len(columns)), columns[0] if level else column_BT, end))
        context = Context(None if mask_BTS is None else mask_BTS[:, None], self._cache, rotary)
        for layer in plan:
            h_BTD = self._backbone.layer(layer, h_BTD, context)
        return h_BTD

    def end(self, rows: Collection[LiveRow]) -> None:
        """Remove rows; the others may change places."""
        for row in rows:
            row.ended = True
        self._arrange()

    def _plan(self, row: LiveRow) -> LayerPlan:
        key = row.policy, row.step
        if key not in self._plans:
            self._plans[key] = row.policy.plan(row.step)
        return self._plans[key]

    def _step(self, rows: Sequence[LiveRow], rotary: Rotary | None) -> StepRows:
        if len(rows) != self._laid_out:
            # The layers of the deepest row, which no later step of these rows exceeds.
            self._layouts = layouts(rows, rows[0].plan, columns=self._columns, backbone=self._backbone)
            self._laid_out = len(rows)
        runs = _runs([row.plan for row in rows])
        return StepRows(
            runs=runs,
            spans=lambda: self._spans(rows, runs, rotary),
            rotary=rotary,
            depths=[len(row.plan) for row in rows],
            steps=[row.step for row in rows],
            columns=[row.column for row in rows],
            positions=[row.column - row.pad for row in rows],
            reading=[row.column for row in self.rows[len(rows) :]],
            whole_prompts=len(self._layouts) == 1,
        )

    def _spans(self, rows: Sequence[LiveRow], runs: Sequence[LayerRun], rotary: Rotary | None) -> list[Span]:
        placed = [layout.place(rows) for layout in self._layouts]
        of_layer = {layer: at for at, layout in enumerate(self._layouts) for layer in layout.layers}

        def span(run: LayerRun) -> Span:
            count, (columns, column_B, mask_BS) = run.rows, placed[of_layer[run.layers[0]]]
            end = max(columns[:count]) + 1
            place = Place(slice(0, count), columns[0] if column_B is None else column_B[:count], end)
            mask = None if mask_BS is None else mask_BS[:count, None, None, :end]
            turned = rotary and (rotary.map(lambda part: part[:count]) if count < len(rows) else rotary)
            return Span(run, place, Context(mask, self._cache, turned))

        return [span(part) for run in runs for part in (run.split(of_layer) if len(placed) > 1 else [run])]

    def _arrange(self) -> None:
        """Restore the order, and drop the rows that have ended."""
        swaps = exchanges([row.rank for row in self.rows])
        for one, other in swaps:
            self._exchange(one, other)
        before, self.rows = self.rows, [row for row in self.rows if not row.ended]
        if swaps or len(self.rows) < len(before):
            self._laid_out = 0
            self._runner.drop(len(self.rows))

    def _exchange(self, one: int, other: int) -> None:
        rows = self.rows[one], self.rows[other]
        for layer in range(self._backbone.num_layers):
            filled = (self._filled(rows[0], layer), self._filled(rows[1], layer))
            if any(filled):
                self._cache.exchange(layer, (one, other), filled)
        self._runner.exchange((one, other), (rows[0].column, rows[1].column))
        self.rows[one], self.rows[other] = rows[1], rows[0]

    def _filled(self, row: LiveRow, layer: int) -> int:
        """The number of leading columns of a layer that later steps of the row still read."""
        plan = row.plan if row.tokens else row.policy.prompt.layers
        return row.filled(layer) if layer in plan and not row.ended else 0


def _runs(plans: Sequence[LayerPlan]) -> list[LayerRun]:
    if all(plan is plans[0] for plan in plans):
        return [LayerRun(plans[0], len(plans))]
    return layer_runs(plans)
