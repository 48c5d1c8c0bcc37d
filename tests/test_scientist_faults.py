"""Whole studies whose language model fails over a real socket, in every way that servers are known to fail."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from lightning_autoresearch.chat import Outcome
from lightning_autoresearch.journal import FILE_NAME, read_journal
from lightning_autoresearch.spec import parse_spec
from lightning_autoresearch.study import Study
from tests import faults
from tests.faults import FaultServer
from tests.scientists import idea, op, reply
from tests.worlds import SPEC, World, quicken

DEADLINE_SECONDS = 0.6
TRIALS = 36

GOOD = reply(idea(op("set", "/task/model/init_args/lr", old=0.001, value=0.003)))
NO_CHOICES = {**faults.completion(GOOD), "choices": []}

FAULTS = {
    "429 with Retry-After in seconds": (
        faults.error(429, "slow down", headers={"Retry-After": "0"}),
        Outcome.RATE_LIMITED,
    ),
    "429 with Retry-After in milliseconds": (
        faults.error(429, "slow down", headers={"Retry-After-Ms": "10"}),
        Outcome.RATE_LIMITED,
    ),
    "429 with Retry-After as a date": (
        faults.error(429, "slow down", headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Outcome.RATE_LIMITED,
    ),
    "429 for ever": (faults.error(429, "slow down"), Outcome.RATE_LIMITED),
    "429 with Retry-After 300": (
        faults.error(429, "slow down", headers={"Retry-After": "300"}),
        Outcome.RATE_LIMITED,
    ),
    "insufficient_quota": (
        faults.error(429, "You exceeded your current quota", code="insufficient_quota", type="insufficient_quota"),
        Outcome.QUOTA_SPENT,
    ),
    "500": (faults.error(500, "oops"), Outcome.SERVER_ERROR),
    "502 with HTML": (faults.html(502), Outcome.SERVER_ERROR),
    "reset before the body": (faults.reset_before(), Outcome.DISCONNECTED),
    "reset in the body": (faults.reset_mid_body(), Outcome.DISCONNECTED),
    "clean close in the body": (faults.close_mid_body(), Outcome.DISCONNECTED),
    "hang": (faults.hang(), Outcome.TIMED_OUT),
    "slow drip": (faults.drip(), Outcome.TIMED_OUT),
    "401": (faults.error(401, "Incorrect API key provided"), Outcome.UNAUTHORIZED),
    "403": (faults.error(403, "not for you"), Outcome.UNAUTHORIZED),
    "404": (faults.error(404, "The model `expert` does not exist"), Outcome.NOT_FOUND),
    "422": (faults.error(422, "Unprocessable"), Outcome.BAD_REQUEST),
    "400 for response_format": (faults.error(400, "response_format is not supported"), Outcome.BAD_REQUEST),
    "400 for the context's length": (
        faults.error(400, "This model's maximum context length is 8192 tokens", code="context_length_exceeded"),
        Outcome.TOO_LONG,
    ),
    "400 for a parameter": (faults.error(400, "Unknown parameter: 'messages'", param="messages"), Outcome.BAD_REQUEST),
    "200 with an HTML page": (faults.html(200), Outcome.MALFORMED),
    "200 with nothing": (faults.status(200, body=b""), Outcome.MALFORMED),
    "200 with truncated JSON": (faults.status(200, body=b'{"choices": [{"mess'), Outcome.MALFORMED),
    "200 with bad gzip": (faults.bad_gzip(), Outcome.MALFORMED),
    "200 with an error object": (faults.answer({"error": {"message": "overloaded"}}), Outcome.MALFORMED),
    "200 with choices null": (faults.answer({**NO_CHOICES, "choices": None}), Outcome.EMPTY),
    "200 without choices": (
        faults.answer({key: value for key, value in NO_CHOICES.items() if key != "choices"}),
        Outcome.EMPTY,
    ),
    "200 with no choice": (faults.answer(NO_CHOICES), Outcome.EMPTY),
    "truncated where it parses": (faults.ok(GOOD, finish_reason="length"), Outcome.TRUNCATED),
    "refusal": (faults.ok(None, message={"refusal": "I would rather not."}), Outcome.REFUSED),
    "content filter": (faults.ok("", finish_reason="content_filter"), Outcome.FILTERED),
    "redirect": (faults.redirect("http://127.0.0.1:1/v1/chat/completions"), Outcome.REDIRECTED),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken(monkeypatch)
    monkeypatch.setattr("lightning_autoresearch.asking.BACKOFF_SECONDS", 0.001)


@pytest.fixture(scope="module", autouse=True)
def imported():
    """The first import of the vendor's package takes longer than the deadlines here."""
    pytest.importorskip("openai")


