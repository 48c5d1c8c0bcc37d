"""The line to the language model: every try journaled before and after, within a deadline and a budget.

A try stands in the journal as `call_started` (the prompt, and the worst that it can cost) and `call_finished` (the
reply, and what it did cost), both keyed `<call>/<try>`.  A study that is started again is answered from there.

Three rules keep the budget.  A try whose worst case does not fit is not made.  A try is charged what the server says,
and its worst case where the server may charge and does not say.  A try without an outcome, because the study was
killed, is charged its worst case.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_autoresearch.chat import MOST_TOKENS, ChatMessage, ChatModel, ChatReply, ChatRequest, Outcome
from lightning_autoresearch.codec import finite_or_none, from_json, to_json
from lightning_autoresearch.journal import Entry, Journal
from lightning_autoresearch.redaction import redact, secrets_of
from lightning_autoresearch.replay import prompts_of
from lightning_autoresearch.space import digest_of
from lightning_autoresearch.spec import Budget, Price, ScientistSettings

MOST_TRIES = 4
"""Tries of one call that ended by themselves; those that were interrupted or killed do not count."""

POLL_SECONDS = 0.2
"""How often a wait looks whether the person asked to stop."""

SHORTEST_TRY_SECONDS = 1.0
"""A further try is made only where so much time is left for it."""

BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 1.0, 30.0
"""The wait before the second try, doubled before each later one, and its largest value."""

FREE = Price(input_usd_per_million_tokens=0.0, output_usd_per_million_tokens=0.0)
"""What a mailbox costs."""

TRY_AGAIN = frozenset(
    {
        Outcome.RATE_LIMITED,
        Outcome.SERVER_ERROR,
        Outcome.DISCONNECTED,
        Outcome.MALFORMED,
        Outcome.EMPTY,
        Outcome.TIMED_OUT,
        Outcome.TRUNCATED,
    }
)
"""Outcomes after which the same prompt is sent again.

`truncated` once only: the length of a model's thoughts varies from try to try, but twice in a row says that
`scientist.max_tokens` is too small, and each time costs the most that a reply can cost.
"""

# Words and blanks cost less than a token per character, whatever the vocabulary; anything else may cost one per byte.
_WORDS_AND_BLANKS = re.compile(r"(?<![A-Za-z0-9])[A-Z]?[a-z]{1,20}(?![A-Za-z0-9])|[ \n]")
_TOKENS_AROUND, _TOKENS_PER_MESSAGE = 64, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """What the language model has cost."""

    tokens: int
    """Tokens charged, prompts and replies."""
    usd: float | None
    """US dollars charged; null where tokens were charged and their price is not known."""
    calls: int = 0
    """Tries that were begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Charge:
    tokens: int
    usd: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """What is asked, however many tries it takes."""

    key: str
    messages: tuple[ChatMessage, ...]
    schema: Mapping[str, Any]
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Try:
    """A try that ended by itself."""

    reply: ChatReply
    again_seconds: float | None
    """Wait before the next try; null for the last one of its call."""


