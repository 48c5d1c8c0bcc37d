"""The history of a study in few words: what was tested, what came of it, and what stays known of it for ever.

A history is told so that it grows at its end and stays within a fixed length, for a prompt whose beginning a server has
cached.  It is a fold over the events (tested hypotheses, edits of the search space, and gates at the end of their
rounds) with three levels:

    digest     everything up to some event: gains by key and region, by kind, promotions, and the most telling lines
    summaries  a few words for each full block of lines after it
    lines      the newest block, one line per event

A full block becomes a summary as a whole.  When there is no room for a further summary, everything goes into a new
digest, which is rare.  As long as all lines fit, there are lines alone.  What the digest says of a key is counted over
all events, so that a refuted idea is never forgotten, however long ago it was tested.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lightning_autoresearch.hypothesis import SAMPLER, Briefing, Finding, GateFinding, SpaceEdit, SpaceFinding
from lightning_autoresearch.space import Categorical, Domain, Integer, Value
from lightning_autoresearch.trial import INFRASTRUCTURE, TrialStatus
from lightning_autoresearch.wording import number_short, plain_value, plural

FAILURE_CHARACTERS = 90
"""Length at which the reason of a failure is cut in a line."""
LINE_CHARACTERS = 240
"""Length at which a line is cut."""
VALUE_CHARACTERS = 48
"""Length at which a value is cut."""
MOST_REGIONS = 5
"""Regions of a key's values that are told apart."""
KEYS_SHARE = 0.5
"""Largest part of the digest for what is known by key."""
TELLING_SHARES = (0.3, 0.25, 0.15)
"""Parts of the digest's remaining room for the best kept, the most surprising, and the failed; the newest get the
rest."""

Event: TypeAlias = Finding | SpaceFinding | GateFinding
"""What a history is made of."""

_WORD = re.compile(r"[\w.:+-]+")
_SAYS_NOTHING = INFRASTRUCTURE | {TrialStatus.CANCELLED}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rooms:
    """Lengths in characters."""

    digest: int
    """Of the digest."""
    summaries: int
    """Of all summaries together."""
    summary: int
    """Of one summary."""
    block: int
    """Of the lines that follow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tone:
    """How things are said; must not change over a study."""

    names: Mapping[str, str]
    """Short names of keys."""
    sd: float | None
    """Noise of a gain as calibrated; null where it is not known."""
    places: int | None
    """Decimals of a gain; null means three significant digits."""
    say: Callable[[str, int], str]
    """Makes the sentence of a decision fit to be shown, in at most so many characters."""

    def gain(self, value: float) -> str:
        """A gain with its sign: `+0.012`."""
        text = f"{value:+.3g}" if self.places is None else f"{value:+.{self.places}f}"
        return text if text.strip("+-0.") else text[1:]


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """A history as told."""

    text: str
    """What grows at its end."""
    lines_at: int
    """Where the lines of the newest block begin in it."""
    earlier: tuple[str, ...]
    """Lines that no longer stand in the text as such, oldest first: the newest of them are worth repeating."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where the levels begin and end, as numbers of events."""

    digested: int = 0
    """Events in the digest."""
    ends: tuple[int, ...] = ()
    """End of each summarised block."""

    @property
    def lines_from(self) -> int:
        """The first event that stands there as a line."""
        return self.ends[-1] if self.ends else self.digested


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that was tried with nothing else changed."""

    value: Value
    """The value."""
    gain: float | None
    """Measured gain, positive is better; null where there is none."""
    kept: bool
    """Whether the screen kept it."""
    before: Value = None
    """The branch's value, which the gain is relative to."""

    @property
    def is_number(self) -> bool:
        """Whether the value has an order."""
        return isinstance(self.value, (int, float)) and not isinstance(self.value, bool)


