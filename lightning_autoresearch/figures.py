"""Figures of the report, as plain data for plotly.js: no plotting library is imported.

Colours are names of the page's palette with an `@` in front (`@accent`); the page replaces them, so that the same
figure works on a light and on a dark ground.  Every class has its own marker shape as well as its colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lightning_autoresearch import wording
from lightning_autoresearch.decision import Verdict
from lightning_autoresearch.hypothesis import Hypothesis
from lightning_autoresearch.space import Value
from lightning_autoresearch.summary import HypothesisRow, StudySummary, TrialRow
from lightning_autoresearch.trial import Purpose

T = TypeVar("T")

POINTS = 3000
"""Most points in one trace; beyond it, evenly chosen ones are drawn."""
CURVES = 150
"""Most grey learning curves."""
CURVE_POINTS = 60
"""Most points of one learning curve."""
LABELS = 10
"""Most hypotheses named in the plot of the objective."""

_VERDICT_MARKS: Mapping[Verdict | None, tuple[str, str]] = {
    Verdict.PROMOTE: ("star", "@good"),
    Verdict.KEEP: ("triangle-up", "@accent"),
    Verdict.FAIL: ("triangle-down", "@warn"),
    Verdict.DROP: ("circle-open", "@muted"),
    Verdict.VOID: ("x-thin-open", "@bad"),
    None: ("diamond-open", "@muted"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A plot and what stands around it."""

    id: str
    """Its id in the page."""
    title: str
    """Heading."""
    caption: str
    """How to read it, below the plot."""
    alt: str
    """What it shows, in words, for those who do not see it."""
    data: list[dict[str, Any]]
    """Traces of plotly.js; empty where there is nothing to draw yet."""
    layout: dict[str, Any]
    """Layout of plotly.js, without the page's look."""
    empty: str = "Nothing to draw yet."
    """What stands in the plot's place where there is nothing to draw."""


def figures(summary: StudySummary) -> dict[str, Figure]:
    """Every figure of the trials and gates by id; those of the predictions are in `score_figures`."""
    draw = (objective_figure, gains_figure, gates_figure, curves_figure, cost_figure)
    return {figure.id: figure for figure in (each(summary) for each in draw)}


def objective_figure(summary: StudySummary) -> Figure:
    """Objective of each trial at the search scale, with the best so far and the failures."""
    rows = _search_rows(summary)
    finished = [row for row in rows if _objective(row) is not None]
    failed = [row for row in rows if row.result is not None and _objective(row) is None]
    screened = [row for row in finished if row.trial.purpose is Purpose.SCREEN]
    others = [row for row in finished if row.trial.purpose is not Purpose.SCREEN]
    top = _robust_range([_value(row) for row in finished], mode=summary.mode)
    data = [
        _trial_points(others, "baseline, bars, gates", symbol="circle-open", color="@muted"),
        _trial_points(screened, "tests of hypotheses", symbol="circle", color="@accent"),
        _best_so_far(finished, summary=summary),
        _failure_points(failed, floor=top[0] + 0.03 * (top[1] - top[0]) if top else 0.0),
    ]
    best = _best(summary.mode)([_value(row) for row in finished]) if finished else None
    layout = axes("trial", summary.metric) | {"annotations": _labels(summary, finished)}
    if top:
        layout["yaxis"]["range"] = list(top)
    return Figure(
        id="objective",
        title="Objective of each trial",
        caption=f"Scale {summary.scales[0]}. The line is the best single run so far; with noise, the best of many runs "
        "looks better than it is, so it proves nothing. Crosses at the bottom are trials without a result.",
        alt=f"{len(finished)} finished and {len(failed)} failed trials at scale {summary.scales[0]}; "
        f"best single {summary.metric} {wording.number(best, noise=wording.search_noise(summary))}.",
        data=filled(data),
        layout=layout,
    )


