"""Every fault of a server, over a real socket: an outcome, no exception, in time."""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest

from lightning_autoresearch.chat import ChatMessage, ChatReply, ChatRequest, Outcome, Usage
from lightning_autoresearch.integrations import openai as door
from lightning_autoresearch.integrations.openai import OpenAIChat, key_fault
from lightning_autoresearch.spec import ScientistSettings
from tests import faults
from tests.faults import FaultServer, Received, Step, closed_port, completion, error, ok, status

KEY = "sk-planted-0123456789abcdef"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
MESSAGES = (ChatMessage(role="system", content="rules"), ChatMessage(role="user", content="what now?"))


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """The client's import takes a second on a slow machine; it is not what is timed here."""
    import openai  # noqa: F401


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for _ in range(40):
        left = {thread for thread in threading.enumerate() if thread not in before}
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(left)


def request(**changes: Any) -> ChatRequest:
    filled = {"key": "1/1/1", "messages": MESSAGES, "schema": SCHEMA, "max_tokens": 500, "timeout_seconds": 20.0}
    return ChatRequest(**{**filled, **changes})


def chat_with(url: str, environ: dict[str, str] | None = None, **changes: Any) -> OpenAIChat:
    return OpenAIChat(ScientistSettings(**{"model": "some-model", "base_url": url, **changes}), environ=environ or {})


def go_on() -> bool:
    return False


def ask(
    *script: Step, seconds: float = 20.0, environ: dict[str, str] | None = None, **changes: Any
) -> tuple[ChatReply, FaultServer]:
    """One ask of a server with this script."""
    with FaultServer(script) as server:
        reply = chat_with(server.url, environ, **changes).ask(request(timeout_seconds=seconds), stop=go_on)
    return reply, server


def test_a_good_answer_is_read_whole():
    usage = {"prompt_tokens": 40, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 32}}
    reply, server = ask(ok('{"a": 1}', usage=usage, model="some-model-2026"))
    assert reply.outcome is Outcome.ANSWERED
    assert reply.text == '{"a": 1}'
    assert reply.detail == ""
    assert reply.model == "some-model-2026"
    assert reply.usage == Usage(input_tokens=40, output_tokens=7, cached_tokens=32)
    assert reply.rung == "json_schema"
    assert 0 < reply.seconds < 10
    assert len(server.requests) == 1


def test_a_request_has_what_was_asked_for_and_nothing_else():
    _, server = ask(ok())
    assert server.requests[0].method == "POST"
    assert server.requests[0].path == "/v1/chat/completions"
    assert server.requests[0].json == {
        "model": "some-model",
        "messages": [{"role": "system", "content": "rules"}, {"role": "user", "content": "what now?"}],
        "max_tokens": 500,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "proposal", "strict": True, "schema": SCHEMA},
        },
    }


def test_temperature_and_seed_are_sent_where_they_are_set():
    _, server = ask(ok(), temperature=0.0, seed=3)
    assert server.requests[0].json["temperature"] == 0.0
    assert server.requests[0].json["seed"] == 3