class Line:
    """The journaled line to one model.

    Args:
        chat: whoever answers.
        journal: where calls are written, and found again.
        settings: the spec's `scientist`.
        budget: the caps in tokens and US dollars.
        price: what the model costs; None where nobody knows.
        stop: true when the person asked to stop; looked at every 0.2 s while waiting.
        sleep: waits so many seconds; for tests.
        clock: seconds of a clock that never goes back; for tests.
        secrets: values to keep out of what a model says; by default those in the environment.
        seconds_left: what is left of the study's time; no call waits longer.
    """

    def __init__(
        self,
        chat: ChatModel,
        *,
        journal: Journal,
        settings: ScientistSettings,
        budget: Budget,
        price: Price | None,
        stop: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        secrets: Collection[str] | None = None,
        seconds_left: Callable[[], float] = lambda: math.inf,
    ):
        self.name = chat.name
        self._chat = chat
        self._journal = journal
        self._settings = settings
        self._budget = budget
        self._price = price
        self._stop = stop
        self._sleep = sleep
        self._clock = clock
        self._secrets = secrets_of(settings, os.environ) if secrets is None else secrets
        self._seconds_left = seconds_left
        self._study = _study_of(journal)
        self._charges = _charges(journal)
        self._latest = next((entry.key for entry in reversed(journal.entries) if entry.kind == "call_started"), "")
        self._latest_prompt = prompt_of(journal, self._latest) if self._latest else ()

    @property
    def spent(self) -> Spending:
        """What was charged so far, over all sessions of the study."""
        return _total(self._charges.values())

    def spent_on(self, key: str) -> Spending:
        """The same of the calls below one key, for example of all repairs of one proposal."""
        return _total([charge for name, charge in self._charges.items() if name.startswith(f"{key}/")])

    def ask(self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], key: str) -> ChatReply:
        """Ask until there is an answer, within `settings.deadline_seconds` (and what is left of the study's time) and
        at most `MOST_TRIES` tries.

        A call that stands in the journal with the same prompt is answered from there.  When the person asks to stop,
        the reply is `timed_out` and the call is made again when the study goes on.

        Args:
            messages: the conversation, secrets redacted.
            schema: JSON Schema of the reply.
            key: name of the call, unique in the study.

        Returns:
            The last try's reply, secrets redacted; `over_budget` where the worst case of a try does not fit;
            `timed_out` where the study has no time left.

        Raises:
            JournalError: the journal cannot be written; nothing was sent after that.
        """
        prompt = tuple(replace(message, content=_encodable(message.content)) for message in messages)
        call = _Call(key=key, messages=prompt, schema=schema, digest=_digest(prompt))
        tries = self._journaled(call)
        left = self._seconds_left()
        end = self._clock() + min(self._settings.deadline_seconds, left)
        while not tries or tries[-1].again_seconds is not None:
            if not self._wait((tries[-1].again_seconds or 0.0) if tries else 0.0):
                return ChatReply(outcome=Outcome.TIMED_OUT, detail="the study was asked to stop", may_cost=False)
            if left <= 0:
                return ChatReply(outcome=Outcome.TIMED_OUT, detail="the study's time is over", may_cost=False)
            if refusal := self._refusal(call, tries):
                return ChatReply(outcome=Outcome.OVER_BUDGET, detail=refusal, may_cost=False)
            tries.append(self._try(call, tries=tries, end=end))
        return self._concluded(tries[-1].reply, tries=len(tries))

    def _journaled(self, call: _Call) -> list[_Try]:
        """The tries of this call that stand in the journal with an outcome of their own."""
        tries = []
        for number in range(1, self._next_number(call)):
            started = self._journal.find("call_started", f"{call.key}/{number}")
            finished = self._journal.find("call_finished", f"{call.key}/{number}")
            if started and finished and started.data["digest"] == call.digest and not finished.data["stopped"]:
                reply = from_json(finished.data, ChatReply)
                tries.append(_Try(reply=reply, again_seconds=finished.data["again_seconds"]))
        return tries

    def _next_number(self, call: _Call) -> int:
        numbers = itertools.count(1)
        return next(n for n in numbers if self._journal.find("call_started", f"{call.key}/{n}") is None)

    def _wait(self, seconds: float) -> bool:
        """Wait; False where the person asked to stop."""
        while seconds > 0 and not self._stop():
            self._sleep(min(POLL_SECONDS, seconds))
            seconds -= POLL_SECONDS
        return not self._stop()

    def _try(self, call: _Call, *, tries: Sequence[_Try], end: float) -> _Try:
        """Ask once: journal the intent, ask, journal the outcome."""
        key = f"{call.key}/{self._next_number(call)}"
        reserve = self._worst_case(call)
        self._begin(call, key=key, reserve=reserve)
        request = ChatRequest(
            key=call.key,
            messages=call.messages,
            schema=call.schema,
            max_tokens=self._settings.max_tokens,
            timeout_seconds=end - self._clock(),
            study=self._study,
        )
        reply = self._clean(self._chat.ask(request, stop=self._stop), call)
        stopped = reply.outcome is Outcome.TIMED_OUT and self._stop()
        outcomes = [*(one.reply.outcome for one in tries), reply.outcome]
        again = None if stopped else self._pause(reply, outcomes=outcomes, call=call, left=end - self._clock())
        self._finish(reply, key=key, reserve=reserve, again_seconds=again, stopped=stopped)
        return _Try(reply=reply, again_seconds=again)

    def _begin(self, call: _Call, *, key: str, reserve: _Charge) -> None:
        data = {
            "model": self.name,
            "digest": call.digest,
            "prompt": _delta(call.messages, after=self._latest, before=self._latest_prompt),
            "max_tokens": self._settings.max_tokens,
            "reserved_tokens": reserve.tokens,
            "reserved_usd": reserve.usd,
        }
        self._journal.append("call_started", data, key=key)
        self._charges[key] = reserve
        self._latest, self._latest_prompt = key, call.messages

    def _finish(
        self, reply: ChatReply, *, key: str, reserve: _Charge, again_seconds: float | None, stopped: bool
    ) -> None:
        charge = self._settled(reply, reserve)
        data = {
            **to_json(reply),
            "charged_tokens": charge.tokens,
            "charged_usd": charge.usd,
            "again_seconds": again_seconds,
            "stopped": stopped,
        }
        self._journal.append("call_finished", data, key=key)
        self._charges[key] = charge

    def _clean(self, reply: ChatReply, call: _Call) -> ChatReply:
        """The reply without secrets, and without characters that cannot be written as UTF-8.

        A secret that is a part of the schema (a password `init_args`) stays in the text: the reply is made of the
        schema's words, and they are no secret.
        """
        shown = json.dumps(call.schema, ensure_ascii=False)
        unsaid = [secret for secret in self._secrets if secret not in shown]
        return replace(
            reply,
            text=_encodable(redact(reply.text, secrets=unsaid)),
            detail=_encodable(redact(reply.detail, secrets=self._secrets)),
            model=_encodable(redact(reply.model, secrets=self._secrets)),
        )

    # -- trying again ----------------------------------------------------------------------------------------------

    def _pause(self, reply: ChatReply, *, outcomes: Sequence[Outcome], call: _Call, left: float) -> float | None:
        """Seconds to wait before another try; None where there is none."""
        if (
            reply.outcome not in TRY_AGAIN
            or len(outcomes) >= MOST_TRIES
            or outcomes.count(Outcome.TRUNCATED) > 1
            or self._settings.mailbox is not None
        ):
            return None
        wait = max(_backoff(call, tries=len(outcomes)), reply.retry_after_seconds or 0.0)
        return round(wait, 3) if wait + SHORTEST_TRY_SECONDS <= left else None

    def _concluded(self, reply: ChatReply, *, tries: int) -> ChatReply:
        """The last reply of a call, with what a person should know of its tries."""
        if reply.answered:
            return reply
        parts = [reply.detail or reply.outcome.value]
        if reply.retry_after_seconds is not None and "asked again" not in reply.detail:
            parts.append(f"it can be asked again in {reply.retry_after_seconds:.0f} s")
        if reply.outcome is Outcome.TRUNCATED:
            parts.append(f"raise scientist.max_tokens, now {self._settings.max_tokens}")
        if tries > 1:
            parts.append(f"{tries} tries were made")
        return replace(reply, detail="; ".join(parts))

    # -- the budget ------------------------------------------------------------------------------------------------

    def _worst_case(self, call: _Call) -> _Charge:
        if self._settings.mailbox is not None:
            return _Charge(tokens=0, usd=0.0)
        prompt = _prompt_tokens(call)
        usd = None
        if self._price is not None:
            dearest = max(self._price.input_usd_per_million_tokens, self._price.cached_usd_per_million_tokens or 0.0)
            for_reply = self._settings.max_tokens * self._price.output_usd_per_million_tokens
            usd = finite_or_none((prompt * dearest + for_reply) / 1e6)
        return _Charge(tokens=prompt + self._settings.max_tokens, usd=usd)

    def _settled(self, reply: ChatReply, reserve: _Charge) -> _Charge:
        """What a try is charged: its usage, else its worst case where it may have cost something."""
        if reply.usage is None:
            return reserve if reply.may_cost else _Charge(tokens=0, usd=0.0)
        read, written = max(0, reply.usage.input_tokens), max(0, reply.usage.output_tokens)
        if read + written > MOST_TOKENS:
            return reserve
        return _Charge(tokens=read + written, usd=self._usd(read, written, cached=reply.usage.cached_tokens))

    def _usd(self, read: int, written: int, *, cached: int) -> float | None:
        if self._price is None:
            return None if read + written else 0.0
        full = self._price.input_usd_per_million_tokens
        reduced = self._price.cached_usd_per_million_tokens
        cached = min(max(0, cached), read)
        for_prompt = (read - cached) * full + cached * (full if reduced is None else reduced)
        return finite_or_none((for_prompt + written * self._price.output_usd_per_million_tokens) / 1e6)

    def _refusal(self, call: _Call, tries: Sequence[_Try]) -> str:
        """Why the budget does not cover another try, in words; empty where it does."""
        worst = self._worst_case(call)
        after = _total([*self._charges.values(), worst])
        why = self._tokens_refused(worst, after) or self._usd_refused(worst, after)
        return (
            f"{why}; before that: {tries[-1].reply.detail or tries[-1].reply.outcome.value}" if why and tries else why
        )

    def _tokens_refused(self, worst: _Charge, after: Spending) -> str:
        most = self._budget.tokens
        if most is None or after.tokens <= most or worst.tokens == 0:
            return ""
        return (
            f"the budget of {most} tokens does not cover another call: {after.tokens - worst.tokens} are spent, and "
            f"this one can take up to {worst.tokens} ({worst.tokens - self._settings.max_tokens} to read, "
            f"{self._settings.max_tokens} to write); raise budget.tokens or lower scientist.max_tokens"
        )

    def _usd_refused(self, worst: _Charge, after: Spending) -> str:
        most = self._budget.usd
        if most is None or worst.usd == 0.0:
            return ""
        if worst.usd is None or after.usd is None:
            return (
                f"the budget of {most:g} US dollars cannot be kept: the price of {self.name} is not known; "
                "write it as scientist.price, or cap budget.tokens instead"
            )
        if after.usd <= most:
            return ""
        return (
            f"the budget of {most:g} US dollars does not cover another call: {self.spent.usd:.4f} are spent, and this "
            f"one can cost up to {worst.usd:.4f}; raise budget.usd or lower scientist.max_tokens"
        )


