"""What the scientist is told: a briefing as messages.

The system message holds the rules and the schema of the reply, and never changes over a study.  The user's message is
the study (which does not change either), its history, which grows at its end, and the state of things now.  So the
prompt of a round begins with nearly all of the prompt of the round before, which servers have cached.

    system   rules, examples, schema        | the same
    user     study: goal, keys, task, notes | over the whole study
             history: digest, summaries, lines (see `history`)
             now: search space, forecasts, failures, what is asked; the newest results again

The whole is at most `scientist.prompt_characters` long, and about equally long from the time on when the history no
longer fits in full.  Texts that are not ours (documentation, the task, notes, failures, statements) go in as JSON
strings of limited length, without control characters, secrets and the names of hidden metrics.

Pure functions of their arguments; the wording lies in `prompts/*.md`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_autoresearch.chat import ChatMessage
from lightning_autoresearch.classes import ClassText
from lightning_autoresearch.history import (
    KeyRecord,
    Rooms,
    Tone,
    records_of,
    tell,
    value_text,
)
from lightning_autoresearch.hypothesis import Briefing
from lightning_autoresearch.knobs import Knob
from lightning_autoresearch.literature import Library, Passage
from lightning_autoresearch.redaction import plain, redact
from lightning_autoresearch.spec import Spec
from lightning_autoresearch.standing import (
    forecasts_text,
    last_failure,
    newest_lines,
    open_questions,
    space_table,
    stagnation,
)
from lightning_autoresearch.voice import Voice, cut_lines, filled, json_text, wording_of
from lightning_autoresearch.wording import decimals, number, number_short, plural, short_names

DEFAULT_CHARACTERS = 40_000
"""Length of a prompt where the spec names none."""
FULL_CHARACTERS = 16_000
"""Shorter prompts do without the schema, the examples of ops and notes on open questions."""
SCHEMA_SHARE = 0.2
"""Part of the prompt that the schema may take with its list of pointers."""
DIGEST_SHARE = 0.25
"""Part of the prompt, and at most of what the rules leave of it, for the history's digest."""
SHORT_DIGEST_SHARE = 0.08
"""The same for a short prompt, of what the rules leave."""
NOTES_SHARE = 0.1
"""Part of the prompt for research notes on the goal."""
SUMMARIES_SHARE = 0.08
"""Part of the whole that the history's summaries may grow to; by so much a prompt shrinks when they are digested."""
SHORT_SUMMARIES_SHARE = 0.03
"""The same for a short prompt."""
SUMMARY_SHARE = 0.004
"""Part of the whole for one of them."""
BLOCK_SHARE = 0.035
"""Part of the whole for the history's newest lines."""
NOW_SHARE = 0.085
"""Part of the whole for what stands after the history."""
LEAST_CLASS = 240
"""Fewest characters that are worth being filled with a class."""
LEAST_KEYS = 2000
"""Fewest characters for the table of keys, where there are as many."""
MOST_TASK_CHARACTERS = 4000
"""Length above which the task is left out; what may be edited of it stands in the table of keys."""
MOST_SCALE_CHARACTERS = 200
"""Length at which the settings of a scale are cut."""
LEAST_NOW = 1400
"""Fewest characters for both of these."""
QUOTE_CHARACTERS = 600
"""Length at which a quotation is cut."""
OPEN_QUOTE_CHARACTERS = 300
"""The same for one on an open question."""
FAULTS_CHARACTERS = 6000
"""Largest length of the faults that are sent back with a reply."""
FAILURE_CHARACTERS = (900, 400, 200)
"""Lengths of the last failure's text, the first that fits."""
REFUSAL_CHARACTERS = 160
"""Length at which a refusal is cut."""
STALE_ROUNDS = 2
"""Rounds without a promotion after which another kind of idea is asked for."""
DIGITS = 3.0
"""A gain's last digit resolves the noise divided by this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dossier:
    """What is known before the first round, and does not change over a study."""

    spec: Spec
    """The spec of revision 0."""
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    """What may be edited."""
    classes: tuple[ClassText, ...] = ()
    """Classes of the task, and those that may take their place."""
    library: Library | None = None
    """The research notes; null where there are none."""
    secrets: Collection[str] = ()
    """Texts that may not be shown, for example values of environment variables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What stays the same over a study, and the room that is left."""

    system: str
    """The system message."""
    study: str
    """The beginning of the user's message."""
    rooms: Rooms
    """Room of the history."""
    after: int
    """Characters for the newest block of lines together with all that follows it."""


