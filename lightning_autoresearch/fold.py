"""From journal to summary: a fold over the entries, one at a time, so that a live view stays cheap."""

from __future__ import annotations

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_autoresearch import codec
from lightning_autoresearch.decision import Decision, Verdict
from lightning_autoresearch.hypothesis import Hypothesis, SpaceEdit
from lightning_autoresearch.journal import Entry, read_journal
from lightning_autoresearch.space import Value
from lightning_autoresearch.summary import (
    ConfirmedGain,
    Cost,
    GateRow,
    HypothesisRow,
    ModelUse,
    RevisionRow,
    StudySummary,
    TrialRow,
)
from lightning_autoresearch.trial import Trial, TrialResult, TrialStatus

MAX_MESSAGES = 200
"""Messages that a summary keeps, the latest ones."""


class Fold:
    """Gathers entries; `summary` gives the record of the moment.  A `Listener` of a journal.

    Entries of kinds that it does not know are passed over, so that an older program can show a newer journal.
    """

    def __init__(self, *, folder: Path, clock: Callable[[], float] = time.time):
        self._folder = folder
        self._clock = clock
        self._header: Mapping[str, Any] = {}
        self._trials: dict[str, TrialRow] = {}
        self._hypotheses: dict[str, HypothesisRow] = {}
        self._gates: dict[str, GateRow] = {}
        self._revisions: list[RevisionRow] = []
        self._space_edits: list[str] = []
        self._messages: list[str] = []
        self._noise: dict[str, float] = {}
        self._resolvable: float | None = None
        self._base: dict[str, Value] = {}
        self._incumbent: dict[str, Value] = {}
        self._branch: dict[str, Value] = {}
        self._confirmed: ConfirmedGain | None = None
        self._state: dict[str, Any] = {"phase": "created", "round": 0, "done": False, "reason": ""}
        self._calls = _Calls()
        self._refused: Counter[str] = Counter()
        self._train_seconds = 0.0
        self._closed_seconds = 0.0
        self._session_start: float | None = None
        self._last_time = 0.0

    def on_entry(self, entry: Entry) -> None:
        """Take in one entry."""
        if entry.kind == "session_started":
            self._close_session()
            self._session_start = entry.time
        self._last_time = entry.time
        if entry.kind == "session_ended":
            self._close_session()
        handler = getattr(self, f"_on_{entry.kind}", None)
        if handler:
            handler(entry.key, entry.data)

    def _close_session(self) -> None:
        """Add up a session's time; one that was killed lasted until its last entry."""
        if self._session_start is not None:
            self._closed_seconds += self._last_time - self._session_start
        self._session_start = None
        self._calls.close_session()

    def wall_seconds(self, *, live: bool) -> float:
        """Wall-clock seconds over all sessions, the last one up to now (`live`) or up to its last entry."""
        if self._session_start is None:
            return self._closed_seconds
        end = self._clock() if live else self._last_time
        return self._closed_seconds + max(0.0, end - self._session_start)

    def summary(self, *, live: bool = False) -> StudySummary:
        """The study at this moment."""
        header, spec = self._header, self._header.get("spec", {})
        budget = spec.get("budget") or {}
        return StudySummary(
            name=header.get("name", self._folder.name),
            goal=header.get("goal", ""),
            metric=header.get("metric", "objective"),
            mode=header.get("mode", "min"),
            read=header.get("read", "last"),
            rule=header.get("rule", "gate"),
            alpha=header.get("alpha", 0.1),
            scales=tuple(header.get("scales", ())),
            folder=str(self._folder),
            spec_path=header.get("spec_path", ""),
            command=header.get("command", ""),
            budget_trials=header.get("budget_trials", 0),
            budget_hours=header.get("budget_hours"),
            slots=header.get("slots", 1),
            base=dict(self._base),
            incumbent=dict(self._incumbent),
            branch=dict(self._branch),
            trials=tuple(row for row in self._trials.values() if row.result or self._session_start is not None),
            hypotheses=tuple(self._hypotheses.values()),
            gates=tuple(self._gates.values()),
            revisions=tuple(self._revisions),
            confirmed_gain=self._confirmed,
            noise_sd=dict(self._noise),
            resolvable_gain=self._resolvable,
            space_edits=tuple(self._space_edits),
            messages=tuple(self._messages[-MAX_MESSAGES:]),
            cost=self._cost(live=live),
            scientist=_scientist(spec.get("scientist")),
            model=self._calls.use,
            budget_usd=budget.get("usd"),
            budget_tokens=budget.get("tokens"),
            budget_usd_per_gain=budget.get("usd_per_gain"),
            refused=dict(self._refused),
            environment=self._environment(),
            **self._state,
        )

    def _cost(self, *, live: bool) -> Cost:
        usd, gains = self._calls.usd, len(self._revisions) - 1
        priced = gains > 0 and self._calls.count > 0 and not self._calls.use.unpriced_calls
        return Cost(
            train_seconds=self._train_seconds,
            wall_seconds=self.wall_seconds(live=live),
            llm_tokens=self._calls.tokens,
            llm_usd=usd,
            llm_calls=self._calls.count,
            llm_usd_per_gain=usd / gains if priced else None,
        )

    def _environment(self) -> dict[str, Any]:
        measured = next(
            (
                row.result.environment
                for row in reversed(self._trials.values())
                if row.result and row.result.environment
            ),
            {},
        )
        return {**self._header.get("environment", {}), **measured}

    # -- one method per kind of entry --------------------------------------------------------------------------------

    def _on_study_created(self, key: str, data: Mapping[str, Any]) -> None:
        self._header = data
        self._base, self._incumbent, self._branch = dict(data["base"]), dict(data["base"]), dict(data["base"])
        self._revisions = [RevisionRow(number=0, digest=data["text_digest"])]
        self._messages += data["notes"]

    def _on_session_started(self, key: str, data: Mapping[str, Any]) -> None:
        self._state.update(done=False, reason="")

    def _on_session_ended(self, key: str, data: Mapping[str, Any]) -> None:
        self._turn_to(data["phase"])
        self._state.update(done=data["done"], reason=data["reason"])

    def _on_phase(self, key: str, data: Mapping[str, Any]) -> None:
        self._turn_to(data["phase"], detail=data.get("detail", ""))
        self._state["round"] = data["round"]

    def _turn_to(self, phase: str, *, detail: str = "") -> None:
        self._state.update(phase=phase, phase_detail=detail, phase_since=self._last_time)

    def _on_message(self, key: str, data: Mapping[str, Any]) -> None:
        self._messages.append(data["text"])

    def _on_calibrated(self, key: str, data: Mapping[str, Any]) -> None:
        self._noise[data["scale"]] = data["gain_sd"]
        if data["scale"] == self._header["scales"][0]:
            self._resolvable = data["resolvable_gain"]

    def _on_call_started(self, key: str, data: Mapping[str, Any]) -> None:
        self._calls.start(key, data)

    def _on_call_finished(self, key: str, data: Mapping[str, Any]) -> None:
        self._calls.finish(key, data)

    def _on_proposal_received(self, key: str, data: Mapping[str, Any]) -> None:
        self._messages += data.get("notes", ())
        self._calls.propose(data)

    def _on_trial_started(self, key: str, data: Mapping[str, Any]) -> None:
        self._trials[key] = TrialRow(trial=codec.from_json(data, Trial), result=None)

    def _on_trial_retried(self, key: str, data: Mapping[str, Any]) -> None:
        self._messages.append(
            f"trial {data['trial_id']} {data['status'].replace('_', ' ')} ({data['failure']}); started once more"
        )

    def _on_trial_finished(self, key: str, data: Mapping[str, Any]) -> None:
        result = codec.from_json(data, TrialResult)
        self._trials[key] = TrialRow(trial=self._trials[key].trial, result=result)
        self._train_seconds += result.train_seconds
        if not result.finished:
            self._messages.append(f"trial {result.trial_id} {result.status.value.replace('_', ' ')}: {result.failure}")

    def _on_hypothesis_stated(self, key: str, data: Mapping[str, Any]) -> None:
        hypothesis = codec.from_json(data["hypothesis"], Hypothesis)
        self._hypotheses[key] = HypothesisRow(hypothesis=hypothesis, round=data["round"], before=data["before"])

    def _on_hypothesis_refused(self, key: str, data: Mapping[str, Any]) -> None:
        self._refused[data["hypothesis"]["source"]] += 1
        self._messages.append(f"{data['hypothesis']['id']} was refused before any trial: {data['why']}")

    def _on_screened(self, key: str, data: Mapping[str, Any]) -> None:
        decision = codec.from_json(data["decision"], Decision)
        self._branch = dict(data["branch"])
        self._hypotheses[key] = replace(
            self._hypotheses[key],
            gain=data["gain"],
            verdict=decision.verdict,
            screened=decision.verdict,
            sentence=decision.sentence,
            status=TrialStatus(data["status"]),
        )

    def _on_space_revised(self, key: str, data: Mapping[str, Any]) -> None:
        for edit in (codec.from_json(one, SpaceEdit) for one in data["edits"]):
            to = f" to {edit.domain}" if edit.domain else ""
            by = "" if edit.source == "sampler" else f" ({edit.source})"
            self._space_edits.append(f"{edit.op} {edit.key}{to}: {edit.why}{by}")
        for name, value in data.get("base", {}).items():
            for config in (self._base, self._incumbent, self._branch):
                config.setdefault(name, value)

    def _on_gate_opened(self, key: str, data: Mapping[str, Any]) -> None:
        self._gates[key] = GateRow(
            round=data["round"],
            scale=data["scale"],
            gains=(),
            mean=None,
            low=None,
            high=None,
            e_value=None,
            threshold=data["threshold"],
            verdict=None,
            hypotheses=tuple(data["hypotheses"]),
        )

    def _on_gate_looked(self, key: str, data: Mapping[str, Any]) -> None:
        gate, evidence = key.rsplit("/", 1)[0], data["evidence"]
        self._gates[gate] = replace(
            self._gates[gate],
            gains=tuple(data["gains"]),
            mean=evidence["mean"],
            low=evidence["low"],
            high=evidence["high"],
            e_value=evidence["e_value"],
        )

    def _on_gate_decided(self, key: str, data: Mapping[str, Any]) -> None:
        decision = codec.from_json(data["decision"], Decision)
        self._gates[key] = replace(self._gates[key], verdict=decision.verdict, sentence=decision.sentence)
        if decision.verdict is not Verdict.PROMOTE:
            self._conclude(
                data["hypotheses"], decision.verdict, f"the round's gate at scale {data['scale']}: {decision.sentence}"
            )

    def _on_promotion_refused(self, key: str, data: Mapping[str, Any]) -> None:
        self._conclude(data["hypotheses"], Verdict.FAIL, data["why"])
        self._messages.append(f"promotion refused: {data['why']}")

    def _on_spec_revised(self, key: str, data: Mapping[str, Any]) -> None:
        self._revisions.append(
            RevisionRow(
                number=data["number"],
                digest=data["digest"],
                changes=tuple(data["changes"]),
                hypotheses=tuple(data["hypotheses"]),
                unified_diff=data["diff"],
            )
        )
        self._incumbent, self._branch = dict(data["incumbent"]), dict(data["incumbent"])
        self._confirmed = _confirmed(data["total"])
        for id in data["hypotheses"]:
            self._hypotheses[id] = replace(self._hypotheses[id], verdict=Verdict.PROMOTE)

    def _conclude(self, hypotheses: Iterable[str], verdict: Verdict, sentence: str) -> None:
        """The round's verdict for its hypotheses; the branch falls back to the incumbent."""
        for id in hypotheses:
            self._hypotheses[id] = replace(self._hypotheses[id], verdict=verdict, sentence=sentence)
        self._branch = dict(self._incumbent)


