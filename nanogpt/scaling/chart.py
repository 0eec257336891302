"""A ladder and its law as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nanogpt.scaling.ladder import Result
from nanogpt.scaling.law import Law, interval


def draw(
    results: Sequence[Result],
    check: Result | None,
    law: Law,
    laws: Sequence[tuple[Law, float]],
    title: str,
    path: Path,
) -> None:
    """Write the losses over operations, the law of each depth, and the best that it allows.

    Args:
        check: a larger training, which the law was not fitted to.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    ends = [r.flops for r in (*results, *([check] if check else []))]
    budgets = np.geomspace(min(ends) / 1.5, 1.5 * max(ends), 60)
    for depth in sorted({r.depth for r in results}):
        own = [r for r in results if r.depth == depth]
        each = own[0].flops / own[0].tokens
        line = [law.loss(own[0].matrices, budget / each) for budget in budgets]
        (drawn,) = axes.plot(budgets, line, linewidth=0.8, alpha=0.7)
        axes.plot(
            [r.flops for r in own],
            [r.bits_per_byte for r in own],
            "o",
            color=drawn.get_color(),
            label=f"depth {depth}, N = {own[0].matrices:,}",
        )
    best = [law.best(budget / 6) for budget in budgets]  # 6 N D operations, without attention's
    axes.plot(budgets, [law.loss(*pair) for pair in best], "k--", label="the best of any size")
    bands = np.array([interval(laws, *pair) for pair in best])
    axes.fill_between(budgets, bands[:, 0], bands[:, 1], color="black", alpha=0.08)
    if check:
        label = f"check: depth {check.depth}"
        axes.plot([check.flops], [check.bits_per_byte], "r*", markersize=12, label=label)
    low = min(r.bits_per_byte for r in (*results, *([check] if check else [])))
    high = max(r.bits_per_byte for r in results)
    axes.set(
        xscale="log",
        title=title,
        xlabel="operations of the training",
        ylabel="bits per byte, validation",
        ylim=(low - 0.15 * (high - low), high + 0.1 * (high - low)),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