def messages(dossier: Dossier, briefing: Briefing, *, schema: Mapping[str, Any]) -> tuple[ChatMessage, ...]:
    """The prompt: one system and one user message, the same for the same arguments, byte for byte.

    Args:
        dossier: what does not change.
        briefing: what has come of it so far.
        schema: JSON Schema of the reply; it has to stay the same over a study.
    """
    voice = Voice(dossier.spec, secrets=dossier.secrets)
    tone = _tone(dossier, briefing, voice)
    plan = _plan(dossier, briefing, schema=schema, voice=voice, tone=tone)
    history = tell(briefing, rooms=plan.rooms, tone=tone)
    standing = f"{plan.study}\n{history.text}\n"
    held = len(history.text) - history.lines_at if history.earlier else plan.rooms.block
    now = _now(dossier, briefing, room=plan.after - held, earlier=history.earlier, voice=voice, tone=tone)
    return ChatMessage(role="system", content=plan.system), ChatMessage(role="user", content=standing + now)


def mend_message(faults: Sequence[str]) -> ChatMessage:
    """What goes back with a reply that breaks rules: every fault as a quoted text, the first ones if there are many."""
    lines: list[str] = []
    left = FAULTS_CHARACTERS
    for count, fault in enumerate(faults):
        line = f"- {json_text(plain(redact(fault), most=400))}"
        if len(line) > left:
            lines.append(f"- and {plural(len(faults) - count, 'further fault')}")
            break
        lines.append(line)
        left -= len(line)
    return ChatMessage(role="user", content=filled("mend.md", faults="\n".join(lines)))


def quotes(dossier: Dossier, briefing: Briefing) -> tuple[Passage, ...]:
    """The passages of the research notes that stand in the prompt: on the goal, then on open questions."""
    voice = Voice(dossier.spec, secrets=dossier.secrets)
    untested = _untested(dossier, briefing, records_of(briefing.findings))
    return (*_goal_quotes(dossier, voice), *_open_quotes(dossier, untested, voice))


# --------------------------------------------------------------------------------------------------- what never changes
def _plan(dossier: Dossier, briefing: Briefing, *, schema: Mapping[str, Any], voice: Voice, tone: Tone) -> Plan:
    characters = _characters(dossier)
    system = _system(schema, characters=characters)
    rest = characters - len(system)
    is_full = characters >= FULL_CHARACTERS
    digest = int(min(DIGEST_SHARE * characters, (DIGEST_SHARE if is_full else SHORT_DIGEST_SHARE) * rest))
    summaries = SUMMARIES_SHARE if is_full else SHORT_SUMMARIES_SHARE
    after = max((BLOCK_SHARE + NOW_SHARE) * characters, LEAST_NOW)
    study = _study(dossier, room=int(rest - digest - after - summaries * characters) - 8, voice=voice, tone=tone)
    whole = (len(system) + len(study) + digest) / (1 - summaries - BLOCK_SHARE - NOW_SHARE)
    whole = min(whole, characters)
    rooms = Rooms(
        digest=digest,
        summaries=int(summaries * whole),
        summary=max(110, int(SUMMARY_SHARE * whole)),
        block=int(BLOCK_SHARE * whole),
    )
    after = max((BLOCK_SHARE + NOW_SHARE) * whole, LEAST_NOW)
    return Plan(system=system, study=study, rooms=rooms, after=int(after))


def _characters(dossier: Dossier) -> int:
    return dossier.spec.scientist.prompt_characters if dossier.spec.scientist else DEFAULT_CHARACTERS


