"""What a search of drafters found: files, a page, and what the tracker and the console show."""

from collections.abc import Sequence
from types import MappingProxyType

from omegaconf import OmegaConf

from skiplab.comparison import publish
from skiplab.comparison.facts import facts
from skiplab.comparison.session import Session
from skiplab.reporting import html
from skiplab.reporting.headline import Sentence
from skiplab.reporting.plot_style import COLOURS, MUTED, Plot, axes_of, tipped
from skiplab.reporting.results import Row, write_results
from skiplab.reporting.tables import flat_table
from skiplab.reporting.vocabulary import FIGURES
from skiplab.search.draft_cost import DraftCosts, ModelErrors
from skiplab.utils.environment import environment

_NOTES = (
    "Each drafter was timed in turns with full depth on the same weights; a speedup is the median over rounds, with "
    "quartiles in small print. Output is that of full depth in every row. The fastest of many drafters is a little "
    "faster here than when it is timed again."
)
_SHOWN = 20
_MEANING = MappingProxyType({
    "predicted_speedup": "A point per drafter; on the line, prediction and measurement are equal.",
    "draft_agreement": "A point per drafter; deeper drafters agree more often, but cost more.",
})  # fmt: skip


def write_findings(session: Session, rows: Sequence[Row], costs: DraftCosts | None, errors: ModelErrors | None) -> None:
    """Write results, plots and report of a search, and log them to the active run.

    Args:
        rows: fastest first.
    """
    config, folder, tracker = session.prepared.config, session.folder.path, session.tracker
    described = environment(config.seeds)
    if costs is not None:
        described |= {"draft_costs": vars(costs)}
    if errors is not None:
        described |= {"draft_model_errors": vars(errors)}
    write_results(folder, job="search_draft", experiment=config.tracking.experiment, environment=described, rows=rows)
    found = sentences(rows, errors, sampled=config.generation.do_sample)
    table = flat_table("Fastest drafters", list(rows[:_SHOWN]), "speed", ("method", "setting"))
    page = html.Page(
        title=config.tracking.experiment,
        description=config.description or "",
        facts=facts(session.prepared, described),
        rows=rows,
        tables=[table],
        plots=draft_plots(rows),
        environment=described,
        config=OmegaConf.to_yaml(OmegaConf.create(config.plain)),
        notes=_NOTES,
        sentences=[Sentence((text,)) for text in found],
    )
    publish.publish(tracker, folder, page)
    tracker.log_figures(rows[0])
    table.print(session.screen.console)
    for sentence in found:
        session.screen.print(sentence)
    session.screen.print(f"report: {folder / 'report.html'}")


def sentences(rows: Sequence[Row], errors: ModelErrors | None, *, sampled: bool) -> list[str]:
    """The fastest drafter, and how well drafters can be told apart without timing them."""
    best = rows[0]
    low, high = best["decode_speedup_quartiles"]
    found = [
        f"{best['setting']} decodes {best['decode_speedup']:.2f} times as fast as full depth "
        f"{'in sampling' if sampled else 'in greedy decoding'} (quartiles {low:.2f} to {high:.2f}), with "
        f"{best['tokens_per_verification']:.2f} tokens per verification at batch size {best['batch_size']}."
    ]
    if errors is not None:
        found += [
            f"The cost model's speeds are off by {errors.median:.0%} in the median and {errors.largest:.0%} at most, "
            f"for {errors.held_out} drafters that it was not fitted to; their rank correlation with measured speeds is "
            f"{errors.rank_of_speeds:.2f}.",
            f"The rank correlation of teacher-forced agreement alone with measured speed is "
            f"{errors.rank_of_agreement:.2f}.",
        ]
    return found


def draft_plots(rows: Sequence[Row]) -> dict[str, Plot]:
    """Measured decode speedup by predicted speedup, and by teacher-forced agreement."""
    found: dict[str, Plot] = {}
    for name in _MEANING:
        label = FIGURES[name].label or name.replace("_", " ")
        known = [row for row in rows if name in row]
        if not known:
            continue
        figure, (axis,) = axes_of(1)
        for row in known:
            point = axis.plot([row[name]], [row["decode_speedup"]], "o", color=COLOURS[0], markersize=4)
            tipped(point, f"{row['setting']}: {row['decode_speedup']:.2f}x, {label} {row[name]:.2f}")
        if name == "predicted_speedup":
            ends = [min(row["decode_speedup"] for row in known), max(row["decode_speedup"] for row in known)]
            axis.plot(ends, ends, color=MUTED, linewidth=1)
        axis.set(xlabel=label, ylabel="decode speedup")
        found[f"speed_by_{name}"] = Plot(f"Decode speedup by {label}", _MEANING[name], figure)
    return found
