"""Values of hidden guards: kept apart from the journal, so that nothing that is shown, sent or shared can hold them.

They stand in `sealed.jsonl` in the study's folder, one line per run, readable by its owner alone.  The gate needs them
again when a study is resumed; the journal, the report, every prompt and every export are made without them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from lightning_autoresearch.errors import JournalError

FILE_NAME = "sealed.jsonl"

Metrics = Mapping[str, float | None]


class Sealed:
    """The hidden values of one study.

    Args:
        folder: the study's folder.
        hidden: names of the metrics that are hidden; without any, no file is written.
    """

    def __init__(self, folder: Path, *, hidden: Collection[str]):
        self._path = folder / FILE_NAME
        self._hidden = frozenset(hidden)
        self._values: dict[str, dict[str, float | None]] = self._read() if self._hidden else {}

    def put(self, key: str, metrics: Metrics) -> dict[str, float | None]:
        """Keep a run's hidden values; when this returns they survive a kill.

        Returns:
            The metrics that may be shown.

        Raises:
            JournalError: the disk refused them.
        """
        new = {name: value for name, value in metrics.items() if name in self._hidden}
        # What was sealed before stays: a kill may come between this and the journal, when the trial's files have been
        # rewritten without it.
        values = {**self._values.get(key, {}), **new}
        if self._hidden and self._values.get(key) != values:
            self._append(json.dumps({"key": key, "values": values}) + "\n")
            self._values[key] = values
        return {name: value for name, value in metrics.items() if name not in self._hidden}

    def whole(self, key: str, metrics: Metrics) -> dict[str, float | None]:
        """A run's metrics with its hidden values.

        Raises:
            JournalError: they are missing, so the file was removed or changed.
        """
        if self._hidden and key not in self._values:
            raise JournalError(
                f"{self._path}: the hidden guards' values of a run that the journal holds are missing; "
                "restore the file from a copy, or start the study anew with another --study folder"
            )
        return {**metrics, **self._values.get(key, {})}

    def _read(self) -> dict[str, dict[str, float | None]]:
        """What the file holds; a line that was torn by a kill belongs to a run that is not in the journal yet."""
        if not self._path.is_file():
            return {}
        values = {}
        for line in self._path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                values[entry["key"]] = entry["values"]
            except (ValueError, KeyError, TypeError):
                continue
        return values

    def _append(self, line: str) -> None:
        """Add a line, on a line of its own even after a torn one."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                data = (("\n" if torn else "") + line).encode()
                if (written := os.write(descriptor, data)) != len(data):
                    raise OSError(f"only {written} of {len(data)} bytes were written")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise JournalError(
                f"{self._path}: cannot be written ({error}); "
                "make room and start the same command again, nothing is lost"
            ) from error