def spending(entries: Iterable[Entry]) -> Spending:
    """What the calls of a journal cost; a call without an outcome counts with its worst case."""
    return _total(_charges(entries).values())


def most_tokens(text: str) -> int:
    """An upper bound on the tokens of a text, for a model whose vocabulary is not known.

    Lower-case words and blanks count a token per two characters, everything else a token per byte of UTF-8.  Against a
    Llama vocabulary, Mistral's Tekken and GPT-2's it held on prose, source, JSON, tables of numbers, digests, base64
    and Chinese; it was about twice the count for prose and 1.1 times for a table of numbers.  Half the bytes fell short
    by 30 % on that table: many vocabularies spend a token on each digit.  Not covered: vocabularies without a fallback
    to bytes, and what a server puts around the messages beyond a few dozen tokens.
    """
    cheap = sum(map(len, _WORDS_AND_BLANKS.findall(text)))
    return len(text.encode()) - cheap + math.ceil(cheap / 2)


def prompt_of(entries: Iterable[Entry], key: str) -> tuple[ChatMessage, ...]:
    """The prompt of one journaled try.

    Raises:
        KeyError: no try has this key.
    """
    return prompts_of(entries)[key]


def price_of(settings: ScientistSettings) -> Price | None:
    """What the spec's model costs: the spec's own price, else that of the table in `genai-prices`, which is offline.

    The table is asked for openai.com only, since the same name can cost something else at another address, and at the
    length of the longest prompt, since long ones can cost more per token.  A mailbox is free.

    Returns:
        The price, or None where nobody knows it: an unknown model, a fee per request, or no `genai-prices` installed.
    """
    if settings.mailbox is not None:
        return FREE
    if settings.price is not None or settings.model is None or settings.base_url is not None:
        return settings.price
    return _table_price(settings.model, prompt_tokens=settings.prompt_characters, reply_tokens=settings.max_tokens)


