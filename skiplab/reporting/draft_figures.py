"""Figures of speculative decoding."""

from skiplab.utils.figures import Figure, Shown

DRAFT_FIGURES = (
    Figure(
        name="layers_per_token",
        meaning="layer passes per generated token, to draft and to verify; batch size of the timing",
        label="layers per token",
        form="{:.2f}",
        sense="minimize",
        shown=(Shown(place="speed"),),
    ),
    Figure(
        name="tokens_per_verification",
        meaning="tokens that a pass of the full model over a row's drafts yields, its own token included; batch size "
        "of the timing",
        label="tokens per verification",
        form="{:.2f}",
        sense="maximize",
        shown=(Shown(place="speed"),),
    ),
    Figure(
        name="draft_acceptance",
        meaning="share of drafted tokens that the full model confirms; batch size of the timing",
        label="drafts accepted",
        unit="share",
        form="{:.2f}",
        sense="maximize",
        shown=(Shown(place="speed"),),
    ),
    Figure(
        name="equal_outputs",
        meaning="share of test outputs that are full depth's with the same weights, token for token; others differ "
        "because a verification of several positions rounds differently than a step of one",
        label="outputs equal to full depth's",
        unit="share",
        form="{:.3f}",
        sense="maximize",
        shown=(Shown(place="speed"),),
    ),
    Figure(
        name="draft_agreement",
        meaning="share of tokens of the full model's outputs for selection prompts that the drafter chooses too, in "
        "one teacher-forced pass",
        label="drafts' agreement, teacher-forced",
        unit="share",
        form="{:.3f}",
        sense="maximize",
        shown=(Shown(place="speed"),),
    ),
)
