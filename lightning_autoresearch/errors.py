"""Every error that this package raises on purpose.

ResearchError                 base: the message says what, where, and how to mend it
├── InputError                what the user gave is wrong (exit code 2)
│   ├── SpecError             the faults of a spec, all at once, each with its position
│   └── StudyMismatch         the folder holds a study of another spec
├── JournalError              the journal cannot be read or written
│   └── StudyLocked           another process works on this study
├── StudyFailed               the study cannot go on: its baseline does not train (exit code 1)
├── RewriteError              a text cannot be edited as asked (defined in rewrite.py)
├── UnseenPrompt              a replayed study asked what its record does not hold (defined in replay.py)
├── ExecutorError             the executor itself cannot work (no such device, server gone)
└── TrialError                a trial has no usable result; becomes its record, never ends a study
    ├── MetricMissing         the objective or a guard was never logged
    └── NotFinite             the objective is NaN or infinite
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class ResearchError(Exception):
    """Base of the family."""


class InputError(ResearchError):
    """What the user gave is wrong; shown without a traceback, exit code 2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is wrong with a spec."""

    pointer: str
    """JSON pointer into the spec, for example `/search_space/model.init_args.lr/low`."""
    what: str
    """What is wrong."""
    mend: str
    """How to mend it."""
    file: str = "<spec>"
    """The file that the position is in."""
    line: int = 1
    """Line, counted from 1."""
    column: int = 1
    """Column, counted from 1."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.pointer or '/'}: {self.what}; {self.mend}"


class SpecError(InputError):
    """The faults of a spec, all of them."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.file, fault.line, fault.column)))
        super().__init__("\n".join(map(str, self.faults)))


class StudyMismatch(InputError):
    """The folder holds a study of another spec."""


class JournalError(ResearchError):
    """The journal cannot be read or written."""


class StudyLocked(JournalError):
    """Another process works on this study."""


class StudyFailed(ResearchError):
    """The study cannot go on."""


class ExecutorError(ResearchError):
    """The executor itself cannot work."""


class TrialError(ResearchError):
    """A trial has no usable result."""


class MetricMissing(TrialError):
    """The objective or a guard was never logged."""


class NotFinite(TrialError):
    """The objective is NaN or infinite."""
