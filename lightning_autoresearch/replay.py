"""A model that answers from a journal: a study is replayed without a key, a server or a cost."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable

from lightning_autoresearch.chat import ChatReply, ChatRequest
from lightning_autoresearch.codec import from_json
from lightning_autoresearch.errors import ResearchError
from lightning_autoresearch.journal import Entry
from lightning_autoresearch.space import digest_of


class UnseenPrompt(ResearchError):
    """A replayed study asks something that the journal has no answer to."""


class ReplayChat:
    """A `ChatModel` that gives the replies of a journal's calls again, found by the digest of the prompt.

    Equal prompts are answered in the journal's order, failed tries included; one that is sent more often than it was
    then gets the last answer again.  Tries without an outcome, and those that a person interrupted, are left out.

    Args:
        entries: the entries of a journal; only its calls are looked at.
    """

    def __init__(self, entries: Iterable[Entry]):
        self.name = "replay"
        self._replies: defaultdict[str, deque[ChatReply]] = defaultdict(deque)
        started: dict[str, Entry] = {}
        for entry in entries:
            if entry.kind == "call_started":
                self.name = entry.data["model"]
                started[entry.key] = entry
            elif entry.kind == "call_finished" and not entry.data["stopped"]:
                self._replies[started[entry.key].data["digest"]].append(from_json(entry.data, ChatReply))

    def ask(self, request: ChatRequest, *, stop: Callable[[], bool]) -> ChatReply:
        """Give the journaled reply, at once.

        Raises:
            UnseenPrompt: the journal has none, so what comes before this call differs from the study that is replayed.
        """
        digest = digest_of([[message.role, message.content] for message in request.messages])
        replies = self._replies.get(digest)
        if not replies:
            raise UnseenPrompt(
                f"call {request.key}: the journal that is replayed has no answer to this prompt (SHA-256 {digest}); "
                "the spec, the version of this program or a trial's result differs from then: replay with the same "
                "ones, or ask a model"
            )
        return replies.popleft() if len(replies) > 1 else replies[0]
