"""The built-in figures. Import `FIGURES` from here, so that they are registered."""

from skiplab.evaluation.bertscore import BERTSCORE_F1
from skiplab.evaluation.e2e_scores import E2E_SCORES
from skiplab.evaluation.metric import quality_figure
from skiplab.evaluation.metrics import AGREEMENT, BLEU, ROUGE
from skiplab.reporting.draft_figures import DRAFT_FIGURES
from skiplab.reporting.stream_figures import STREAM_FIGURES
from skiplab.reporting.training_figures import TRAINING_FIGURES
from skiplab.utils.figures import FIGURES, Figure, Shown

__all__ = ["FIGURES"]

_MIB, _KIB = 2**-20, 2**-10

# Tables, `results.csv` and the report show figures in this order.
_IDENTITY = (
    Figure(name="method", meaning="which method"),
    Figure(name="setting", meaning="short readable name of its setting"),
    Figure(name="seed", meaning="seed of its training"),
    Figure(name="seeds", meaning="seeds that the row averages over", part="summary"),
    Figure(name="backbone", meaning="model shape, if a job has several"),
    Figure(name="error", meaning="why the setting has no figures"),
    Figure(name="target_speedup", meaning="target layer speedup of the setting", unit="x", over_seeds="mean"),
    Figure(
        name="threshold",
        meaning="exit threshold of an adaptive method; a setting such as `softmax ~3x` has one matched to a speedup",
        form="{:.3f}",
        shown=(Shown(place="quality"),),
        over_seeds="mean",
    ),
    Figure(name="against", meaning="method and setting of the rival to which differences refer", part="summary"),
)
_CALIBRATION = (
    Figure(
        name="calibrated",
        meaning="the setting that a calibration chose: the fastest certified one, or full depth if none was",
        label="calibrated to",
        shown=(Shown(place="quality"),),
        over_seeds="each",
    ),
    Figure(
        name="delta",
        meaning="bound of a calibrated setting's guarantee: its expected loss against the full model is at most this",
    ),
    Figure(
        name="epsilon",
        meaning="probability, over draws of the calibration items, that a certified setting's loss exceeds delta",
    ),
    Figure(
        name="not_certified",
        meaning="why a calibration certified no setting, so that full depth is used",
        label="not certified because",
        shown=(Shown(place="details"),),
        over_seeds="each",
    ),
    Figure(
        name="calibration_loss",
        meaning="mean loss of the chosen setting on the calibration items",
        sense="minimize",
    ),
    Figure(
        name="test_loss",
        meaning="mean loss of the chosen setting on the test items, by the same measure",
        label="loss",
        form="{:.3f}",
        sense="minimize",
        interval="items",
        shown=(Shown(place="quality"),),
        over_seeds="mean",
    ),
)
_DEPTH = (
    Figure(
        name="layer_speedup",
        meaning="layers of the backbone divided by mean_depth",
        label="layer speedup",
        unit="x",
        form="{:.2f}x",
        sense="maximize",
        shown=(Shown(place="console"), Shown(place="quality"), Shown(place="prediction")),
        over_seeds="mean",
        trial="plan",
    ),
    Figure(
        name="mean_depth",
        meaning="layers run per generated token after the first, on the test set",
        unit="layers",
        sense="minimize",
        over_seeds="mean",
        trial="plan",
    ),
    Figure(
        name="layers_per_step",
        meaning="layers run per step of the timed batches; the deepest row of a step counts",
        label="layers per step",
        unit="layers",
        form="{:.2f}",
        shown=(Shown(place="speed"), Shown(place="throughput", label="layers", form="{:.1f}", position=4)),
    ),
    Figure(
        name="step_layer_speedup",
        meaning="layers of the full model divided by layers run, per step of the timed batches: a step runs as deep "
        "as its deepest row, and its late steps count as much as its early ones",
        label="layer speedup of the timed steps",
        unit="x",
        form="{:.2f}x",
        shown=(Shown(place="speed"),),
    ),
    Figure(
        name="bytes_speedup",
        meaning="as layer_speedup, with embeddings, head and KV counted in bytes",
        label="bytes speedup",
        unit="x",
        form="{:.2f}x",
        shown=(Shown(place="throughput", position=6), Shown(place="prediction")),
    ),
    Figure(
        name="roofline_fraction",
        meaning="least decode time that measured bandwidth and matrix speed allow, divided by the measured decode time",
        label="roofline",
        unit="share",
        form="{:.2f}",
        shown=(Shown(place="throughput", position=8),),
    ),
    Figure(
        name="realised_fraction",
        meaning="decode_speedup divided by bytes_speedup",
        label="realised",
        form="{:.2f}",
        shown=(Shown(place="throughput", position=7),),
    ),
)
_TIME = (
    Figure(
        name="decode_speedup",
        meaning="decode tokens/s divided by the full model's in the same run, median over rounds",
        label="decode speedup",
        unit="x",
        form="{:.2f}x",
        sense="maximize",
        interval="quartiles",
        shown=(Shown(place="speed"), Shown(place="throughput", position=5)),
        trial="timing",
    ),
    Figure(
        name="decode_tokens_per_s",
        meaning="generated tokens after the first per second, prefill excluded, median over rounds; every prompt is "
        "made to generate as many tokens as the full model did; rows that end leave the batch, except with "
        "hf_generate, whose batches run to their longest row",
        label="tokens/s",
        unit="tokens/s",
        form="{:,.0f}",
        interval="quartiles",
        shown=(Shown(place="speed"), Shown(place="throughput", form="{:,.1f}", position=1)),
    ),
    Figure(
        name="decode_ms_per_token",
        meaning="milliseconds of decoding per generated token after the first, median over rounds",
        label="ms per token",
        unit="ms",
        form="{:.3f}",
        shown=(Shown(place="speed"),),
    ),
    Figure(
        name="decode_ms_per_step",
        meaning="milliseconds per decode step of a batch",
        label="ms per step",
        unit="ms",
        form="{:.2f}",
        shown=(Shown(place="throughput", position=2),),
    ),
    Figure(
        name="prefill_ms",
        meaning="milliseconds from the call to the first token of a batch",
        label="prefill ms",
        unit="ms",
        form="{:.1f}",
        shown=(Shown(place="speed"), Shown(place="throughput", position=3)),
    ),
    Figure(name="end_to_end_tokens_per_s", meaning="generated tokens per second, prefill included", unit="tokens/s"),
    Figure(name="timing_rounds", meaning="number of timed rounds"),
    Figure(
        name="kv_bytes",
        meaning="bytes allocated for keys and values of a timed batch; the states that an adaptive method "
        "keeps for deferred keys and values are not counted",
        label="KV KiB",
        unit="bytes",
        form="{:,.0f}",
        scale=_KIB,
        shown=(Shown(place="speed"),),
    ),
    Figure(
        name="peak_memory_bytes",
        meaning="peak memory of decoding in addition to the weights",
        label="memory KiB",
        unit="bytes",
        form="{:,.0f}",
        scale=_KIB,
        shown=(
            Shown(place="speed"),
            Shown(place="throughput", label="memory MiB", form="{:,.1f}", scale=_MIB, position=9),
        ),
    ),
)
_PREDICTED = (
    Figure(
        name="predicted_ms_per_step",
        meaning="milliseconds per decode step that a cost model predicts; not measured",
        unit="ms",
        form="{:,.1f}",
        shown=(Shown(place="prediction"),),
    ),
    Figure(
        name="predicted_tokens_per_s",
        meaning="generated tokens per second that a cost model predicts; not measured",
        label="predicted tokens/s",
        unit="tokens/s",
        form="{:,.1f}",
        shown=(Shown(place="prediction"),),
    ),
    Figure(
        name="predicted_speedup",
        meaning="the full model's predicted decode time divided by this one's; not measured",
        unit="x",
        form="{:.2f}x",
        shown=(Shown(place="prediction"),),
    ),
)
_CONDITIONS = (
    Figure(name="parameters", meaning="weights of the backbone"),
    Figure(name="test_items", meaning="number of test items behind the quality figures"),
    Figure(name="batch_size", meaning="batch size of the timing"),
    Figure(name="decode_batch_size", meaning="batch size in decoding, if the configured one did not fit into memory"),
    Figure(
        name="train_batch_part",
        meaning="largest fraction of a training batch that was processed at a time, if memory did not hold "
        "the whole: 0.5 is half the batch",
        unit="share",
    ),
    Figure(name="dtype", meaning="number format of the weights"),
)
_QUALITY = (
    *BLEU.figures,
    *ROUGE.figures,
    BERTSCORE_F1,
    quality_figure(
        "slot_accuracy",
        "Jaccard index of requested and stated slots, 0 to 1, mean over items",
        label="slot acc.",
        shown=(
            Shown(place="console"),
            Shown(place="quality"),
            Shown(place="difference", position=-1),
            Shown(place="plot", label="slot accuracy"),
        ),
    ),
    *AGREEMENT.figures,
    *E2E_SCORES.figures,
    Figure(
        name="perplexity",
        meaning="perplexity of the references under the method's own plans, teacher-forced",
        form="{:.3f}",
        sense="minimize",
        shown=(Shown(place="quality"),),
        over_seeds="mean",
    ),
    Figure(
        name="loss",
        meaning="teacher-forced cross entropy of the validation references under a trial's plan, mean over tokens",
        unit="nats",
        sense="minimize",
        part="trial",
        trial="loss",
    ),
)

for _figure in (
    *_IDENTITY,
    *_CALIBRATION,
    *_DEPTH,
    *_TIME,
    *DRAFT_FIGURES,
    *_PREDICTED,
    *STREAM_FIGURES,
    *TRAINING_FIGURES,
    *_CONDITIONS,
    *_QUALITY,
):
    FIGURES.register(_figure)
