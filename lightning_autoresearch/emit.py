"""Plain data to YAML text that readers of YAML 1.1 and of YAML 1.2 understand alike.

The two versions disagree about plain scalars (`on`, `1e-3`, `010`, `1:30`), so a string that either of them could
take for something else is quoted, and a float always has a point and a signed exponent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

STEP = 2
"""Columns by which a nested block is indented."""

UNPRINTABLE = re.compile("[^\x20-\x7e\xa1-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""What must be escaped: control characters, and line breaks that only YAML 1.1 takes for such."""
_NOT_TEXT = re.compile(
    r"~|null|true|false|yes|no|on|off|y|n|=|<<|[-+]?\.(inf|nan)|[-+.]*[0-9][0-9a-fox_.:+\- tz]*", re.IGNORECASE
)
"""A superset of the plain scalars that YAML 1.1 (its type repository) or 1.2 (chapter 10.3) reads as no text."""
_INDICATORS = tuple("-?:,[]{}#&*!|>'\"%@` ")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}


def scalar_text(value: object, *, flow: bool = False, quote: str | None = None) -> str:
    r"""One scalar on one line.

    Args:
        value: text, number, bool or None.
        flow: whether it stands between brackets, where more signs have a meaning.
        quote: the quotes to put text in, whether they are needed or not.

    >>> print(scalar_text(1e-05), scalar_text(3.0), scalar_text("on"), scalar_text("16-mixed"), scalar_text(None))
    1.0e-05 3.0 "on" 16-mixed null
    """
    if isinstance(value, str):
        return _text(value, flow=flow, quote=quote)
    if isinstance(value, float):
        return _float_text(value)
    return json.dumps(value)


def flow_text(value: object) -> str:
    """A value of any kind on one line.

    >>> flow_text({"low": 1, "choices": ["a, b", None]})
    '{low: 1, choices: ["a, b", null]}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar_text(key, flow=True)}: {flow_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow_text, value)) + "]"
    return scalar_text(value, flow=True)


def fits_literal(value: object) -> bool:
    """Whether text of several lines can stand in a literal block (`|`) without an indentation indicator."""
    if not isinstance(value, str) or "\n" not in value or value.endswith("\n\n") or value[0] in " \n\t":
        return False
    lines = value.split("\n")
    return not any(line != line.rstrip() or UNPRINTABLE.search(line) for line in lines)


def tail_lines(value: Any, column: int, *, in_list: bool, literal: bool) -> list[str]:
    """What follows `key:` or `-`: first the rest of that line (without the space), then whole lines.

    Args:
        value: the value.
        column: column of the key or dash.
        in_list: whether it follows a dash.
        literal: whether text of several lines may be written as a literal block.
    """
    if literal and fits_literal(value):
        body = value.removesuffix("\n").split("\n")
        head = "|" if value.endswith("\n") else "|-"
        return [head, *(" " * (column + STEP) + line if line else "" for line in body)]
    if not isinstance(value, (dict, list)) or not value:
        return [flow_text(value) if isinstance(value, (dict, list)) else scalar_text(value)]
    lines = block_lines(value, column + STEP, literal=literal)
    return [lines[0].lstrip(" "), *lines[1:]] if in_list else ["", *lines]


def block_lines(value: dict[str, Any] | list[Any], column: int, *, literal: bool) -> list[str]:
    """The lines of a map or list that is not empty, in block style, indented by `column`."""
    lines: list[str] = []
    entries = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    for key, item in entries:
        lines += entry_lines(key, tail_lines(item, column, in_list=key is None, literal=literal), column)
    return lines


def entry_lines(key: str | None, tail: list[str], column: int) -> list[str]:
    """The lines of one entry; a key of None makes it a list's item."""
    prefix = "-" if key is None else scalar_text(key) + ":"
    head, *rest = tail
    return [" " * column + prefix + (" " + head if head else ""), *rest]


def _text(value: str, *, flow: bool, quote: str | None) -> str:
    if quote == "'" and not UNPRINTABLE.search(value):
        return "'" + value.replace("'", "''") + "'"
    if quote != '"' and _is_safe_plain(value, flow=flow):
        return value
    escaped = "".join(_ESCAPES.get(character, character) for character in value)
    return '"' + UNPRINTABLE.sub(_escape, escaped) + '"'


def _is_safe_plain(value: str, *, flow: bool) -> bool:
    if not value or value.startswith(_INDICATORS) or value.endswith((" ", ":")):
        return False
    if ": " in value or " #" in value or UNPRINTABLE.search(value) or _NOT_TEXT.fullmatch(value):
        return False
    return not (flow and any(sign in value for sign in ",[]{}:#"))


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _float_text(value: float) -> str:
    mantissa, e, exponent = repr(value).partition("e")
    return mantissa + ("" if "." in mantissa or not e else ".0") + e + exponent
