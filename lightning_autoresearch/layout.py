"""Edits of a YAML text in place: everything outside the edited entry survives byte for byte.

An edit works on the marks of the parsed nodes.  It may not know a layout (then it raises `Unplaceable`) and it does
not look at what it has made: the caller reads the result again and compares.

What happens to comments: a comment on the edited entry's own lines goes with a removed entry and stays beside a
changed one; comments inside a value that is replaced as a whole go with it; every other comment stays, also one that
stands right above a removed entry, because it may speak of the entries below it as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lightning_autoresearch.document import Document
from lightning_autoresearch.emit import STEP, block_lines, entry_lines, flow_text, scalar_text, tail_lines

FLOW_WIDTH = 100
"""Longest flow collection, in characters, that is written where its predecessor or sibling was one."""

_COMMA = re.compile(r"(?:\s|(?<=\s)#[^\n]*)*,")
_ONLY_COMMENT = re.compile(r"[ \t]*(?:(?<=[ \t])#.*)?\r?$")
_BLOCK_HEADER = re.compile(r"[|>][-+0-9]*")


class Unplaceable(Exception):
    """This layout cannot be edited in place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """One entry of a map or a list, in its text."""

    text: str
    """The whole text."""
    parent: yaml.CollectionNode
    """The map or list."""
    index: int
    """Number of the entry in it."""
    owner: _Entry | None
    """The entry whose value the map or list is; None for the top level."""

    @property
    def key(self) -> yaml.Node | None:
        return self.parent.value[self.index][0] if isinstance(self.parent, yaml.MappingNode) else None

    @property
    def value(self) -> yaml.Node:
        entry = self.parent.value[self.index]
        node: yaml.Node = entry[1] if isinstance(self.parent, yaml.MappingNode) else entry
        return node

    @property
    def in_flow(self) -> bool:
        return bool(self.parent.flow_style)

    @property
    def is_only(self) -> bool:
        return len(self.parent.value) == 1

    @property
    def column(self) -> int:
        """Column of the key or dash (block style)."""
        return int((self.key or self.parent).start_mark.column)

    @property
    def newline(self) -> str:
        return newline_of(self.text)

    def sibling(self, index: int) -> _Entry:
        return _Entry(text=self.text, parent=self.parent, index=index, owner=self.owner)


def newline_of(text: str) -> str:
    """The line break that a text uses."""
    return "\r\n" if "\r\n" in text else "\n"


def set_value(document: Document, path: Sequence[str], value: Any, *, literal: bool) -> str:
    """The text with another value at a path that exists.

    Raises:
        Unplaceable: the layout is not known.
    """
    entry = _find(document, path)
    old = entry.value
    inline = entry.in_flow or _goes_inline(value, like=old, literal=literal)
    if inline and not _is_block(old):
        return _set_inline(entry, value)
    if inline:
        return _set_lines(entry, [_inline_text(value, flow=False, like=old)])
    return _set_lines(entry, tail_lines(value, entry.column, in_list=entry.key is None, literal=literal))


def set_lines(document: Document, path: Sequence[str], lines: Sequence[str]) -> str:
    """The text with ready lines, indented by `STEP`, as the value of a key of the top level.

    Raises:
        Unplaceable: the layout is not known.
    """
    return _set_lines(_find(document, path), ["", *(" " * STEP + line if line.strip() else "" for line in lines)])


def add_entry(document: Document, path: Sequence[str], value: Any, *, literal: bool) -> str:
    """The text with a new entry in a map or list that is not empty: at a map's end, as a list's item of that number.

    Raises:
        Unplaceable: the layout is not known.
    """
    owner = _find(document, path[:-1]) if len(path) > 1 else None
    parent = owner.value if owner else document.root
    if not isinstance(parent, yaml.CollectionNode) or not parent.value:
        raise Unplaceable
    count = len(parent.value)
    index = count if isinstance(parent, yaml.MappingNode) else int(path[-1])
    key = path[-1] if isinstance(parent, yaml.MappingNode) else None
    near = _Entry(text=document.text, parent=parent, index=min(index, count - 1), owner=owner)
    if near.in_flow:
        new = flow_text(value) if key is None else f"{scalar_text(key, flow=True)}: {flow_text(value)}"
        return _append_flow(near, new) if index == count else _insert_flow(near, new)
    if _goes_inline(value, like=near.value, literal=literal):
        tail = [_inline_text(value, flow=False)]
    else:
        tail = tail_lines(value, near.column, in_list=key is None, literal=literal)
    lines = entry_lines(key, tail, near.column)
    return _append_lines(near, lines) if index == count else _insert_lines(near, lines)


def remove_entry(document: Document, path: Sequence[str]) -> str:
    """The text without an entry; a map or list that loses its only one becomes `{}` or `[]`.

    Raises:
        Unplaceable: the layout is not known.
    """
    entry = _find(document, path)
    if entry.in_flow:
        return _remove_flow(entry)
    begin, stop = _begin(entry), _eol(entry.text, _end(entry.text, entry.value))
    if entry.is_only:
        return _empty_block(entry, begin, stop)
    if _starts_line(entry.text, begin):
        return _cut_lines(entry.text, begin, stop)
    following = _begin(entry.sibling(entry.index + 1))
    if entry.text[stop:following].strip():
        return entry.text[:begin].rstrip(" ") + entry.text[stop:]
    return entry.text[:begin] + entry.text[following:]