@dataclass(kw_only=True, slots=True)
class KeyRecord:
    """What the tests of one key came to."""

    tests: int = 0
    """Decided hypotheses that changed it."""
    kept: int = 0
    """How many of them were kept."""
    failed: int = 0
    """How many failed to train."""
    passed: int = 0
    """How many of the kept then passed a gate."""
    alone: list[Setting] = field(default_factory=list)
    """The values of hypotheses that changed nothing else."""


# ---------------------------------------------------------------------------------------------------------- the telling
def tell(briefing: Briefing, *, rooms: Rooms, tone: Tone) -> History:
    """The history of a briefing.  The same findings and gates give the same text; later ones are added at its end."""
    events = events_of(briefing)
    lines = [line_of(event, tone) for event in events]
    layout = laid_out([len(line) + 1 for line in lines], rooms)
    parts = [digest(events[: layout.digested], lines, room=rooms.digest, tone=tone)] if layout.digested else []
    start = layout.digested
    for end in layout.ends:
        parts.append(summary(events[start:end], room=rooms.summary, tone=tone))
        start = end
    told, newest = ("".join(f"{part}\n" for part in some) for some in (parts, lines[start:]))
    return History(text=told + newest, lines_at=len(told), earlier=tuple(lines[:start]))


def events_of(briefing: Briefing) -> list[Event]:
    """What happened, in order: edits of the search space before what was tested in it, a round's gates at its end."""
    placed: list[tuple[tuple[int, int, int, int], Event]] = [
        *(((one.round, 0, index, 1), one) for index, one in enumerate(briefing.findings)),
        *(((one.round, 0, one.after, 0), one) for one in briefing.reshapes),
        *(((one.round, 1, index, 0), one) for index, one in enumerate(briefing.gates)),
    ]
    return [event for _, event in sorted(placed, key=lambda one: one[0])]


def laid_out(lengths: Iterable[int], rooms: Rooms) -> Layout:
    """Where the levels begin and end, by the lengths of all lines so far."""
    digested, size, ends = 0, 0, []
    for index, length in enumerate(lengths):
        if digested == 0:
            if size + length > rooms.digest + rooms.summaries + rooms.block:
                digested, size = index, 0
        elif size + length > rooms.block:
            ends.append(index)
            size = 0
            if len(ends) * rooms.summary > rooms.summaries:
                digested, ends = index, []
        size += length
    return Layout(digested=digested, ends=tuple(ends))


# ------------------------------------------------------------------------------------------------------------- one line
def line_of(event: Event, tone: Tone) -> str:
    """One event in one line."""
    if isinstance(event, GateFinding):
        text = _gate_line(event, tone)
    else:
        text = _finding_line(event, tone) if isinstance(event, Finding) else _space_line(event, tone)
    return text if len(text) <= LINE_CHARACTERS else f"{text[: LINE_CHARACTERS - 3]}..."


def change_of(finding: Finding, tone: Tone) -> str:
    """What a hypothesis changed: `lr 0.003->0.006, depth 2->3`."""
    return ", ".join(
        f"{tone.names.get(key, key)} {value_text(finding.before.get(key))}->{value_text(value)}"
        for key, value in finding.hypothesis.overrides.items()
    )


def value_text(value: Value) -> str:
    """A value in few characters; text with anything but letters, digits and a few signs in quotes."""
    text = plain_value(value)
    if isinstance(value, str) and not _WORD.fullmatch(value):
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_CHARACTERS else f"{text[: VALUE_CHARACTERS - 3]}..."


def is_decided(finding: Finding) -> bool:
    """Whether the finding says anything about its hypothesis."""
    return finding.kept or not (finding.void or finding.status in _SAYS_NOTHING)


def has_failed(finding: Finding) -> bool:
    """Whether its training failed, by the hypothesis' own fault."""
    return is_decided(finding) and finding.status is not TrialStatus.FINISHED


