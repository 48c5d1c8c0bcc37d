"""What an OpenAI-compatible server's answer means: an outcome, a text, the tokens, and a sentence for a person.

Pure functions of status, headers and body.  Nothing is taken on trust: servers answer with HTML pages, with errors of
status 200, with null where a list is promised, and in several wordings for the same thing.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any

from lightning_autoresearch.chat import MOST_TOKENS, ChatReply, Outcome, Usage
from lightning_autoresearch.redaction import plain
from lightning_autoresearch.spec import ScientistSettings

FORMAT = re.compile(
    r"response[ _]?format|json[ _]schema|json[ _]object|grammar|guided|structured.?output", re.IGNORECASE
)
"""Words by which servers mean the reply format."""

_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|string_above_max_length|max_tokens must be at least 1"
    r"|context (?:size|length|window)|max(?:imum)? model length|max_model_len"
    r"|(?:prompt|input|message) is too (?:long|large)|prompt too long|request too large|input token count"
    r"|reduce the length of the",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|billing_hard_limit|billing_not_active", re.IGNORECASE
)
# Servers built on pydantic put the whole request into their complaint.
_ECHO = re.compile(r"""['"]input['"]\s*:.*""", re.DOTALL)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_EDGE_CHARACTERS, _WORDS_CHARACTERS = 8000, 4000
_MOST_TEXTS = 500