def whole_text(document: Document, data: dict[str, Any]) -> str:
    """The whole data anew, below the comments that the text begins with."""
    newline = newline_of(document.text)
    lines = document.text.lstrip("\ufeff").splitlines()
    count = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    body = block_lines(data, 0, literal=False) if data else ["{}"]
    return newline.join([*lines[:count], *body]) + newline


def _find(document: Document, path: Sequence[str]) -> _Entry:
    entry: _Entry | None = None
    node: yaml.Node = document.root
    for part in path:
        if isinstance(node, yaml.MappingNode):
            index = [key.value for key, _ in node.value].index(part)
        elif isinstance(node, yaml.SequenceNode):
            index = int(part)
        else:
            raise Unplaceable
        entry = _Entry(text=document.text, parent=node, index=index, owner=entry)
        node = entry.value
    if entry is None:
        raise Unplaceable
    return entry


def _goes_inline(value: Any, *, like: yaml.Node, literal: bool) -> bool:
    """Whether a value takes one line: it must, or its predecessor (or sibling) `like` does and it is short."""
    if isinstance(value, (dict, list)) and value:
        was_flow = isinstance(like, yaml.CollectionNode) and like.flow_style and like.value
        return bool(was_flow) and len(flow_text(value)) <= FLOW_WIDTH
    return len(tail_lines(value, 0, in_list=False, literal=literal)) == 1


def _inline_text(value: Any, *, flow: bool, like: yaml.Node | None = None) -> str:
    if isinstance(value, (dict, list)):
        return flow_text(value)
    quote = like.style if isinstance(like, yaml.ScalarNode) and like.style in ("'", '"') else None
    return scalar_text(value, flow=flow, quote=quote)


def _is_block(node: yaml.Node) -> bool:
    """Whether a value is written in lines of its own: a block map or list, or a literal or folded block."""
    if isinstance(node, yaml.CollectionNode):
        return not node.flow_style
    return isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")


def _set_inline(entry: _Entry, value: Any) -> str:
    text, node = entry.text, entry.value
    begin, end = node.start_mark.index, node.end_mark.index
    new = _inline_text(value, flow=entry.in_flow, like=node)
    if begin == end:  # a key without a value; in flow style it may even lack the colon
        begin = end = _entry_end(entry)
        new = (" " if text[begin - 1] in ":-" else ": ") + new
    return text[:begin] + new + text[end:]


def _set_lines(entry: _Entry, tail: list[str]) -> str:
    """Replace all that follows `key:` or `-` by other lines; the comments of the entry itself stay."""
    text, slot = entry.text, _slot(entry)
    beside, below = _own_comments(entry, slot)
    head, *rest = tail
    if below and head.startswith("|"):
        raise Unplaceable  # the comments would become part of the text
    lines = [(" " + head if head else "") + beside, *(" " * (entry.column + STEP) + line for line in below), *rest]
    return text[:slot] + entry.newline.join(lines) + text[_eol(text, _end(text, entry.value)) :]


def _own_comments(entry: _Entry, slot: int) -> tuple[str, list[str]]:
    """The comment beside `key:` or beside the value (with the space before it), and those between or after, if any."""
    text, node = entry.text, entry.value
    start = node.start_mark.index
    first, *between = text[slot:start].split("\n")
    comments = [first.rstrip()]
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return comments[0], []
    comments += [line.strip() for line in between]
    header = _BLOCK_HEADER.match(text, start) if _is_block(node) else None
    after = header.end() if header else node.end_mark.index
    comments.append(text[after : _eol(text, after)].rstrip())
    kept = [comment for comment in comments if comment]
    return (kept[0] if kept[0][0] == " " else "  " + kept[0], [c.strip() for c in kept[1:]]) if kept else ("", [])


def _append_lines(last: _Entry, lines: list[str]) -> str:
    at = _eol(last.text, _end(last.text, last.value))
    return last.text[:at] + "".join(last.newline + line for line in lines) + last.text[at:]


def _insert_lines(before: _Entry, lines: list[str]) -> str:
    if before.index:
        return _append_lines(before.sibling(before.index - 1), lines)
    text, begin = before.text, _begin(before)
    block = "".join(line + before.newline for line in lines)
    return text[:begin] + block.lstrip(" ") + " " * before.column + text[begin:]


def _append_flow(last: _Entry, new: str) -> str:
    text, end = last.text, _entry_end(last)
    comma = _COMMA.match(text, end)
    after = comma.end() if comma else end
    begin, eol = _begin(last), _eol(text, after)
    if _starts_line(text, begin) and _ONLY_COMMENT.match(text[after:eol]):
        line = last.newline + text[_bol(text, begin) : begin] + new + ("," if comma else "")
        return text[:end] + ("" if comma else ",") + text[end:eol] + line + text[eol:]
    return text[:end] + ", " + new + text[end:]


