"""Asking a language model: the records that pass, and the protocol of whoever answers.

One `ask` is one try.  It never raises: whatever goes wrong has an `Outcome`.  Trying again, the budget and the journal
are `asking`'s; what the text means is `contract`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Who says it."""
    content: str
    """What is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """What a model is asked."""

    key: str
    """Name of the call, unique in the study, for example `3/7/1`: round, proposal, call."""
    messages: tuple[ChatMessage, ...]
    """The conversation; the last message is the user's."""
    schema: Mapping[str, Any]
    """JSON Schema of the reply: the strict subset that constrained decoding understands."""
    max_tokens: int
    """Largest number of tokens of the reply."""
    timeout_seconds: float
    """Deadline of this try, from the call to the last byte of the answer."""
    study: str = ""
    """What tells the study from every other one, an earlier one in the same folder included; empty where unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens as the server counted them."""

    input_tokens: int
    """Tokens of the prompt."""
    output_tokens: int
    """Tokens of the reply, thoughts included."""
    cached_tokens: int = 0
    """Tokens of the prompt that the server had in its cache; contained in `input_tokens`."""


class Outcome(str, Enum):
    """How a try ended.  Only `answered` has a text that is worth reading."""

    ANSWERED = "answered"
    TRUNCATED = "truncated"
    """The reply hit its largest length, even where what there is of it parses."""
    REFUSED = "refused"
    """The model declined to answer."""
    FILTERED = "filtered"
    """The provider's content filter cut in."""
    EMPTY = "empty"
    """No choice, no message or no text."""
    MALFORMED = "malformed"
    """The answer is no chat completion: HTML, broken JSON, a broken encoding, an error object with status 200."""
    TOO_LARGE = "too_large"
    """The answer's body passed the cap."""
    RATE_LIMITED = "rate_limited"
    QUOTA_SPENT = "quota_spent"
    """The account has no money left."""
    SERVER_ERROR = "server_error"
    """Status 5xx."""
    DISCONNECTED = "disconnected"
    """No connection, or it broke before the answer was whole."""
    TIMED_OUT = "timed_out"
    REDIRECTED = "redirected"
    """The server points elsewhere; the prompt is not sent there."""
    UNAUTHORIZED = "unauthorized"
    """Status 401 or 403."""
    NOT_FOUND = "not_found"
    """Status 404: no such address or model."""
    TOO_LONG = "too_long"
    """The prompt is longer than the model's context."""
    BAD_REQUEST = "bad_request"
    """Another status 4xx, for example a parameter that the server does not know."""
    NO_KEY = "no_key"
    """The key is missing or cannot be sent; nothing was sent."""
    OVER_BUDGET = "over_budget"
    """The budget does not cover the worst case of this call; nothing was sent."""


PERMANENT = frozenset(
    {
        Outcome.QUOTA_SPENT,
        Outcome.UNAUTHORIZED,
        Outcome.NOT_FOUND,
        Outcome.REDIRECTED,
        Outcome.NO_KEY,
        Outcome.OVER_BUDGET,
        Outcome.BAD_REQUEST,
    }
)
"""Outcomes that a later call with the same settings will meet again."""

MOST_TOKENS = 10**9
"""No call has so many tokens: a larger count is no count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatReply:
    """What came of one try."""

    outcome: Outcome
    """How it ended."""
    text: str = ""
    """The reply's text, whole or as far as it came."""
    detail: str = ""
    """What happened, in one sentence for a person, secrets redacted; empty when it was answered."""
    model: str = ""
    """The model as the server names it."""
    usage: Usage | None = None
    """Tokens; null where the server did not say."""
    may_cost: bool = True
    """Whether the server may charge for it although `usage` is null: it got the prompt and worked on it."""
    rung: str = ""
    """The reply format that worked: `json_schema`, `json_object_schema`, `json_object` or `text`."""
    retry_after_seconds: float | None = None
    """When the server wants to be asked again; null where it did not say."""
    seconds: float = 0.0
    """Time that the try took."""

    @property
    def answered(self) -> bool:
        """Whether there is a text worth reading."""
        return self.outcome is Outcome.ANSWERED


class ChatModel(Protocol):
    """Anything that answers a request: a server, a mailbox, a script, a journal."""

    name: str
    """Name under which its hypotheses go."""

    def ask(self, request: ChatRequest, *, stop: Callable[[], bool]) -> ChatReply:
        """Try once, within the request's deadline.  Never raises; every fault is an outcome.

        Args:
            request: what is asked.
            stop: looked at several times a second while waiting; true means give up at once (outcome `timed_out`).
        """
        ...


class ScriptedChat:
    """A model that gives prepared answers in turn, for tests and demonstrations.

    Args:
        answers: texts, replies, or functions of the request that give either; when they run out, the reply is `empty`.
        name: the model's name.
    """

    def __init__(
        self, answers: Iterable[str | ChatReply | Callable[[ChatRequest], str | ChatReply]], *, name: str = "scripted"
    ):
        self.name = name
        self.requests: list[ChatRequest] = []
        self._answers = iter(answers)

    def ask(self, request: ChatRequest, *, stop: Callable[[], bool]) -> ChatReply:
        """Give the next answer; texts count four characters as a token."""
        self.requests.append(request)
        answer = next(self._answers, None)
        if callable(answer):
            answer = answer(request)
        if answer is None:
            return ChatReply(outcome=Outcome.EMPTY, detail="the script has no further answer", may_cost=False)
        return (
            answer
            if isinstance(answer, ChatReply)
            else ChatReply(
                outcome=Outcome.ANSWERED, text=answer, model=self.name, usage=_counted(request, answer), rung="text"
            )
        )


def _counted(request: ChatRequest, answer: str) -> Usage:
    return Usage(
        input_tokens=sum(len(message.content) for message in request.messages) // 4, output_tokens=len(answer) // 4
    )