class _Calls:
    """Adds up the calls of the language model, by the charges that `asking` journals."""

    def __init__(self) -> None:
        self.use = ModelUse()
        self.count = 0
        self.tokens = 0
        self._dollars: list[float] = []
        self._open: dict[str, Mapping[str, Any]] = {}

    @property
    def usd(self) -> float:
        """US dollars, as far as prices are known; `fsum` makes the sum independent of the order."""
        return math.fsum(self._dollars)

    def start(self, key: str, data: Mapping[str, Any]) -> None:
        """A call was begun."""
        self.count += 1
        self._open[key] = data

    def finish(self, key: str, data: Mapping[str, Any]) -> None:
        """A call ended and is charged."""
        self._open.pop(key, None)
        self._charge(data["charged_tokens"], data["charged_usd"])
        outcomes, interrupted = dict(self.use.outcomes), bool(data.get("stopped"))
        if not interrupted:
            outcomes[data["outcome"]] = outcomes.get(data["outcome"], 0) + 1
        self.use = replace(
            self.use,
            outcomes=outcomes,
            interrupted=self.use.interrupted + interrupted,
            seconds=self.use.seconds + data.get("seconds", 0.0),
        )

    def propose(self, data: Mapping[str, Any]) -> None:
        """A proposal came, with or without the model's part."""
        provenance = data.get("provenance")
        if provenance is None:
            return
        self.use = replace(
            self.use,
            proposals=self.use.proposals + 1,
            repairs=self.use.repairs + provenance["repairs"],
            names=tuple(dict.fromkeys([*self.use.names, provenance["model"]])),
            analysis=data.get("analysis") or self.use.analysis,
        )

    def close_session(self) -> None:
        """Calls that are still open were cut off with their session; the server may have charged them in full."""
        for data in self._open.values():
            self._charge(data["reserved_tokens"], data["reserved_usd"])
        self.use = replace(self.use, interrupted=self.use.interrupted + len(self._open))
        self._open.clear()

    def _charge(self, tokens: int, usd: float | None) -> None:
        self.tokens += tokens
        if usd is None:
            self.use = replace(self.use, unpriced_calls=self.use.unpriced_calls + 1)
        else:
            self._dollars.append(usd)


