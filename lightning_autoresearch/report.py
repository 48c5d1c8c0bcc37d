"""The report: one self-contained HTML file that opens offline, drawn from one `StudySummary`.

Everything that a person or a proposer wrote is escaped; a content security policy lets only the page's own two
scripts run and loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from lightning_autoresearch import wording
from lightning_autoresearch.decision import Verdict
from lightning_autoresearch.figures import Figure, figures
from lightning_autoresearch.hypothesis import SAMPLER, Hypothesis
from lightning_autoresearch.score_figures import score_figures
from lightning_autoresearch.scoring import Forecast, against_chance, comparison, halves, score, trend
from lightning_autoresearch.status import finite
from lightning_autoresearch.summary import (
    GateRow,
    HypothesisRow,
    RevisionRow,
    StudySummary,
    TrialRow,
    confirmed_improvements,
    forecasts,
)
from lightning_autoresearch.trial import TrialStatus

T = TypeVar("T")

HYPOTHESES = 2000
"""Most rows of the table of hypotheses; the others are in the journal."""
FAILURES = 200
"""Most rows of the table of failures."""
DIFF_LINES = 400
"""Most lines of one diff."""
ANALYSIS = 1500
"""Most characters of the language model's reading of the evidence."""
_MANY = 500
"""Hypotheses beyond which long statements are cut."""

_SECTIONS = (
    ("numbers", "Numbers"),
    ("title-objective", "Objective"),
    ("title-gains", "Gains"),
    ("title-gates", "Gates"),
    ("title-curves", "Curves"),
    ("title-cost", "Cost"),
    ("hypotheses", "Hypotheses"),
    ("who-was-right", "Who was right"),
    ("language-model", "Language model"),
    ("configuration", "Configuration"),
    ("failures", "Failures"),
    ("caveats", "Caveats"),
    ("reproduce", "Reproduce"),
)


def write_report(summary: StudySummary, path: Path | str) -> None:
    """Write the report of a study; a reader of the file sees the old one or the new one, never a part.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(report_html(summary))
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def report_html(summary: StudySummary) -> str:
    """The report as one HTML text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("lightning_autoresearch", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: "" if value is None else value,
    )
    plotly, script, drawn = _plotly(), _own("report.js"), _figures(summary)
    page = environment.get_template("report.html.j2").render(
        **_page(summary),
        figures=drawn,
        policy=_policy(plotly, script),
        css=Markup(_own("report.css")),
        plotly=Markup(plotly),
        script=Markup(script),
        data=Markup(_script_json(_plots(drawn))),
    )
    # Surrogates, which a broken file name or message may hold, cannot be written as UTF-8.
    return page.encode("utf-8", "replace").decode("utf-8")


def _figures(summary: StudySummary) -> dict[str, Figure]:
    """The figures that have a place in the page."""
    return {**figures(summary), **(score_figures(summary) if forecasts(summary) else {})}


def _page(summary: StudySummary) -> dict[str, Any]:
    gain, names = summary.confirmed_gain, wording.summary_names(summary)
    judged, model = _judged(summary), _model(summary)
    absent = {name for name, shown in (("who-was-right", judged), ("language-model", model)) if not shown}
    return {
        "s": summary,
        "sections": [section for section in _SECTIONS if section[0] not in absent],
        "judged": judged,
        "model": model,
        "marks": wording.MARKS,
        "verdicts": wording.VERDICTS,
        "result": f"Confirmed: {wording.gain_sentence(gain, summary=summary)}."
        if gain
        else wording.unconfirmed_sentence(summary),
        "warnings": list(_warnings(summary)),
        "facts": list(_facts(summary)),
        "guarantee": wording.guarantee_sentence(summary),
        "gates": [_gate(index, row, summary) for index, row in enumerate(summary.gates, start=1)],
        "hypotheses": [_hypothesis(row, summary, names=names) for row in _listed(summary.hypotheses)],
        "hypotheses_caption": _hypotheses_caption(summary),
        "configuration": _configuration(summary),
        "revisions": [_revision(row, summary) for row in summary.revisions],
        "failures": [_failure(row) for row in _failed(summary)[-FAILURES:]],
        "failures_caption": _failures_caption(summary),
        "caveats": list(_caveats(summary)),
        "messages": summary.messages[-200:],
        "environment": list(_flat(summary.environment)),
    }


