"""The line to a server that fails over a real socket: how often it is asked, what is said, how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_autoresearch.asking import MOST_TRIES, Line
from lightning_autoresearch.chat import ChatMessage, Outcome
from lightning_autoresearch.integrations.openai import OpenAIChat
from lightning_autoresearch.journal import Journal
from lightning_autoresearch.spec import Budget, ScientistSettings
from tests import faults
from tests.faults import FaultServer, Step, error, ok

MESSAGES = (ChatMessage(role="system", content="rules"), ChatMessage(role="user", content="what now?"))
SCHEMA = {"type": "object"}


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """The client's import takes a second on a slow machine; it is not what is timed here."""
    import openai  # noqa: F401


@pytest.fixture
def line_to(tmp_path: Path) -> Iterator[Callable[..., Line]]:
    """Makes lines that do not wait between tries; their clock is real."""
    with Journal(tmp_path) as journal:

        def make(server: FaultServer, **changes: Any) -> Line:
            settings = ScientistSettings(**{"model": "m", "base_url": server.url, "max_tokens": 500, **changes})
            chat = OpenAIChat(settings, environ={})
            return Line(
                chat, journal=journal, settings=settings, budget=Budget(), price=None, sleep=lambda _: None, secrets=()
            )

        yield make


def test_two_429s_and_then_an_answer_is_an_answer(line_to):
    script = [error(429, "wait", headers={"Retry-After": "1"}), error(429, "wait"), ok("yes")]
    with FaultServer(script) as server:
        line = line_to(server)
        reply = line.ask(MESSAGES, schema=SCHEMA, key="k")
    assert (reply.outcome, reply.text) == (Outcome.ANSWERED, "yes")
    assert len(server.requests) == 3
    assert line.spent.tokens == 15


PASSING = {
    "429": (error(429, "wait"), Outcome.RATE_LIMITED),
    "500": (error(500, "oops"), Outcome.SERVER_ERROR),
    "502 of a gateway": (faults.html(502), Outcome.SERVER_ERROR),
    "reset": (faults.reset_before(), Outcome.DISCONNECTED),
    "reset in the body": (faults.reset_mid_body(), Outcome.DISCONNECTED),
    "close in the body": (faults.close_mid_body(), Outcome.DISCONNECTED),
    "html with 200": (faults.html(), Outcome.MALFORMED),
    "bad gzip": (faults.bad_gzip(), Outcome.MALFORMED),
    "choices null": (faults.answer({"choices": None}), Outcome.EMPTY),
}


@pytest.mark.parametrize(("step", "outcome"), PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_asked_again_and_one_that_does_not_ends(line_to, step: Step, outcome: Outcome):
    with FaultServer([step, ok("yes")]) as server:
        assert line_to(server).ask(MESSAGES, schema=SCHEMA, key="once").text == "yes"
    assert len(server.requests) == 2
    with FaultServer([step]) as server:
        reply = line_to(server).ask(MESSAGES, schema=SCHEMA, key="for ever")
    assert reply.outcome is outcome
    assert reply.detail.endswith(f"{MOST_TRIES} tries were made")
    assert len(server.requests) == MOST_TRIES


def test_a_long_retry_after_is_said_and_not_waited_for(line_to):
    with FaultServer([error(429, "wait", headers={"Retry-After": "300"})]) as server:
        reply = line_to(server).ask(MESSAGES, schema=SCHEMA, key="k")
    assert reply.outcome is Outcome.RATE_LIMITED
    assert "it wants to be asked again in 300 s" in reply.detail
    assert len(server.requests) == 1


STAYING = {
    "quota": (error(429, "pay", code="insufficient_quota"), Outcome.QUOTA_SPENT),
    "401": (error(401, "who are you"), Outcome.UNAUTHORIZED),
    "404": (error(404, "no such model"), Outcome.NOT_FOUND),
    "422": (error(422, "field required"), Outcome.BAD_REQUEST),
    "context": (error(400, "maximum context length is 9"), Outcome.TOO_LONG),
    "redirect": (faults.redirect("http://127.0.0.1:9/v1"), Outcome.REDIRECTED),
    "refusal": (ok(None, message={"refusal": "No."}), Outcome.REFUSED),
    "body without an end": (faults.flood(), Outcome.TOO_LARGE),
}


@pytest.mark.parametrize(("step", "outcome"), STAYING.values(), ids=STAYING)
def test_a_fault_that_stays_is_met_once(line_to, step: Step, outcome: Outcome):
    with FaultServer([step]) as server:
        assert line_to(server).ask(MESSAGES, schema=SCHEMA, key="k").outcome is outcome
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("script", "deadline"),
    [([error(503, "loading"), faults.hang()], 2.2), ([faults.drip()], 1.2)],
    ids=["hang after a fault", "drip"],
)
def test_a_slow_server_never_passes_the_deadline_of_all_tries(line_to, script: list[Step], deadline: float):
    began = time.monotonic()
    with FaultServer(script) as server:
        reply = line_to(server, timeout_seconds=deadline).ask(MESSAGES, schema=SCHEMA, key="k")
        assert time.monotonic() - began < deadline + 2
    assert reply.outcome is Outcome.TIMED_OUT
    assert len(server.requests) == len(script)


def test_a_reply_that_is_cut_short_is_asked_for_once_more(line_to):
    with FaultServer([ok("{}", finish_reason="length")]) as server:
        reply = line_to(server).ask(MESSAGES, schema=SCHEMA, key="k")
    assert (reply.outcome, len(server.requests)) == (Outcome.TRUNCATED, 2)
    assert "raise scientist.max_tokens, now 500" in reply.detail
