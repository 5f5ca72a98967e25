"""Figures of prompts of which layers run only parts."""

from skiplab.utils.figures import Figure, Shown

PREFILL_FIGURES = (
    Figure(
        name="prefill_layer_speedup",
        meaning="layers of the backbone divided by layers run per prompt token, on the test set; keys and values that "
        "are only projected are not counted; absent if every layer runs on whole prompts",
        label="prefill layer speedup",
        unit="x",
        form="{:.2f}x",
        sense="maximize",
        shown=(Shown(place="console"), Shown(place="quality")),
        over_seeds="mean",
        trial="plan",
    ),
    Figure(
        name="prefill_speedup",
        meaning="the full model's prefill time divided by this one's in the same run, median over rounds",
        label="prefill speedup",
        unit="x",
        form="{:.2f}x",
        sense="maximize",
        interval="quartiles",
        shown=(Shown(place="speed"),),
    ),
    Figure(
        name="end_to_end_speedup",
        meaning="the full model's time for prefill and decoding divided by this one's in the same run, median over "
        "rounds",
        label="end-to-end speedup",
        unit="x",
        form="{:.2f}x",
        sense="maximize",
        interval="quartiles",
        shown=(Shown(place="speed"),),
    ),
)
