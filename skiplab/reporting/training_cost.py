"""What the training of a comparison's methods cost, in a few words."""

from collections.abc import Sequence

from skiplab.reporting.results import Row


def training_cost(summary: Sequence[Row]) -> str:
    """For each method the time of its training after the base, and how many models it took; empty without training.

    A method with a model per setting has their sum; one with a model for all settings has its cheapest and its most
    expensive model. The training of the full model is not counted, and a calibrated setting is one of the others.

    Args:
        summary: rows of `summary.summarise`.
    """
    key = "train_gpu_s" if any("train_gpu_s" in row for row in summary) else "train_cpu_s"
    trained = [row for row in summary if row.get(key) and row["method"] != "full" and "calibrated" not in row]
    each = [_of_method(method, [row for row in trained if row["method"] == method], key)
            for method in dict.fromkeys(row["method"] for row in trained)]  # fmt: skip
    device = "GPU" if key == "train_gpu_s" else "CPU"
    return f"{', '.join(each)} ({device} seconds per seed)" if each else ""


def _of_method(method: str, rows: Sequence[Row], key: str) -> str:
    # Settings that share a model have the same costs, to the last digit.
    costs = sorted({row[key] for row in rows})
    if rows[0]["models_per_speed_range"] > 1:
        return f"{method} {sum(costs):,.0f} s for {len(costs)} model{'' if len(costs) == 1 else 's'}"
    spread = " to ".join(dict.fromkeys(f"{cost:,.0f}" for cost in (costs[0], costs[-1])))
    return f"{method} {spread} s for one model"