def outcome_of(finding: Finding, tone: Tone) -> str:
    """What came of it: `+0.012 kept`."""
    if not is_decided(finding):
        return f"void, may be stated again: {finding.why or finding.status.value.replace('_', ' ')}"
    if finding.status is not TrialStatus.FINISHED:
        first = finding.failure.partition("\n")[0]
        return f"failed: {finding.status.value}" + (f" {tone.say(first, FAILURE_CHARACTERS)}" if first else "")
    if finding.gain is None:
        return "dropped: a guard's bound is broken"
    why = finding.why or ("worse on the second seed" if finding.gain > 0 else "")
    once = " x1" if finding.seeds == 1 else ""
    return f"{tone.gain(finding.gain)}{once} " + ("kept" if finding.kept else f"dropped{f': {why}' if why else ''}")


def _finding_line(finding: Finding, tone: Tone) -> str:
    stated, told = finding.hypothesis, finding.hypothesis.prediction
    who = SAMPLER if stated.source == SAMPLER else "you"
    kind = "" if stated.kind == "value" else f" {stated.kind}"
    held = ""
    if finding.gain is not None and told.low is not None and told.high is not None:
        held = " in" if told.low <= finding.gain <= told.high else " out"
    seconds = seconds_text(finding.train_seconds)
    return (
        f"{stated.id} r{finding.round} {who}{kind}: {change_of(finding, tone)} | {outcome_of(finding, tone)} | "
        f"said {tone.gain(told.gain)} p {told.probability:.2f}{held} | {seconds}"
    )


def seconds_text(seconds: float) -> str:
    """`12 s`, `0.4 s`."""
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _gate_line(gate: GateFinding, tone: Tone) -> str:
    verdict = "PASSED" if gate.promoted else "not passed"
    told = " ".join(gate.hypotheses[:8]) + (" and others" if len(gate.hypotheses) > 8 else "")
    return f"gate r{gate.round} at {gate.scale}: {told or 'nothing'} {verdict}: {gate_text(gate, tone)}"


def gate_text(gate: GateFinding, tone: Tone) -> str:
    """What a gate found: `+0.038 over 8 pairs (95 % -0.005 to +0.082), evidence 20.3 of 93 needed`."""
    evidence, threshold = gate.evidence, gate.threshold
    if evidence is None or threshold is None or gate.promoted != (evidence.e_value >= threshold):
        return tone.say(gate.sentence, 100)
    text = f"{tone.gain(evidence.mean)} over {plural(evidence.pairs, 'pair')}"
    if math.isfinite(evidence.low) and math.isfinite(evidence.high):
        text += f" ({100 * evidence.level:g} % {tone.gain(evidence.low)} to {tone.gain(evidence.high)})"
    return f"{text}, evidence {number_short(evidence.e_value)} of {number_short(threshold)} needed"


def _space_line(event: SpaceFinding, tone: Tone) -> str:
    who = SAMPLER if all(edit.source == SAMPLER for edit in event.edits) else "you"
    told = ", ".join(_edit_text(edit, tone) for edit in event.edits)
    return f"search space r{event.round} {who}: {told}"


def _edit_text(edit: SpaceEdit, tone: Tone) -> str:
    name = tone.names.get(edit.key, edit.key)
    if edit.domain is None:
        return f"{name} removed"
    return f"{name} {'added as' if edit.op == 'add' else 'now'} {domain_text(edit.domain)}"


def domain_text(domain: Domain) -> str:
    """A domain in few characters."""
    if isinstance(domain, Categorical):
        return "/".join(map(value_text, domain.choices))
    return f"{'int' if isinstance(domain, Integer) else 'float'} {domain}"


# ------------------------------------------------------------------------------------------------------------ summaries
def summary(events: Sequence[Event], *, room: int, tone: Tone) -> str:
    """A block of events in a few words, at most `room` characters."""
    findings = [event for event in events if isinstance(event, Finding)]
    passed = [event for event in events if isinstance(event, GateFinding) and event.promoted]
    parts = [*_passed(passed), *_kept(findings, tone), *_dropped(findings, tone)]
    failed = sum(map(has_failed, findings))
    return _joined(f"{_span(events)}{failed} failed." if failed else _span(events).rstrip(), parts, room=room)


