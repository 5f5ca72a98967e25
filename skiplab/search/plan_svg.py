"""A plan as a small picture: which layers run at which generation step. Text, so that it costs no time to make."""

from skiplab.schedules.nested_plan import NestedPlan

_CELL, _MARGIN = 9, 34


def plan_svg(plan: NestedPlan, steps: int, title: str) -> str:
    """SVG of the layers, bottom layer lowest, that run at steps 0 to `steps`."""
    layers = plan.num_layers
    width, height = _MARGIN + (steps + 1) * _CELL + 8, 24 + layers * _CELL + 30
    bars = [
        f'<rect x="{_MARGIN}" y="{24 + (layers - 1 - layer) * _CELL}" height="{_CELL - 1}" rx="1" fill="#0072B2" '
        f'width="{sum(layer in plan.plan(step) for step in range(steps + 1)) * _CELL - 1}"/>'
        for layer in range(layers)
    ]
    numbers = [
        f'<text x="{_MARGIN - 5}" y="{24 + (layers - layer) * _CELL - 2}" text-anchor="end">{layer}</text>'
        for layer in range(0, layers, max(1, layers // 6))
    ]
    ticks = [
        f'<text x="{_MARGIN + step * _CELL}" y="{24 + layers * _CELL + 12}">{step}</text>'
        for step in range(0, steps + 1, 5)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="8"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{_MARGIN}" y="14" font-size="11">{title}</text>{"".join(bars)}{"".join(numbers)}{"".join(ticks)}'
        f'<text x="{_MARGIN}" y="{height - 6}">generation step; bars are the layers that run</text></svg>\n'
    )