def _system(schema: Mapping[str, Any], *, characters: int) -> str:
    if characters < FULL_CHARACTERS:
        return f"{wording_of('rules.md')}\n{wording_of('reply.md')}"
    text = _schema_text(schema, most=int(SCHEMA_SHARE * characters))
    files = map(wording_of, ("rules.md", "advice.md", "reply.md", "ops.md"))
    return "\n".join((*files, f"# JSON Schema of the reply\n{text}\n"))


def _schema_text(schema: Mapping[str, Any], *, most: int) -> str:
    """The schema in few characters; without long lists of allowed values where it would be too long."""
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    if len(text) <= most:
        return text
    return json.dumps(_without_long_lists(schema), ensure_ascii=False, separators=(",", ":"))[:most]


def _without_long_lists(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_long_lists(one) for one in node]
    if not isinstance(node, Mapping):
        return node
    kept = {key: _without_long_lists(value) for key, value in node.items()}
    if isinstance(node.get("enum"), list) and len(node["enum"]) > 12:
        kept.pop("enum")
        kept["description"] = f"one of {len(node['enum'])} pointers, made from the keys that may be edited"
    return kept


def _study(dossier: Dossier, *, room: int, voice: Voice, tone: Tone) -> str:
    """The study in at most `room` characters: keys and notes first, the task and its classes as far as they fit."""
    facts = _facts(dossier, voice=voice, tone=tone)
    notes = "\n".join(_note(passage, voice, QUOTE_CHARACTERS) for passage in _goal_quotes(dossier, voice))
    parts = [f"\n## Research notes, best match with the goal first\n{notes}\n"] if notes else []
    left = room - len(filled("study.md", **facts, knobs="", sections="".join(parts)))
    knobs = _knobs(dossier, room=max(int(0.6 * left), min(left, LEAST_KEYS)), voice=voice)
    left -= len(knobs)
    title = "\n## The task in revision 0\n"
    task = voice.tree(dossier.spec.task)
    if len(title) + len(task) + 1 <= min(left, MOST_TASK_CHARACTERS):
        parts.append(f"{title}{task}\n")
        left -= len(parts[-1])
    title = "\n## The classes of the task, from their source\n"
    if classes := _classes(dossier, room=left - len(title) - 1, voice=voice):
        parts.append(f"{title}{classes}\n")
    return filled("study.md", **facts, knobs=knobs, sections="".join(parts))


def _facts(dossier: Dossier, *, voice: Voice, tone: Tone) -> dict[str, str]:
    spec = dossier.spec
    policy = spec.policy
    direction = "lower" if spec.objective.mode == "min" else "higher"
    read = {"last": "its last value in a run counts", "best": "its best value in a run counts"}
    classes = f"; classes may be switched to {', '.join(policy.allowed_classes)}" if policy.allowed_classes else ""
    return {
        "goal": voice.quote(spec.goal or f"make {spec.objective.metric} {direction}", 600),
        "objective": f"{spec.objective.metric}, {direction} is better; "
        + read.get(str(spec.objective.read), f"the mean of its last {spec.objective.read} values counts"),
        "guards": _guards(spec),
        "scales": _scales(spec, voice),
        "decision": _decision(spec),
        "limits": f"a hypothesis changes at most {plural(policy.max_changes, 'key')}, a positive number by at most a "
        f"factor of {policy.max_factor:g}, 0 is free both ways{classes}; seeds, scales, objective, guards, budget and "
        "these limits are out of reach",
        "noise": _noise(spec, tone),
    }


def _guards(spec: Spec) -> str:
    told = []
    for guard in (guard for guard in spec.guards if not guard.hidden):
        bounds = [f"at most {guard.max:g}"] if guard.max is not None else []
        bounds += [f"at least {guard.min:g}"] if guard.min is not None else []
        worse = {"min": ["may not rise"], "max": ["may not fall"], None: []}[guard.mode]
        told.append(f"{guard.metric} ({', '.join([*bounds, *worse])})")
    return ("; ".join(told) or "none named") + "; others may be watched"