def _span(events: Sequence[Event]) -> str:
    ids = [event.hypothesis.id for event in events if isinstance(event, Finding)]
    return f"[{ids[0]} to {ids[-1]}] " if ids else f"[round {events[0].round}] "


def _tally(findings: Sequence[Finding]) -> str:
    failed = sum(map(has_failed, findings))
    return f"{len(findings)} tested, {sum(one.kept for one in findings)} kept" + (
        f", {failed} failed" if failed else ""
    )


def _passed(gates: Sequence[GateFinding]) -> Iterator[str]:
    for gate in gates:
        yield f" Gate r{gate.round} at {gate.scale} passed: {' '.join(gate.hypotheses[:6])}."


def _kept(findings: Sequence[Finding], tone: Tone) -> Iterator[str]:
    kept = [one for one in findings if one.kept and one.gain is not None]
    for one in sorted(kept, key=lambda one: -(one.gain or 0.0))[:2]:
        yield f" Kept {change_of(one, tone)} {tone.gain(one.gain or 0.0)}."


def _dropped(findings: Sequence[Finding], tone: Tone) -> Iterator[str]:
    """How often each key was changed in vain."""
    counts = Counter(
        tone.names.get(key, key)
        for one in findings
        if is_decided(one) and not one.kept
        for key in one.hypothesis.overrides
    )
    if counts:
        yield " In vain " + ", ".join(f"{name} {count}x" for name, count in counts.most_common(3)) + "."


def _joined(text: str, parts: Iterable[str], *, room: int) -> str:
    """The text with as many of the parts as fit, in order."""
    for part in parts:
        if len(text) + len(part) <= room:
            text += part
    return text[:room]


# --------------------------------------------------------------------------------------------------------------- by key
def records_of(findings: Iterable[Finding], gates: Iterable[GateFinding] = ()) -> dict[str, KeyRecord]:
    """What the tests of each key came to."""
    records: dict[str, KeyRecord] = defaultdict(KeyRecord)
    passed = {name for gate in gates if gate.promoted for name in gate.hypotheses}
    for finding in filter(is_decided, findings):
        failed = finding.status is not TrialStatus.FINISHED
        overrides = finding.hypothesis.overrides
        for key, value in overrides.items():
            record = records[key]
            record.tests += 1
            record.kept += finding.kept
            record.failed += failed
            record.passed += finding.hypothesis.id in passed
            if len(overrides) == 1:
                record.alone.append(Setting(value, finding.gain, finding.kept, finding.before.get(key)))
    return dict(records)


def key_text(key: str, record: KeyRecord, *, regions: int, tone: Tone) -> str:
    """`lr: 9 tests, 2 kept, 1 failed; alone 0.0001 to 0.001: 4x -0.41 to -0.02, 0 kept; 0.002 to 0.004: ...`."""
    failed = f", {record.failed} failed" if record.failed else ""
    text = f"{tone.names.get(key, key)}: {plural(record.tests, 'test')}, {record.kept} kept{failed}"
    told = [_region_text(group, tone) for group in regions_of(record.alone, most=regions)] if regions else []
    return text + (f"; set alone to {'; '.join(told)}" if told else "")