def gains_figure(summary: StudySummary) -> Figure:
    """Mean paired gain of each hypothesis with the band of the noise."""
    rows = [(index, row) for index, row in enumerate(summary.hypotheses, start=1) if is_finite(row.gain)]
    noise = wording.search_noise(summary)
    data = [
        points(
            [index for index, _ in group],
            [row.gain for _, row in group],
            texts=[hypothesis_text(row) for _, row in group],
            name=wording.VERDICTS[verdict],
            symbol=symbol,
            color=color,
            size=11 if verdict is Verdict.PROMOTE else 8,
        )
        for verdict, (symbol, color) in _VERDICT_MARKS.items()
        if (group := thin([pair for pair in rows if pair[1].verdict is verdict]))
    ]
    layout = axes("hypothesis", f"gain in {summary.metric}")
    layout["shapes"] = [line(y=0.0)]
    if len(summary.hypotheses) <= 20:
        layout["xaxis"]["dtick"] = 1
    if noise:
        layout["shapes"].append(_band(-2 * noise, 2 * noise))
    window = _robust_range([float(row.gain or 0.0) for _, row in rows], mode="max")
    if window:
        layout["yaxis"]["range"] = [window[0], max(window[1], 2.5 * (noise or 0.0))]
    low = sum(float(row.gain or 0.0) < window[0] for _, row in rows) if window else 0
    beyond = f" {wording.plural(low, 'point')} below the axis." if low else ""
    band = f"The band is two standard deviations of a gain under no effect ({wording.number(noise, noise=noise)} each)."
    return Figure(
        id="gains",
        title="Gain of each hypothesis",
        caption=(
            "Mean paired gain on the screen's seeds; above zero is better. " + (band if noise else "") + beyond
        ).strip(),
        alt=_gains_alt(summary, [row for _, row in rows]),
        data=filled(data),
        layout=layout,
    )


def gates_figure(summary: StudySummary) -> Figure:
    """Paired gains of each gate with mean and interval."""
    shown = summary.gates[-60:]
    names = [f"{index}. {plain(gate.scale)}" for index, gate in enumerate(summary.gates, start=1)][-60:]
    pairs = [(name, gain) for name, gate in zip(names, shown, strict=True) for gain in gate.gains if is_finite(gain)]
    means = [(name, gate) for name, gate in zip(names, shown, strict=True) if is_finite(gate.mean)]
    data = [
        points(
            [name for name, _ in pairs], [gain for _, gain in pairs], name="pair", symbol="circle-open", color="@muted"
        ),
        points(
            [name for name, _ in means],
            [gate.mean for _, gate in means],
            texts=[plain(f"{wording.VERDICTS[gate.verdict]}: {gate.sentence}") for _, gate in means],
            name="mean and interval",
            symbol="diamond",
            color="@accent",
            size=10,
        )
        | {
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [_reach(gate.mean, gate.high) for _, gate in means],
                "arrayminus": [_reach(gate.low, gate.mean) for _, gate in means],
                "color": "@accent",
            }
        },
    ]
    layout = axes("gate", f"gain in {summary.metric}") | {"shapes": [line(y=0.0)]}
    layout["xaxis"]["type"] = "category"
    return Figure(
        id="gates",
        title="Gains in the gates",
        caption="Each circle is one pair: the branch against the incumbent at one fresh seed. Above zero is better. "
        "The bar is an interval that holds however often it is looked at.",
        alt=f"{wording.plural(len(summary.gates), 'gate')} with {wording.plural(len(pairs), 'pair')}; "
        "the table below has the same numbers.",
        data=filled(data),
        layout=layout,
    )


