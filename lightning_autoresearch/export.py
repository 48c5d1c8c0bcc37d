"""A study as training data: what a language model was told, what it proposed, and what was measured.

One line of JSON per proposal of the model that was put to the test, in the chat format that trainers read:

    {"messages": [{"role": "system", "content": ...}, ..., {"role": "assistant", "content": ...}],
     "outcomes": [{"hypothesis": "h7", "label": "keep", "gain": 0.021, "predicted": {...}, "sentence": ...}, ...],
     "study": "gpt-source", "round": 2, "model": "gpt-5.5"}

The messages are the exchange as it was: where a reply went back with its faults, the faulty reply and the message that
named them stand before the last one.  They hold nothing that the model did not see.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from lightning_autoresearch.chat import ChatMessage, Outcome
from lightning_autoresearch.contract import MOST_CHARACTERS
from lightning_autoresearch.journal import Entry
from lightning_autoresearch.jsontext import Unreadable, clean, find_object
from lightning_autoresearch.replay import prompts_of
from lightning_autoresearch.sampler import SOURCE
from lightning_autoresearch.trial import TrialStatus

Label = Literal["keep", "promoted", "refuted", "failed", "void", "refused"]
"""What came of a hypothesis.

keep: the screen kept it, and no gate has decided since.  promoted: it is part of a confirmed improvement.  refuted: the
screen dropped it although its trials finished, or its round failed at a gate.  failed: one of its own trials had no
result.  void: nothing was decided, by no fault of its own.  refused: it was not let through to a trial.
"""

GOOD: frozenset[Label] = frozenset({"keep", "promoted"})
"""Labels that count as a keep."""


def chat_lines(entries: Iterable[Entry], *, only_keeps: bool = False, messages_only: bool = False) -> Iterator[str]:
    """The lines of a study's training data, in the order of its proposals: ASCII, without the line ends.

    Left out are replies of which nothing was tested or refused yet (invalid ones, edits of the search space alone, and
    hypotheses that are still open), and hypotheses that none of the journaled replies states.

    Args:
        entries: the entries of a journal.
        only_keeps: only proposals with a hypothesis that was kept or promoted.
        messages_only: nothing but `messages` in a line, for trainers that refuse other keys.
    """
    for example in examples(entries):
        if only_keeps and not any(outcome["label"] in GOOD for outcome in example["outcomes"]):
            continue
        chosen = {"messages": example["messages"]} if messages_only else example
        yield json.dumps(chosen, allow_nan=False)


def examples(entries: Iterable[Entry]) -> Iterator[dict[str, Any]]:
    """The same as plain data."""
    entries = tuple(entries)
    prompts, outcomes, study = prompts_of(entries), _outcomes(entries), _study(entries)
    rounds = {entry.key: entry.data["round"] for entry in entries if entry.kind == "proposal_requested"}
    answers = _answers(entries)
    for entry in entries:
        if entry.kind != "proposal_received" or not (calls := answers.get(entry.key)):
            continue
        stated = [one for one in entry.data["hypotheses"] if one["source"] != SOURCE]
        found = [outcomes[one["id"]] for one in stated if one["id"] in outcomes]
        call = _call_behind(stated, calls)
        if found and call is not None:
            yield {
                "messages": _messages(prompts[call.key], reply=call.data["text"]),
                "outcomes": found,
                "study": study,
                "round": rounds.get(entry.key, 0),
                "model": call.data["model"] or stated[0]["source"],
            }


def _answers(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The answered calls of each proposal, in order; a call's key is the proposal's, then call and try."""
    answers: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.kind == "call_finished" and entry.data["outcome"] == Outcome.ANSWERED.value:
            answers.setdefault("/".join(entry.key.split("/")[:2]), []).append(entry)
    return answers


def _call_behind(stated: Sequence[Mapping[str, Any]], calls: Sequence[Entry]) -> Entry | None:
    """The reply that the hypotheses were taken from: the last that has their statements; None where none has.

    A repair can make a reply worse, and then an earlier one is used.
    """
    wanted = {one["statement"] for one in stated}
    return next((call for call in reversed(calls) if wanted <= _statements(call.data["text"])), None)


def _statements(reply: str) -> set[str]:
    """The statements of a reply, read as they were when it came."""
    try:
        said = find_object(reply, key="hypotheses")
        return {clean(one["statement"], most=MOST_CHARACTERS["statement"]) for one in said["hypotheses"]}
    except (Unreadable, KeyError, TypeError):
        return set()


def _messages(prompt: Sequence[ChatMessage], *, reply: str) -> list[dict[str, str]]:
    said = [{"role": message.role, "content": message.content} for message in prompt]
    return [*said, {"role": "assistant", "content": reply}]


def _study(entries: Sequence[Entry]) -> str:
    return next((str(entry.data["name"]) for entry in entries if entry.kind == "study_created"), "")


def _outcomes(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """What came of each hypothesis, by its id; open ones are not there."""
    stated: dict[str, Mapping[str, Any]] = {}
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        data = entry.data
        if entry.kind == "hypothesis_stated":
            stated[entry.key] = data["hypothesis"]
        elif entry.kind == "hypothesis_refused":
            found[entry.key] = _outcome(data["hypothesis"], "refused", sentence=data["why"])
        elif entry.kind == "screened":
            decision = data["decision"]
            label = _screen_label(decision["verdict"], status=data["status"])
            found[entry.key] = _outcome(stated[entry.key], label, gain=data["gain"], sentence=decision["sentence"])
        else:
            _conclude(found, entry)
    return found


def _screen_label(verdict: str, *, status: str) -> Label:
    if verdict == "DROP":
        return "refuted" if status == TrialStatus.FINISHED.value else "failed"
    return "keep" if verdict == "KEEP" else "void"


def _conclude(found: Mapping[str, dict[str, Any]], entry: Entry) -> None:
    """What gate and confirmation make of a round's kept hypotheses; a void gate leaves them as they are."""
    data = entry.data
    if entry.kind == "gate_decided" and data["decision"]["verdict"] == "FAIL":
        change = {"label": "refuted", "sentence": data["decision"]["sentence"]}
    elif entry.kind == "promotion_refused":
        change = {"label": "refuted", "sentence": data["why"]}
    elif entry.kind == "spec_revised":
        change = {"label": "promoted"}
    else:
        return
    for id in data["hypotheses"]:
        if id in found:
            found[id].update(change)


def _outcome(
    hypothesis: Mapping[str, Any], label: Label, *, gain: float | None = None, sentence: str
) -> dict[str, Any]:
    return {
        "hypothesis": hypothesis["id"],
        "label": label,
        "gain": gain,
        "predicted": dict(hypothesis["prediction"]),
        "sentence": sentence,
    }
