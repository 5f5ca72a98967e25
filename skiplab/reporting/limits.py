"""What a comparison cannot show."""

from collections.abc import Mapping, Sequence
from typing import Any

from skiplab.reporting.headline import loss_clause
from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.standings import Standing, loss_of, quality_of
from skiplab.reporting.tables import FEW_ITEMS, few_items

_LARGE = 1_000_000_000


def limits(
    rows: Sequence[Row], summary: Sequence[Row], environment: Mapping[str, Any], parameters: int | None = None
) -> list[str]:
    """Sentences on what does not follow from a comparison's rows.

    Args:
        summary: rows of `summary.summarise`.
        environment: of the run.
        parameters: weights of the backbone; None if unknown.
    """
    found = [*_items_and_seeds(rows), *_size(parameters), *_further_training(summary), *_speed(rows, environment)]
    found.append(
        "The settings in these sentences were chosen by the same items and rounds from which their intervals come. "
        "This flatters them a little; the intervals are not adjusted for it."
    )
    return found


def millions(count: int) -> str:
    """A number of weights as people say it: 0.93 million, 6.7 billion."""
    scale, word = (1e9, "billion") if count >= 1e9 else (1e6, "million")
    return f"{count / scale:.3g} {word}"


def _items_and_seeds(rows: Sequence[Row]) -> list[str]:
    counts = sorted({row["test_items"] for row in rows if "test_items" in row})
    seeds = len({row["seed"] for row in rows if "error" not in row})
    if not counts or not seeds:
        return []
    items = " or ".join(f"{count:,}" for count in counts)
    one = seeds == 1
    spread = (
        "the intervals cover the choice of items, and not how much another training would differ"
        if one
        else "so few seeds show too little of the variance between trainings"
    )
    found = [f"Quality is of {items} test item{'s' if items != '1' else ''} and {seeds} training seed"
             f"{'' if one else 's'}: {spread}."]  # fmt: skip
    return found + [few_items("test", count) for count in counts if count < FEW_ITEMS]


def _size(parameters: int | None) -> list[str]:
    if parameters is None or parameters >= _LARGE:
        return []
    return [
        f"The backbone has {millions(parameters)} parameters: whether a larger one loses as little, or gains as much "
        "speed, is not shown."
    ]


def _further_training(summary: Sequence[Row]) -> list[str]:
    """What the full model's own further training changes, since losses are against the full model before it."""
    quality = quality_of(summary)
    trained = next((row for row in summary if row["method"] == "full" and "train_passes" in row), None)
    loss = loss_of(trained, quality) if trained else None
    if trained is None or quality is None or loss is None:
        return []
    setting = Setting.of(trained)
    clause = loss_clause(Standing(setting, None, 1.0, None, loss), quality)
    return [f"Losses are against the full model before further training; {setting}, trained further at full depth, "
            f"{clause.text}."]  # fmt: skip


def _noise(rows: Sequence[Row]) -> str:
    """How fast the full model was measured to be with other weights, which take the same time."""
    again = [row["decode_speedup"] for row in rows
             if row["method"] == "full" and row["setting"] != "1x" and "decode_speedup" in row]  # fmt: skip
    return f" The full model with other weights was timed at {' and '.join(f'{one:.2f}' for one in again)} times its " \
           "own speed, which shows the noise." if again else ""  # fmt: skip


def _speed(rows: Sequence[Row], environment: Mapping[str, Any]) -> list[str]:
    batches = sorted({row["batch_size"] for row in rows if "batch_size" in row})
    if not batches:
        return ["No time was measured: fewer layers need not be as much faster."]
    machine = environment.get("gpu") or environment.get("cpu") or "one machine"
    sizes = " and ".join(map(str, batches)) if len(batches) < 3 else f"{batches[0]} to {batches[-1]}"
    return [f"Speeds are of {machine}, batch size{'s' if len(batches) > 1 else ''} {sizes}, the first seed and "
            f"prompts of this task; prefill is not counted.{_noise(rows)}"]  # fmt: skip