def _scales(spec: Spec, voice: Voice) -> str:
    names = [f"{scale.name} {voice.tree(scale.set)[:MOST_SCALE_CHARACTERS]}" for scale in spec.scales]
    if len(names) == 1:
        return f"{names[0]}; hypotheses are screened and gated at it"
    adopt = spec.decision.adopt_at or spec.scales.target.name
    return f"from cheap to dear {'; '.join(names)}. Screens run at the first; a gate at each up to {adopt}"


def _decision(spec: Spec) -> str:
    rule = spec.decision
    if rule.rule != "gate":
        how = "one run is better" if rule.rule == "greedy" else f"the mean over {rule.mean_seeds} seeds is better"
        return f"a hypothesis is kept for good where {how}; there is no gate in this study"
    return (
        "a screen needs two seeds: dropped if not better on the first; kept if the sum of both gains is above 0 and "
        f"the second is not clearly worse. A round closes at {plural(rule.keeps_per_round, 'keep')} or "
        f"{plural(rule.proposals_per_round, 'test')}; its gate runs up to {rule.gate_pairs} fresh pairs per scale; at "
        f"most {100 * rule.alpha:g} % of the promotions are expected to be false"
    )


def _noise(spec: Spec, tone: Tone) -> str:
    if tone.sd is None:
        return "see the last part"
    sd = number(tone.sd, noise=tone.sd / DIGITS)
    return (
        f"a paired gain without any effect spreads by about {sd} (1 sd), as far as the start configuration on "
        f"{spec.decision.calibration_seeds} seeds at scale {spec.scales.search.name} tells; a kept gain is a mean of 2"
    )


def _knobs(dossier: Dossier, *, room: int, voice: Voice) -> str:
    """The table of keys, with explanations as long as fit."""
    for length in (200, 120, 70, 30, 0):
        rows = [_knob(knob, dossier.spec, voice=voice, about=length) for knob in dossier.knobs.values()]
        text = "\n".join(["key | start | kind" + (" | what it is" if length else ""), *rows])
        if len(text) <= room:
            return text
    return cut_lines(_grouped(dossier.knobs.values()), room=room, rest="further groups of keys")


def _grouped(knobs: Iterable[Knob]) -> str:
    """Keys with the same beginning in one line: `model.init_args.: width 64 int; depth 2 int`."""
    groups: dict[str, list[str]] = {}
    for knob in knobs:
        start, dot, name = knob.key.rpartition(".")
        kind = "/".join(map(value_text, knob.options)) if knob.kind == "choice" else knob.kind
        groups.setdefault(start + dot, []).append(f"{name} {value_text(knob.value)} {kind}")
    return "\n".join(f"{start}: {'; '.join(told)}" for start, told in groups.items())


def _knob(knob: Knob, spec: Spec, *, voice: Voice, about: int) -> str:
    kind = f"one of {', '.join(map(value_text, knob.options))}" if knob.kind == "choice" else knob.kind
    start = value_text(knob.value) + (" (default)" if not knob.in_task else "")
    place = ", searched" if knob.key in spec.search_space else ""
    nullable = " or null" if knob.nullable and None not in knob.options else ""
    told = f" | {voice.quote(knob.about, about)}" if about and knob.about else ""
    return f"{knob.key} | {start} | {kind}{nullable}{place}{told}"


def _classes(dossier: Dossier, *, room: int, voice: Voice) -> str:
    """Documentation and further arguments of each class, with equal shares of the room."""
    if not dossier.classes:
        return ""
    each = room // len(dossier.classes)
    if each < LEAST_CLASS:
        return ""
    told = [_class(text, dossier, room=each - 1, voice=voice) for text in dossier.classes]
    return "\n".join(told)


def _class(text: ClassText, dossier: Dossier, *, room: int, voice: Voice) -> str:
    known = {key.rpartition(".")[2] for key in dossier.knobs}
    others = [parameter for parameter in text.parameters if parameter.name not in known]
    named = f"{text.class_path} "
    told = named + voice.quote(_without_arguments(text.docstring), min(1500, int(0.7 * room) - len(named)))
    if others and room - len(told) > 100:
        arguments = "; ".join(
            f"{one.name}: {one.annotation or one.kind} = {one.default_text or 'required'}: {one.about}"
            for one in others
        )
        told += f"\n  arguments that may not be edited: {voice.quote(arguments, max(room - len(told) - 40, 2))}"
    return told[: max(room, 0)]


