"""The journal: an append-only file of JSON lines with one writer, the only truth about a study.

Every action stands in it twice: the intent before, the outcome after.  An entry has a key that names the step
(`trial/3f2a…`, `gate/1/nano`), so that a study which is started again finds what it has already done.

A record is one `write` to a descriptor opened with O_APPEND, followed by `fsync`; `append` returns after both.  A kill
at any moment leaves at most one torn record at the end, of an action that nobody was told about; it is cut off when the
journal is next opened for writing.  The lock is `flock` on a descriptor that child processes do not inherit.

Not covered: several hosts writing over a network file system, and a disk that lies about fsync.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning_autoresearch.errors import JournalError, StudyLocked

FILE_NAME = "journal.jsonl"
LOCK_NAME = "journal.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the journal."""

    n: int
    """Number of the entry, counted from 1 without a gap."""
    time: float
    """When it was written, in seconds since 1970 (UTC)."""
    kind: str
    """What happened, for example `trial_finished`; `schemas/journal.schema.json` lists the kinds."""
    key: str
    """The step that it belongs to; kind and key together are unique for everything that is done once."""
    data: Mapping[str, Any]
    """The record, as plain JSON data."""

    def line(self) -> bytes:
        """The entry as it stands in the file."""
        fields = {"n": self.n, "time": self.time, "kind": self.kind, "key": self.key, "data": dict(self.data)}
        return (json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n").encode()


class Listener(Protocol):
    """A view of the journal: told of every entry after it is safe on disk."""

    def on_entry(self, entry: Entry) -> None:
        """Look at an entry.  An exception here is reported once and never stops the study."""
        ...


class Journal:
    """A journal opened for writing.  Use as a context manager, or call `close`.

    Args:
        folder: the study's folder; made if it does not exist.
        clock: gives seconds since 1970; for tests.

    Raises:
        StudyLocked: another process has it open.
        JournalError: a line other than the last cannot be read.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time):
        self.folder = folder
        self._clock = clock
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder / LOCK_NAME)
        try:
            path = folder / FILE_NAME
            self.entries, self.repaired = _repair(path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            _sync_folder(folder)
        except BaseException:
            os.close(self._lock)
            raise
        self._by_step = {(entry.kind, entry.key): entry for entry in self.entries}
        self._listeners: list[Listener] = []
        self._deaf: set[int] = set()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def listen(self, listener: Listener) -> None:
        """Tell a listener of all entries: those that are there at once, the later ones as they come."""
        self._listeners.append(listener)
        for entry in self.entries:
            self._tell(listener, entry)

    def find(self, kind: str, key: str) -> Entry | None:
        """The last entry of that kind and key, or None."""
        return self._by_step.get((kind, key))

    def append(self, kind: str, data: Mapping[str, Any], *, key: str = "") -> Entry:
        """Write an entry; when this returns it survives a kill.

        Raises:
            JournalError: the disk refused it (full, gone); nothing was added.
            ValueError: the data holds a NaN or an infinity.
        """
        entry = Entry(n=len(self.entries) + 1, time=round(self._clock(), 3), kind=kind, key=key, data=data)
        self._write(entry.line())
        self.entries.append(entry)
        self._by_step[(kind, key)] = entry
        for listener in self._listeners:
            self._tell(listener, entry)
        return entry

    def close(self) -> None:
        """Close the file and give up the lock; more than once does no harm."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def _write(self, line: bytes) -> None:
        end = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, end)
            raise JournalError(
                f"{self.folder / FILE_NAME}: cannot be written ({error}); "
                "make room and start the same command again, nothing is lost"
            ) from error

    def _tell(self, listener: Listener, entry: Entry) -> None:
        try:
            listener.on_entry(entry)
        except Exception as error:  # a view may never stop the study
            if id(listener) not in self._deaf:
                self._deaf.add(id(listener))
                self.append("message", {"text": f"{type(listener).__name__} failed: {type(error).__name__}: {error}"})


def read_journal(folder: Path) -> tuple[Entry, ...]:
    """The entries of a study, without locking it; a torn last line is left out.

    Raises:
        JournalError: there is no journal, or a line other than the last cannot be read.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise JournalError(
            f"{folder}: there is no study here (no {FILE_NAME}); "
            "name the folder that `fit` wrote, for example studies/NAME"
        )
    return tuple(_parse(path, path.read_bytes())[0])


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StudyLocked(
            f"{path.parent}: another process works on this study"
            + (f" (pid {holder})" if holder else "")
            + "; wait for it, or use another --study folder"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _repair(path: Path) -> tuple[list[Entry], str | None]:
    """Entries of the file, and what was cut off its end, in words (None when nothing was)."""
    if not path.exists():
        return [], None
    raw = path.read_bytes()
    entries, good = _parse(path, raw)
    if good == len(raw):
        return entries, None
    torn = raw[good:]
    with path.open("r+b") as file:
        file.truncate(good)
        os.fsync(file.fileno())
    (path.parent / "journal.torn").write_bytes(torn)
    return (
        entries,
        f"the last record of the journal was torn ({len(torn)} bytes, kept in journal.torn) and was cut off; "
        "nothing else is lost",
    )


def _parse(path: Path, raw: bytes) -> tuple[list[Entry], int]:
    """Entries, and the number of bytes that hold them; what follows is a torn last record."""
    entries: list[Entry] = []
    good = 0
    for line in raw.splitlines(keepends=True):
        entry = _entry(line) if line.endswith(b"\n") else None
        if entry is None or entry.n != len(entries) + 1:
            if good + len(line) < len(raw):
                raise JournalError(
                    f"{path}:{len(entries) + 1}: this line is damaged or out of order, and others follow it; "
                    "restore the file from a copy"
                )
            return entries, good
        entries.append(entry)
        good += len(line)
    return entries, good


def _entry(line: bytes) -> Entry | None:
    try:
        fields = json.loads(line)
        return Entry(n=fields["n"], time=fields["time"], kind=fields["kind"], key=fields["key"], data=fields["data"])
    except (ValueError, KeyError, TypeError):
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
