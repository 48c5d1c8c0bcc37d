from __future__ import annotations

import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lightning_autoresearch import codec
from lightning_autoresearch.asking import Line, spending
from lightning_autoresearch.bundled import resource
from lightning_autoresearch.chat import ChatMessage, ChatReply, Outcome, ScriptedChat, Usage
from lightning_autoresearch.decision import Decision, Verdict
from lightning_autoresearch.fold import Fold, Watcher, summarize
from lightning_autoresearch.hypothesis import Hypothesis, Prediction, Proposal, Provenance, SpaceEdit
from lightning_autoresearch.journal import Entry, Journal
from lightning_autoresearch.scoring import scores_record
from lightning_autoresearch.space import Float
from lightning_autoresearch.spec import Budget, Price, ScientistSettings
from lightning_autoresearch.summary import StudySummary, forecasts

SPEC = {
    "scientist": {"model": "expert", "base_url": "http://127.0.0.1:9/v1"},
    "budget": {"trials": 9, "usd": 2.0, "tokens": 5000, "usd_per_gain": 0.5},
}
PRICE = Price(input_usd_per_million_tokens=1000.0, output_usd_per_million_tokens=1000.0)
MESSAGES = (ChatMessage(role="system", content="Rules."), ChatMessage(role="user", content="Round 1."))