# Faults that have an answer: name, step, outcome, words of the detail, whether it may cost, seconds to wait.
ANSWERED_FAULTS = [
    ("429 in seconds", error(429, "Slow down", headers={"Retry-After": "7"}), "rate_limited", "in 7 s", False, 7.0),
    ("429 in ms", error(429, "Slow down", headers={"retry-after-ms": "1500"}), "rate_limited", "in 1.5 s", False, 1.5),
    ("429 for long", error(429, "Slow down", headers={"Retry-After": "300"}), "rate_limited", "in 300 s", False, 300.0),
    ("429 without a time", error(429, "Slow down"), "rate_limited", "status 429: Slow down", False, None),
    ("429 with a mad time", error(429, "x", headers={"Retry-After": "nan"}), "rate_limited", "429", False, None),
    ("429 with words", error(429, "x", headers={"Retry-After": "soon"}), "rate_limited", "429", False, None),
    (
        "429 too large for ever",
        error(429, "Request too large for gpt-x on tokens per min (TPM)"),
        "too_long",
        "prompt_characters",
        False,
        None,
    ),
    (
        "quota",
        error(429, "You exceeded your current quota", code="insufficient_quota"),
        "quota_spent",
        "no money left",
        False,
        None,
    ),
    ("402", error(402, "Insufficient Balance"), "quota_spent", "no money left", False, None),
    ("500", error(500, "boom"), "server_error", "status 500: boom", True, None),
    ("502 HTML", faults.html(502), "server_error", r"page of HTML \(Sign in to the network\)", True, None),
    ("503", error(503, "busy", headers={"Retry-After": "2"}), "server_error", "in 2 s", False, 2.0),
    ("504", status(504, body=b""), "server_error", "status 504", True, None),
    ("400", error(400, "messages: too few"), "bad_request", "messages: too few", False, None),
    ("401", error(401, "who are you"), "unauthorized", "scientist.api_key_env", False, None),
    ("403", error(403, "not in your country"), "unauthorized", "not in your country", False, None),
    ("404 model", error(404, "model 'some-model' not found, try pulling it"), "not_found", "try pulling", False, None),
    ("404 page", faults.html(404), "not_found", "mostly ends in /v1", False, None),
    ("408", status(408), "timed_out", "status 408", False, None),
    ("409", status(409), "server_error", "status 409", False, None),
    ("413", status(413), "too_long", "prompt_characters", False, None),
    ("418", status(418, body=b""), "bad_request", "status 418", False, None),
    (
        "422",
        status(422, body=b'{"detail": [{"loc": ["body", "messages"], "msg": "field required", "input": {"k": "e"}}]}'),
        "bad_request",
        "field required",
        False,
        None,
    ),
    ("redirect", faults.redirect("http://127.0.0.1:9/v1"), "redirected", "http://127.0.0.1:9/v1", False, None),
    ("permanent redirect", faults.redirect("/elsewhere", code=308), "redirected", "/elsewhere", False, None),
    ("HTML with 200", faults.html(), "malformed", "page of HTML", True, None),
    ("plain text", status(200, body=b"hello", content_type="text/plain"), "malformed", "no JSON: hello", True, None),
    ("empty", status(200, body=b""), "malformed", "it is empty", True, None),
    ("no content", status(204, body=b""), "malformed", "it is empty", True, None),
    ("truncated JSON", status(200, body=b'{"choices": [{"mess'), "malformed", "no JSON", True, None),
    ("bytes that are no text", status(200, body=b"\xff\xfe\xfa{"), "malformed", "no JSON", True, None),
    ("deep JSON", status(200, body=b"[" * 200000), "malformed", "no JSON", True, None),
    ("a huge number", status(200, body=b'{"id": ' + b"9" * 5000 + b"}"), "malformed", "no JSON", True, None),
    ("a list", status(200, body=b"[1, 2]"), "malformed", "no chat completion", True, None),
    ("a text", status(200, body=b'"hello"'), "malformed", "no chat completion", True, None),
    ("null", status(200, body=b"null"), "malformed", "no chat completion", True, None),
    ("bad gzip", faults.bad_gzip(), "malformed", "compression is broken", True, None),
    ("error with 200", error(200, "worker died"), "malformed", "worker died", True, None),
    ("error as a word with 200", faults.answer({"error": "worker died"}), "malformed", "worker died", True, None),
    ("vLLM's error with 200", faults.answer({"object": "error", "message": "no"}), "malformed", "no", True, None),
    (
        "llama.cpp's long prompt with 200",
        error(200, "the request exceeds the available context size", code=400, type="exceed_context_size_error"),
        "too_long",
        "prompt_characters",
        False,
        None,
    ),
    ("no choices", faults.answer({"usage": {}}), "empty", "no choice", True, None),
    ("choices null", faults.answer({"choices": None}), "empty", "no choice", True, None),
    ("choices empty", faults.answer({"choices": []}), "empty", "no choice", True, None),
    ("choices of null", faults.answer({"choices": [None]}), "empty", "no choice", True, None),
    ("choices of text", faults.answer({"choices": "x"}), "empty", "no choice", True, None),
    ("no message", faults.answer({"choices": [{"finish_reason": "stop"}]}), "empty", "no text", True, None),
    ("content null", ok(None), "empty", "no text", True, None),
    ("content blank", ok(" \n"), "empty", "no text", True, None),
    ("content a number", ok(3), "empty", "no text", True, None),
    ("only thoughts", ok(None, message={"reasoning_content": "Hm."}), "empty", "turn its thinking off", True, None),
    ("cut off", ok('{"a": 1}', finish_reason="length"), "truncated", "scientist.max_tokens", True, None),
    ("refusal", ok(None, message={"refusal": "I cannot."}), "refused", "I cannot.", True, None),
    ("refusal as a part", ok([{"type": "refusal", "refusal": "No."}]), "refused", "No.", True, None),
    ("filter", ok("{", finish_reason="content_filter"), "filtered", "content filter", True, None),
    ("broken off", ok("{", finish_reason="error"), "malformed", "broke off", True, None),
]


