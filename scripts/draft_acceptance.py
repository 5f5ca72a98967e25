"""How often a drafter and the full model sample the same token: by the accept-reject rule, and with a shared key.

    python -m scripts.draft_acceptance CHECKPOINT_FOLDER TEXT_FILE

Drafters are the checkpoint without some of its middle layers. Figures are means over positions of the text; those of a
shared key are counted over 100 keys per position.

Shapes: N positions, V vocabulary.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, LogitsProcessorList

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import collate
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.logits_processing import warpers
from skiplab.engine.parallel_forward import planned_logits
from skiplab.engine.policy import Planned
from skiplab.engine.sampling import draw
from skiplab.schedules.exit_schedule import LayerPlan
from skiplab.training.weights import load_backbone

_POSITIONS = 200
_KEYS = 100
_OPTIONS = (
    GenerationOptions(do_sample=True, top_k=0),
    GenerationOptions(do_sample=True, top_k=0, temperature=0.7, top_p=0.9),
    GenerationOptions(do_sample=True, top_k=0, temperature=0.3, top_p=0.7),
)


def logits(backbone: Backbone, plan: LayerPlan, ids: list[int]) -> Tensor:
    """Scores (N, V) at every position, each after the prompt of one token."""
    batch = collate([ids[:1]], [ids[1:]], pad_id=0)
    return planned_logits(backbone, Planned([tuple(range(backbone.num_layers)), plan]), batch)[0].float()


def shared_key(drafted_NV: Tensor, full_NV: Tensor) -> float:
    """Share of draws with a shared key that agree."""
    agreed = 0.0
    for drafted_V, full_V in zip(drafted_NV, full_NV, strict=True):
        key_B1 = torch.randint(-(2**63), 2**63 - 1, (_KEYS, 1))
        pair = [draw(scores_V.expand(_KEYS, -1), key_B1) for scores_V in (drafted_V, full_V)]
        agreed += float((pair[0] == pair[1]).float().mean())
    return agreed / len(full_NV)


@torch.inference_mode()
def main() -> None:
    """Print a line per drafter and kind of sampling."""
    parser = argparse.ArgumentParser(prog="python -m scripts.draft_acceptance", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    backbone = load_backbone(given.folder, torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(given.folder)(given.text.read_text())["input_ids"][: _POSITIONS + 2]
    layers = backbone.num_layers
    full_NV = logits(backbone, tuple(range(layers)), ids)[1:]
    print("left out | temperature, top-p | accept-reject | shared key")
    for count in (1, 2, 4):
        left = {round(layers * (0.3 + 0.3 * place / count)) for place in range(count)}
        drafted_NV = logits(backbone, tuple(layer for layer in range(layers) if layer not in left), ids)[1:]
        for options in _OPTIONS:
            shape = LogitsProcessorList(warpers(options, full_NV.device))
            pair = [shape(None, one.clone()) for one in (drafted_NV, full_NV)]  # type: ignore[arg-type]
            rule = float(torch.minimum(pair[0].softmax(-1), pair[1].softmax(-1)).sum(-1).mean())
            chosen = f"{options.temperature}, {options.top_p}"
            print(f"{sorted(left)} | {chosen} | {rule:.3f} | {shared_key(*pair):.3f}", flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
