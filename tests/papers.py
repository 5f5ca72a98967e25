"""Local copies of the paper's three tasks with a few items each, and its experiments at a small size for tests."""

import json
from pathlib import Path

EXPERIMENTS = ("paper_cnn_dm", "paper_e2e", "paper_tldr")
# OPT-1.3B's layout with random weights; twelve layers are the fewest that allow every speedup up to 5.
SCALED_DOWN = (
    "backbone.pretrained=false",
    "backbone.num_layers=12",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    # As large as the task's tokenizer: with OPT's 50,272 entries the head would take nearly all of the time.
    "backbone.vocab_size=null",
)


def local_copy(experiment: str, folder: Path) -> tuple[str, ...]:
    """Write files in the task's documented form; returns the overrides that read them."""
    folder.mkdir(parents=True, exist_ok=True)
    if experiment.endswith("_e2e"):
        lines = "".join(f'"name[N{index}], food[Thai]",N{index} serves Thai food.\n' for index in range(40))
        for name in ("devset.csv", "testset_w_refs.csv"):
            (folder / name).write_text("mr,ref\n" + lines)
    else:
        rows = [_article(index) if experiment == "paper_cnn_dm" else _post(index) for index in range(40)]
        for split in ("train", "validation", "test"):
            (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return (f"data.dir={folder}", "data.vocab_size=300")


def _article(index: int) -> dict[str, str]:
    return {"article": f"{index} boats left the harbour on Monday. " * 3, "highlights": f"{index} boats left."}


def _post(index: int) -> dict[str, str]:
    return {"prompt": f"SUBREDDIT: r/boats\n\nPOST: I have {index} boats.\n\nTL;DR:", "completion": f" {index} boats."}
