"""Figures of a setting's training: its cost, and its final validation loss."""

from typing import Any

from skiplab.utils.figures import Figure, Shown


def _cost(**options: Any) -> Figure:
    return Figure(shown=(Shown(place="training"),), over_seeds="mean", **options)


TRAINING_FIGURES = (
    Figure(
        name="train_passes",
        meaning="passes over the training split in the training of the setting's weights",
        label="passes",
        form="{:g}",
        shown=(Shown(place="console"), Shown(place="training")),
        over_seeds="mean",
    ),
    _cost(
        name="kept_pass",
        meaning="the pass whose weights were kept, the one with the lowest validation loss, if that need not be the "
        "last (trainer.keep=best)",
        label="kept pass",
        form="{:g}",
    ),
    _cost(
        name="train_tokens",
        meaning="tokens of prompts and targets in its training, without padding; a probe's training is included",
        label="tokens",
        form="{:,.2f} M",
        scale=1e-6,
    ),
    _cost(
        name="train_layer_tokens",
        meaning="positions on which decoder layers ran in the forward passes of its training, padding and a teacher's "
        "layers included",
        label="layer-tokens",
        form="{:,.1f} M",
        scale=1e-6,
    ),
    _cost(
        name="train_cpu_s",
        meaning="CPU seconds of its training, summed over processes, without validation",
        label="processor time",
        unit="s",
        form="{:,.0f} s",
    ),
    _cost(
        name="train_gpu_s",
        meaning="seconds of its training times the number of GPUs, without validation",
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
        meaning="validation value of the training loss, with the weights that were kept",
        label="validation loss",
        unit="nats",
        form="{:.4f}",
        sense="minimize",
    ),
    Figure(name="train_step_ms", meaning="milliseconds per training step, median over interleaved rounds", unit="ms"),
    Figure(
        name="train_step_ratio",
        meaning="time of all timed training steps divided by the full model's on the same batches; its quartiles are "
        "those of the ratio batch by batch",
        interval="quartiles",
    ),
    Figure(
        name="train_layer_ratio",
        meaning="layers times columns of a planned training step, divided by the full model's",
    ),
    Figure(
        name="train_flops_ratio",
        meaning="multiplications of a planned training step's linear layers and head, divided by the full model's",
    ),
    Figure(
        name="train_speedup",
        meaning="training steps per second divided by one process's in the same run, median over interleaved rounds",
        unit="x",
        interval="quartiles",
    ),
)
