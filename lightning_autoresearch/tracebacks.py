"""Exceptions and stuck stacks in a few lines, with the user's own frames in sight.

Lines stay long here: where they are made no secret is known, and half a one could not be found later.  Whoever shows
them cuts them, after secrets were taken out.
"""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from lightning_autoresearch.errors import ResearchError

_LINES = 10
_LENGTH = 20_000
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>.+)$')

# jsonargparse tries a class as null, too, when its constructor has raised, and tells of both in one long text
_NEITHER_NULL = re.compile(
    r"Does not validate against any of the Union subtypes .*?Errors: "
    r"- (?P<raised>.+?) - Expected a <class 'NoneType'>.*"
)

_Item = TypeVar("_Item")


def in_one_line(error: BaseException) -> str:
    """The exception in one line of at most 20,000 characters."""
    if isinstance(error, SystemExit):
        return f"the task left by exit({error.code!r})"
    text = _NEITHER_NULL.sub(r"\g<raised>", " ".join(str(error).split()))
    line = text if isinstance(error, ResearchError) else f"{type(error).__name__}: {text}".rstrip(": ")
    return line if len(line) <= _LENGTH else line[: _LENGTH - 3] + "..."


def last_lines(error: BaseException) -> tuple[str, ...]:
    """The traceback of the root cause in at most 10 lines: the user's frames, where it was raised, and what."""
    root = list(causes(error))[-1]
    frames = traceback.extract_tb(root.__traceback__)
    shown = _in_sight(frames, [not is_library(frame.filename) for frame in frames], room=(_LINES - 1) // 2)
    lines = []
    for frame in shown:
        lines.append(f"{frame.filename}:{frame.lineno}, in {frame.name}")
        if frame.line:
            lines.append(f"    {frame.line}")
    return (*lines, in_one_line(root))


def stuck_lines(dump: str) -> tuple[str, ...]:
    """Where the main thread stood, innermost last, in at most 10 lines, from what `faulthandler` wrote.

    Empty where the text holds no such dump.
    """
    _, found_one, main = dump.rpartition("most recent call first")
    if not found_one:
        return ()
    found = [match for match in map(_FRAME.match, main.splitlines()) if match]
    found.reverse()
    shown = _in_sight(found, [not is_library(match["file"]) for match in found], room=_LINES)
    return tuple(f"{match['file']}:{match['line']}, in {match['name']}" for match in shown)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from, the root last."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


@cache
def is_library(filename: str) -> bool:
    """Whether a file belongs to Python, to an installed library or to this package, and not to the user."""
    paths = sysconfig.get_paths()
    folders = (paths["stdlib"], paths["purelib"], paths["platlib"], str(Path(__file__).parent))
    return filename.startswith("<") or any(Path(filename).is_relative_to(folder) for folder in folders)


def _in_sight(frames: Sequence[_Item], own: Sequence[bool], *, room: int) -> list[_Item]:
    """The last frames, as many as there is room for; the user's go first, and the innermost one always stays."""
    if not frames:
        return []
    innermost = len(frames) - 1
    by_worth = sorted(range(innermost), key=lambda index: (own[index], index), reverse=True)
    return [frames[index] for index in sorted([innermost, *by_worth[: room - 1]])]
