"""What using a saved method costs beyond its decode steps, and what sampling costs: one interleaved run.

    python scripts/generation_speed.py FOLDER --tokens 64 --rounds 7

Systems, for each batch size: `steps`, the decode loop that comparisons time; `generate`, `load_method(FOLDER).generate`
of the same prompts; `stream` (one row); `sampled`, `paper` (temperature 0.3, top-p 0.7) and `warped` (temperature,
top-k, top-p and repetition penalty). Every row generates the same number of tokens, unless it generates the last one of
the vocabulary, which ends it. Prints median milliseconds per step with
quartiles, and the time of each system relative to `steps` or, for sampling, to `generate`, by round.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from skiplab.engine.decode import decode
from skiplab.export.method import SavedMethod
from skiplab.export.saved_method import load_method

SAMPLED = {"do_sample": True, "seed": 0}
OPTIONS = {
    "generate": {},
    "sampled": SAMPLED,
    "paper": {**SAMPLED, "temperature": 0.3, "top_p": 0.7},
    "warped": {**SAMPLED, "temperature": 0.8, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.2},
}


def systems(method: SavedMethod, prompts: list[str], tokens: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    ids, backbone = method.prompt_ids(prompts), method._path.backbone(len(prompts))
    length = {"max_new_tokens": tokens, "eos_token_id": [len(backbone.head_weight) - 1]}

    def generates(given: dict[str, object]) -> Callable[[], object]:
        return lambda: method.generate(prompts, batch_size=len(prompts), **length, **given)

    found: dict[str, Callable[[], object]] = {
        "steps": lambda: decode(backbone, method.policy, ids, max_new_tokens=tokens, eos_id=None, pad_id=0),
        **{name: generates(given) for name, given in OPTIONS.items()},
    }
    if len(prompts) == 1:
        found["stream"] = lambda: list(method.stream(prompts[0], **length))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--dtype")
    given = parser.parse_args()
    torch.set_num_threads(1)
    method = load_method(given.folder, dtype=given.dtype)
    for rows in given.rows:
        prompts = [f"The {word} of the house" for word in ("roof", "wall", "door", "floor")] * (rows // 4 + 1)
        timed = systems(method, prompts[:rows], given.tokens)
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for number in range(given.rounds + 1):
            for name, run in timed.items():
                started = time.perf_counter()
                run()
                # The first round warms up.
                if number:
                    seconds[name].append(time.perf_counter() - started)
        print(f"{rows} rows, {given.tokens} tokens each, {given.rounds} rounds")
        for name, values in seconds.items():
            base = seconds["steps" if name in ("generate", "stream") else "generate"]
            ratios = [value / other for value, other in zip(values, base, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
            step = statistics.median(values) / given.tokens * 1e3
            against = "" if name == "steps" else f"   {middle:.3f} [{low:.3f}, {high:.3f}] of the other's time"
            print(f"  {name:10s} {step:8.2f} ms a step{against}", flush=True)


if __name__ == "__main__":
    main()