class Watcher:
    """A `Listener` that hands summaries on to a view, not more often than every quarter of a second."""

    def __init__(self, update: Callable[[StudySummary], None], *, folder: Path, interval_seconds: float = 0.25):
        self._update = update
        self._fold = Fold(folder=folder)
        self._interval_seconds = interval_seconds
        self._since = time.time()
        self._shown = float("-inf")

    def on_entry(self, entry: Entry) -> None:
        """Take in one entry; show the study if the last time was long enough ago.

        A new phase is shown at once: nothing may follow it for hours.  What an earlier session did is not told again.
        """
        self._fold.on_entry(entry)
        if entry.time < self._since:
            return
        if entry.kind == "phase" or time.monotonic() - self._shown >= self._interval_seconds:
            self.flush()

    def flush(self) -> None:
        """Show the study as it is now."""
        self._shown = time.monotonic()
        self._update(self._fold.summary(live=True))


def summarize(folder: Path) -> StudySummary:
    """The summary of a study's folder, read from its journal without locking it.

    A study whose process is gone without a word is `interrupted`, whatever it was at.

    Raises:
        JournalError: there is no journal, or it is damaged.
    """
    fold = Fold(folder=folder)
    entries = read_journal(folder)
    for entry in entries:
        fold.on_entry(entry)
    summary = fold.summary()
    last = next((entry for entry in reversed(entries) if entry.kind in ("session_started", "session_ended")), None)
    if last is None or last.kind == "session_ended" or not _is_gone(last.data):
        return summary
    reason = "its process is gone (killed, or the machine went down); the same command goes on where it stopped"
    return replace(summary, phase="interrupted", phase_detail="", reason=reason)


def _is_gone(session: Mapping[str, Any]) -> bool:
    """Whether the process of a session on this machine has ended."""
    if session.get("host") != platform.node():
        return False
    try:
        os.kill(session["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _scientist(settings: Mapping[str, Any] | None) -> str:
    """Name of the language model in a spec's data, `mailbox`, or nothing."""
    if not settings:
        return ""
    return "mailbox" if settings.get("mailbox") is not None else str(settings.get("model") or "")


def _confirmed(total: Mapping[str, Any] | None) -> ConfirmedGain | None:
    if total is None:
        return None
    low = float("-inf") if total["low"] is None else total["low"]
    high = float("inf") if total["high"] is None else total["high"]
    return ConfirmedGain(scale=total["scale"], mean=total["mean"], low=low, high=high, pairs=total["pairs"])