@pytest.mark.parametrize(
    ("step", "outcome", "words", "may_cost", "wait"),
    [case[1:] for case in ANSWERED_FAULTS],
    ids=[case[0] for case in ANSWERED_FAULTS],
)
def test_every_faulty_answer_has_an_outcome(step: Step, outcome: str, words: str, may_cost: bool, wait: float | None):
    reply, server = ask(step)
    assert reply.outcome is Outcome(outcome)
    assert re.search(words, reply.detail), reply.detail
    assert "\n" not in reply.detail
    assert len(reply.detail) <= 600
    assert reply.may_cost is may_cost
    assert reply.retry_after_seconds == wait
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (faults.reset_before(), "failed"),
        (faults.reset_mid_body(), "failed"),
        (faults.close_mid_body(), "failed"),
        (faults.raw(b""), "failed"),
        (faults.raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "failed"),
        (faults.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "failed"),
    ],
    ids=["reset before", "reset mid-body", "close mid-body", "close before", "another protocol", "broken chunks"],
)
def test_a_broken_connection_is_disconnected_and_may_cost(step: Step, words: str):
    reply, server = ask(step)
    assert reply.outcome is Outcome.DISCONNECTED
    assert re.search(words, reply.detail)
    assert reply.may_cost
    assert len(server.requests) == 1


def test_a_refused_connection_costs_nothing():
    reply = chat_with(f"http://127.0.0.1:{closed_port()}/v1").ask(request(), stop=go_on)
    assert reply.outcome is Outcome.DISCONNECTED
    assert re.search(r"no connection to http://127\.0\.0\.1:\d+/v1 .*is the server running", reply.detail)
    assert not reply.may_cost


def test_a_name_that_does_not_resolve_is_disconnected():
    reply = chat_with("http://no-such-host.invalid/v1").ask(request(timeout_seconds=5), stop=go_on)
    assert reply.outcome in (Outcome.DISCONNECTED, Outcome.TIMED_OUT)
    assert not reply.may_cost


def test_https_to_a_server_without_it_is_disconnected_and_costs_nothing():
    with FaultServer([ok()]) as server:
        reply = chat_with(server.url.replace("http:", "https:")).ask(request(), stop=go_on)
    assert reply.outcome is Outcome.DISCONNECTED
    assert not reply.may_cost
    assert server.requests == []


def test_a_handshake_that_never_ends_meets_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        chat = chat_with(f"https://127.0.0.1:{listener.getsockname()[1]}/v1")
        reply = chat.ask(request(timeout_seconds=1.0), stop=go_on)
    assert reply.outcome in (Outcome.TIMED_OUT, Outcome.DISCONNECTED)
    assert "no connection" in reply.detail
    assert not reply.may_cost
    assert reply.seconds < 3


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://host:port/v1", "/v1"])
def test_an_address_that_is_none_is_said_before_anything_is_sent(url: str):
    reply = chat_with(url).ask(request(), stop=go_on)
    assert reply.outcome is Outcome.NOT_FOUND
    assert re.search("scientist.base_url .* is no address", reply.detail)
    assert not reply.may_cost


