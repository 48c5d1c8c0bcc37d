"""Figures about predictions: what was predicted against what was measured, calibration, Brier score by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_autoresearch import wording
from lightning_autoresearch.figures import (
    Figure,
    axes,
    filled,
    hypothesis_text,
    is_finite,
    line,
    plain,
    points,
    short,
    thin,
)
from lightning_autoresearch.scoring import STATED_LEVEL, Forecast, Scores, by_round, by_source, score
from lightning_autoresearch.summary import HypothesisRow, StudySummary, forecasts

SOURCES = 6
"""Most sources in one figure."""
BARS = 60
"""Most hypotheses whose predicted intervals are drawn."""

_MARKS = (
    ("circle", "@accent"),
    ("square", "@warn"),
    ("diamond", "@good"),
    ("triangle-up", "@bad"),
    ("cross", "@ink"),
    ("star", "@muted"),
)


def score_figures(summary: StudySummary) -> dict[str, Figure]:
    """Every figure of the predictions by id."""
    draw = (calibration_figure, brier_figure, predictions_figure)
    return {figure.id: figure for figure in (each(summary) for each in draw)}


def calibration_figure(summary: StudySummary) -> Figure:
    """A reliability diagram: stated probability against the share that came true, with counts and Wilson intervals."""
    scores = by_source(forecasts(summary))
    marks = _marks(summary)
    data = [
        trace
        for source, one in scores.items()
        if source in marks
        for trace in (_reliability(one, source, *marks[source]), _coverage(one, source, marks[source][1]))
    ]
    layout = axes("stated", "came true") | {"shapes": [_diagonal(0.0, 1.0)]}
    layout["xaxis"] |= {"range": [0, 1.03], "tickformat": ".0%"}
    layout["yaxis"] |= {"range": [-0.04, 1.1], "tickformat": ".0%"}
    told = "; ".join(f"{source}: {_bins_words(one)}" for source, one in scores.items())
    return Figure(
        id="calibration",
        title="Calibration",
        caption="Filled marks: of the hypotheses that were given about this probability of being kept, how many were; "
        f"the number beside a mark counts them. Open marks, at {100 * STATED_LEVEL:.0f} %: how many stated intervals "
        "held the measured gain. On the diagonal, probabilities mean what they say. Bars are 95 % intervals.",
        alt=f"Stated probability against the share that was kept. {told}.",
        data=filled(data),
        layout=layout,
    )


def brier_figure(summary: StudySummary) -> Figure:
    """Brier score of each round by source, against that of chance; empty below two rounds."""
    marks = _marks(summary)
    every = forecasts(summary)
    data: list[dict[str, Any]] = []
    for source, (symbol, color) in marks.items():
        rounds = by_round([one for one in every if one.source == source])
        if len(rounds) > 1:
            data += [_briers(rounds, source, symbol, color), _chances(rounds, source, color)]
    layout = axes("round", "Brier score") | {"shapes": [line(y=0.0)]}
    layout["yaxis"]["rangemode"] = "tozero"
    layout["xaxis"]["tickformat"] = "d"
    if len({one.round for one in every}) <= 20:
        layout["xaxis"]["dtick"] = 1
    return Figure(
        id="brier",
        title="Brier score by round",
        caption="Mean squared error of the stated probabilities; 0 is perfect. The dotted line is chance: always "
        "stating the share that was kept in that round. Scores of few predictions jump by luck.",
        alt=f"Brier score by round. {_halves_words(every)}".strip(),
        data=filled(data),
        layout=layout,
    )


def predictions_figure(summary: StudySummary) -> Figure:
    """Predicted against measured gain, by source."""
    rows = [row for row in summary.hypotheses if is_finite(row.gain) and is_finite(row.hypothesis.prediction.gain)]
    marks = _marks(summary)
    data = [
        _predicted(group, source, symbol, color, bars=len(rows) <= BARS)
        for source, (symbol, color) in marks.items()
        if (group := thin([row for row in rows if row.hypothesis.source == source]))
    ]
    layout = axes("predicted gain", "measured gain")
    if rows:
        ends = [row.hypothesis.prediction.gain for row in rows] + [0.0]
        layout["shapes"] = [line(y=0.0), _diagonal(min(ends), max(ends))]
    bars = (
        f" Bars are the stated {100 * STATED_LEVEL:.0f} % intervals." if any("error_x" in one for one in data) else ""
    )
    return Figure(
        id="predictions",
        title="Predicted against measured gain",
        caption=f"On the diagonal, a prediction came true.{bars}",
        alt=f"{wording.plural(len(rows), 'hypothesis')} with a prediction and a measurement; "
        "the table of hypotheses has the numbers.",
        data=filled(data),
        layout=layout,
    )


def _marks(summary: StudySummary) -> dict[str, tuple[str, str]]:
    """A marker and a colour for each source, the same in every figure."""
    return dict(zip(wording.sources(summary)[:SOURCES], _MARKS, strict=False))


def _reliability(scores: Scores, source: str, symbol: str, color: str) -> dict[str, Any]:
    bins = scores.bins
    trace = points(
        [one.probability for one in bins],
        [one.kept.value for one in bins],
        name=source,
        symbol=symbol,
        color=color,
        size=9,
    )
    return trace | {
        "mode": "lines+markers+text",
        "line": {"color": color, "width": 1},
        "text": [str(one.count) for one in bins],
        "textposition": "top right",
        "textfont": {"color": color, "size": 11},
        "error_y": _bars([(one.kept.low, one.kept.value, one.kept.high) for one in bins], color),
        "hovertemplate": "stated %{x:.0%}, kept %{y:.0%} of %{text}<extra></extra>",
    }


def _coverage(scores: Scores, source: str, color: str) -> dict[str, Any]:
    """The share of stated intervals that held, at the probability that they state."""
    found = scores.coverage
    xs, ys = ([], []) if found is None else ([STATED_LEVEL], [found.value])
    trace = points(xs, ys, name=f"{source}, intervals", symbol="diamond-tall-open", color=color, size=12)
    if found is None:
        return trace
    return trace | {
        "error_y": _bars([(found.low, found.value, found.high)], color),
        "hovertemplate": f"%{{y:.0%}} of {scores.intervals} intervals<extra></extra>",
    }


def _briers(rounds: Mapping[int, Scores], source: str, symbol: str, color: str) -> dict[str, Any]:
    trace = points(
        list(rounds),
        [one.brier for one in rounds.values()],
        texts=[wording.plural(one.count, "prediction") for one in rounds.values()],
        name=source,
        symbol=symbol,
        color=color,
    )
    return trace | {"mode": "lines+markers", "line": {"color": color, "width": 1.5}}


def _chances(rounds: Mapping[int, Scores], source: str, color: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(f"{source}, chance"),
        "x": list(rounds),
        "y": [short(one.brier_chance) for one in rounds.values()],
        "line": {"color": color, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }


def _predicted(group: Sequence[HypothesisRow], source: str, symbol: str, color: str, *, bars: bool) -> dict[str, Any]:
    trace = points(
        [row.hypothesis.prediction.gain for row in group],
        [row.gain for row in group],
        texts=[hypothesis_text(row) for row in group],
        name=source,
        symbol=symbol,
        color=color,
    )
    stated = [row.hypothesis.prediction for row in group]
    if bars and any(one.low is not None and one.high is not None for one in stated):
        ends = [
            (one.gain if one.low is None else one.low, one.gain, one.gain if one.high is None else one.high)
            for one in stated
        ]
        trace["error_x"] = _bars(ends, color) | {"thickness": 0.8, "width": 2}
    return trace


def _bars(ends: Sequence[tuple[float, float, float]], color: str) -> dict[str, Any]:
    """Error bars of (low, value, high)."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [short(max(0.0, high - value)) for _, value, high in ends],
        "arrayminus": [short(max(0.0, value - low)) for low, value, _ in ends],
        "color": color,
        "thickness": 1,
        "width": 3,
    }


def _diagonal(low: float, high: float) -> dict[str, Any]:
    ends = {"x0": low, "y0": low, "x1": high, "y1": high}
    return {"type": "line", "layer": "below", "line": {"color": "@muted", "width": 1, "dash": "dot"}} | ends


def _bins_words(scores: Scores) -> str:
    return ", ".join(
        f"stated {100 * one.probability:.0f} %, kept {100 * one.kept.value:.0f} % of {one.count}" for one in scores.bins
    )


def _halves_words(every: Sequence[Forecast]) -> str:
    found = score(every)
    if found is None:
        return ""
    return f"Over all rounds {found.brier:.3f}, chance {found.brier_chance:.3f}, {found.count} predictions."