def curves_figure(summary: StudySummary) -> Figure:
    """Learning curves at the search scale: all in grey, baseline and incumbent on top."""
    rows = [row for row in _search_rows(summary) if row.result is not None and row.result.curve]
    baseline = [row for row in rows if not row.trial.overrides and row.result and row.result.finished]
    leader, name = _leader(summary, [row for row in rows if row.result and row.result.finished])
    window = _robust_range([y for row in rows for _, y in _curve(row) if y is not None], mode=summary.mode)
    data = [
        _all_curves(rows),
        _mean_curve(baseline, name=f"baseline, mean of {len(baseline)}", color="@ink", dash="dot"),
        _mean_curve(leader, name=name, color="@accent", dash="solid"),
    ]
    if rows and all(len(_curve(row)) < 2 for row in rows):
        data = []
    layout = axes("optimizer step", summary.metric)
    if window:
        layout["yaxis"]["range"] = list(window)
    shown = min(len(rows), CURVES)
    return Figure(
        id="curves",
        title="Learning curves",
        caption=f"Scale {summary.scales[0]}; grey are {shown} of {wording.plural(len(rows), 'trial')}. "
        "Compare the ends only: rankings flip while a learning rate is still high.",
        alt=f"Learning curves of {wording.plural(shown, 'trial')}; on top the baseline and {name}.",
        data=filled(data),
        layout=layout,
        empty="Every trial was validated once, at its end, so there are no curves; see trainer.val_check_interval."
        if rows
        else "Nothing to draw yet.",
    )


def cost_figure(summary: StudySummary) -> Figure:
    """Objective against training time at the search scale, with the Pareto front."""
    rows = [row for row in _search_rows(summary) if _objective(row) is not None and row.result]
    costs = [(row.result.train_seconds, _value(row)) for row in rows if row.result]
    front = pareto(costs, mode=summary.mode)
    base = [row for row in rows if not row.trial.overrides]
    branch = [row for row in rows if row.trial.overrides]
    window = _robust_range([value for _, value in costs], mode=summary.mode)
    data = [
        _cost_points(branch, "changed configurations", symbol="circle", color="@accent"),
        _cost_points(base, "baseline", symbol="diamond-open", color="@ink"),
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [short(x) for x, _ in front],
            "y": [short(y) for _, y in front],
            "line": {"color": "@muted", "width": 1.5, "dash": "dash", "shape": "hv"},
            "hoverinfo": "skip",
        },
    ]
    layout = axes("training seconds", summary.metric)
    if window:
        layout["yaxis"]["range"] = list(window)
    return Figure(
        id="cost",
        title="Objective against cost",
        caption=f"Single runs at scale {summary.scales[0]}. On the front, no run was both cheaper and better; "
        "which single run lies on it is partly luck.",
        alt=f"{wording.plural(len(rows), 'finished trial')}, {len(front)} on the Pareto front of cost and objective.",
        data=filled(data),
        layout=layout,
    )


def plain(text: str) -> str:
    """Text that plotly.js shows as it is, instead of reading tags in it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def thin(items: Sequence[T], *, most: int = POINTS) -> list[T]:
    """At most so many items, evenly chosen, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    step = (len(items) - 1) / (most - 1)
    return [items[round(index * step)] for index in range(most)]


def pareto(points: Sequence[tuple[float, float]], *, mode: str) -> list[tuple[float, float]]:
    """The (cost, objective) points that no other point beats in both, by rising cost."""
    sign = 1.0 if mode == "min" else -1.0
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if not front or sign * value < sign * front[-1][1]:
            front.append((cost, value))
    return front


def _search_rows(summary: StudySummary) -> list[TrialRow]:
    return [row for row in summary.trials if row.trial.scale == summary.scales[0]]


def _objective(row: TrialRow) -> float | None:
    result = row.result
    return result.objective if result is not None and result.finished and is_finite(result.objective) else None


def _value(row: TrialRow) -> float:
    value = _objective(row)
    return math.nan if value is None else value


def is_finite(value: float | None) -> bool:
    """Whether there is a number, and a finite one."""
    return value is not None and math.isfinite(value)


def _best(mode: str) -> Callable[[Sequence[float]], float]:
    return min if mode == "min" else max


def short(value: float | None) -> float | None:
    """Six significant digits: more cannot be seen and would fill the file."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _robust_range(values: Sequence[float], *, mode: str) -> tuple[float, float] | None:
    """A range that shows all good values and cuts off the far bad ones (beyond 3 interquartile ranges).

    Double-click in the plot shows everything.
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return None
    low, high = ordered[0], ordered[-1]
    first, third = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    reach = 3 * (third - first) or high - low
    low, high = (low, min(high, third + reach)) if mode == "min" else (max(low, first - reach), high)
    margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _trial_points(rows: Sequence[TrialRow], name: str, *, symbol: str, color: str) -> dict[str, Any]:
    shown = thin(rows)
    return points(
        [int(row.trial.id) for row in shown],
        [_objective(row) for row in shown],
        texts=[_trial_text(row) for row in shown],
        name=name,
        symbol=symbol,
        color=color,
        size=6,
    )


