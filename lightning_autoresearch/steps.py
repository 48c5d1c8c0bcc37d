"""Journaled steps: what is done once, however often the program that does it is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_autoresearch.errors import JournalError
from lightning_autoresearch.journal import Journal


class Steps:
    """The steps of one study.

    A resumed study runs its code again from the first line.  `once` finds what a step wrote before; `replaying` is true
    until everything that cost something has been met again.
    """

    def __init__(self, journal: Journal):
        self.journal = journal
        self._wanted: dict[str, Any] | None = None
        self._past = {entry.key for entry in journal if entry.kind in ("trial_finished", "proposal_received")}

    @property
    def replaying(self) -> bool:
        """Whether journaled trials or proposals are still to be met."""
        return bool(self._past)

    def met(self, key: str) -> None:
        """A trial or proposal was met, now or again."""
        self._past.discard(key)
        if self._wanted and not self._past:
            self._turn_to(self._wanted)
            self._wanted = None

    def once(self, kind: str, data: Mapping[str, Any], *, key: str) -> None:
        """Journal a step unless it stands there already; then it must say the same.

        Raises:
            JournalError: it says something else, so the journal was made by other rules than these.
        """
        entry = self.journal.find(kind, key)
        if entry is None:
            self.journal.append(kind, data, key=key)
        elif entry.data != data:
            raise JournalError(
                f"entry {entry.n} of the journal ({kind} {key}) differs from what this version computes from the same "
                "evidence; go on with the version that began the study, or start a new one with --study"
            )

    def phase(self, phase: str, *, round: int, detail: str = "") -> None:
        """Say what the study turns to, where that is new; while a resumed study catches up, it is said at the end.

        Args:
            phase: the phase.
            round: number of the round.
            detail: what is waited for, in words.
        """
        data: dict[str, Any] = {"phase": phase, "round": round, **({"detail": detail} if detail else {})}
        if self.replaying:
            self._wanted = data
        else:
            self._turn_to(data)

    def _turn_to(self, data: dict[str, Any]) -> None:
        last = next(
            (entry for entry in reversed(self.journal.entries) if entry.kind in ("phase", "session_started")), None
        )
        if last is None or last.data != data:
            self.journal.append("phase", data)