def test_a_body_without_an_end_is_cut_at_the_cap():
    reply, _ = ask(faults.flood())
    assert reply.outcome is Outcome.TOO_LARGE
    assert "larger than 8 MiB" in reply.detail


@pytest.mark.parametrize(
    "step",
    [
        faults.hang(),
        faults.drip(),
        faults.drip_body(),
        faults.later(ok(), seconds=10),
        # Each form of the request has the same deadline.
        faults.later(error(400, "response_format is unknown"), seconds=0.4),
    ],
    ids=["hang", "drip", "drip of the body", "late", "slow refusals"],
)
def test_the_deadline_is_total(step: Step):
    reply, _ = ask(step, seconds=1.0)
    assert reply.outcome is Outcome.TIMED_OUT
    assert "within 1 s" in reply.detail
    assert reply.may_cost
    assert 0.9 < reply.seconds < 3


def test_a_server_that_takes_connections_and_reads_nothing_meets_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        big = (ChatMessage(role="user", content="x" * 8_000_000),)
        chat = chat_with(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        reply = chat.ask(request(messages=big, timeout_seconds=1.0), stop=go_on)
    assert reply.outcome is Outcome.TIMED_OUT
    assert reply.seconds < 3


def test_stop_ends_a_call_at_once_and_the_socket_is_closed():
    began = time.monotonic()
    looks: list[float] = []

    def stop() -> bool:
        looks.append(time.monotonic())
        return time.monotonic() - began > 0.6

    gone = threading.Event()

    def notice(line: faults.Line) -> None:
        line.socket.settimeout(10)
        if line.socket.recv(1) == b"":
            gone.set()

    with FaultServer([notice]) as server:
        reply = chat_with(server.url).ask(request(), stop=stop)
        assert gone.wait(3)
    assert reply.outcome is Outcome.TIMED_OUT
    assert "study stops" in reply.detail
    assert reply.seconds < 2.5
    assert max(after - before for before, after in pairwise(looks)) < 0.5


def test_a_stop_that_raises_leaves_nothing_behind():
    def interrupted() -> bool:
        raise KeyboardInterrupt

    with FaultServer([faults.hang()]) as server, pytest.raises(KeyboardInterrupt):
        chat_with(server.url).ask(request(), stop=interrupted)


def test_retry_after_as_a_date_counts_from_now():
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
    reply, _ = ask(error(429, "Slow down", headers={"Retry-After": date}))
    assert reply.retry_after_seconds == pytest.approx(90, abs=5)
    past, _ = ask(error(429, "Slow down", headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}))
    assert past.retry_after_seconds == 0


LONG_PROMPTS = {
    "OpenAI": error(400, "Your messages resulted in 9000 tokens.", code="context_length_exceeded"),
    "vLLM": status(
        400,
        body=json.dumps(
            {
                "object": "error",
                "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens "
                "(4500 in the messages, 500 in the completion). Please reduce the length of the messages.",
                "type": "BadRequestError",
                "code": 400,
            }
        ).encode(),
    ),
    "vLLM with no room left": error(400, "max_tokens must be at least 1, got -186."),
    "vLLM on max_tokens": error(
        400, "'max_tokens' is too large: 16000. This model's maximum context length is 4096 tokens."
    ),
    "llama.cpp": error(
        400, "request (1407 tokens) exceeds the available context size (256 tokens)", type="exceed_context_size_error"
    ),
    "llama.cpp before": error(500, "the request exceeds the available context size. try increasing the context size"),
    "llama-cpp-python": error(500, "Requested tokens (600) exceed context window of 512"),
    "Ollama": error(400, "the input length exceeds the context length"),
    "Anthropic": error(400, "prompt is too long: 210000 tokens > 200000 maximum"),
}


