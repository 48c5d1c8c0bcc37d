"""A model that answers from a journal: a study is replayed without a key, a server or a cost."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from lightning_autoresearch.chat import ChatMessage, ChatReply, ChatRequest
from lightning_autoresearch.codec import from_json
from lightning_autoresearch.errors import ResearchError
from lightning_autoresearch.journal import Entry

# The training time at the end of a line of the history: ` | 12 s`, or what is left of it where the line was cut.
_SECONDS = re.compile(r" \| \d[\d.e+-]*(?: s?\.*)?$", re.MULTILINE)
_SHOWN = 100


class UnseenPrompt(ResearchError):
    """A replayed study asks something that the journal has no answer to."""


class ReplayChat:
    """A `ChatModel` that gives the replies of a journal's calls again, found by the call's key.

    What replays is a study whose trials give the same results again: the same spec, version of this program, proposer
    and seeds, on an executor with the same numerics, or one that gives journaled results.  Its prompts must be those of
    the journal but for the training times in the history, which are measured anew; any other difference raises
    `UnseenPrompt`.  That goes for a time, too, whose length in characters moves an old line into a summary.

    The tries of a call are answered in the journal's order, failed ones included; one that is made more often than it
    was then gets the last answer again.  Tries without an outcome, and those that a person interrupted, are left out.

    Args:
        entries: the entries of a journal; only its calls are looked at.
    """

    def __init__(self, entries: Iterable[Entry]):
        entries = tuple(entries)
        self.name = "replay"
        self._prompts: dict[str, tuple[ChatMessage, ...]] = {}
        self._replies: defaultdict[str, deque[ChatReply]] = defaultdict(deque)
        prompts = prompts_of(entries)
        for entry in entries:
            call = entry.key.rpartition("/")[0]
            if entry.kind == "call_started":
                self.name = entry.data["model"]
            elif entry.kind == "call_finished" and not entry.data["stopped"]:
                if self._prompts.get(call) != prompts[entry.key]:  # asked anew with another prompt: that one counts
                    self._replies[call].clear()
                self._prompts[call] = prompts[entry.key]
                self._replies[call].append(from_json(entry.data, ChatReply))

    def ask(self, request: ChatRequest, *, stop: Callable[[], bool]) -> ChatReply:
        """Give the journaled reply, at once.

        Raises:
            UnseenPrompt: the journal has no such call, or one with another prompt, so what comes before it differs from
                the study that is replayed.
        """
        then = self._prompts.get(request.key)
        if then is None:
            raise UnseenPrompt(f"call {request.key}: the journal that is replayed has no answer to it; {_MEND}")
        difference = _difference(then, request.messages)
        if difference:
            raise UnseenPrompt(f"call {request.key}: its prompt is not that of the journal: {difference}; {_MEND}")
        replies = self._replies[request.key]
        return replies.popleft() if len(replies) > 1 else replies[0]


_MEND = (
    "the spec, the version of this program or a trial's result differs from then: replay with the same ones, or ask a "
    "model"
)


def prompts_of(entries: Iterable[Entry]) -> dict[str, tuple[ChatMessage, ...]]:
    """The prompt of every journaled try, by its key `<call>/<try>`."""
    prompts: dict[str, tuple[ChatMessage, ...]] = {"": ()}
    for entry in entries:
        if entry.kind == "call_started":
            delta = entry.data["prompt"]
            prompts[entry.key] = _whole(delta, before=prompts[delta["after"]])
    del prompts[""]
    return prompts


def _whole(delta: Mapping[str, Any], *, before: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The prompt that a journal holds as what it shares with an earlier one, and the rest."""
    left, messages = delta["shared"], []
    rest = [ChatMessage(role=role, content=text) for role, text in delta["messages"]]
    for message in before:
        if left >= len(message.content) and left:
            messages.append(message)
            left -= len(message.content)
        elif left:
            rest[0] = replace(rest[0], content=message.content[:left] + rest[0].content)
            left = 0
    return (*messages, *rest)


def _difference(then: Sequence[ChatMessage], now: Sequence[ChatMessage]) -> str:
    """The first line in which two prompts differ, training times aside; empty where none does."""
    for number, (old, new) in enumerate(zip(then, now, strict=False), start=1):
        if old.role != new.role:
            return f"message {number} was the {old.role}'s, is the {new.role}'s"
        before, after = (_SECONDS.sub("", message.content).split("\n") for message in (old, new))
        if before != after:
            pairs = zip_longest(before, after, fillvalue="(its end)")
            line, (was, is_now) = next((n, pair) for n, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
            return f"line {line} of message {number} was {was[:_SHOWN]!r}, is {is_now[:_SHOWN]!r}"
    return "" if len(then) == len(now) else f"it has {len(now)} messages, had {len(then)}"
