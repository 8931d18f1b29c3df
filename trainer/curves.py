"""A run's curves as one picture: loss, score, learning rate and speed over the optimizer steps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, GREEN, GREY = "#1f5fa8", "#2a7f3f", "#777777"


class ScoreAt(NamedTuple):
    """A score after so many steps, with its interval."""

    step: int
    value: float
    low: float
    high: float


def draw_curves(log: Sequence[Mapping[str, Any]], scores: Sequence[ScoreAt], metric: str) -> bytes:
    """Return the curves as SVG.

    Args:
        log: the Trainer's `log_history`.
        scores: of the score that counts, in the order of steps.
        metric: its name.
    """
    # Without the salt the names of clip paths are drawn anew, and the same run gives other bytes.
    with rc_context({"svg.hashsalt": "phi3v", "font.size": 9}):
        figure = Figure(figsize=(9, 5), layout="constrained")
        losses, scored, rates, speeds = figure.subplots(2, 2).flat
        _line(losses, log, "loss", "training", BLUE)
        _line(losses, log, "eval_loss", "validation", GREEN, marker="o")
        losses.set(title="Loss per token", ylim=(0, None))
        if losses.lines:
            losses.legend()
        _scores(scored, scores, metric)
        _line(rates, log, "learning_rate", "", BLUE)
        rates.set(title="Learning rate", ylim=(0, None))
        _line(speeds, log, "tokens_per_second", "", BLUE)
        speeds.set(title="Tokens per second, evaluation not counted", ylim=(0, None))
        for axes in (losses, scored, rates, speeds):
            axes.set_xlabel("optimizer step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _line(axes: Axes, log: Sequence[Mapping[str, Any]], key: str, label: str, colour: str, marker: str = "") -> None:
    points = [(entry["step"], entry[key]) for entry in log if key in entry]
    if points:
        steps, values = zip(*points, strict=True)
        only = "o" if len(points) == 1 else marker  # one point is no line
        axes.plot(steps, values, label=label or None, color=colour, marker=only, markersize=4)


def _scores(axes: Axes, scores: Sequence[ScoreAt], metric: str) -> None:
    axes.set(title=f"{metric or 'Score'} with its 95 % interval", ylim=(0, 1.02))
    if not scores:
        axes.text(0.5, 0.5, "nothing was scored", ha="center", transform=axes.transAxes, color=GREY)
        return
    steps, values, lows, highs = zip(*scores, strict=True)
    axes.fill_between(steps, lows, highs, color=GREEN, alpha=0.15, linewidth=0)
    axes.errorbar(
        steps,
        values,
        yerr=[
            [value - low for value, low in zip(values, lows, strict=True)],
            [high - value for value, high in zip(values, highs, strict=True)],
        ],
        color=GREEN,
        marker="o",
        markersize=4,
        capsize=3,
    )
