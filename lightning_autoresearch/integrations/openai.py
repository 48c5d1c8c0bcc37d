"""The door to OpenAI, and to every server that speaks its chat protocol (vLLM, Ollama, llama.cpp and others).

One `ask` is one try, whatever happens: no exception leaves it, every ending has an `Outcome`, and it ends within its
deadline.  Three decisions carry this.

1. The client library puts the request, and never sees an answer: versions differ in what they do with one that is not
   as they expect (a page of HTML comes back as a `str`, broken JSON as another library's exception, usage gets lost).
   A hook reads the body, bounded, before the library does; `answers` says what it means.
2. A time-out of an HTTP library holds for each read, so a server that drips never meets it.  The call therefore runs in
   a thread of its own; at the deadline, or when the study stops, its socket is shut down, which wakes it.
3. The headers are put together here, from a short list, just before they are sent.  The client reads OPENAI_API_KEY,
   OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS by itself and would send them to any `base_url`.

Proxies of the environment (HTTPS_PROXY and the like) are used for https addresses, where the proxy sees the host's name
and nothing else.  For http addresses they are not: the proxy would read the prompt and the key.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lightning_autoresearch.chat import ChatReply, ChatRequest, Outcome
from lightning_autoresearch.integrations.answers import FORMAT, Answer, blamed, reply_of
from lightning_autoresearch.redaction import REDACTED, plain, redact, secrets_of
from lightning_autoresearch.spec import ScientistSettings
from lightning_autoresearch.tracebacks import causes

if TYPE_CHECKING:
    import openai

OPENAI_URL = "https://api.openai.com/v1"
"""Where a scientist without a `base_url` lives, whatever OPENAI_BASE_URL says."""

MOST_BYTES = 8 * 2**20
"""Largest body of an answer."""

_RUNGS = ("json_schema", "json_object_schema", "json_object", "text")
_HEADERS = frozenset(
    {"accept", "connection", "content-length", "content-type", "host", "transfer-encoding", "user-agent"}
)
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
_DETAIL_CHARACTERS = 600
_SHORTEST_KEY = 12

_ADJUSTABLE = frozenset({400, 404, 415, 422, 500, 501})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """How a request is put; what a server refuses is left out of the next one."""

    rungs: tuple[str, ...]
    """Reply formats that are left, the one to ask for first."""
    limits: tuple[str, ...]
    """Names for the largest length of the reply that are left, the one to use first."""
    optional: tuple[str, ...]
    """Parameters that the user has set and the server has not refused."""

    def simpler(self, named: str) -> _Form | None:
        """The form without what these words of the server refuse; null where they name nothing that can be left out."""
        for name in self.optional:
            if re.search(rf"\b{name}\b", named):
                return replace(self, optional=tuple(other for other in self.optional if other != name))
        if len(self.limits) > 1 and re.search(rf"\b{self.limits[0]}\b", named):
            return replace(self, limits=self.limits[1:])
        if len(self.rungs) > 1 and FORMAT.search(named):
            return replace(self, rungs=self.rungs[1:])
        return None


class _Read(Exception):
    """Carries an answer past the client library."""

    def __init__(self, answer: Answer):
        super().__init__(f"status {answer.status}")
        self.answer = answer


class _TooLarge(Exception):
    """The body passed the cap."""


@dataclass(kw_only=True)
class _Wire:
    """One call's connection: what is sent over it, what is read, and how another thread ends it."""

    headers: Mapping[str, str]
    """Headers beside those that say what the body is."""
    keeps_login: bool
    """Whether the address has a user and password in it, which the client turns into a header."""
    sent: bool = False
    """Whether anything of the request left."""
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for the answer any more."""
    _socket: Any = None

    def on_request(self, request: Any) -> None:
        """Put the headers together, and be told of every step below."""
        kept = _HEADERS | ({"authorization"} if self.keeps_login else set())
        for name in list(request.headers):
            if name.lower() not in kept:
                del request.headers[name]
        request.headers.update(self.headers)
        request.extensions["trace"] = self._on_step

    def on_response(self, response: Any) -> None:
        """Read the body up to the cap, and hand it over."""
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MOST_BYTES:
                raise _TooLarge
        headers = {name.lower(): value for name, value in response.headers.items()}
        raise _Read(Answer(status=response.status_code, headers=headers, body=bytes(body)))

    def abandon(self) -> None:
        """Wake the thread that waits on the socket; closing alone would not."""
        self.abandoned.set()
        if self._socket is not None:
            # Not the method of a TLS socket, which pulls the rug out from under the thread that reads.
            with contextlib.suppress(OSError, TypeError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _on_step(self, name: str, info: Mapping[str, Any]) -> None:
        self.sent = self.sent or "send_request" in name
        extra = getattr(info.get("return_value"), "get_extra_info", None)
        if extra is not None:
            self._socket = extra("socket")
            if self.abandoned.is_set():
                self.abandon()


class OpenAIChat:
    """A model behind an OpenAI-compatible server.

    It remembers what its server refused (a reply format, a parameter), and can be pickled: a connection lives no longer
    than its call.

    Args:
        settings: the spec's section; `model` is set.
        environ: where the key is looked up, at each call.
    """

    def __init__(self, settings: ScientistSettings, *, environ: Mapping[str, str] = os.environ):
        self.name = settings.model or ""
        self._settings = settings
        # The process's own environment cannot be pickled, and does not have to be.
        self._given_environ = None if environ is os.environ else dict(environ)
        self._form = _first_form(settings)

    def ask(self, request: ChatRequest, *, stop: Callable[[], bool]) -> ChatReply:
        """Ask once; simpler forms of a request that the server refused cost no further try.

        Args:
            request: what is asked; its deadline holds for all forms together.
            stop: looked at every 0.1 s; true means give up at once.
        """
        environ = os.environ if self._given_environ is None else self._given_environ
        unusable = _address_fault(self._settings) or _key_reply(self._settings, environ)
        began = time.monotonic()
        reply = unusable or self._in_thread(request, environ, stop)
        key = _key(self._settings, environ)
        secrets = secrets_of(self._settings, environ)
        return replace(
            reply,
            # A short key is a word that stands for none, such as `ollama`: the model may well say it.
            text=_storable(reply.text.replace(key, REDACTED) if len(key) >= _SHORTEST_KEY else reply.text),
            detail=_one_line(reply.detail, secrets, most=_DETAIL_CHARACTERS),
            model=_one_line(reply.model, secrets, most=200),
            seconds=time.monotonic() - began,
        )

    def _in_thread(self, request: ChatRequest, environ: Mapping[str, str], stop: Callable[[], bool]) -> ChatReply:
        try:
            import openai  # noqa: F401  Here, so that its cost is not taken for the server's.
        except Exception as error:
            return ChatReply(outcome=Outcome.DISCONNECTED, detail=f"openai does not import: {error}", may_cost=False)
        wire = _Wire(headers=_headers(self._settings, environ), keeps_login=_has_login(self._settings))
        deadline = time.monotonic() + request.timeout_seconds
        replies: list[ChatReply] = []
        thread = threading.Thread(
            target=lambda: replies.append(self._call(request, wire, deadline)), name="chat", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the limit of processes is reached
            return ChatReply(outcome=Outcome.DISCONNECTED, detail=f"nothing was sent: {error}", may_cost=False)
        try:
            stopped = _await(thread, deadline, stop)
            # What comes of a connection that was cut is not what the server did: only what stood before it counts.
            ended = list(replies)
        finally:
            wire.abandon()
            thread.join(_GRACE_SECONDS)
        return ended[0] if ended else _given_up(request, stopped=stopped, sent=wire.sent)

    def _call(self, request: ChatRequest, wire: _Wire, deadline: float) -> ChatReply:
        try:
            return self._exchange(request, wire, deadline)
        except Exception as error:  # The promise of `ask`.
            return _from_error(error, wire, self._settings, request.timeout_seconds)

    def _exchange(self, request: ChatRequest, wire: _Wire, deadline: float) -> ChatReply:
        form = self._form
        with _client(self._settings, wire) as client:
            while True:
                answer = _send(client, _parameters(self._settings, request, form), deadline)
                reply = reply_of(answer, settings=self._settings, url=_url(self._settings))
                simpler = _simpler(form, answer, reply)
                if simpler is None or wire.abandoned.is_set():
                    break
                form = simpler
        if reply.outcome not in _SAID:
            return reply
        self._form = form
        return replace(reply, rung=form.rungs[0])


_SAID = frozenset({Outcome.ANSWERED, Outcome.TRUNCATED, Outcome.REFUSED, Outcome.FILTERED})
"""Outcomes that show that the form of the request was taken."""

_REFUSALS = frozenset({Outcome.BAD_REQUEST, Outcome.NOT_FOUND, Outcome.SERVER_ERROR})
"""Outcomes after which a simpler form may do."""


def key_fault(settings: ScientistSettings, environ: Mapping[str, str]) -> str:
    """Why the key cannot be used, naming the variable and never the value; empty where it can, or none is needed."""
    name = settings.key_variable
    if name is None:
        return ""
    key = environ.get(name)
    mend = f"set {name}, or name another variable in scientist.api_key_env"
    if key is None:
        return f"the environment variable {name} is not set; {mend}"
    if not key.strip():
        return f"the environment variable {name} is empty; {mend}"
    if key != key.strip():
        return f"the key in {name} begins or ends with a blank or a line end; {mend}"
    if not (key.isascii() and key.isprintable()) or " " in key:
        return f"the key in {name} has characters that no key has (blanks, line ends, letters beyond ASCII); {mend}"
    return ""


def _first_form(settings: ScientistSettings) -> _Form:
    on_openai = _on_openai(settings)
    return _Form(
        rungs=tuple(rung for rung in _RUNGS if not (on_openai and rung == "json_object_schema")),
        limits=("max_completion_tokens",) if on_openai else ("max_tokens", "max_completion_tokens"),
        optional=tuple(name for name in ("temperature", "seed") if getattr(settings, name) is not None),
    )


def _simpler(form: _Form, answer: Answer, reply: ChatReply) -> _Form | None:
    refused = reply.outcome in _REFUSALS and answer.status in _ADJUSTABLE
    return form.simpler(blamed(answer)) if refused else None


def _url(settings: ScientistSettings) -> str:
    return settings.base_url or OPENAI_URL


def _on_openai(settings: ScientistSettings) -> bool:
    with contextlib.suppress(ValueError):
        host, home = urlsplit(_url(settings)).hostname or "", urlsplit(OPENAI_URL).hostname or ""
        return host == home or host.endswith(f".{home}")
    return False


def _has_login(settings: ScientistSettings) -> bool:
    return "@" in urlsplit(_url(settings)).netloc


def _key(settings: ScientistSettings, environ: Mapping[str, str]) -> str:
    return environ.get(settings.key_variable, "") if settings.key_variable else ""


def _key_reply(settings: ScientistSettings, environ: Mapping[str, str]) -> ChatReply | None:
    fault = key_fault(settings, environ)
    return ChatReply(outcome=Outcome.NO_KEY, detail=fault, may_cost=False) if fault else None


def _address_fault(settings: ScientistSettings) -> ChatReply | None:
    with contextlib.suppress(ValueError):
        parts = urlsplit(_url(settings))
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return None
    detail = f"scientist.base_url {_url(settings)!r} is no address; it looks like http://localhost:8000/v1"
    return ChatReply(outcome=Outcome.NOT_FOUND, detail=detail, may_cost=False)


def _headers(settings: ScientistSettings, environ: Mapping[str, str]) -> dict[str, str]:
    # What is not compressed cannot blow up when it is read.
    headers = {"Accept-Encoding": "identity"}
    if key := _key(settings, environ):
        headers["Authorization"] = f"Bearer {key}"
    if _on_openai(settings):
        names = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
        headers |= {header: environ[name] for header, name in names.items() if _sendable(environ.get(name, ""))}
    return headers


def _sendable(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable()


def _client(settings: ScientistSettings, wire: _Wire) -> openai.OpenAI:
    import openai

    url = _url(settings)
    over_tls = urlsplit(url).scheme == "https"
    http = openai.DefaultHttpxClient(
        follow_redirects=False,
        trust_env=over_tls,
        # Reading the certificates takes longer than a local call; a context without any trusts nobody.
        verify=over_tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        event_hooks={"request": [wire.on_request], "response": [wire.on_response]},
    )
    # The client insists on some key; `wire` decides what is sent.
    return openai.OpenAI(api_key="unused", base_url=url, max_retries=0, http_client=http)


def _send(client: openai.OpenAI, parameters: Mapping[str, Any], deadline: float) -> Answer:
    import openai

    left = max(0.1, deadline - time.monotonic())
    try:
        # Per read: the thread's own end, should nobody be able to wake it.
        limits = openai.Timeout(left, connect=min(left, _CONNECT_SECONDS))
        client.chat.completions.create(**parameters, timeout=limits)
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, _Read):
                return cause.answer
        raise
    raise RuntimeError("the client gave an answer that nobody read")


def _parameters(settings: ScientistSettings, request: ChatRequest, form: _Form) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "model": settings.model,
        "messages": [{"role": message.role, "content": _storable(message.content)} for message in request.messages],
        form.limits[0]: request.max_tokens,
        **{name: getattr(settings, name) for name in form.optional},
    }
    match form.rungs[0]:
        case "json_schema":
            shape = {"name": "proposal", "strict": True, "schema": dict(request.schema)}
            parameters["response_format"] = {"type": "json_schema", "json_schema": shape}
        case "json_object_schema":
            parameters["response_format"] = {"type": "json_object", "schema": dict(request.schema)}
        case "json_object":
            parameters["response_format"] = {"type": "json_object"}
    return parameters


def _await(thread: threading.Thread, deadline: float, stop: Callable[[], bool]) -> bool:
    """Wait for the thread, the deadline or `stop`; true where it was `stop`."""
    while thread.is_alive():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if stop():
            return True
        thread.join(min(_POLL_SECONDS, left))
    return False


def _given_up(request: ChatRequest, *, stopped: bool, sent: bool) -> ChatReply:
    detail = "given up, because the study stops"
    if not stopped:
        late = f"no connection within {request.timeout_seconds:g} s; is scientist.base_url right?"
        detail = _late(request.timeout_seconds) if sent else late
    return ChatReply(outcome=Outcome.TIMED_OUT, detail=detail, may_cost=sent)


def _late(seconds: float) -> str:
    return f"no whole answer within {seconds:g} s; a larger scientist.timeout_seconds or a faster model may help"


def _from_error(error: BaseException, wire: _Wire, settings: ScientistSettings, seconds: float) -> ChatReply:
    """Classify by the names in the chain of causes: which HTTP library stands below depends on the client's version."""
    chain = list(causes(error))
    kinds = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    outcome, detail = Outcome.DISCONNECTED, f"the connection to {_url(settings)} failed ({chain[-1]})"
    if "_TooLarge" in kinds:
        outcome, detail = (
            Outcome.TOO_LARGE,
            f"the answer is larger than {MOST_BYTES // 2**20} MiB; nothing of it was used",
        )
    elif "DecodingError" in kinds:
        outcome, detail = Outcome.MALFORMED, f"the answer's compression is broken ({chain[-1]})"
    elif not wire.sent:
        detail = (
            f"no connection to {_url(settings)} ({chain[-1]}); is the server running, and is scientist.base_url right?"
        )
    elif kinds & {"TimeoutException", "APITimeoutError"}:
        outcome, detail = Outcome.TIMED_OUT, _late(seconds)
    return ChatReply(outcome=outcome, detail=detail, may_cost=wire.sent)


def _one_line(text: str, secrets: Collection[str], *, most: int) -> str:
    # Cleaned before, so that no unseen character hides a secret; cut after, so that no half of one is left.
    return plain(redact(" ".join(plain(text, most=len(text)).split()), secrets=secrets), most=most)


def _storable(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON may spell and no file can hold."""
    return text.encode(errors="replace").decode()
