"""A scientist in a folder: requests are left as files, replies are picked up as files beside them.

A person, a coding agent or a model behind an air gap can be the scientist so, without a key.  In the folder:

    3-7-1-1f2e3d4c.request.json    open: waits for a reply
    3-7-1-1f2e3d4c.reply.json      the reply; its whole text counts
    3-7-1-1f2e3d4c.expired.json    a request whose deadline passed
    done/                          answered requests, and replies, late ones too, once the next request is written

The stem is the call's key and eight digits of the SHA-256 of study and prompt, so a study that is started again finds
its own request, and a reply that came meanwhile; another study in the same folder does not take it for its own.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightning_autoresearch.chat import ChatReply, ChatRequest, Outcome, Usage
from lightning_autoresearch.codec import read_json, write_json
from lightning_autoresearch.space import digest_of

FORMAT = 1
"""Version of the request file."""

POLL_SECONDS = 0.2
"""How often the folder is looked at."""

SETTLE_SECONDS = 2.0
"""A reply that is no JSON is taken as it stands when it has not changed for so long."""

MOST_BYTES = 4_000_000
"""Largest reply."""

INSTRUCTIONS = (
    "Answer the conversation in `messages` with one JSON object that fits the JSON Schema in `schema`. "
    "Write it to a file with another name in this folder, then rename that file to the name in `reply_to`, "
    "before `deadline`."
)

_UNUSABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG})


class Mailbox:
    """A `ChatModel` that leaves each request in a folder and waits for the reply beside it; it costs no tokens.

    Args:
        folder: the folder; made if it does not exist.  One study per folder.
        sleep: waits so many seconds; for tests.
        clock: gives seconds since 1970; for tests.
    """

    name = "mailbox"

    def __init__(
        self,
        folder: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ):
        self.folder = folder
        self._sleep = sleep
        self._clock = clock

    def ask(self, request: ChatRequest, *, stop: Callable[[], bool]) -> ChatReply:
        """Leave the request, or find it again, and wait for the reply.

        A request stays open when `stop` ends the wait; one whose deadline passes is renamed to `.expired.json`.
        """
        begun = self._clock()
        try:
            stem = self._post(request, now=begun)
            text, outcome, detail = self._await(stem, deadline=begun + request.timeout_seconds, stop=stop)
        except (OSError, ValueError, OverflowError) as error:  # the latter: names and dates that cannot be
            text, detail = "", f"the mailbox {self.folder} cannot be used ({error}); make it a writable folder"
            lasting = not isinstance(error, OSError) or error.errno in _UNUSABLE
            outcome = Outcome.NOT_FOUND if lasting else Outcome.DISCONNECTED
        return ChatReply(
            outcome=outcome,
            text=text,
            detail=detail,
            model=self.name,
            usage=Usage(input_tokens=0, output_tokens=0),
            may_cost=False,
            rung="text" if outcome is Outcome.ANSWERED else "",
            seconds=self._clock() - begun,
        )

    def _post(self, request: ChatRequest, *, now: float) -> str:
        """Write the request unless its reply can be read; the stem of its files."""
        digest = digest_of([[message.role, message.content] for message in request.messages])
        of_study = digest_of([request.study, digest]) if request.study else digest
        name = re.sub(r"[^A-Za-z0-9_]+", "-", request.key).strip("-")[:80] or "call"
        stem = f"{name}-{of_study[:8]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tidy(keep=stem)
        if not _Reply(self._path(stem, "reply"), clock=self._clock).begun():
            write_json(self._path(stem, "request"), self._letter(request, stem=stem, digest=digest, now=now))
            self._path(stem, "expired").unlink(missing_ok=True)
        return stem

    def _letter(self, request: ChatRequest, *, stem: str, digest: str, now: float) -> dict[str, Any]:
        """What stands in the request file; one that is found again keeps its beginning and gets the new deadline."""
        earlier = read_json(self._path(stem, "request"))
        asked_at = earlier.get("asked_at") if isinstance(earlier, dict) else None
        return {
            "format": FORMAT,
            "instructions": INSTRUCTIONS,
            "key": request.key,
            "digest": digest,
            "reply_to": self._path(stem, "reply").name,
            "asked_at": asked_at if isinstance(asked_at, str) and asked_at.isascii() else _iso(now),
            "deadline": _iso(now + request.timeout_seconds),
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "schema": dict(request.schema),
        }

    def _await(self, stem: str, *, deadline: float, stop: Callable[[], bool]) -> tuple[str, Outcome, str]:
        """Text, outcome and detail."""
        reply = _Reply(self._path(stem, "reply"), clock=self._clock)
        while True:
            raw = reply.read()
            if raw is not None:
                self._move(stem, "request", to=self.folder / "done" / f"{stem}.request.json")
                return _judged(raw)
            if stop():
                return "", Outcome.TIMED_OUT, "the study was asked to stop; the request stays open"
            left = deadline - self._clock()
            if left <= 0:
                self._move(stem, "request", to=self._path(stem, "expired"))
                return "", Outcome.TIMED_OUT, f"no reply came to {stem}.request.json in time{reply.trouble}"
            self._sleep(min(POLL_SECONDS, left))

    def _tidy(self, *, keep: str) -> None:
        """Put replies away whose request is in `done` or expired before they came.

        Only now, not when they were read: had the study been killed before it journaled a reply, it would ask again.
        """
        for reply in self.folder.glob("*.reply.json"):
            stem = reply.name.removesuffix(".reply.json")
            answered = (self.folder / "done" / f"{stem}.request.json").exists()
            if stem != keep and (answered or self._path(stem, "expired").exists()):
                self._move(stem, "reply", to=self.folder / "done" / reply.name)

    def _move(self, stem: str, what: str, *, to: Path) -> None:
        with suppress(OSError):  # order in the folder is for the person: no answer is lost for the lack of it
            to.parent.mkdir(exist_ok=True)
            os.replace(self._path(stem, what), to)

    def _path(self, stem: str, what: str) -> Path:
        return self.folder / f"{stem}.{what}.json"


class _Reply:
    """A reply file, which may not be there yet, or not be whole."""

    def __init__(self, path: Path, *, clock: Callable[[], float]):
        self.trouble = ""
        """Why it could not be read, in words for the end of a sentence."""
        self._path = path
        self._clock = clock
        self._seen: tuple[bytes, float] = (b"", 0.0)

    def begun(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._bytes().strip())

    def read(self) -> bytes | None:
        """The file's bytes once it is whole, else None."""
        raw = self._bytes()
        if not raw.strip():
            return None
        if raw != self._seen[0]:
            self._seen = (raw, self._clock())
        settled = self._clock() - self._seen[1] >= SETTLE_SECONDS
        return raw if settled or _is_json(raw) else None

    def _bytes(self) -> bytes:
        try:
            # A link would have any file of this user read and sent to a model; a pipe would block.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError("it is no file")
                with open(descriptor, "rb", closefd=False) as stream:
                    return stream.read(MOST_BYTES + 1)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return b""
        except OSError as error:
            self.trouble = f"; its reply cannot be read ({error})"
            return b""


def _judged(raw: bytes) -> tuple[str, Outcome, str]:
    if len(raw) > MOST_BYTES:
        return "", Outcome.TOO_LARGE, f"the reply has more than {MOST_BYTES} bytes"
    return _text(raw), Outcome.ANSWERED, ""


def _text(raw: bytes) -> str:
    """The text in UTF-8, or in UTF-16 or UTF-32 where it begins like that."""
    return raw.decode(json.detect_encoding(raw), errors="replace")


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(_text(raw))
    except (ValueError, RecursionError):
        return False
    return True


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