def _cost_points(rows: Sequence[TrialRow], name: str, *, symbol: str, color: str) -> dict[str, Any]:
    shown = thin(rows)
    return points(
        [row.result.train_seconds if row.result else None for row in shown],
        [_objective(row) for row in shown],
        texts=[_trial_text(row) for row in shown],
        name=name,
        symbol=symbol,
        color=color,
        size=7,
    )


def _failure_points(rows: Sequence[TrialRow], *, floor: float) -> dict[str, Any]:
    shown = thin(rows, most=500)
    return points(
        [int(row.trial.id) for row in shown],
        [floor] * len(shown),
        texts=[_trial_text(row) for row in shown],
        name="no result",
        symbol="x-thin-open",
        color="@bad",
        size=8,
    ) | {"cliponaxis": False}


def _best_so_far(rows: Sequence[TrialRow], *, summary: StudySummary) -> dict[str, Any]:
    steps: list[tuple[int, float]] = []
    for row in rows:
        value = _value(row)
        if not steps or _best(summary.mode)([steps[-1][1], value]) != steps[-1][1]:
            steps.append((int(row.trial.id), value))
    if steps:
        steps.append((int(rows[-1].trial.id), steps[-1][1]))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best run so far",
        "x": [x for x, _ in steps],
        "y": [short(y) for _, y in steps],
        "line": {"shape": "hv", "color": "@ink", "width": 1.5},
        "hoverinfo": "skip",
    }


def _labels(summary: StudySummary, finished: Sequence[TrialRow]) -> list[dict[str, Any]]:
    """Names of the promoted hypotheses, and of the kept ones unless they are many, at their first result."""
    first: dict[str, TrialRow] = {}
    for row in finished:
        if row.trial.hypothesis is not None:
            first.setdefault(row.trial.hypothesis, row)
    named = {
        verdict: [
            row.hypothesis.id for row in summary.hypotheses if row.verdict is verdict and row.hypothesis.id in first
        ]
        for verdict in (Verdict.PROMOTE, Verdict.KEEP)
    }
    ranked = named[Verdict.PROMOTE][-LABELS:]
    if len(ranked) + len(named[Verdict.KEEP]) <= LABELS:
        ranked = ranked + named[Verdict.KEEP]
    return [
        {
            "x": int(first[name].trial.id),
            "y": short(_objective(first[name])),
            "text": plain(name),
            "arrowcolor": "@muted",
            "arrowwidth": 1,
            "arrowhead": 0,
            "ax": 0,
            "ay": -26 - 14 * (place % 3),
            "font": {"color": "@ink", "size": 12},
        }
        for place, name in enumerate(sorted(ranked, key=lambda name: first[name].trial.id))
    ]


def _all_curves(rows: Sequence[TrialRow]) -> dict[str, Any]:
    xs: list[int | None] = []
    ys: list[float | None] = []
    for row in thin(rows, most=CURVES):
        for step, value in thin(_curve(row), most=CURVE_POINTS):
            xs.append(step)
            ys.append(short(value))
        xs.append(None)
        ys.append(None)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "all trials",
        "x": xs,
        "y": ys,
        "line": {"color": "@faint", "width": 1},
        "hoverinfo": "skip",
    }


def _mean_curve(rows: Sequence[TrialRow], *, name: str, color: str, dash: str) -> dict[str, Any]:
    """Mean over the runs at the steps that all of them have."""
    curves = [{step: y for step, y in _curve(row) if y is not None} for row in rows]
    steps = thin(sorted(set.intersection(*map(set, curves))) if curves else [], most=CURVE_POINTS)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name),
        "x": steps,
        "y": [short(sum(curve[step] for curve in curves) / len(curves)) for step in steps],
        "line": {"color": color, "width": 2.5, "dash": dash},
    }