@pytest.mark.parametrize("name", LONG_PROMPTS)
def test_a_prompt_beyond_the_context_is_too_long_in_every_wording(name: str):
    reply, server = ask(LONG_PROMPTS[name])
    assert reply.outcome is Outcome.TOO_LONG
    assert "scientist.prompt_characters" in reply.detail
    assert not reply.may_cost
    assert len(server.requests) == 1


def picky(accepts: Callable[[dict[str, Any]], str]) -> Callable[[Received], Step]:
    """A server that refuses with these words, and answers where there are none."""

    def step(received: Received) -> Step:
        refusal = accepts(received.json)
        return error(400, refusal) if refusal else ok('{"a": 1}')

    return step


def shape(body: dict[str, Any]) -> str:
    given = body.get("response_format", {"type": "text"})
    return given["type"] + ("_schema" if "schema" in given else "")


RUNGS = ["json_schema", "json_object_schema", "json_object", "text"]


@pytest.mark.parametrize("works", range(4))
def test_the_reply_format_steps_down_within_one_try_and_is_remembered(works: int):
    def accepts(body: dict[str, Any]) -> str:
        return "" if RUNGS.index(shape(body)) >= works else "response_format is not supported"

    with FaultServer(picky(accepts)) as server:
        chat = chat_with(server.url)
        first = chat.ask(request(), stop=go_on)
        assert [shape(received.json) for received in server.requests] == RUNGS[: works + 1]
        second = chat.ask(request(), stop=go_on)
    assert first.answered
    assert first.rung == second.rung == RUNGS[works]
    assert len(server.requests) == works + 2


@pytest.mark.parametrize("code", [400, 404, 415, 422, 500, 501])
def test_every_status_that_names_the_format_steps_down(code: int):
    reply, server = ask(error(code, "json_schema: failed to parse grammar"), ok())
    assert reply.rung == "json_object_schema"
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [401, 403, 429, 502, 503])
def test_other_statuses_do_not_step_down(code: int):
    reply, server = ask(error(code, "response_format"), ok())
    assert not reply.answered
    assert len(server.requests) == 1


def test_a_format_that_is_refused_to_the_last_is_a_bad_request_and_not_remembered():
    with FaultServer([error(400, "response_format is unknown")]) as server:
        chat = chat_with(server.url)
        reply = chat.ask(request(), stop=go_on)
        assert len(server.requests) == 4
        chat.ask(request(), stop=go_on)
    assert reply.outcome is Outcome.BAD_REQUEST
    assert [shape(received.json) for received in server.requests] == RUNGS * 2


@pytest.mark.parametrize("name", ["temperature", "seed"])
def test_a_refused_parameter_is_left_out_and_stays_out(name: str):
    def accepts(body: dict[str, Any]) -> str:
        return f"Unsupported parameter: '{name}' is not supported with this model." if name in body else ""

    with FaultServer(picky(accepts)) as server:
        chat = chat_with(server.url, temperature=0.5, seed=1)
        replies = [chat.ask(request(), stop=go_on) for _ in range(2)]
    assert all(reply.answered and reply.rung == "json_schema" for reply in replies)
    assert [name in received.json for received in server.requests] == [True, False, False]
    other = {"temperature": "seed", "seed": "temperature"}[name]
    assert all(other in received.json for received in server.requests)


def test_the_parameter_that_an_error_names_is_the_one_left_out():
    message = "with this response_format the seed has no effect and temperature must be 1"
    _, server = ask(error(400, message, param="temperature"), ok(), temperature=0.5, seed=1)
    assert server.requests[1].json.keys() == server.requests[0].json.keys() - {"temperature"}


def test_the_echo_of_the_request_is_not_taken_for_a_complaint():
    def complain(received: Received) -> Step:
        fault = {"type": "missing", "loc": ["body", "user"], "msg": "Field required", "input": received.json}
        return status(422, body=json.dumps({"detail": [fault]}).encode())

    with FaultServer(complain) as server:
        reply = chat_with(server.url, temperature=0.5).ask(request(), stop=go_on)
    assert reply.outcome is Outcome.BAD_REQUEST
    assert len(server.requests) == 1
    echoed = status(400, body=b"""{"message": "[{'msg': 'no', 'input': {'response_format': 1, 'seed': 2}}]"}""")
    _, server = ask(echoed, seed=2)
    assert len(server.requests) == 1


