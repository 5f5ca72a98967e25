"""Logits of given continuations under a policy: what decoding would see if it chose these tokens.

Shapes: B rows, T columns, G tokens of a row's continuation, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.decode import decode_steps
from skiplab.engine.parallel_forward import narrowed, run_layer, start
from skiplab.engine.policy import ExitPolicy, RowwisePolicy
from skiplab.engine.prompt_columns import Columns, columns_of, runs_part
from skiplab.engine.request import Request
from skiplab.engine.token_choice import Choosing
from skiplab.schedules.exit_schedule import layer_steps
from skiplab.schedules.prompt_plan import PromptPart

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of its continuation, at least one each."""


@torch.inference_mode()
def continuation_logits(backbone: Backbone, policy: ExitPolicy, pairs: Sequence[Pair]) -> list[Tensor]:
    """Logits (G, V) of each row's continuation. Contexts run as prompts do, and continuations as outputs: the first
    token is step 0, which the prompt pass yields.

    Plans known beforehand take one parallel pass over right-padded rows; others take the decode steps.
    """
    if isinstance(policy, RowwisePolicy):
        return _stepwise(backbone, policy, pairs)
    rows = [[*context, *continuation[:-1]] for context, continuation in pairs]
    width = max(map(len, rows))
    ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=backbone.device)
    logits_BTV = planned_logits(backbone, policy, ids_BT, [len(context) for context, _ in pairs])
    return [
        logits_TV[len(context) - 1 : len(context) - 1 + len(continuation)]
        for logits_TV, (context, continuation) in zip(logits_BTV, pairs, strict=True)
    ]


@torch.inference_mode()
def planned_logits(backbone: Backbone, policy: ExitPolicy, ids_BT: Tensor, contexts: Sequence[int]) -> Tensor:
    """Logits (B, T, V) at every column of rows whose contexts differ in length; at full depth the library's own.

    Causal attention alone keeps right padding and layers' later columns out of what comes before them, so no mask is
    needed.

    Args:
        ids_BT: context and continuation, padded on the right.
        contexts: the contexts' lengths.
    """
    columns, prompt = ids_BT.shape[1], policy.prompt
    steps_L = layer_steps(policy.plan, backbone.num_layers, columns - min(contexts))
    h_BTD, context = start(backbone, ids_BT, torch.ones_like(ids_BT, dtype=torch.bool))
    column_BT = torch.arange(columns, device=ids_BT.device).expand_as(ids_BT)
    context_B1 = torch.tensor(contexts, device=ids_BT.device)[:, None]
    known: dict[tuple[PromptPart, int], tuple[Columns, Context]] = {}
    for layer, steps in enumerate(steps_L):
        if (key := (prompt.part(layer), steps)) not in known:
            own_BT = (column_BT >= context_B1) & (column_BT < context_B1 + steps - 1)
            run_BT = runs_part(key[0], column_BT, contexts) | own_BT
            projected = min(columns, max(contexts) + max(0, steps - 1)) if prompt.projects else 0
            found = columns_of(run_BT, align="left", projected=projected)
            known[key] = found, narrowed(context, found, h_BTD)
        h_BTD = run_layer(backbone, layer, h_BTD, known[key][0], context, known[key][1])
    return backbone.head(h_BTD)


def _stepwise(backbone: Backbone, policy: ExitPolicy, pairs: Sequence[Pair]) -> list[Tensor]:
    limits = [len(continuation) for _, continuation in pairs]
    forced = _Forced([continuation for _, continuation in pairs], max(len(context) for context, _ in pairs))
    choosing = Choosing(processors=LogitsProcessorList([forced]))
    request = Request([context for context, _ in pairs], limits, (), 0, choosing)
    found: list[list[Tensor]] = [[] for _ in pairs]
    for step in decode_steps(backbone, policy, request):
        for row, logits_V in zip(step.index_A.tolist(), step.logits_AV.clone(), strict=True):
            found[row].append(logits_V)
    return [torch.stack(row) for row in found]


@final
class _Forced(LogitsProcessor):
    """Allows only the given token at each step.

    Args:
        columns: width of the prompts.
    """

    def __init__(self, continuations: Sequence[Sequence[int]], columns: int) -> None:
        self._continuations = continuations
        self._columns = columns

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        step = input_ids.shape[1] - self._columns
        tokens = [row[step] if step < len(row) else 0 for row in self._continuations]
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter_(1, torch.tensor(tokens, device=scores.device)[:, None], 0.0)