def _plots(drawn: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: {"data": each.data, "layout": each.layout} for name, each in drawn.items() if each.data}


def _script_json(data: Any) -> str:
    """JSON that may stand inside a script element: no text in it can end the element or start another."""
    text = json.dumps(finite(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(*scripts: str) -> str:
    """A content security policy (W3C CSP 3) under which only these very scripts run, and nothing is loaded."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _plotly() -> str:
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _own(name: str) -> str:
    return (resources.files("lightning_autoresearch") / "templates" / name).read_text(encoding="utf-8")


def _warnings(summary: StudySummary) -> Iterator[tuple[str, str]]:
    if summary.read == "best":
        yield (
            "Optimistic reading.",
            f"The objective is the best {summary.metric} of each run's curve, which profits from noise; "
            "`read: last` does not.",
        )
    if summary.rule != "gate":
        yield "No error guarantee.", wording.guarantee_sentence(summary)
    if summary.phase == "failed":
        yield "The study failed.", summary.reason


def _facts(summary: StudySummary) -> Iterator[dict[str, Any]]:
    gain = summary.confirmed_gain
    scale = gain.scale if gain else summary.scales[0]
    noise = summary.noise_sd.get(scale)
    if gain is not None:
        width = wording.half_width(gain.low, gain.high) or noise
        ends = wording.interval(gain.low, gain.high, noise=width)
        note = f"{ends}; {wording.plural(gain.pairs, 'fresh pair')} at {scale}; positive is better"
        yield _fact("Confirmed gain", wording.signed(gain.mean, noise=width), note, good=gain.low > 0)
    else:
        yield _fact("Confirmed gain", "none", "no change was confirmed on fresh pairs")
    yield _objective_fact("Baseline", {}, scale=scale, summary=summary)
    if wording.changed_keys(summary):
        yield _objective_fact("Confirmed configuration", wording.changed_keys(summary), scale=scale, summary=summary)
    else:
        yield _fact("Confirmed configuration", "the baseline", "nothing replaced it")
    if noise is not None:
        yield _fact("Noise", wording.number(noise, noise=noise), f"standard deviation of a paired gain at {scale}")
    yield _trials_fact(summary)
    yield _fact(
        "Time",
        wording.duration(summary.cost.wall_seconds),
        f"{wording.duration(summary.cost.train_seconds)} of training in {wording.plural(summary.slots, 'slot')}",
    )
    yield _model_fact(summary)
    resolvable = wording.number(summary.resolvable_gain, noise=wording.search_noise(summary))
    if summary.resolvable_gain is not None:
        yield _fact(
            "Smallest gain to be seen",
            resolvable,
            f"what a gate with all of its pairs can resolve at {summary.scales[0]}",
        )


def _objective_fact(label: str, overrides: Mapping[str, Any], *, scale: str, summary: StudySummary) -> dict[str, Any]:
    values = wording.unselected_objectives(summary, overrides=overrides, scale=scale)
    if not values:
        return _fact(label, "not measured", f"no run at {scale} that no decision chose")
    mean = sum(values) / len(values)
    note = f"mean {summary.metric} of {wording.plural(len(values), 'run')} at {scale} that no decision chose"
    return _fact(label, wording.number(mean, noise=summary.noise_sd.get(scale)), note)


def _trials_fact(summary: StudySummary) -> dict[str, Any]:
    counts = asdict(wording.count_trials(summary))
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return _fact("Trials", f"{len(summary.trials)} of {summary.budget_trials}", told)


def _model_fact(summary: StudySummary) -> dict[str, Any]:
    cost = summary.cost
    if not wording.model_cost(summary):
        return _fact("Language model", "none used", "")
    price = "price not known" if summary.model.unpriced_calls else wording.usd(cost.llm_usd)
    return _fact("Language model", price, f"{cost.llm_tokens:,} tokens")


def _fact(label: str, value: str, note: str, *, good: bool = False) -> dict[str, Any]:
    return {"label": label, "value": value, "note": note, "good": good}


def _judged(summary: StudySummary) -> dict[str, Any] | None:
    """Who was right: a row and sentences for each source; None where no prediction was answered yet."""
    every = forecasts(summary)
    if not every:
        return None
    by_source = {
        source: [one for one in every if one.source == source]
        for source in wording.sources(summary)
        if any(one.source == source for one in every)
    }
    return {
        "rows": [_source(source, scored, summary) for source, scored in by_source.items()],
        "sources": [{"name": source, "sentences": _source_sentences(scored)} for source, scored in by_source.items()],
        "comparisons": [
            wording.comparison_sentence(source, f"the {SAMPLER}", comparison(scored, by_source[SAMPLER]))
            for source, scored in by_source.items()
            if source != SAMPLER and SAMPLER in by_source
        ],
    }


def _source(source: str, scored: Sequence[Forecast], summary: StudySummary) -> dict[str, Any]:
    """A row of the table of sources."""
    rows = [row for row in summary.hypotheses if row.hypothesis.source == source]
    kept = [row for row in rows if row.screened is Verdict.KEEP]
    gains = [row.gain for row in kept if row.gain is not None]
    found = score(scored)
    assert found is not None, "a source has at least one forecast"
    asked = source == summary.scientist
    return {
        "name": source,
        "hypotheses": len(rows),
        "refused": summary.refused.get(source, 0),
        "kept": f"{len(kept)} ({100 * found.keeps / found.count:.0f} %)",
        "promoted": sum(row.verdict is Verdict.PROMOTE for row in rows),
        "gain": wording.signed(sum(gains) / len(gains), noise=wording.search_noise(summary)) if gains else "none",
        "brier": f"{found.brier:.3f}",
        "chance": f"{found.brier_chance:.3f}",
        "held": f"{100 * found.coverage.value:.0f} % of {found.intervals}" if found.coverage else "none stated",
        "tokens": f"{summary.cost.llm_tokens:,}" if asked else "none",
        "usd": _model_fact(summary)["value"] if asked else "none",
    }


def _source_sentences(scored: Sequence[Forecast]) -> list[str]:
    found, (first, second) = score(scored), halves(scored)
    assert found is not None, "a source has at least one forecast"
    said = [
        wording.chance_sentence(found, against_chance(scored)),
        wording.trend_sentence(score(first), score(second), trend(scored)),
        wording.coverage_sentence(found),
    ]
    return [sentence for sentence in said if sentence]


def _model(summary: StudySummary) -> dict[str, Any] | None:
    """The language model: what was asked of it and what it cost; None where none takes part."""
    if not (summary.scientist or summary.cost.llm_calls):
        return None
    return {
        "facts": list(_model_facts(summary)),
        "analysis": _cut(summary.model.analysis, ANALYSIS),
    }


def _model_facts(summary: StudySummary) -> Iterator[dict[str, Any]]:
    model, cost = summary.model, summary.cost
    served = [name for name in model.names if name != summary.scientist]
    yield _fact("Model", summary.scientist or "not named", f"served as {', '.join(served)}" if served else "")
    answered = model.outcomes.get("answered", 0)
    waited = f"; {wording.duration(model.seconds)} of waiting" if model.seconds else ""
    yield _fact("Calls", str(cost.llm_calls), f"{answered} answered{waited}")
    yield _fact("Repairs", str(model.repairs), f"replies that went back with their faults, in {_asked(summary)}")
    faults = {name: count for name, count in model.outcomes.items() if name != "answered"}
    told = [f"{count} {name.replace('_', ' ')}" for name, count in faults.items()]
    cut_off = [f"{model.interrupted} interrupted"] if model.interrupted else []
    yield _fact("Faults", str(sum(faults.values())), ", ".join([*told, *cut_off]))
    yield _fact("Tokens", f"{cost.llm_tokens:,}", _allowed(summary.budget_tokens, lambda most: f"{most:,}"))
    price = "not known" if model.unpriced_calls else wording.usd(cost.llm_usd)
    yield _fact("Cost", price, _allowed(summary.budget_usd, wording.usd))
    gains = confirmed_improvements(summary)
    per_gain = wording.usd(cost.llm_usd_per_gain) if cost.llm_usd_per_gain is not None else "none yet"
    limit = summary.budget_usd_per_gain
    stop = f"; the study ends beyond {wording.usd(limit)}" if limit is not None else ""
    yield _fact("Cost per confirmed improvement", per_gain, f"{wording.plural(gains, 'confirmed improvement')}{stop}")


def _asked(summary: StudySummary) -> str:
    return wording.plural(summary.model.proposals, "proposal")


def _allowed(most: T | None, words: Callable[[T], str]) -> str:
    return "no limit in the budget" if most is None else f"of {words(most)} that the budget allows"


def _gate(index: int, row: GateRow, summary: StudySummary) -> dict[str, Any]:
    noise = summary.noise_sd.get(row.scale)
    ends = wording.half_width(row.low, row.high) is not None
    return {
        "name": f"{index}. {row.scale}, " + (f"round {row.round}" if row.round else "self-test"),
        "verdict": row.verdict,
        "pairs": len(row.gains),
        "gains": ", ".join(wording.signed(gain, noise=noise) for gain in row.gains),
        "mean": wording.signed(row.mean, noise=noise),
        "interval": f"{wording.signed(row.low, noise=noise)} to {wording.signed(row.high, noise=noise)}"
        if ends
        else "unbounded",
        "e_value": wording.number_short(row.e_value),
        "threshold": wording.number_short(row.threshold),
        "bundle": ", ".join(row.hypotheses),
        "sentence": row.sentence,
    }


def _listed(rows: Sequence[HypothesisRow]) -> Sequence[HypothesisRow]:
    """All hypotheses, or of very many the newest and everything that was not dropped."""
    if len(rows) <= HYPOTHESES:
        return rows
    ranked = sorted(range(len(rows)), key=lambda index: (rows[index].verdict in {Verdict.DROP, Verdict.VOID}, -index))
    return [rows[index] for index in sorted(ranked[:HYPOTHESES])]


def _hypothesis(row: HypothesisRow, summary: StudySummary, *, names: Mapping[str, str]) -> dict[str, Any]:
    hypothesis, noise = row.hypothesis, wording.search_noise(summary)
    longest = 300 if len(summary.hypotheses) > _MANY else 4000
    ending = wording.STATUSES[row.status] if row.status else "n/a"
    return {
        "id": hypothesis.id,
        "round": row.round,
        "verdict": row.verdict,
        "gain": wording.signed(row.gain, noise=noise) if row.gain is not None else ending,
        "gain_sort": _sortable(row.gain),
        "predicted": wording.signed(hypothesis.prediction.gain, noise=noise),
        "predicted_sort": _sortable(hypothesis.prediction.gain),
        "probability": wording.number(hypothesis.prediction.probability, noise=0.05),
        "probability_sort": _sortable(hypothesis.prediction.probability),
        "change": _cut(wording.hypothesis_change(hypothesis, row.before, names=names), longest),
        "statement": _cut(hypothesis.statement, longest),
        "source": _said_by(hypothesis),
        "why": _cut(row.sentence, longest) if row.verdict in (Verdict.DROP, Verdict.VOID) else "",
    }


def _said_by(hypothesis: Hypothesis) -> str:
    """Who stated it, of which kind it is, and what it cites."""
    kind = [] if hypothesis.source == SAMPLER else [f"{hypothesis.kind} hypothesis"]
    cites = [f"cites {', '.join(hypothesis.cites)}"] if hypothesis.cites else []
    return _cut("; ".join([hypothesis.source, *kind, *cites]), 300)


def _hypotheses_caption(summary: StudySummary) -> str:
    left_out = len(summary.hypotheses) - len(_listed(summary.hypotheses))
    more = f" {left_out:,} dropped or void ones are left out here; the journal has them." if left_out else ""
    return f"Gains are in {summary.metric}, positive is better. A heading sorts the table.{more}"


def _configuration(summary: StudySummary) -> list[dict[str, Any]]:
    changed = wording.changed_keys(summary)
    keys = dict.fromkeys([*summary.base, *summary.incumbent])
    return [
        {
            "key": key,
            "base": wording.plain_value(summary.base[key]) if key in summary.base else "not set",
            "now": wording.plain_value(summary.incumbent[key]) if key in summary.incumbent else "not set",
            "changed": key in changed,
        }
        for key in keys
    ]


def _revision(row: RevisionRow, summary: StudySummary) -> dict[str, Any]:
    lines = row.unified_diff.splitlines()
    shown = [(_line_kind(line), line) for line in lines[:DIFF_LINES]]
    if len(lines) > DIFF_LINES:
        shown.append(("at", f"... {len(lines) - DIFF_LINES} more lines in specs/{row.number:04d}.yaml"))
    earlier = [other.number for other in summary.revisions if other.number < row.number]
    return {
        "number": row.number,
        "digest": row.digest[:12],
        "parent": max(earlier, default=0),
        "changes": row.changes,
        "bundle": ", ".join(row.hypotheses),
        "lines": shown,
    }


def _line_kind(line: str) -> str:
    if line.startswith(("+++", "---", "@@")):
        return "at"
    return {"+": "add", "-": "remove"}.get(line[:1], "same")


def _failed(summary: StudySummary) -> list[TrialRow]:
    return [row for row in summary.trials if row.result is not None and not row.result.finished]


def _failure(row: TrialRow) -> dict[str, Any]:
    result, trial = row.result, row.trial
    assert result is not None, "only trials with an outcome are failures"
    line = result.failure or next((line for line in reversed(result.traceback) if line.strip()), "")
    names = {key: wording.short_key(key) for key in trial.overrides}
    tried = wording.change(trial.overrides, {}, names=names)
    return {
        "id": trial.id,
        "status": wording.STATUSES[result.status],
        "scale": trial.scale,
        "what": f"{trial.hypothesis or trial.purpose.value}: {_cut(tried, 200)}",
        "line": _cut(line.strip(), 300),
    }


def _failures_caption(summary: StudySummary) -> str:
    rows = _failed(summary)
    counts = {
        status: sum(row.result is not None and row.result.status is status for row in rows) for status in TrialStatus
    }
    told = ", ".join(f"{count} {wording.STATUSES[status]}" for status, count in counts.items() if count)
    more = f" The last {FAILURES} are listed." if len(rows) > FAILURES else ""
    return f"Outcomes of their own, never counted as a large loss: {told}.{more}"


def _caveats(summary: StudySummary) -> Iterator[str]:
    yield from (f"{title} {text}" for title, text in _warnings(summary))
    gain, target = summary.confirmed_gain, summary.scales[-1]
    if gain is not None and gain.scale != target:
        yield f"The gain was confirmed at scale {gain.scale}. Whether it holds at {target} was not measured."
    if gain is not None and gain.low <= 0:
        yield "The interval of the confirmed gain contains zero: these pairs alone do not show an improvement."
    if any(gate.verdict is Verdict.PROMOTE for gate in summary.gates):
        yield "A promoted bundle is proven as a whole; which of its members matter has not been tested one by one."
    if summary.rule == "gate":
        yield (
            "The guarantee is about the average over gates, not about one of them, and it is weaker for a "
            "configuration that is far noisier than the baseline."
        )
    if summary.hypotheses:
        yield "Gains of the screen come from one or two seeds and are selected: they overstate what was kept."
    if any(row.verdict is Verdict.KEEP for row in summary.hypotheses) and summary.rule == "gate":
        yield "Kept hypotheses are provisional until their round has passed the gate."
    if forecasts(summary):
        yield (
            "Scores of predictions take them as independent; those of one search are not quite, so their intervals are "
            "somewhat too narrow."
        )
    counts = wording.count_trials(summary)
    if counts.void or counts.lost:
        yield f"{counts.void} void and {counts.lost} lost trials do not count; they say nothing about a hypothesis."


def _flat(data: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _cut(str(value), 500)


def _sortable(value: float | None) -> str:
    return f"{value:.6g}" if value is not None and math.isfinite(value) else ""


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
