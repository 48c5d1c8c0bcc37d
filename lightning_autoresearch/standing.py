"""Where a study stands, in words: the search space as a table, forecasts scored, open questions, the last failure.

The parts of a prompt that change with every round.  Pure functions of a briefing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from lightning_autoresearch import codec
from lightning_autoresearch.history import (
    KeyRecord,
    Tone,
    change_of,
    domain_text,
    gate_text,
    has_failed,
    value_text,
)
from lightning_autoresearch.hypothesis import SAMPLER, Briefing
from lightning_autoresearch.scoring import Scores, forecasts_of, score
from lightning_autoresearch.space import Categorical, Domain
from lightning_autoresearch.voice import Voice, cut_lines, filled
from lightning_autoresearch.wording import plural

LATELY = 30
"""Hypotheses of the scientist that count as stated lately."""
LEAN = 0.02
"""Distance from a bound, as a share of the domain, at which a value leans on it."""
MOST_NAMED = 8
"""Keys that are named in one sentence."""
TABLE_SHARE = 0.75
"""Part of the room that the table of the search space takes before it is shortened."""
FEWEST_SCORED = 5
"""Forecasts from which on their scores are told."""
FRESH_ROUNDS = 2
"""Rounds for which the last failure is told at length; its line stays in the history."""
NEAR_MISS = 3.0
"""Evidence of a gate that did not pass from which on it is worth being named."""


def space_table(
    briefing: Briefing, records: Mapping[str, KeyRecord], *, room: int, tone: Tone, in_words: bool = False
) -> str:
    """The search space as a table: domains, and the record of tests as it fits.

    A domain stands there as JSON, as an op has to write it, or always in fewer words: never now so, now so.

    Keys that were taken out of it follow: the branch still has a value of them, not always the one of revision 0.
    """
    text = ""
    keys = dict.fromkeys([*briefing.space, *briefing.branch])
    for shape in ("full", "brief", "bare"):
        rows = [_row(key, briefing, records.get(key), shape=shape, tone=tone, in_words=in_words) for key in keys]
        text = "\n".join(rows)
        if len(text) <= TABLE_SHARE * room:
            return text
    return cut_lines(text, room=room, rest="further keys of the search space")


def _row(key: str, briefing: Briefing, record: KeyRecord | None, *, shape: str, tone: Tone, in_words: bool) -> str:
    name, domain = tone.names.get(key, key), briefing.space.domains.get(key)
    branch, incumbent = (value_text(values.get(key)) for values in (briefing.branch, briefing.incumbent))
    now = branch if branch == incumbent else f"{branch} ({incumbent})"
    if domain is None:
        shown = "not in the search space"
    else:
        shown = domain_text(domain) if in_words else _as_json(domain)
    if shape == "bare":
        return f"{name} | {shown} | {now}"
    return f"{name} | {shown} | {now} | {_record_text(record, tone, brief=shape == 'brief')}"


def _as_json(domain: Domain) -> str:
    """As a spec writes it."""
    data = {name: value for name, value in codec.to_json(domain).items() if value != "linear"}
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


def _record_text(record: KeyRecord | None, tone: Tone, *, brief: bool) -> str:
    if record is None:
        return "never tested"
    failed = f", {record.failed} failed" if record.failed else ""
    passed = f", {record.passed} through a gate" if record.passed else ""
    text = f"{plural(record.tests, 'test')}, {record.kept} kept{passed}{failed}"
    measured = [one for one in record.alone if one.gain is not None]
    if brief or not measured:
        return text
    best = max(measured, key=lambda one: one.gain or 0.0)
    return f"{text}; alone best {tone.gain(best.gain or 0.0)} ({value_text(best.before)}->{value_text(best.value)})"


def stagnation(briefing: Briefing, untested: Sequence[str], tone: Tone) -> str:
    """The instruction to change the kind of idea, with the gate that came nearest."""
    mine = [one.hypothesis.kind for one in briefing.findings if one.hypothesis.source != SAMPLER]
    kinds = ", ".join(f"{kind} {count}x" for kind, count in Counter(mine[-LATELY:]).most_common())
    keys = ", ".join(tone.names.get(key, key) for key in untested[:MOST_NAMED])
    return filled(
        "stagnation.md",
        rounds=str(briefing.stale_rounds),
        kinds=kinds or "none",
        keys=keys or "none, all were",
        nearest=_nearest(briefing, tone),
    ).rstrip("\n")


def _nearest(briefing: Briefing, tone: Tone) -> str:
    """The gate of the stale rounds that came nearest, in a sentence; empty where none came near."""
    missed = [
        gate
        for gate in briefing.gates
        if gate.round >= briefing.round - briefing.stale_rounds and not gate.promoted and gate.evidence is not None
    ]
    best = max(missed, key=lambda gate: gate.evidence.e_value if gate.evidence else 0.0, default=None)
    if best is None or best.evidence is None or best.evidence.e_value < NEAR_MISS:
        return ""
    return (
        f" The gate of round {best.round} came nearest ({' '.join(best.hypotheses)}: {gate_text(best, tone)}): there "
        "may be a small real gain in it, worth stating again together with something that adds to it."
    )


def forecasts_text(briefing: Briefing) -> str:
    """How right the forecasts were, in numbers."""
    forecasts = forecasts_of(briefing.findings)
    mine = score(one for one in forecasts if one.source != SAMPLER)
    others = score(one for one in forecasts if one.source == SAMPLER)
    if mine is None or mine.count < FEWEST_SCORED:
        return ""
    stated = sum(one.count * one.probability for one in mine.bins) / mine.count
    kept = mine.keeps / mine.count
    text = (
        f"{mine.count} scored: you stated {stated:.2f} on average, {kept:.2f} were kept. Brier score {mine.brier:.3f} "
        f"(lower is better); always stating {kept:.2f} would have scored {mine.brier_chance:.3f}"
    )
    if mine.coverage is not None:
        text += f". {mine.coverage.value:.0%} of {mine.intervals} intervals held the measured gain, 80 % should"
    if others is not None and others.count >= FEWEST_SCORED:
        text += f". The sampler's Brier score on its own hypotheses: {others.brier:.3f}"
    return f"{text}.{_advice(mine, stated - kept)}"


def _advice(scores: Scores, excess: float) -> str:
    """What to mend, where that is clear."""
    parts = []
    if scores.count >= 10 and abs(excess) > 0.1:
        parts.append(f"State {'lower' if excess > 0 else 'higher'} probabilities.")
    if scores.coverage is not None and not scores.coverage.low <= 0.8 <= scores.coverage.high:
        parts.append(f"State {'wider' if scores.coverage.value < 0.8 else 'narrower'} intervals.")
    return "".join(f" {part}" for part in parts)


def open_questions(briefing: Briefing, untested: Sequence[str], tone: Tone) -> str:
    """Open questions: keys never tested, bounds that the branch leans on."""
    lines = []
    for title, inside in (("Never tested", True), ("Not in the search space and never tested", False)):
        names = [tone.names.get(key, key) for key in untested if (key in briefing.space) is inside]
        if names:
            rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            lines.append(f"{title}: {', '.join(names[:MOST_NAMED])}{rest}.")
    leaning = [
        f"{tone.names.get(key, key)} at its {end} bound" for key in briefing.space if (end := _leaning(briefing, key))
    ]
    if leaning:
        lines.append(f"The branch leans on a bound: {', '.join(leaning[:MOST_NAMED])}.")
    return "\n".join(lines)


def _leaning(briefing: Briefing, key: str) -> str:
    """`lower` or `upper` where the branch's value, moved there from the start, lies at a bound; else empty."""
    domain, value = briefing.space[key], briefing.branch.get(key)
    if isinstance(domain, Categorical) or isinstance(value, (bool, str)) or value is None:
        return ""
    if value == briefing.base.get(key) or (domain.scale == "log" and (value <= 0 or domain.low <= 0)):
        return ""
    if value == domain.low == 0:  # hardly any number of a training may be negative
        return ""
    position = domain.to_unit(value)
    return "lower" if position <= LEAN else "upper" if position >= 1 - LEAN else ""


def last_failure(briefing: Briefing, voice: Voice, tone: Tone, *, most: int) -> str:
    """The newest failure: what was changed, how it ended, the last 10 lines in at most so many characters."""
    last = next((one for one in reversed(briefing.findings) if has_failed(one)), None)
    if last is None or last.round <= briefing.round - FRESH_ROUNDS:
        return ""
    lines = last.failure.strip().splitlines()
    told = "\n".join([*lines[:1], *lines[1:][-10:]])
    text = f"{last.hypothesis.id} r{last.round}: {change_of(last, tone)} ended as {last.status.value}"
    return text + (f": {voice.quote(told, most)}" if told else "")


def newest_lines(earlier: Sequence[str], *, room: int) -> str:
    """The newest lines that the history no longer holds as such, as many as fit, oldest first."""
    title = "## Earlier results again, newest last"
    left, count = room - len(title), 0
    for line in reversed(earlier):
        left -= len(line) + 1
        if left < 0:
            break
        count += 1
    return "\n".join((title, *earlier[-count:])) if count else ""
