"""JSON out of a language model's text: the one object is found, and read strictly.

Refused, because they make a text mean something else than it seems to, or cost more than they are worth: equal keys,
NaN and infinities, whole numbers that a float cannot hold, deep nesting, halves of surrogate pairs, very long texts.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator
from typing import Any

MAX_BYTES = 256_000
"""Largest text that an object is looked for in."""
MAX_LEVELS = 40
"""Deepest nesting."""
LARGEST_WHOLE = 2**53
"""Largest whole number on either side of zero: beyond it floats skip whole numbers."""

_STRAY_BRACES = 8  # starts of an object that never ends, before the search is given up
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs"})


class Unreadable(ValueError):
    """A text that is not read, and why, in words."""


def find_object(text: str, *, key: str) -> dict[str, Any]:
    """The one JSON object of a reply, between prose, code fences and thoughts (`<think>`).

    Args:
        text: the reply.
        key: a key that the object has; objects without it are passed over where there is one with it.

    Raises:
        Unreadable: there is none, or more than one, or it is not read.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise Unreadable(f"the reply has {size} bytes, of at most {MAX_BYTES}; write a shorter one")
    objects: list[dict[str, Any]] = []
    problems: list[tuple[int, str]] = []
    for span in _spans(_without_thoughts(text), problems):
        try:
            objects.append(loads(span))
        except Unreadable as error:
            problems.append((len(span), f"the reply's object {error}; write one JSON object"))
    # Where something could not be read, an object without the key is a part of it.
    meant = [one for one in objects if key in one] or (objects if not problems else [])
    if not meant:
        raise Unreadable(max(problems)[1] if problems else "there is no JSON object in the reply; write one")
    if any(one != meant[0] for one in meant):
        raise Unreadable(f"there are {len(meant)} JSON objects in the reply; write exactly one")
    return meant[0]


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        Unreadable: it is no JSON, or holds what is refused.
    """
    if len(text) > MAX_BYTES or _levels(text) > MAX_LEVELS:
        raise Unreadable(f"is nested deeper than {MAX_LEVELS} levels, or too long")
    try:
        value = json.loads(
            text, object_pairs_hook=_pairs, parse_constant=_constant, parse_int=_whole, parse_float=_real
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise Unreadable(f"is no JSON ({error.msg}, line {error.lineno}, column {error.colno})") from None
    except UnicodeEncodeError:
        raise Unreadable("holds half of a surrogate pair") from None
    return value


def clean(text: str, *, most: int) -> str:
    """One line without control, format and surrogate characters, cut off at `most` characters."""
    kept = (" " if character.isspace() else character for character in text)
    shown = "".join(character for character in kept if unicodedata.category(character) not in _UNSEEN)
    line = " ".join(shown.split())
    return line if len(line) <= most else line[: most - 3].rstrip() + "..."


def _without_thoughts(text: str) -> str:
    """What follows the last `</think>`, unless the text begins with an object; thoughts without an end are cut off."""
    if text.lstrip().startswith("{"):
        return text
    return text.rpartition("</think>")[2].partition("<think>")[0]


def _spans(text: str, problems: list[tuple[int, str]]) -> Iterator[str]:
    """Each outermost `{...}` of a text, in one pass but for a few stray braces."""
    start, strays = text.find("{"), 0
    while start >= 0 and strays < _STRAY_BRACES:
        end = _end_of(text, start)
        if end < 0:
            strays += 1
            problems.append((0, "the reply's object is not closed; write the whole object"))
            start = text.find("{", start + 1)
        else:
            yield text[start:end]
            start = text.find("{", end)


def _end_of(text: str, start: int) -> int:
    """The index behind the brace that closes the one at `start`; -1 where none does."""
    depth, quoted, index = 0, False, start
    while index < len(text):
        character = text[index]
        if quoted:
            index += character == "\\"
            quoted = character != '"'
        elif character == '"':
            quoted = True
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if not depth:
                return index + 1
        index += 1
    return -1


def _levels(text: str) -> int:
    """Upper bound of the nesting: brackets outside of quotes."""
    depth = deepest = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            quoted, escaped = character != '"' or escaped, character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Unreadable(f"has the key {key[:40]!r} twice")
        found[key] = value
    return found


def _constant(name: str) -> Any:
    raise Unreadable(f"holds {name}, which is no number")


def _whole(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) > LARGEST_WHOLE:
        raise Unreadable(f"holds the whole number {digits[:20]}, which is too large")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Unreadable(f"holds {digits[:20]}, which is too large")
    return number
