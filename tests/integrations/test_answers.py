"""What an answer means, where no socket is needed to see it."""

from __future__ import annotations

import gzip
import json
import time

import pytest

from lightning_autoresearch.chat import ChatMessage, ChatReply, ChatRequest, Outcome, Usage
from lightning_autoresearch.integrations.answers import FORMAT, Answer, reply_of
from lightning_autoresearch.integrations.openai import MOST_BYTES, OpenAIChat
from lightning_autoresearch.spec import ScientistSettings
from tests.faults import FaultServer, Step, error, hang, status

URL = "http://127.0.0.1:8000/v1"
KEY = "Zq9-odd-secret-value-77aa"
LATE = 2.0
"""Seconds that reading the worst answer may take on a busy machine."""


def read(body: bytes, *, code: int = 400) -> ChatReply:
    answer = Answer(status=code, headers={}, body=body)
    return reply_of(answer, settings=ScientistSettings(model="m", base_url=URL), url=URL)


def ask(step: Step, *, seconds: float = 20.0) -> ChatReply:
    messages = (ChatMessage(role="user", content="what now?"),)
    request = ChatRequest(key="k", messages=messages, schema={}, max_tokens=9, timeout_seconds=seconds)
    with FaultServer([step]) as server:
        settings = ScientistSettings(model="m", base_url=server.url, api_key_env="MY_KEY")
        return OpenAIChat(settings, environ={"MY_KEY": KEY}).ask(request, stop=lambda: False)


def test_a_key_is_said_neither_whole_nor_in_halves_wherever_a_long_message_is_cut():
    for before in (*range(120, 150, 5), *range(255, 305, 5)):
        for text in (f"{'x' * before}{KEY}{'y' * 900}", f"{'x' * 900}{KEY}{'y' * before}"):
            detail = ask(error(400, text)).detail
            assert not any(part in detail for part in (KEY[:4], KEY[-4:], "odd", "value")), (before, detail)


def test_a_key_at_the_end_of_a_long_page_is_not_said_in_halves():
    for before in (19_985, 15_985, 7_985, 3_990, 1_990):
        detail = ask(status(400, body=b"x" * before + KEY.encode() + b"y" * 60_000)).detail
        assert not any(part in detail for part in (KEY[:4], KEY[-4:])), before


@pytest.mark.parametrize("words", ["response_format", "response format `json_object`", "JSON schema", "guided_json"])
def test_the_reply_format_is_known_in_several_spellings(words: str):
    assert FORMAT.search(f"This model does not support {words}.")


@pytest.mark.parametrize("words", ["model not found", "invalid json", "the schema of the table", "formats"])
def test_other_words_do_not_mean_the_reply_format(words: str):
    assert not FORMAT.search(words)


WORST = {
    "words with dashes": b"a-" * (MOST_BYTES // 2),
    "no unicode": b"\xff" * MOST_BYTES,
    "titles": b"<title>" * (MOST_BYTES // 7),
    "open tags": b"<title" * (MOST_BYTES // 6),
    "echoes": b"'input':" * (MOST_BYTES // 8),
    "echoes in json": json.dumps({"message": ["'input' " * (MOST_BYTES // 8)]}).encode(),
    "deep json": b'{"a":' * (MOST_BYTES // 5),
    "many texts": json.dumps(["'input'"] * (MOST_BYTES // 11)).encode(),
}


@pytest.mark.parametrize("body", WORST.values(), ids=WORST)
def test_no_answer_below_the_cap_takes_long_to_read(body: bytes):
    began = time.monotonic()
    assert read(body).outcome is Outcome.BAD_REQUEST
    assert read(body, code=200).outcome in (Outcome.MALFORMED, Outcome.EMPTY)
    assert time.monotonic() - began < 2 * LATE


def test_a_compressed_bomb_and_a_large_error_are_too_large():
    bomb = gzip.compress(b" " * 4 * MOST_BYTES)
    assert ask(status(200, body=bomb, headers={"Content-Encoding": "gzip"})).outcome is Outcome.TOO_LARGE
    assert ask(status(500, body=b" " * (MOST_BYTES + 1))).outcome is Outcome.TOO_LARGE


def test_a_head_without_a_body_meets_the_deadline():
    def step(line):
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        hang()(line)

    reply = ask(step, seconds=1.0)
    assert (reply.outcome, reply.may_cost) == (Outcome.TIMED_OUT, True)
    assert reply.seconds < 3


@pytest.mark.parametrize(
    "count", ["1e308", "1e400", "1" + "0" * 308, "1" + "0" * 400, "1000000001", "-1", "NaN", "true"]
)
def test_a_count_of_tokens_that_cannot_be_is_none(count: str):
    def counted(usage: str) -> ChatReply:
        return read(f'{{"choices": [{{"message": {{"content": "hi"}}}}], "usage": {{{usage}}}}}'.encode(), code=200)

    reply = counted(f'"prompt_tokens": {count}, "completion_tokens": 5')
    assert (reply.outcome, reply.text, reply.usage) == (Outcome.ANSWERED, "hi", None)
    reply = counted(
        f'"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {{"cached_tokens": {count}}}'
    )
    assert reply.usage == Usage(input_tokens=7, output_tokens=5)
