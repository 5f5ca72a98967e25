"""What a setting's training cost, and where it ended."""

from typing import Any

from skiplab.utils.figures import Figure, Shown


def _cost(**options: Any) -> Figure:
    return Figure(shown=(Shown(place="training"),), over_seeds="mean", **options)


TRAINING_FIGURES = (
    Figure(
        name="train_passes",
        meaning="passes over the training split that the setting's weights were trained for",
        label="passes",
        form="{:g}",
        shown=(Shown(place="console"), Shown(place="training")),
        over_seeds="mean",
    ),
    _cost(
        name="kept_pass",
        meaning="the pass whose weights were kept, the one with the lowest validation loss, where that need not be the "
        "last (trainer.keep=best)",
        label="kept pass",
        form="{:g}",
    ),
    _cost(
        name="train_tokens",
        meaning="tokens of prompts and targets in its training, that of a probe included, padding left out",
        label="tokens",
        form="{:,.2f} M",
        scale=1e-6,
    ),
    _cost(
        name="train_layer_tokens",
        meaning="positions that decoder layers ran on in the forward passes of its training, padding and a teacher's "
        "layers included",
        label="layer-tokens",
        form="{:,.1f} M",
        scale=1e-6,
    ),
    _cost(
        name="train_cpu_s",
        meaning="seconds of processor time of its training, all processes together, validation left out",
        label="processor time",
        unit="s",
        form="{:,.0f} s",
    ),
    _cost(
        name="train_gpu_s",
        meaning="seconds of its training times the GPUs, validation left out",
        label="GPU time",
        unit="s",
        form="{:,.0f} s",
    ),
    _cost(
        name="models_per_speed_range",
        meaning="trained models behind the settings of its method that differ in speed: one per setting, one for all, "
        "or 0 without training",
        label="models for all speeds",
        form="{:g}",
    ),
    _cost(
        name="valid_loss",
        meaning="validation loss of the weights that were kept, by the loss that it was trained by",
        label="validation loss",
        unit="nats",
        form="{:.4f}",
        sense="minimize",
    ),
    Figure(name="train_step_ms", meaning="milliseconds per training step, median over interleaved rounds", unit="ms"),
    Figure(
        name="train_step_ratio",
        meaning="time of all timed training steps over the full model's on the same batches; its quartiles are those "
        "of the ratio batch by batch",
        interval="quartiles",
    ),
    Figure(
        name="train_layer_ratio",
        meaning="layers times columns that a planned training step runs, over the full model's",
    ),
    Figure(
        name="train_flops_ratio",
        meaning="multiplications of a planned training step's linear layers and head, over the full model's",
    ),
    Figure(
        name="train_speedup",
        meaning="training steps per second over one process's in the same run, median over interleaved rounds",
        unit="x",
        interval="quartiles",
    ),
)