def run(folder, url, *, world=None, deadline=DEADLINE_SECONDS):
    scientist = f"scientist: {{model: expert, base_url: '{url}', timeout_seconds: {deadline}}}\n"
    spec = parse_spec(SPEC + scientist, path=Path("world.yaml"), overrides=[f"budget.trials={TRIALS}"])
    return Study(spec, folder=folder, executor=world or World()).run()


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    spec = parse_spec(SPEC, path=Path("world.yaml"), overrides=[f"budget.trials={TRIALS}"])
    return Study(spec, folder=tmp_path_factory.mktemp("offline"), executor=World()).run()


@pytest.mark.parametrize(("step", "outcome"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_classified_costs_no_trial_and_keeps_its_deadline(tmp_path, offline, step, outcome):
    with FaultServer([step]) as server:
        summary = run(tmp_path, server.url)
        assert server.requests
    calls = [entry.data for entry in read_journal(tmp_path) if entry.kind == "call_finished"]
    assert {call["outcome"] for call in calls} == {outcome.value}
    assert all(call["detail"] for call in calls)
    assert all(call["seconds"] < DEADLINE_SECONDS + 1.5 for call in calls)
    assert summary.phase == "done"
    assert any("did not answer" in text and "the sampler proposes alone" in text for text in summary.messages)
    assert [row.hypothesis.overrides for row in summary.hypotheses] == [
        row.hypothesis.overrides for row in offline.hypotheses
    ]
    assert all(row.result is not None and row.result.finished for row in summary.trials)


UNREADABLE = {
    "prose": "I think the learning rate should be higher.",
    "a schema mismatch": json.dumps({"ideas": ["more width"]}),
    "NaN": GOOD.replace("0.7", "NaN"),
    "nothing in its fences": "```json\n```",
    "thoughts without an end": "<think> what if",
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_reply_that_cannot_be_read_goes_back_twice_and_is_then_given_up(tmp_path, offline, text):
    with FaultServer([faults.ok(text)]) as server:
        summary = run(tmp_path, server.url, deadline=30)
    first = next(entry.data for entry in read_journal(tmp_path) if entry.kind == "proposal_received")
    assert first["provenance"]["repairs"] == 2
    assert "broke" in first["notes"][0]
    assert summary.phase == "done"
    assert summary.incumbent == offline.incumbent


READABLE = {
    "fenced": f"Here it is:\n```json\n{GOOD}\n```\nGood luck!",
    "after thoughts": f"<think>What about lr {{maybe}}?</think>\n{GOOD}",
    "as it should be": GOOD,
}


@pytest.mark.parametrize("text", READABLE.values(), ids=READABLE.keys())
def test_a_reply_in_fences_or_after_thoughts_is_read_without_a_repair(tmp_path, text):
    with FaultServer([faults.ok(text), faults.ok(reply())]) as server:
        run(tmp_path, server.url, deadline=30)
    first = next(entry.data for entry in read_journal(tmp_path) if entry.kind == "proposal_received")
    assert first["provenance"]["repairs"] == 0
    assert first["hypotheses"][0]["source"] == "expert"


def test_a_reply_without_usage_is_charged_its_reserve(tmp_path):
    body = {**faults.completion(GOOD)}
    del body["usage"]
    with FaultServer([faults.answer(body), faults.error(401, "enough")]) as server:
        run(tmp_path, server.url, deadline=30)
    entries = read_journal(tmp_path)
    started = next(entry.data for entry in entries if entry.kind == "call_started")
    finished = next(entry.data for entry in entries if entry.kind == "call_finished")
    assert finished["outcome"] == "answered"
    assert finished["charged_tokens"] == started["reserved_tokens"] > 0


def test_the_real_key_never_reaches_a_server_that_the_spec_does_not_name_it_for(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted0123456789abcdef")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-planted")
    with FaultServer([faults.ok(GOOD), faults.ok(reply())]) as server:
        run(tmp_path, server.url, deadline=30)
        assert server.requests
        assert b"planted" not in server.raw
    assert "planted" not in (tmp_path / FILE_NAME).read_text()


def test_a_model_that_vanishes_in_the_middle_of_a_study_loses_no_trial(tmp_path):
    world = World()
    with FaultServer([faults.ok(GOOD), faults.reset_mid_body()]) as server:
        summary = run(tmp_path, server.url, world=world)
    assert summary.phase == "done"
    assert len(summary.trials) == len(world.submitted)
    assert {row.hypothesis.source for row in summary.hypotheses} == {"expert", "sampler"}


def test_ctrl_c_while_the_model_hangs_ends_the_study_at_once(tmp_path):
    with FaultServer([faults.hang()]) as server:
        scientist = f"scientist: {{model: expert, base_url: '{server.url}', timeout_seconds: 60}}\n"
        study = Study(parse_spec(SPEC + scientist, path=Path("world.yaml")), folder=tmp_path, executor=World())
        threading.Timer(0.7, study.interrupt).start()
        started = time.monotonic()
        summary = study.run()
    assert summary.phase == "interrupted"
    assert time.monotonic() - started < 10