def _without_arguments(docstring: str) -> str:
    """The documentation without its list of arguments, which stands in the table of keys."""
    return re.split(r"\n\s*(?:Args|Arguments|Parameters)\s*:?\s*\n", docstring, maxsplit=1)[0].strip()


def _goal_quotes(dossier: Dossier, voice: Voice) -> tuple[Passage, ...]:
    """The notes on the goal, as many as their part of the prompt holds."""
    if dossier.library is None:
        return ()
    spec = dossier.spec
    abouts = (dossier.knobs[key].about for key in spec.search_space if key in dossier.knobs)
    query = " ".join((spec.goal, spec.objective.metric, *spec.search_space, *abouts))
    picked = []
    left = NOTES_SHARE * _characters(dossier) // (1 if _characters(dossier) >= FULL_CHARACTERS else 2)
    for passage in _shown(dossier.library.search(query, count=20), voice):
        left -= len(_note(passage, voice, QUOTE_CHARACTERS)) + 1
        if left < 0:
            break
        picked.append(passage)
    return tuple(picked)


def _shown(passages: Iterable[Passage], voice: Voice) -> list[Passage]:
    """The passages under the names that they are shown with: a file's name is foreign text, too."""
    return [replace(passage, place=voice.clean(passage.place, 160)) for passage in passages]


def _note(passage: Passage, voice: Voice, most: int) -> str:
    return f"{json_text(passage.place)}: {voice.quote(passage.text, most)}"


def _tone(dossier: Dossier, briefing: Briefing, voice: Voice) -> Tone:
    sd = _calibrated(dossier, briefing)
    return Tone(
        names=short_names(dossier.knobs or dossier.spec.search_space),
        sd=sd,
        places=decimals(sd / DIGITS) if sd else None,
        say=voice.verdict,
    )


def _calibrated(dossier: Dossier, briefing: Briefing) -> float | None:
    """Noise of a gain from the runs that calibrated it: the first ones, so that it is the same in every round."""
    first = briefing.measurements[: dossier.spec.decision.calibration_seeds]
    values = [one.objective for one in first if one.objective is not None and one.config == first[0].config]
    return statistics.stdev(values) * 2**0.5 or None if len(values) > 1 else None


# ---------------------------------------------------------------------------------------------------------- what is new
def _now(dossier: Dossier, briefing: Briefing, *, room: int, earlier: Sequence[str], voice: Voice, tone: Tone) -> str:
    """The state of things in at most `room` characters, filled up with the newest of the earlier lines."""
    records = records_of(briefing.findings, briefing.gates)
    untested = _untested(dossier, briefing, records)
    facts = _state(briefing, tone, spec=dossier.spec) | {"asked": _asked(briefing)}
    bare = len(filled("now.md", **facts, space="", sections=""))
    quoted = _open_notes(dossier, untested, voice)
    left = room - bare - len(quoted) - 2
    is_short = _characters(dossier) < FULL_CHARACTERS
    space = space_table(briefing, records, room=left, tone=tone, in_words=is_short)
    left -= len(space)
    parts = [quoted] if quoted else []
    for variants in _sections(dossier, briefing, untested=untested, voice=voice, tone=tone):
        if part := next((one for one in variants if len(one) + 2 <= left), ""):
            parts.append(part)
            left -= len(part) + 2
    if newest := newest_lines(earlier, room=left - 2):
        parts.append(newest)
    return filled("now.md", **facts, space=space, sections="".join(f"\n{part}\n" for part in parts))