def _curve(row: TrialRow) -> tuple[tuple[int, float | None], ...]:
    return row.result.curve if row.result is not None else ()


def _leader(summary: StudySummary, rows: Sequence[TrialRow]) -> tuple[list[TrialRow], str]:
    """The runs to set against the baseline: the incumbent's, else those of the branch, else the best single run."""
    for config, name in ((summary.incumbent, "confirmed configuration"), (summary.branch, "branch, provisional")):
        changed = _changed(summary, config)
        runs = [row for row in rows if changed and dict(row.trial.overrides) == changed]
        if runs:
            return runs, f"{name}, mean of {len(runs)}"
    varied = [row for row in rows if row.trial.overrides and _objective(row) is not None]
    if not varied:
        return [], "no other configuration"
    best = _best(summary.mode)([_value(row) for row in varied])
    return [row for row in varied if _value(row) == best][:1], "best single run, not confirmed"


def _changed(summary: StudySummary, config: Mapping[str, Value]) -> dict[str, Value]:
    return {key: value for key, value in config.items() if key not in summary.base or summary.base[key] != value}


def _trial_text(row: TrialRow) -> str:
    trial, result = row.trial, row.result
    what = f"{trial.id} {trial.hypothesis or trial.purpose.value}"
    changes = ", ".join(
        f"{wording.short_key(key)}={wording.plain_value(value)}" for key, value in list(trial.overrides.items())[:6]
    )
    failure = f"<br>{plain((result.failure or '')[:160])}" if result is not None and result.failure else ""
    return f"{plain(what)}<br>{plain(changes[:120]) or 'baseline'}{failure}"


def hypothesis_text(row: HypothesisRow) -> str:
    """What a point says of its hypothesis."""
    hypothesis: Hypothesis = row.hypothesis
    names = {key: wording.short_key(key) for key in hypothesis.overrides}
    words = wording.hypothesis_change(hypothesis, row.before, names=names)
    return f"{plain(hypothesis.id)}: {plain(words[:120])}<br>{plain(wording.VERDICTS[row.verdict])}"


def _gains_alt(summary: StudySummary, rows: Sequence[HypothesisRow]) -> str:
    counts = {verdict: sum(row.verdict is verdict for row in rows) for verdict in _VERDICT_MARKS}
    told = ", ".join(f"{count} {wording.VERDICTS[verdict]}" for verdict, count in counts.items() if count)
    return f"{len(rows)} measured gains in {summary.metric}: {told or 'none'}; the table of hypotheses has the numbers."


def points(
    x: Sequence[object],
    y: Sequence[float | None],
    *,
    name: str,
    symbol: str,
    color: str,
    texts: Sequence[str] | None = None,
    size: int = 8,
) -> dict[str, Any]:
    """A trace of markers; small and see-through where there are many."""
    crowded = len(x) > 400
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "opacity": 0.55 if crowded else 1,
        "name": plain(name),
        "x": [short(value) if isinstance(value, float) else value for value in x],
        "y": [short(value) for value in y],
        "marker": {
            "symbol": symbol,
            "color": color,
            "size": 4 if crowded else size,
            "line": {"color": color, "width": 1 if crowded else 1.5},
        },
    }
    if texts is not None:
        trace |= {"text": list(texts), "hovertemplate": "%{text}<br>%{y}<extra></extra>"}
    return trace


def filled(data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The traces that have a point."""
    return [trace for trace in data if trace["x"]]


def axes(x: str, y: str) -> dict[str, Any]:
    """A layout with these titles of its axes."""
    return {"xaxis": {"title": {"text": plain(x)}}, "yaxis": {"title": {"text": plain(y)}}}


def line(*, y: float) -> dict[str, Any]:
    """A thin line across the plot."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "layer": "below",
        "line": {"color": "@muted", "width": 1},
    }


def _band(low: float, high: float) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": short(low),
        "y1": short(high),
        "layer": "below",
        "fillcolor": "@band",
        "line": {"width": 0},
    }


def _reach(low: float | None, high: float | None) -> float:
    return high - low if low is not None and high is not None and math.isfinite(high - low) else 0.0