def regions_of(tests: Sequence[Setting], *, most: int) -> list[list[Setting]]:
    """Tests in groups of neighbouring values: about equally large ones of numbers, one for each other value."""
    named: dict[str, list[Setting]] = defaultdict(list)
    for one in tests:
        if not one.is_number:
            named[value_text(one.value)].append(one)
    numeric = [one for one in tests if one.is_number]
    values = sorted({one.value for one in numeric})  # type: ignore[type-var]
    count = min(most, len(values))
    place = {value: index * count // len(values) for index, value in enumerate(values)}
    groups: list[list[Setting]] = [[] for _ in range(count)]
    for one in numeric:
        groups[place[one.value]].append(one)
    return [*groups, *sorted(named.values(), key=len, reverse=True)[:most]]


def _region_text(group: Sequence[Setting], tone: Tone) -> str:
    gains = [one.gain for one in group if one.gain is not None]
    values = [one.value for one in group]
    ends = [value_text(values[0])]
    if group[0].is_number:
        ends = list(dict.fromkeys([value_text(min(values)), value_text(max(values))]))  # type: ignore[type-var]
    ranged = list(dict.fromkeys(tone.gain(gain) for gain in (min(gains), max(gains)))) if gains else []
    spread = f"gain {' to '.join(ranged)}" if ranged else "no gain measured"
    return f"{' to '.join(ends)} ({len(group)}x, {spread}, {sum(one.kept for one in group)} kept)"


# ----------------------------------------------------------------------------------------------------------- the digest
def digest(events: Sequence[Event], lines: Sequence[str], *, room: int, tone: Tone) -> str:
    """Everything up to some event in at most `room` characters, filled with the most telling lines.

    Args:
        events: the events.
        lines: their lines, and further ones.
        room: characters.
        tone: how things are said.
    """
    findings = [event for event in events if isinstance(event, Finding)]
    text = _joined(
        f"## Digest of {_span(events)}{_tally(findings)}.",
        [f"\n{line}" for line in (*_gates_told(events), _kinds(findings), *_keys(findings, room, tone))],
        room=room,
    )
    title = "\nThe most telling lines among them:"
    picked = _telling(events, lines, room=room - len(text) - len(title))
    return text + title + "".join(f"\n{lines[index]}" for index in picked) if picked else text


def _gates_told(events: Sequence[Event]) -> Iterator[str]:
    gates = [event for event in events if isinstance(event, GateFinding)]
    passed = [gate for gate in gates if gate.promoted]
    if gates:
        yield f"Gates: {len(passed)} of {len(gates)} passed." + "".join(_passed(passed[-6:]))


def _kinds(findings: Sequence[Finding]) -> str:
    tested = Counter(one.hypothesis.kind for one in findings if is_decided(one))
    kept = Counter(one.hypothesis.kind for one in findings if one.kept)
    return "By kind: " + ", ".join(f"{kind} {count} tested, {kept[kind]} kept" for kind, count in tested.most_common())


def _keys(findings: Sequence[Finding], room: int, tone: Tone) -> list[str]:
    """What is known by key, with as many regions as fit."""
    records = records_of(findings)
    for regions in range(MOST_REGIONS, -1, -1):
        told = [key_text(key, record, regions=regions, tone=tone) for key, record in records.items()]
        if sum(len(line) + 1 for line in told) <= KEYS_SHARE * room:
            break
    return told


def _telling(events: Sequence[Event], lines: Sequence[str], *, room: int) -> list[int]:
    """The numbers of the events whose lines tell most, in order, as many as fit."""
    findings = [(index, event) for index, event in enumerate(events) if isinstance(event, Finding)]
    pools = [
        sorted((pair for pair in findings if pair[1].kept), key=lambda pair: (-(pair[1].gain or 0.0), -pair[0])),
        sorted((pair for pair in findings if is_decided(pair[1])), key=lambda pair: (-_surprise(pair[1]), -pair[0])),
        [pair for pair in reversed(findings) if has_failed(pair[1])],
        list(reversed(findings)),
    ]
    picked: set[int] = set()
    left = room
    for pool, share in zip(pools, (*TELLING_SHARES, 1.0), strict=True):
        most = room * share
        for index, _ in pool:
            length = len(lines[index]) + 1
            if length > min(left, most):
                break
            if index not in picked:
                picked.add(index)
                left, most = left - length, most - length
    return sorted(picked)


def _surprise(finding: Finding) -> float:
    """How far the stated probability was off."""
    return abs(finding.hypothesis.prediction.probability - finding.kept)
