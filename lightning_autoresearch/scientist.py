"""The scientist: a language model that reads a briefing and answers with hypotheses.

    briefing -> prompt -> ask -> read -> (mend, at most twice) -> proposal

Whatever goes wrong on the way ends in an `Answer` that says so; the study goes on without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_autoresearch.asking import Line, price_of
from lightning_autoresearch.chat import PERMANENT, ChatMessage, ChatModel, ChatReply, Outcome
from lightning_autoresearch.classes import read_class
from lightning_autoresearch.contract import Contract, Reading, read_reply, reply_schema
from lightning_autoresearch.dispatch import Interrupted
from lightning_autoresearch.hypothesis import Briefing, Proposal, Provenance
from lightning_autoresearch.knobs import Knob
from lightning_autoresearch.literature import read_library
from lightning_autoresearch.mailbox import Mailbox
from lightning_autoresearch.prompt import Dossier, mend_message, messages, quotes
from lightning_autoresearch.redaction import secrets_of
from lightning_autoresearch.space import digest_of
from lightning_autoresearch.spec import Spec

MAX_REPAIRS = 2
"""How often a reply may go back with its faults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of consulting the scientist."""

    proposal: Proposal
    """What it proposes; empty where it did not answer."""
    failure: str = ""
    """Why there is no usable answer, in words; empty where there is one."""
    permanent: bool = False
    """Whether asking again with the same settings is of no use."""


class Scientist:
    """A `Proposer` that asks a language model.

    Args:
        line: the journaled line to the model.
        dossier: what does not change over the study: the spec, what may be edited, classes, research notes.
        announce: told (round, what is waited for) before each call.
        stop: true when the person asked to stop.
    """

    def __init__(
        self,
        line: Line,
        *,
        dossier: Dossier,
        announce: Callable[[int, str], None] = lambda round, detail: None,
        stop: Callable[[], bool] = lambda: False,
    ):
        self._line = line
        self._dossier = dossier
        self._announce = announce
        self._stop = stop
        self.name = line.name

    def propose(self, briefing: Briefing) -> Proposal:
        """Answer a briefing; without an answer of the model the proposal is empty and its notes say why.

        Raises:
            Interrupted: the person asked to stop.
        """
        return self.consult(briefing).proposal

    def consult(self, briefing: Briefing) -> Answer:
        """Ask the model; a reply that breaks a rule goes back with every fault named, at most `MAX_REPAIRS` times.

        Raises:
            Interrupted: the person asked to stop.
        """
        contract = self._contract(briefing)
        schema = reply_schema(contract)
        asked = messages(self._dossier, briefing, schema=schema)
        talk: tuple[ChatMessage, ...] = asked
        best = Reading(analysis="", hypotheses=(), space_edits=(), faults=())
        for number in range(MAX_REPAIRS + 1):
            reply = self._ask(talk, schema=schema, briefing=briefing, number=number)
            if not reply.answered:
                break
            reading = read_reply(reply.text, contract)
            best = max(best, reading, key=lambda one: (len(one.hypotheses) + len(one.space_edits), one is reading))
            if not reading.faults:
                best = reading
                break
            talk = (*talk, ChatMessage(role="assistant", content=reply.text), mend_message(reading.faults))
        spent = self._line.spent_on(briefing.key)
        provenance = Provenance(
            model=reply.model or self.name,
            prompt_digest=digest_of([[message.role, message.content] for message in asked]),
            calls=spent.calls,
            tokens=spent.tokens,
            usd=spent.usd,
            repairs=number,
        )
        return self._answer(best, reply, provenance)

    def _contract(self, briefing: Briefing) -> Contract:
        places = {passage.place for passage in quotes(self._dossier, briefing)}
        about = self._dossier
        classes = {one.class_path: one for one in about.classes}
        return Contract.of(about.spec, briefing, knobs=about.knobs, quotes=places, source=self.name, classes=classes)

    def _ask(
        self, talk: tuple[ChatMessage, ...], *, schema: dict[str, object], briefing: Briefing, number: int
    ) -> ChatReply:
        self._announce(briefing.round, f"{self.name}, call {briefing.key}" + (f", repair {number}" if number else ""))
        reply = self._line.ask(talk, schema=schema, key=f"{briefing.key}/{number + 1}")
        if self._stop():
            raise Interrupted
        return reply

    def _answer(self, reading: Reading, reply: ChatReply, provenance: Provenance) -> Answer:
        """What is made of the best reading and the last reply."""
        usable = bool(reading.hypotheses or reading.space_edits)
        notes = []
        if not reply.answered:
            notes.append(f"the scientist ({self.name}) did not answer: {reply.detail or reply.outcome.value}")
        if reading.faults:
            notes.append(
                f"the scientist's reply broke {len(reading.faults)} rules after {provenance.repairs} repairs; "
                f"the first: {reading.faults[0]}"
            )
        proposal = Proposal(
            hypotheses=reading.hypotheses,
            source=self.name,
            space_edits=reading.space_edits,
            provenance=provenance,
            notes=tuple(notes),
            analysis=reading.analysis,
        )
        failure = "" if usable else "; ".join(notes) or f"the scientist ({self.name}) proposed nothing"
        permanent = not usable and reply.outcome in PERMANENT and reply.outcome is not Outcome.BAD_REQUEST
        return Answer(proposal=proposal, failure=failure, permanent=permanent)


def make_chat(spec: Spec, *, environ: Mapping[str, str] | None = None) -> ChatModel:
    """Whoever the spec's `scientist` names: a server, or a mailbox in a folder relative to the spec."""
    settings = spec.scientist
    assert settings is not None
    if settings.mailbox is not None:
        return Mailbox(spec.path.parent / settings.mailbox)
    from lightning_autoresearch.integrations.openai import OpenAIChat

    return OpenAIChat(settings, environ=os.environ if environ is None else environ)