def _table_price(model: str, *, prompt_tokens: int, reply_tokens: int) -> Price | None:
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None

    def usd(*, read: int = 0, cached: int = 0, written: int = 0) -> float:
        usage = Usage(input_tokens=read, cache_read_tokens=cached, output_tokens=written)
        return float(calc_price(usage, model, provider_id="openai").total_price)

    try:
        if usd() > 0:
            return None
        read = usd(read=prompt_tokens)
        return Price(
            input_usd_per_million_tokens=read / prompt_tokens * 1e6,
            output_usd_per_million_tokens=(usd(read=prompt_tokens, written=reply_tokens) - read) / reply_tokens * 1e6,
            cached_usd_per_million_tokens=usd(read=prompt_tokens, cached=prompt_tokens) / prompt_tokens * 1e6,
        )
    except LookupError:
        return None


def _study_of(journal: Journal) -> str:
    """What tells this study from every other one: when it began."""
    created = journal.find("study_created", "")
    return "" if created is None else digest_of([created.time, created.data["name"]])


def _charges(entries: Iterable[Entry]) -> dict[str, _Charge]:
    """What every try is charged, by its key."""
    charges = {}
    for entry in entries:
        if entry.kind == "call_started":
            charges[entry.key] = _Charge(tokens=entry.data["reserved_tokens"], usd=entry.data["reserved_usd"])
        elif entry.kind == "call_finished":
            charges[entry.key] = _Charge(tokens=entry.data["charged_tokens"], usd=entry.data["charged_usd"])
    return charges