def test_the_name_of_the_length_is_changed_where_the_server_knows_the_other():
    words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    with FaultServer(picky(lambda body: words if "max_tokens" in body else "")) as server:
        reply = chat_with(server.url).ask(request(), stop=go_on)
    assert reply.answered
    assert server.requests[1].json["max_completion_tokens"] == 500


def test_nothing_else_is_asked_of_a_server_when_nobody_waits():
    with FaultServer([faults.later(error(400, "response_format"), seconds=0.8), ok()]) as server:
        chat_with(server.url).ask(request(timeout_seconds=0.4), stop=go_on)
        time.sleep(1.0)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": '{"a"'}, {"type": "text", "text": ": 1}"}],
        [{"type": "thinking", "thinking": "Hm.", "text": "Hm."}, {"type": "output_text", "text": '{"a": 1}'}, None],
    ],
)
def test_a_list_of_parts_is_joined(content: object):
    reply, _ = ask(ok(content))
    assert reply.answered
    assert reply.text == '{"a": 1}'


@pytest.mark.parametrize("text", ["Sure!", '```json\n{"a": 1}\n```', "<think>Hm.</think>{}", '{"a": NaN}', '{"b": 2}'])
def test_a_text_is_handed_on_as_it_is(text: str):
    reply, _ = ask(ok(text))
    assert reply.answered
    assert reply.text == text


def test_a_compressed_answer_is_read_although_none_was_asked_for():
    reply, server = ask(faults.good_gzip('{"a": 1}'))
    assert reply.text == '{"a": 1}'
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_nan_beside_the_text_does_no_harm():
    body = json.dumps({**completion('{"a": 1}'), "temperature": float("nan")}).encode()
    reply, _ = ask(status(200, body=body))
    assert reply.answered


def test_half_a_surrogate_pair_can_be_written_to_a_file():
    reply, _ = ask(status(200, body=json.dumps(completion("a\ud800b", model="m\ud800")).encode()))
    assert reply.answered
    assert (reply.text + reply.model).encode()
    sent = chat_with("http://127.0.0.1:1/v1").ask(
        request(messages=(ChatMessage(role="user", content="\ud800"),)), stop=go_on
    )
    assert sent.outcome is Outcome.DISCONNECTED


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": None, "completion_tokens": 3},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 10, "completion_tokens": 0},
        {"prompt_tokens": -4, "completion_tokens": 3},
        {"prompt_tokens": True, "completion_tokens": True},
        {"prompt_tokens": "10", "completion_tokens": "3"},
        {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
        {"total_tokens": 13},
    ],
    ids=str,
)
def test_a_usage_that_cannot_be_is_none_and_the_answer_may_cost(usage: dict[str, Any]):
    reply, _ = ask(ok('{"a": 1}', usage=usage))
    assert reply.answered
    assert reply.usage is None
    assert reply.may_cost


