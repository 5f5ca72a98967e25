"""Agreement of drafters with the full model, without decoding."""

import pytest
import torch

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, collate
from skiplab.engine.draft_length import Drafting
from skiplab.engine.generation import GREEDY, GenerationOptions
from skiplab.engine.parallel_forward import forward
from skiplab.engine.policy import FullDepth, Planned
from skiplab.search.draft_agreement import DraftAgreement
from tests.tiny import tiny_backbone

BATCH = collate([[5, 6, 7], [8, 9]], [[3, 4, 5, 6, 2], [7, 8, 2]], pad_id=1)
SAMPLING = GenerationOptions(do_sample=True, temperature=1.0, top_k=0, seed=0)
ONE_LAYER = Planned([tuple(range(6)), (0,)])


@pytest.mark.parametrize("options", [GREEDY, SAMPLING])
def test_a_drafter_of_all_layers_agrees_everywhere(options: GenerationOptions) -> None:
    agreement = DraftAgreement(tiny_backbone(), [BATCH], Drafting(), options)
    assert agreement.share(FullDepth(6), length=2) == 1
    assert agreement.share(ONE_LAYER, length=2) < 1


def test_sampling_at_a_low_temperature_is_greedy() -> None:
    backbone = tiny_backbone()
    cold = GenerationOptions(do_sample=True, temperature=1e-4, top_k=0, seed=0)
    shares = [DraftAgreement(backbone, [BATCH], Drafting(), one).share(ONE_LAYER, 3) for one in (GREEDY, cold)]
    assert shares[0] == shares[1]


def test_only_tokens_that_may_be_drafted_count() -> None:
    backbone = tiny_backbone()
    chosen = _chosen(backbone)
    others = sorted(set(range(backbone.model.config.vocab_size)) - set(chosen) - set(BATCH.input_BT.flatten().tolist()))
    none = DraftAgreement(backbone, [BATCH], Drafting(vocabulary=others[:10]), GREEDY)
    all_ = DraftAgreement(backbone, [BATCH], Drafting(vocabulary=chosen), GREEDY)
    prompts = {5, 6, 7, 8, 9}
    assert none.share(FullDepth(6), length=2) == pytest.approx(sum(token in prompts for token in chosen) / len(chosen))
    assert all_.share(FullDepth(6), length=2) == 1


def _chosen(backbone: Backbone) -> list[int]:
    """The full model's choices at the targets, without the first of a row."""
    with torch.inference_mode():
        states = forward(backbone, BATCH.input_BT, BATCH.prompt_mask_BP)[:, BATCH.prompt_columns :]
        return backbone.head(states[BATCH.target_BG[:, 1:] != IGNORE]).argmax(-1).tolist()
