"""The results vocabulary, and the files a job leaves: `results.json` and `results.csv`."""

import csv
import difflib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skiplab.utils.files import write_text

SCHEMA = 1

Row = dict[str, Any]

VOCABULARY: dict[str, str] = {
    "method": "which method",
    "setting": "what a person would call its setting",
    "seed": "seed of its training",
    "backbone": "which shape, where a job has several",
    "error": "why the setting has no figures",
    "target_speedup": "layer speedup that the setting promises",
    "threshold": "exit threshold of an adaptive method; a setting such as `softmax ~3x` has one matched to a speedup",
    "calibrated": "the setting that a calibration chose: the fastest certified one, or full depth if none was",
    "delta": "what a calibrated setting is certified for: an expected loss of at most this against the full model",
    "epsilon": "chance, over draws of the calibration items, that a certified setting's expected loss is above delta",
    "calibration_loss": "mean loss of the chosen setting on the calibration items",
    "test_loss": "mean loss of the chosen setting on the test items, by the same measure",
    "layer_speedup": "layers of the backbone over mean_depth",
    "mean_depth": "layers run per generated token after the first, on the test set",
    "layers_per_step": "layers run per step of the timed batches, a step's deepest row counting",
    "step_layer_speedup": "layers of the full model over layers run, per step of the timed batches: a batch's step "
    "runs as deep as its deepest row, and its late steps count as much as its early ones",
    "bytes_speedup": "as layer_speedup, with embeddings, head and KV counted in bytes",
    "roofline_fraction": "least decode time that the machine's measured bandwidth and matrix speed allow over the one "
    "taken",
    "realised_fraction": "decode_speedup over bytes_speedup",
    "decode_speedup": "decode tokens/s over the full model's in the same run, median over rounds",
    "decode_speedup_quartiles": "its first and third quartile",
    "decode_tokens_per_s": "generated tokens after the first per second, prefill excluded, median over rounds; every "
    "prompt is made to generate as many tokens as the full model gave it; rows that end leave the batch, but for "
    "hf_generate, whose batches run to their longest row",
    "decode_tokens_per_s_quartiles": "its first and third quartile",
    "decode_ms_per_token": "milliseconds of decoding per generated token after the first, median over rounds",
    "decode_ms_per_step": "milliseconds per decode step of a batch",
    "prefill_ms": "milliseconds from the call to the first token of a batch",
    "end_to_end_tokens_per_s": "generated tokens per second, prefill included",
    "timing_rounds": "timed rounds behind the medians",
    "kv_bytes": "bytes allocated for keys and values of a batch of the timing; the last states that an adaptive method "
    "keeps for keys and values still owed are not counted",
    "peak_memory_bytes": "most memory that decoding takes beyond the weights",
    "predicted_ms_per_step": "milliseconds per decode step that a cost model predicts; not measured",
    "predicted_tokens_per_s": "generated tokens per second that a cost model predicts; not measured",
    "predicted_speedup": "the full model's predicted decode time over this one's; not measured",
    "train_step_ms": "milliseconds per training step, median over interleaved rounds",
    "train_step_ratio": "time of all timed training steps over the full model's on the same batches",
    "train_layer_ratio": "layers times columns that a planned training step runs, over the full model's",
    "train_flops_ratio": "multiplications of a planned training step's linear layers and head, over the full model's",
    "train_step_ratio_quartiles": "first and third quartile of the ratio batch by batch",
    "train_speedup": "training steps per second over one process's in the same run, median over interleaved rounds",
    "train_speedup_quartiles": "its first and third quartile",
    "parameters": "weights of the backbone",
    "batch_size": "rows per batch in the timing",
    "decode_batch_size": "rows decoded at a time, where memory held fewer than were asked for",
    "train_batch_part": "largest share of a training batch that went through the model at a time, where memory did not "
    "hold the whole: 0.5 is half the batch",
    "dtype": "number format of the weights",
    "bleu": "corpus BLEU, sacrebleu, 0 to 100",
    "bleu_signature": "sacrebleu's signature of how BLEU was computed",
    "rouge_1": "ROUGE-1 F1 against the best reference, words not stemmed, 0 to 1, mean over items",
    "rouge_2": "ROUGE-2 F1 likewise",
    "rouge_l": "ROUGE-L F1 likewise",
    "bertscore_f1": "BERTScore F1, mean over items",
    "slot_accuracy": "slots both asked for and stated over slots that are either, 0 to 1, mean over items",
    "agreement": "share of tokens equal to the full model's, 0 to 1, mean over items",
    "perplexity": "of the references under the method's own plans, teacher-forced",
}
SUMMARY: dict[str, str] = {
    "seeds": "seeds that the row is over",
    "bleu_seeds": "lowest and highest BLEU of a seed",
    "against": "method and setting of the rival that differences are against",
    "difference": "own mean less the rival's, paired by seed and item; beside it its 95% interval over both",
    "p_value": "of no difference, by a paired sign-flip permutation test over items",
}
"""Names of summary rows beside the vocabulary's; the last two stand behind a figure's name."""
_WITH_INTERVAL = (
    "bleu", "rouge_1", "rouge_2", "rouge_l", "bertscore_f1", "slot_accuracy", "agreement", "test_loss",
)  # fmt: skip
_INTERVALS = {f"{name}_ci95" for name in _WITH_INTERVAL}


def check_row(row: Mapping[str, Any]) -> None:
    """Refuse names outside the vocabulary and figures that are no numbers.

    Raises:
        ValueError: the message names the key.
    """
    for key in ("method", "setting", "seed"):
        if key not in row:
            raise ValueError(f"a result row needs {key!r}, got {sorted(row)}")
    known = VOCABULARY.keys() | _INTERVALS
    for key, value in row.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{key!r} is not in the results vocabulary{hint}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key!r} is {value}; leave out what was not measured")


def write_results(
    folder: Path,
    *,
    job: str,
    experiment: str,
    environment: Mapping[str, Any],
    rows: Sequence[Row],
    summary: Sequence[Row] = (),
) -> None:
    """Write `results.json` and `results.csv` into a run folder, each in one piece.

    Args:
        summary: rows of `summary.summarise`, for `results.json` alone.
    """
    for row in rows:
        check_row(row)
    for row in summary:
        check_row({"seed": 0, **{key: value for key, value in row.items() if not _of_summary(key)}})
    content = {
        "schema": SCHEMA,
        "job": job,
        "experiment": experiment,
        "environment": dict(environment),
        "rows": list(rows),
        **({"summary": list(summary)} if summary else {}),
    }
    write_text(folder / "results.json", json.dumps(content, indent=2) + "\n")
    write_text(folder / "results.csv", _csv(rows))


def _of_summary(key: str) -> bool:
    compared = key.endswith(("_difference", "_difference_ci95", "_p_value")) and key.startswith(tuple(VOCABULARY))
    return compared or key in SUMMARY


def _csv(rows: Sequence[Row]) -> str:
    present = {key for row in rows for key in row}
    columns = [key for name in VOCABULARY for key in (name, f"{name}_ci95") if key in present]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for row in rows:
        writer.writerow({key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()})
    return text.getvalue()