def _total(charges: Collection[_Charge]) -> Spending:
    """The sum; `fsum` is exact up to one rounding, so it never passes a cap that the worst case kept."""
    dollars = [charge.usd for charge in charges if charge.usd is not None]
    return Spending(
        tokens=sum(charge.tokens for charge in charges),
        usd=math.fsum(dollars) if len(dollars) == len(charges) else None,
        calls=len(charges),
    )


def _prompt_tokens(call: _Call) -> int:
    """An upper bound on the tokens that the server reads: the schema is put before the prompt by some."""
    texts = [json.dumps(call.schema, ensure_ascii=False), *(message.content for message in call.messages)]
    return sum(map(most_tokens, texts)) + _TOKENS_AROUND + _TOKENS_PER_MESSAGE * len(call.messages)


def _backoff(call: _Call, *, tries: int) -> float:
    """Seconds before the next try: doubled each time, less up to a half that depends on the call alone."""
    share = int(hashlib.sha256(f"{call.key}/{tries}/{call.digest}".encode()).hexdigest()[:8], 16) / 2**32
    return min(LONGEST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0 ** (tries - 1)) * (1.0 - share / 2)


def _delta(prompt: Sequence[ChatMessage], *, after: str, before: Sequence[ChatMessage]) -> dict[str, Any]:
    """The prompt as what it shares with an earlier one, and the rest.

    `shared` counts characters of the earlier prompt's contents, one after the other.  Messages that it covers are taken
    whole; where it ends inside one, the first of `messages` goes on with that one.
    """
    same = _same_messages(prompt, before)
    inside = _same_characters(prompt[same], before[same]) if same < min(len(prompt), len(before)) else 0
    if not inside:  # it must end with a character: an empty message at the end of what is shared is written again
        while same and not prompt[same - 1].content:
            same -= 1
    rest = [[message.role, message.content] for message in prompt[same:]]
    if inside:
        rest[0][1] = rest[0][1][inside:]
    shared = sum(len(message.content) for message in prompt[:same]) + inside
    return {"after": after if shared else "", "shared": shared, "messages": rest}


def _same_messages(prompt: Sequence[ChatMessage], before: Sequence[ChatMessage]) -> int:
    """Number of equal messages at the start."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(prompt, before, strict=False)))


def _same_characters(message: ChatMessage, before: ChatMessage) -> int:
    """Number of equal characters at the start, fewer than `before` has; 0 where the roles differ."""
    if message.role != before.role:
        return 0
    text, most = before.content, min(len(message.content), max(0, len(before.content) - 1))
    return next((n for n in range(most) if text[n] != message.content[n]), most)


def _digest(messages: Iterable[ChatMessage]) -> str:
    return digest_of([[message.role, message.content] for message in messages])


def _encodable(text: str) -> str:
    """The text with lone surrogates, which no file can hold, as question marks."""
    return text.encode("utf-8", "replace").decode()