class Clock:
    """A clock of a journal that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def journal(tmp_path: Path):
    clock = Clock()
    with Journal(tmp_path, clock=clock) as journal:
        journal.clock = clock  # type: ignore[attr-defined]
        begin(journal)
        yield journal


def begin(journal: Journal, **changes: Any) -> None:
    header = {
        "name": "s", "goal": "", "metric": "loss", "mode": "min", "read": "last", "rule": "gate", "alpha": 0.1,
        "scales": ["nano"], "base": {"lr": 0.1}, "spec": SPEC, "spec_digest": "", "spec_path": "", "text": "",
        "text_digest": "", "config_text": None, "notes": [], "command": "", "budget_trials": 9, "budget_hours": None,
        "slots": 1, "environment": {},
    }  # fmt: skip
    journal.append("study_created", {**header, **changes})
    journal.append("session_started", {"pid": 1, "host": "h", "version": "0"})


def line(journal: Journal, *answers: str | ChatReply, price: Price | None = PRICE) -> Line:
    settings = ScientistSettings(model="expert", base_url="http://127.0.0.1:9/v1", max_tokens=100)
    chat = ScriptedChat(answers, name="expert")
    return Line(chat, journal=journal, settings=settings, budget=Budget(), price=price, sleep=lambda seconds: None)


def answered(text: str = "{}", tokens: int = 50) -> ChatReply:
    return ChatReply(
        outcome=Outcome.ANSWERED, text=text, model="m-1", usage=Usage(input_tokens=tokens, output_tokens=5)
    )


def hypothesis(id: str = "h1", source: str = "expert", **changes: Any) -> Hypothesis:
    prediction = Prediction(gain=0.1, probability=0.7, low=0.0, high=0.2)
    fields = {"statement": f"Claim {id}.", "mechanism": "", "overrides": {"lr": 0.2}, "prediction": prediction}
    return Hypothesis(id=id, source=source, **{**fields, **changes})


def state(journal: Journal, one: Hypothesis, *, verdict: Verdict, gain: float | None, status: str = "finished") -> None:
    data = {"hypothesis": codec.to_json(one), "round": 1, "before": {"lr": 0.1}}
    journal.append("hypothesis_stated", data, key=one.id)
    decision = codec.to_json(Decision(stage="screen", verdict=verdict, sentence="So it was."))
    screened = {"hypothesis": one.id, "gain": gain, "decision": decision, "status": status, "branch": {"lr": 0.2}}
    journal.append("screened", screened, key=one.id)


def revise(journal: Journal, *hypotheses: str) -> None:
    data = {
        "number": 1, "digest": "d", "parent": "", "changes": [], "hypotheses": list(hypotheses),
        "incumbent": {"lr": 0.2}, "total": None, "step": None, "diff": "", "text": "",
    }  # fmt: skip
    journal.append("spec_revised", data, key="1")


def propose(journal: Journal, proposal: Proposal, *, key: str = "1/1") -> None:
    journal.append("proposal_requested", {"round": 1, "wanted": 2}, key=key)
    journal.append("proposal_received", codec.to_json(proposal), key=key)


def test_calls_cost_what_they_are_charged(journal):
    refused = ChatReply(outcome=Outcome.REFUSED, usage=Usage(input_tokens=9, output_tokens=1))
    asked = line(journal, answered(tokens=95), refused)
    asked.ask(MESSAGES, schema={}, key="1/1/1")
    asked.ask(MESSAGES, schema={}, key="1/2/1")
    summary = summarize(journal.folder)
    assert (summary.cost.llm_tokens, summary.cost.llm_calls) == (110, 2)
    assert summary.cost.llm_usd == pytest.approx(0.11)
    assert summary.model.outcomes == {"answered": 1, "refused": 1}
    assert summary.model.unpriced_calls == 0
    assert summary.cost.llm_tokens == spending(journal).tokens
    assert summary.cost.llm_usd == spending(journal).usd


def test_every_failed_try_is_counted_by_its_outcome(journal):
    busy = ChatReply(outcome=Outcome.RATE_LIMITED, may_cost=False)
    line(journal, busy, busy, answered()).ask(MESSAGES, schema={}, key="1/1/1")
    summary = summarize(journal.folder)
    assert summary.model.outcomes == {"rate_limited": 2, "answered": 1}
    assert summary.cost.llm_calls == 3
    assert summary.cost.llm_tokens == 55


def test_a_call_that_was_killed_is_charged_its_reserve_once_its_session_is_over(journal):
    def killed(request):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        line(journal, killed).ask(MESSAGES, schema={}, key="1/1/1")
    reserve = journal.find("call_started", "1/1/1/1").data
    assert reserve["reserved_tokens"] > 100
    assert summarize(journal.folder).cost.llm_tokens == 0, "it may still be answered"
    journal.append("session_started", {"pid": 2, "host": "h", "version": "0"})
    summary = summarize(journal.folder)
    assert summary.cost.llm_tokens == reserve["reserved_tokens"] == spending(journal).tokens
    assert summary.cost.llm_usd == pytest.approx(reserve["reserved_usd"])
    assert summary.model.interrupted == 1
    assert summary.model.outcomes == {}


def test_without_a_price_the_cost_is_unknown_and_not_zero(journal):
    line(journal, answered(), price=None).ask(MESSAGES, schema={}, key="1/1/1")
    propose(journal, Proposal(hypotheses=(hypothesis(),), source="expert"))
    state(journal, hypothesis(), verdict=Verdict.KEEP, gain=0.1)
    revise(journal, "h1")
    summary = summarize(journal.folder)
    assert summary.model.unpriced_calls == 1
    assert summary.cost.llm_usd_per_gain is None


def test_the_cost_per_confirmed_improvement_counts_revisions(journal):
    line(journal, answered(tokens=95)).ask(MESSAGES, schema={}, key="1/1/1")
    assert summarize(journal.folder).cost.llm_usd_per_gain is None
    state(journal, hypothesis(), verdict=Verdict.KEEP, gain=0.1)
    revise(journal, "h1")
    assert summarize(journal.folder).cost.llm_usd_per_gain == pytest.approx(0.1)


def test_notes_of_a_proposal_are_messages_and_repairs_are_counted(journal):
    provenance = Provenance(model="m-1", prompt_digest="", calls=2, tokens=9, usd=0.0, repairs=2)
    notes = ("the scientist did not answer: timed out",)
    first = Proposal(hypotheses=(), source="expert", provenance=provenance, notes=notes, analysis="Flat.")
    propose(journal, first)
    propose(journal, Proposal(hypotheses=(), source="sampler"), key="1/2")
    summary = summarize(journal.folder)
    assert summary.messages == notes
    assert (summary.model.repairs, summary.model.proposals, summary.model.names) == (2, 1, ("m-1",))
    assert summary.model.analysis == "Flat."


def test_who_is_asked_and_since_when_is_told(journal):
    journal.clock.now = 1234.0
    journal.append("phase", {"phase": "asking", "round": 2, "detail": "expert, call 2/1"})
    summary = summarize(journal.folder)
    assert (summary.phase, summary.phase_detail, summary.phase_since) == ("asking", "expert, call 2/1", 1234.0)
    journal.append("phase", {"phase": "screening", "round": 2})
    assert summarize(journal.folder).phase_detail == ""


def test_the_scientist_and_its_budget_are_read_from_the_spec(journal, tmp_path):
    summary = summarize(journal.folder)
    assert (summary.scientist, summary.budget_usd, summary.budget_tokens) == ("expert", 2.0, 5000)
    assert summary.budget_usd_per_gain == 0.5
    for number, (spec, name) in enumerate([({"scientist": {"mailbox": "post"}}, "mailbox"), ({}, "")]):
        with Journal(tmp_path / str(number)) as other:
            begin(other, spec=spec)
        assert summarize(tmp_path / str(number)).scientist == name


def test_the_gate_does_not_change_what_was_predicted_about(journal):
    state(journal, hypothesis(), verdict=Verdict.KEEP, gain=0.1)
    decision = codec.to_json(Decision(stage="gate", verdict=Verdict.VOID, sentence="Void."))
    data = {"round": 1, "scale": "nano", "threshold": 85.0, "hypotheses": ["h1"], "decision": decision, "gains": []}
    journal.append("gate_opened", data, key="1/nano")
    journal.append("gate_decided", data, key="1/nano")
    summary = summarize(journal.folder)
    assert summary.hypotheses[0].verdict is Verdict.VOID
    assert summary.hypotheses[0].screened is Verdict.KEEP
    assert [one.kept for one in forecasts(summary)] == [True]


def test_open_and_void_hypotheses_are_no_forecasts(journal):
    state(journal, hypothesis("h1"), verdict=Verdict.DROP, gain=None, status="not_finite")
    state(journal, hypothesis("h2"), verdict=Verdict.VOID, gain=None, status="lost")
    state(journal, hypothesis("h3", source="sampler"), verdict=Verdict.VOID, gain=0.2)
    data = {"hypothesis": codec.to_json(hypothesis("h4")), "round": 1, "before": {}}
    journal.append("hypothesis_stated", data, key="h4")
    [one] = forecasts(summarize(journal.folder))
    assert (one.source, one.kept, one.gain) == ("expert", False, None)


def test_refusals_are_counted_by_source(journal):
    for id, source in (("h1", "expert"), ("h2", "expert"), ("h3", "sampler")):
        data = {"hypothesis": codec.to_json(hypothesis(id, source=source)), "why": "it changes nothing"}
        journal.append("hypothesis_refused", data, key=id)
    assert summarize(journal.folder).refused == {"expert": 2, "sampler": 1}


def test_a_key_that_joins_the_space_has_had_its_value_all_along(journal):
    domain = Float(low=0.0, high=1.0)
    edits = [SpaceEdit(op="add", key="decay", domain=domain, why="it is fixed", source="expert")]
    data = {"edits": [codec.to_json(edit) for edit in edits], "base": {"decay": 0.01}}
    journal.append("space_revised", data, key="1/1")
    summary = summarize(journal.folder)
    assert summary.base == summary.incumbent == summary.branch == {"lr": 0.1, "decay": 0.01}
    assert summary.space_edits[0].endswith("it is fixed (expert)")


def test_the_scores_of_a_round_fit_the_schema_of_the_journal(journal):
    state(journal, hypothesis(), verdict=Verdict.KEEP, gain=0.1)
    record = scores_record(forecasts(summarize(journal.folder)))
    entry = journal.append("predictions_scored", {"round": 1, "sources": record}, key="1")
    validator = jsonschema.Draft202012Validator(json.loads(resource("schemas", "journal.schema.json").read_text()))
    assert list(validator.iter_errors(json.loads(entry.line()))) == []
    broken = json.loads(entry.line())
    broken["data"]["sources"]["expert"]["brier"] = "good"
    assert [error.message for error in validator.iter_errors(broken)] != []


def test_folding_entry_by_entry_gives_the_same_as_from_disk(journal):
    fold = Fold(folder=journal.folder, clock=journal.clock)
    journal.listen(fold)
    line(journal, answered()).ask(MESSAGES, schema={}, key="1/1/1")
    propose(journal, Proposal(hypotheses=(hypothesis(),), source="expert", notes=("a note",)))
    state(journal, hypothesis(), verdict=Verdict.KEEP, gain=0.1)
    assert fold.summary() == summarize(journal.folder)


def entry(kind: str, *, time: float, **data: object) -> Entry:
    return Entry(n=1, time=time, kind=kind, key="", data=data)


def test_a_new_phase_is_shown_at_once_and_what_an_earlier_session_did_is_not_told_again(tmp_path: Path) -> None:
    shown: list[StudySummary] = []
    watcher = Watcher(shown.append, folder=tmp_path, interval_seconds=1000.0)
    now = time.time() + 1
    watcher.on_entry(entry("phase", time=now - 100, phase="screening", round=1))
    assert shown == []
    watcher.on_entry(entry("message", time=now, text="one"))
    watcher.on_entry(entry("message", time=now, text="two"))
    assert len(shown) == 1
    watcher.on_entry(entry("phase", time=now, phase="asking", round=1, detail="mailbox"))
    assert [summary.phase for summary in shown] == ["screening", "asking"]


@pytest.mark.parametrize(("alive", "phase"), [(True, "asking"), (False, "interrupted")])
def test_a_study_whose_process_is_gone_is_interrupted(tmp_path: Path, alive: bool, phase: str) -> None:
    child = subprocess.Popen(["sleep", "60"])
    if not alive:
        child.kill()
        child.wait()
    with Journal(tmp_path) as journal:
        journal.append("session_started", {"pid": child.pid, "host": platform.node(), "version": "0"})
        journal.append("phase", {"phase": "asking", "round": 1, "detail": "mailbox"})
    try:
        summary = summarize(tmp_path)
    finally:
        child.kill()
        child.wait()
    assert summary.phase == phase
    assert ("its process is gone" in summary.reason) is not alive