def _insert_flow(before: _Entry, new: str) -> str:
    text, begin = before.text, _begin(before)
    if _starts_line(text, begin):
        return text[:begin] + new + "," + before.newline + text[_bol(text, begin) :]
    return text[:begin] + new + ", " + text[begin:]


def _remove_flow(entry: _Entry) -> str:
    text, begin, end = entry.text, _begin(entry), _entry_end(entry)
    if text[entry.parent.start_mark.index] not in "{[":
        raise Unplaceable  # `[key: value]` is a map without braces
    comma = _COMMA.match(text, end)
    after = comma.end() if comma else end
    if "#" in text[end:after]:
        raise Unplaceable
    if entry.is_only:
        return _empty_flow(entry, begin, after)
    if _starts_line(text, begin) and _ONLY_COMMENT.match(text[after : _eol(text, after)]):
        return _cut_lines(text, begin, _eol(text, after))
    if entry.index + 1 < len(entry.parent.value):
        following = _begin(entry.sibling(entry.index + 1))
        return text[:begin] + text[after if "#" in text[after:following] else following :]
    previous = _entry_end(entry.sibling(entry.index - 1))
    return text[:begin] + text[after:] if "#" in text[previous:begin] else text[:previous] + text[end:]


def _empty_flow(entry: _Entry, begin: int, after: int) -> str:
    text = entry.text
    opening, closing = entry.parent.start_mark.index + 1, entry.parent.end_mark.index - 1
    if "#" not in text[opening:begin] + text[after:closing]:
        return text[:opening] + text[closing:]
    if _starts_line(text, begin) and _ONLY_COMMENT.match(text[after : _eol(text, after)]):
        return _cut_lines(text, begin, _eol(text, after))
    return text[:begin] + text[after:]


def _empty_block(entry: _Entry, begin: int, stop: int) -> str:
    text = entry.text
    empty = "{}" if isinstance(entry.parent, yaml.MappingNode) else "[]"
    if entry.owner is None or not _starts_line(text, begin):
        return text[:begin] + empty + text[stop:]
    slot = _slot(entry.owner)
    return text[:slot] + " " + empty + _cut_lines(text, begin, stop)[slot:]


def _begin(entry: _Entry) -> int:
    """Index of an entry's key, of its dash in a block list, of its value in a flow list."""
    if entry.key is not None:
        return int(entry.key.start_mark.index)
    return int(entry.value.start_mark.index) if entry.in_flow else _slot(entry) - 1


def _slot(entry: _Entry) -> int:
    """Index right after the colon or dash of an entry in block style."""
    text = entry.text
    if entry.key is not None:
        at, sign = _skip_spaces(text, entry.key.end_mark.index), ":"
    else:
        at, sign = entry.parent.start_mark.index, "-"
        if entry.index:
            at = _after_eol(text, _end(text, entry.sibling(entry.index - 1).value))
            while (content := _skip_spaces(text, at)) < len(text) and text[content] in "#\r\n":
                at = _after_eol(text, content)
            at = _skip_spaces(text, at)
    if entry.in_flow or text[at : at + 1] != sign:
        raise Unplaceable  # an explicit key (`? key`), or a list that begins on its parent's line
    return at + 1


def _entry_end(entry: _Entry) -> int:
    """Index after an entry's value, or after its key (and colon) where the value is left out."""
    end = int(entry.value.end_mark.index)
    if entry.key is None or entry.value.start_mark.index < end or entry.text[end - 1] == ":":
        return end
    return int(entry.key.end_mark.index)


def _end(text: str, node: yaml.Node) -> int:
    """Index after the last character of a value.  (The marks of block collections lie behind trailing comments.)"""
    end = int(node.end_mark.index)
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(node, yaml.MappingNode) else last)
    if not _is_block(node):
        return end
    header = _BLOCK_HEADER.match(text, node.start_mark.index)
    if header and "+" in header.group():  # its trailing blank lines are part of the value
        return len(text[:end].removesuffix("\n").removesuffix("\r"))
    return len(text[:end].rstrip())


def _cut_lines(text: str, begin: int, stop: int) -> str:
    """The text without the lines from the one of `begin` to the one that ends at `stop`."""
    before, after = text[: _bol(text, begin)], text[_after_eol(text, stop) :]
    if not after and not text.endswith("\n"):
        return before.removesuffix("\n").removesuffix("\r")
    return before + after


def _starts_line(text: str, at: int) -> bool:
    return not text[_bol(text, at) : at].strip(" \t")


def _skip_spaces(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t"):
        at += 1
    return at


def _bol(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _eol(text: str, at: int) -> int:
    """Index of the line break that ends the line, or of the text's end."""
    end = text.find("\n", at)
    if end < 0:
        return len(text)
    return end - 1 if end > at and text[end - 1] == "\r" else end


def _after_eol(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1