def settings_fault(spec: Spec, *, environ: Mapping[str, str]) -> str:
    """Why the spec's scientist cannot be asked from here, and the way out; empty where it can."""
    settings = spec.scientist
    if settings is None:
        return ""
    if settings.mailbox is not None:
        folder = spec.path.parent / settings.mailbox
        wrong = folder.exists() and not folder.is_dir()
        return f"scientist.mailbox: {folder} is a file; name a folder, or one that can be made" if wrong else ""
    from lightning_autoresearch.integrations.openai import key_fault

    if fault := key_fault(settings, environ):
        return fault
    capped = [name for name in ("usd", "usd_per_gain") if getattr(spec.budget, name) is not None]
    if capped and price_of(settings) is None:
        return (
            f"budget.{capped[0]} is set, but the price of {settings.model} is not known; write it as scientist.price, "
            "install lightning-autoresearch[prices] for a table of prices, or cap budget.tokens instead"
        )
    return ""


def make_dossier(spec: Spec, *, knobs: Mapping[str, Knob], search_path: Sequence[str]) -> Dossier:
    """What the scientist is told in every prompt: read from files, without running any of the user's code."""
    names = dict.fromkeys([*class_paths(spec.task), *spec.policy.allowed_classes])
    texts = [read_class(name, search_path=search_path) for name in names]
    patterns = spec.scientist.literature if spec.scientist else ()
    return Dossier(
        spec=spec,
        knobs=knobs,
        classes=tuple(text for text in texts if text is not None),
        library=read_library(patterns, folder=spec.path.resolve().parent) if patterns else None,
        secrets=secrets_of(spec.scientist, os.environ),
    )


def class_paths(node: Any) -> Iterator[str]:
    """Every class path that a task names, in its order."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "class_path" and isinstance(value, str):
                yield value
            else:
                yield from class_paths(value)
    elif isinstance(node, list):
        for item in node:
            yield from class_paths(item)