def test_the_usage_of_a_reply_that_is_no_use_is_kept():
    reply, _ = ask(ok('{"a', finish_reason="length"))
    assert reply.usage == Usage(input_tokens=10, output_tokens=5)
    assert reply.text == '{"a'


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment full of what the client sends by itself."""
    environ = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_ADMIN_KEY": "sk-admin-0123456789abcdef",
        "OPENAI_ORG_ID": "org-planted",
        "OPENAI_PROJECT_ID": "proj-planted",
        "OPENAI_CUSTOM_HEADERS": f"X-Planted: planted-header\nAuthorization: Bearer {KEY}",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/planted",
        "OPENAI_WEBHOOK_SECRET": "whsec-planted",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return environ


def test_another_server_never_gets_the_key_nor_the_ids_of_openai(planted: dict[str, str]):
    with FaultServer([error(400, "response_format"), ok()]) as server:
        settings = ScientistSettings(model="some-model", base_url=server.url)
        reply = OpenAIChat(settings).ask(request(), stop=go_on)
    assert reply.answered
    assert len(server.requests) == 2
    assert not re.search(rb"(?i)planted|authorization|openai-|sk-|x-stainless", server.raw)


def test_another_server_gets_the_key_that_the_spec_names(planted: dict[str, str]):
    environ = {**planted, "MY_KEY": "my-own-key-123"}
    _, server = ask(ok(), environ=environ, api_key_env="MY_KEY")
    assert server.requests[0].headers["authorization"] == "Bearer my-own-key-123"
    assert b"planted" not in server.raw


def test_the_key_of_openai_goes_to_another_server_where_the_spec_says_so(planted: dict[str, str]):
    _, server = ask(ok(), environ=planted, api_key_env="OPENAI_API_KEY")
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert not re.search(rb"(?i)org-planted|proj-planted|planted-header", server.raw)


def test_a_login_in_the_address_is_sent_and_never_said():
    with FaultServer([error(404, "no")]) as server:
        url = server.url.replace("://", "://me:pass-word@")
        reply = chat_with(url).ask(request(), stop=go_on)
    assert server.requests[0].headers["authorization"].startswith("Basic ")
    assert "pass-word" not in reply.detail


def test_openai_gets_its_key_its_ids_and_its_own_parameters(planted: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    def accepts(body: dict[str, Any]) -> str:
        return "response_format json_schema is not supported with this model" if shape(body) == "json_schema" else ""

    with FaultServer(picky(accepts)) as server:
        monkeypatch.setattr(door, "OPENAI_URL", server.url)
        reply = OpenAIChat(ScientistSettings(model="gpt-x"), environ=planted).ask(request(), stop=go_on)
    headers = server.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["openai-organization"] == "org-planted"
    assert headers["openai-project"] == "proj-planted"
    assert b"planted-header" not in server.raw
    assert [shape(received.json) for received in server.requests] == ["json_schema", "json_object"]
    assert reply.rung == "json_object"
    assert "max_tokens" not in server.requests[0].json
    assert server.requests[0].json["max_completion_tokens"] == 500


@pytest.mark.parametrize(
    ("url", "openai"),
    [
        (None, True),
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://api.openai.com.evil.example/v1", False),
        ("https://evil.example/api.openai.com/v1", False),
        ("https://api.openai.com@evil.example/v1", False),
        ("http://localhost:8000/v1", False),
    ],
)
def test_what_is_openai_is_known_by_its_host(url: str | None, openai: bool):
    form = door._first_form(ScientistSettings(model="m", base_url=url))
    assert (form.limits == ("max_completion_tokens",)) is openai
    assert ("json_object_schema" in form.rungs) is not openai
    sent = door._headers(ScientistSettings(model="m", base_url=url), {"OPENAI_ORG_ID": "org"})
    assert ("OpenAI-Organization" in sent) is openai


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "is not set"),
        ("", "is empty"),
        (" \n", "is empty"),
        (f"{KEY}\n", "begins or ends with a blank or a line end"),
        (f" {KEY}", "begins or ends with a blank or a line end"),
        ("sk-planted 0123456789abcdef", "has characters that no key has"),
        ("sk-planted\n0123456789abcdef", "has characters that no key has"),
        ("sk-plänted-0123456789abcdef", "has characters that no key has"),
        ("sk-planted\x00123456789abcdef", "has characters that no key has"),
    ],
)
def test_a_key_that_cannot_be_sent_is_said_before_anything_is(value: str | None, words: str):
    environ = {} if value is None else {"MY_KEY": value}
    reply, server = ask(ok(), environ=environ, api_key_env="MY_KEY")
    assert reply.outcome is Outcome.NO_KEY
    assert re.search(f"MY_KEY {words}|MY_KEY.*{words}", reply.detail)
    assert "scientist.api_key_env" in reply.detail
    assert "0123456789" not in reply.detail
    assert not reply.may_cost
    assert server.requests == []


def test_a_key_is_only_missing_where_one_is_needed():
    assert key_fault(ScientistSettings(model="m", base_url="http://localhost:8000/v1"), {}) == ""
    assert key_fault(ScientistSettings(mailbox="box"), {}) == ""
    assert "OPENAI_API_KEY is not set" in key_fault(ScientistSettings(model="m"), {})
    assert key_fault(ScientistSettings(model="m"), {"OPENAI_API_KEY": KEY}) == ""


@pytest.mark.parametrize("code", [200, 400, 401, 404, 500])
def test_a_server_that_says_the_key_back_does_not_get_it_into_the_detail(code: int):
    words = f"Incorrect API key provided: {KEY}; Bearer {KEY}; also sk-pl**********cdef."
    reply, _ = ask(error(code, words), environ={"MY_KEY": KEY}, api_key_env="MY_KEY")
    assert "[redacted]" in reply.detail
    assert not re.search("planted|0123456789|cdef", reply.detail)
    assert "planted" not in repr(reply)


def test_a_model_that_says_the_key_back_does_not_get_it_into_the_text():
    reply, _ = ask(ok(f'{{"a": "{KEY}"}}', model=KEY), environ={"MY_KEY": KEY}, api_key_env="MY_KEY")
    assert reply.text == '{"a": "[redacted]"}'
    assert "planted" not in repr(reply)


def test_control_characters_of_a_server_do_not_get_into_the_detail():
    reply, _ = ask(status(400, body=b"\x1b[31mred\x1b[0m\x00 \xe2\x80\xaeevil\r\nnext"))
    assert "red evil next" in reply.detail


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_of_the_environment_is_used_for_https_alone(scheme: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with FaultServer([status(502, body=b"")]) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        url = f"{scheme}://no-such-host.invalid/v1"
        reply = chat_with(url, {"MY_KEY": KEY}, api_key_env="MY_KEY").ask(request(timeout_seconds=5), stop=go_on)
    assert reply.outcome in (Outcome.DISCONNECTED, Outcome.TIMED_OUT)
    assert [received.method for received in proxy.requests] == (["CONNECT"] if scheme == "https" else [])
    assert KEY.encode() not in proxy.raw


# --- the object ---------------------------------------------------------------------------------------------------


def test_it_can_be_pickled_and_still_asks():
    with FaultServer([error(400, "response_format"), ok()]) as server:
        chat = OpenAIChat(ScientistSettings(model="some-model", base_url=server.url))
        chat.ask(request(), stop=go_on)
        copy = pickle.loads(pickle.dumps(chat))
        assert copy.ask(request(), stop=go_on).rung == "json_object_schema"
    assert copy.name == "some-model"
    assert copy._form == chat._form
    assert os.environ.get("PATH", "no path").encode() not in pickle.dumps(chat)


def test_the_client_is_not_imported_with_the_module():
    import subprocess
    import sys

    code = "import sys, lightning_autoresearch.integrations.openai; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_threads_may_ask_at_once():
    replies: list[ChatReply] = []
    with FaultServer([faults.later(ok('{"a": 1}'), seconds=0.2)]) as server:
        chat = chat_with(server.url)
        threads = [threading.Thread(target=lambda: replies.append(chat.ask(request(), stop=go_on))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [reply.outcome for reply in replies] == [Outcome.ANSWERED] * 2


def test_a_key_of_one_letter_does_not_garble_what_is_said():
    reply, _ = ask(error(400, "Something odd"), environ={"K": "o"}, api_key_env="K")
    assert "Something odd" in reply.detail
    reply, _ = ask(error(400, "Something odd about my-word"), environ={"K": "my-word"}, api_key_env="K")
    assert "my-word" not in reply.detail


def test_a_process_that_may_start_no_thread_is_disconnected(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    reply = chat_with("http://127.0.0.1:9/v1").ask(request(), stop=go_on)
    assert (reply.outcome, reply.may_cost) == (Outcome.DISCONNECTED, False)
    assert "can't start new thread" in reply.detail