def _state(briefing: Briefing, tone: Tone, *, spec: Spec) -> dict[str, str]:
    """What the first lines say."""
    resolvable = briefing.resolvable_gain
    told = (
        f"; a true gain of {number_short(resolvable)} would pass the next gate in 8 of 10 cases" if resolvable else ""
    )
    kept = [one.hypothesis.id for one in briefing.findings if one.kept and one.round == briefing.round]
    branch = f" The branch holds {', '.join(kept[:12])} of this round, kept but not confirmed." if kept else ""
    rule = spec.decision
    used = sum(one.round == briefing.round for one in briefing.findings)
    tests = f"{used} of {rule.proposals_per_round} tests used, {len(kept)} of {rule.keeps_per_round} keeps"
    if not briefing.findings:
        branch = " Nothing was tested yet."
    return {
        "round": f"{briefing.round} ({tests})",
        "trials": str(briefing.trials_left),
        "level": _level(briefing, tone),
        "gain_sd": number(briefing.gain_sd, noise=(tone.sd or briefing.gain_sd) / DIGITS),
        "resolvable": told,
        "branch": branch,
    }


def _level(briefing: Briefing, tone: Tone) -> str:
    """The metric's mean for revision 0, incumbent and branch, as far as they differ and were measured."""
    told: dict[str, str] = {}
    for name, config in (("start", briefing.base), ("incumbent", briefing.incumbent), ("branch", briefing.branch)):
        values = [one.objective for one in briefing.measurements if one.config == config and one.objective is not None]
        if values:
            mean = number(statistics.fmean(values), noise=(tone.sd or briefing.gain_sd) / DIGITS)
            told[f"{mean} (mean of {plural(len(values), 'run')})"] = name
    return "; ".join(f"{name} {text}" for text, name in told.items()) or "not measured yet"


def _asked(briefing: Briefing) -> str:
    if briefing.wanted < 1:
        return (
            "Edits of the search space alone: hypotheses of kind space with ops on /search_space/ paths, or an empty "
            "list if the space is right as it is. Reply with one JSON object."
        )
    return (
        f"State at most {plural(briefing.wanted, 'hypothesis')}, best first, each setting at most "
        f"{plural(briefing.max_changes, 'key')} of the branch. One of kind space counts as one of them; an edit of the "
        "search space may also be a further op of a hypothesis that sets a value, and is no key set. Reply with one "
        "JSON object."
    )


def _sections(
    dossier: Dossier, briefing: Briefing, *, untested: Sequence[str], voice: Voice, tone: Tone
) -> Iterator[Sequence[str]]:
    """What else is worth saying, in order of weight, each as long and short as there is room for."""
    if briefing.stale_rounds >= STALE_ROUNDS:
        yield [stagnation(briefing, untested, tone)]
    if told := forecasts_text(briefing):
        yield [f"## Your forecasts so far\n{told}"]
    if last_failure(briefing, voice, tone, most=2):
        yield [f"## Last failure\n{last_failure(briefing, voice, tone, most=most)}" for most in FAILURE_CHARACTERS]
    if told := open_questions(briefing, untested, tone):
        yield [f"## Open\n{told}"]
    if briefing.refusals:
        quoted = [voice.quote(why, REFUSAL_CHARACTERS) for why in briefing.refusals]
        yield ["\n".join(("## Refused of late, yours or the sampler's", *quoted[-count:])) for count in (3, 1)]


def _untested(dossier: Dossier, briefing: Briefing, records: Mapping[str, KeyRecord]) -> list[str]:
    """Keys that no decided hypothesis ever changed, those of the search space first."""
    return [key for key in dict.fromkeys([*briefing.space, *dossier.knobs]) if key not in records]


def _open_quotes(dossier: Dossier, untested: Sequence[str], voice: Voice) -> tuple[Passage, ...]:
    """The note that says most about the keys never tested, where it does not stand in the prompt already."""
    if dossier.library is None or _characters(dossier) < FULL_CHARACTERS:
        return ()
    untested = untested[:5]
    abouts = [dossier.knobs[key].about for key in untested if key in dossier.knobs]
    known = _goal_quotes(dossier, voice)
    found = _shown(dossier.library.search(" ".join((*untested, *abouts)), count=1), voice)
    return tuple(passage for passage in found if passage not in known)


def _open_notes(dossier: Dossier, untested: Sequence[str], voice: Voice) -> str:
    found = _open_quotes(dossier, untested, voice)
    lines = [_note(passage, voice, OPEN_QUOTE_CHARACTERS) for passage in found]
    return "\n".join(("## Research notes on keys never tested", *lines)) if lines else ""