_BY_STATUS = {
    401: Outcome.UNAUTHORIZED,
    402: Outcome.QUOTA_SPENT,
    403: Outcome.UNAUTHORIZED,
    404: Outcome.NOT_FOUND,
    408: Outcome.TIMED_OUT,
    409: Outcome.SERVER_ERROR,
    413: Outcome.TOO_LONG,
    425: Outcome.SERVER_ERROR,
    429: Outcome.RATE_LIMITED,
}
_REFUSED_TO_WORK = frozenset({501, 503, 529})


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came over the wire, whole."""

    status: int
    """HTTP status."""
    headers: Mapping[str, str]
    """Headers, their names in lower case."""
    body: bytes
    """The body, decompressed."""


def reply_of(answer: Answer, *, settings: ScientistSettings, url: str) -> ChatReply:
    """Classify an answer.

    Args:
        answer: what came.
        settings: named in the hints.
        url: the server's address, named in the hints.
    """
    if 200 <= answer.status < 300:
        return _completion(answer, settings, url)
    outcome = _outcome(answer)
    retry_after = _retry_after(answer.headers)
    hint = _hint(outcome, answer, settings, url)
    if not hint and retry_after is not None:
        hint = f"it wants to be asked again in {retry_after:g} s"
    return ChatReply(
        outcome=outcome,
        detail=_joined(f"status {answer.status}", _said(answer), hint),
        may_cost=answer.status >= 500 and answer.status not in _REFUSED_TO_WORK and outcome is not Outcome.TOO_LONG,
        retry_after_seconds=retry_after,
    )


def blamed(answer: Answer) -> str:
    """What the server finds fault with, without its echo of the request: one name where it says so, else its words."""
    data = _parsed(answer)
    if data is None:
        return answer.body[:4000].decode(errors="replace")
    name = _object(_object(data).get("error")).get("param")
    if isinstance(name, str) and (FORMAT.search(name) or name in ("temperature", "seed")):
        return name
    return _words(data)[:4000]


def _outcome(answer: Answer) -> Outcome:
    words = blamed(answer)
    if 300 <= answer.status < 400:
        return Outcome.REDIRECTED
    if answer.status in (400, 413, 422, 429, 500) and _TOO_LONG.search(words):
        return Outcome.TOO_LONG
    if answer.status < 500 and _QUOTA.search(words):
        return Outcome.QUOTA_SPENT
    default = Outcome.SERVER_ERROR if answer.status >= 500 else Outcome.BAD_REQUEST
    return _BY_STATUS.get(answer.status, default)


def _hint(outcome: Outcome, answer: Answer, settings: ScientistSettings, url: str) -> str:
    if outcome is Outcome.UNAUTHORIZED:
        name = settings.key_variable
        return f"check the key in {name}" if name else "no key was sent: name its variable in scientist.api_key_env"
    if outcome is Outcome.REDIRECTED:
        where = answer.headers.get("location", "another address")
        return f"it points to {where}, where nothing was sent; if that is right, put it into scientist.base_url"
    return {
        Outcome.NOT_FOUND: f"are scientist.model {settings.model!r} and scientist.base_url {url!r} right? "
        "Such an address mostly ends in /v1",
        Outcome.TOO_LONG: "lower scientist.prompt_characters or scientist.max_tokens, or give the server more context",
        Outcome.QUOTA_SPENT: "the account has no money left",
        Outcome.BAD_REQUEST: "the server does not take this request",
    }.get(outcome, "")


def _completion(answer: Answer, settings: ScientistSettings, url: str) -> ChatReply:
    try:
        data = json.loads(answer.body)
    except (ValueError, RecursionError):
        what = _said(answer) or "it is empty"
        detail = f"the answer is no JSON: {what}; is scientist.base_url {url!r} right?"
        return ChatReply(outcome=Outcome.MALFORMED, detail=detail)
    if not isinstance(data, dict):
        return ChatReply(outcome=Outcome.MALFORMED, detail=_joined("the answer is no chat completion", _said(answer)))
    if data.get("error") or data.get("object") == "error":
        return _error_in(answer, settings, url)
    outcome, text, detail = _ending(data)
    return ChatReply(
        outcome=outcome,
        text=text,
        detail=detail,
        model=data["model"] if isinstance(data.get("model"), str) else "",
        usage=_usage(data.get("usage"), text),
    )


def _error_in(answer: Answer, settings: ScientistSettings, url: str) -> ChatReply:
    """An error with status 200; llama.cpp has been seen to say in that way that a prompt is too long."""
    outcome = Outcome.TOO_LONG if _TOO_LONG.search(blamed(answer)) else Outcome.MALFORMED
    detail = _joined(
        f"status {answer.status} with an error in it", _said(answer), _hint(outcome, answer, settings, url)
    )
    return ChatReply(outcome=outcome, detail=detail, may_cost=outcome is Outcome.MALFORMED)


def _ending(data: Mapping[str, Any]) -> tuple[Outcome, str, str]:
    """Outcome, text and detail of a chat completion."""
    choices = data.get("choices")
    choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
    message = _object(choice.get("message"))
    text, refusal = _text(message.get("content")), _refusal(message)
    finish = choice.get("finish_reason")
    if refusal:
        return Outcome.REFUSED, text, f"the model declined: {_short(refusal)}"
    if finish == "content_filter":
        return Outcome.FILTERED, text, "the provider's content filter cut in"
    if finish == "length":
        return Outcome.TRUNCATED, text, "the reply hit scientist.max_tokens or the end of the model's context"
    if choice.get("error") or finish == "error":
        return Outcome.MALFORMED, text, _joined("the provider broke off", " ".join(_strings(choice.get("error"))))
    if not text.strip():
        return Outcome.EMPTY, "", _why_empty(choice, message)
    return Outcome.ANSWERED, text, ""


def _why_empty(choice: Mapping[str, Any], message: Mapping[str, Any]) -> str:
    if not choice:
        return "the answer has no choice in it"
    if message.get("reasoning_content") or message.get("reasoning"):
        return "the model thought and said nothing; turn its thinking off, or ask another one"
    return "the reply has no text"


def _text(content: object) -> str:
    """The text of a message; a list of parts is joined, without the thoughts among them."""
    if isinstance(content, str):
        return content
    texts = (part.get("text") for part in _parts(content) if part.get("type", "text") in ("text", "output_text"))
    return "".join(text for text in texts if isinstance(text, str))


def _refusal(message: Mapping[str, Any]) -> str:
    said = (place.get("refusal") for place in (message, *_parts(message.get("content"))))
    return next((words for words in said if isinstance(words, str) and words), "")


def _parts(content: object) -> list[Mapping[str, Any]]:
    return [_object(part) for part in content] if isinstance(content, list) else []


def _usage(data: object, text: str) -> Usage | None:
    """The tokens, where the server counted them; a count of 0 for what is there is none."""
    counts = _object(data)
    given, made = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    if not given or made is None or (text and not made):
        return None
    cached = _count(_object(counts.get("prompt_tokens_details")).get("cached_tokens")) or 0
    return Usage(input_tokens=given, output_tokens=made, cached_tokens=min(cached, given))


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the server wants to be asked again: `retry-after-ms`, or `Retry-After` (RFC 9110, 10.2.3)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(KeyError, ValueError):
            seconds = float(headers[name]) * unit
            if math.isfinite(seconds) and seconds >= 0:
                return seconds
    with contextlib.suppress(KeyError, ValueError, TypeError, OverflowError):
        when = parsedate_to_datetime(headers["retry-after"])
        aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return max(0.0, (aware - datetime.now(timezone.utc)).total_seconds())
    return None


def _said(answer: Answer) -> str:
    """The server's own words for a person."""
    data = _parsed(answer)
    for place in (_object(_object(data).get("error")), _object(data)):
        for name in ("message", "error", "detail", "msg"):
            if isinstance(place.get(name), str):
                return _short(place[name]).rstrip(".")
    if data is not None:
        return _short(_words(data))
    text = answer.body.decode(errors="replace").strip()
    if not text.startswith("<"):
        return _short(text)
    title = _TITLE.search(text[:4000])
    return f"a page of HTML ({_short(title[1])})" if title else "a page of HTML"


def _parsed(answer: Answer) -> object:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(answer.body)
    return None


def _words(data: object) -> str:
    """The texts in it as one, the first few hundred of them: an answer may be made of millions."""
    return _ECHO.sub("", " ".join(islice(_strings(data), _MOST_TEXTS)))


def _strings(data: object, depth: int = 0) -> Iterator[str]:
    """Every text in it, without what it echoes of the request."""
    if isinstance(data, str):
        yield data
    elif depth < 8 and isinstance(data, dict):
        for name, value in data.items():
            if name not in ("input", "body"):
                yield from _strings(value, depth + 1)
    elif depth < 8 and isinstance(data, list):
        for value in data:
            yield from _strings(value, depth + 1)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _joined(what: str, said: str, hint: str = "") -> str:
    return f"{what}{f': {said}' if said else ''}{f'; {hint}' if hint else ''}"


def _short(text: str) -> str:
    """The text on one line, far longer than it will be shown: secrets are looked for first, and a half is none to find.

    What is cut here lies in the middle, and is cut away with its surroundings when the secrets are out.
    """
    if len(text) > 2 * _EDGE_CHARACTERS:
        text = f"{text[:_EDGE_CHARACTERS]} {text[-_EDGE_CHARACTERS:]}"
    return plain(" ".join(text.split()), most=_WORDS_CHARACTERS)
