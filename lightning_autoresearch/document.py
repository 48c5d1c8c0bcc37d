"""Strict YAML with positions: one text in, plain data and the place of every key out.

Only what YAML and JSON share is accepted, read by the core schema of YAML 1.2 (chapter 10.3 of the
specification): `1e-3` is a number, `on` is text, `010` is ten.  Duplicate keys, anchors, aliases, merge keys,
tags, directives, several documents, NaN and infinity are faults, because they make a text mean something
else than it seems to say.  Places are addressed by JSON pointers (RFC 6901).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from lightning_autoresearch.errors import Fault, SpecError

MAX_BYTES = 1_000_000
"""Largest text that is read."""
MAX_LEVELS = 40
"""Deepest nesting of maps and lists."""

_TAG = "tag:yaml.org,2002:"
_TEXT_MEND = "put it in quotes if it is meant as text"
_ESCAPES = "text in double quotes has an escape that stands for no character"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A parsed text: the data, and where each part of it stands."""

    text: str
    """The text as it was given."""
    file: str
    """Name of the file, as faults show it."""
    data: dict[str, Any]
    """The content as plain maps, lists and scalars."""
    root: yaml.MappingNode
    """The node of the top level; marks hold index, line and column, counted from 0."""

    def position(self, pointer: str) -> tuple[int, int]:
        """Line and column, counted from 1, of the key or item at a pointer, or of its nearest ancestor that exists."""
        mark = self.root.start_mark
        for place in _places(self.root, split_pointer(pointer)):
            mark = place[0].start_mark
        return mark.line + 1, mark.column + 1

    def node(self, pointer: str) -> yaml.Node | None:
        """The node of the value at a pointer; None where there is none."""
        place = self._place(pointer)
        return place[1] if place else None

    def key_node(self, pointer: str) -> yaml.ScalarNode | None:
        """The node of the key at a pointer; None for the top level, for a list's item, and where there is none."""
        place = self._place(pointer)
        key = place[0] if place and place[0] is not place[1] else None
        return key if isinstance(key, yaml.ScalarNode) else None

    def _place(self, pointer: str) -> tuple[yaml.Node, yaml.Node] | None:
        parts = split_pointer(pointer)
        places = [(self.root, self.root), *_places(self.root, parts)]
        return places[-1] if len(places) == len(parts) + 1 else None


def join_pointer(*parts: str | int) -> str:
    """The JSON pointer of a path.

    >>> join_pointer("scales", 0, "a/b")
    '/scales/0/a~1b'
    """
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def split_pointer(pointer: str) -> list[str]:
    """The path of a JSON pointer.

    >>> split_pointer("/scales/0/a~1b")
    ['scales', '0', 'a/b']
    """
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def parse(text: str, *, file: str = "<spec>") -> Document:
    """Read a text whose top level is a map.

    Raises:
        SpecError: the text breaks a rule; every fault that can be found is named.
    """
    root = _read(text, file)
    if not isinstance(root, yaml.MappingNode):
        what = f"the top level is {_kind(root)}, not a map"
        raise SpecError([_fault(root.start_mark, what, "write `key: value` lines", file=file)])
    return Document(text=text, file=file, data=_plain(root), root=root)


def parse_value(text: str, *, file: str = "<value>") -> Any:
    """Read one value (a scalar, a list or a map) by the same rules.

    Raises:
        SpecError: the text breaks a rule; every fault that can be found is named.
    """
    return _plain(_read(text, file))


@lru_cache(maxsize=4)
def _read(text: str, file: str) -> yaml.Node:
    """The nodes of a text, which nobody changes; kept, because a text is mostly read again right after."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        what = f"the text is larger than {MAX_BYTES / 1e6:g} MB"
        raise SpecError([Fault(pointer="", what=what, mend="a spec is small; move data out of it", file=file)])
    composer = _Composer(file)
    root = composer.compose(text)
    if composer.faults or root is None:
        raise SpecError(composer.faults)
    return root


class _Loader(yaml.SafeLoader):
    """The pure Python reader (its parser keeps no recursion), with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012


for _name, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    ("float", r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


class _Composer:
    """Events to nodes; faults are collected and the text is read on, as far as it can be."""

    def __init__(self, file: str):
        self.file = file
        self.faults: list[Fault] = []
        self._path: list[str | int] = []

    def compose(self, text: str) -> yaml.Node | None:
        """The node of the only document; None where the text cannot be read to its end."""
        try:
            self._loader = _Loader(text)
        except yaml.reader.ReaderError as error:
            line, column = _line_and_column(text, error.position)
            what = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
            self.faults.append(Fault(pointer="", what=what, mend="remove it", file=self.file, line=line, column=column))
            return None
        try:
            return self._only_document()
        except yaml.MarkedYAMLError as error:
            self._syntax_fault(error)
        except (ValueError, OverflowError):  # PyYAML lets chr() of an escape fail
            self._add(self._loader.get_mark(), _ESCAPES, "write the character itself")
        except _TooDeep:
            pass
        return None

    def _only_document(self) -> yaml.Node | None:
        self._next()
        start = self._next()
        if isinstance(start, yaml.StreamEndEvent):
            self._add(start.start_mark, "the text is empty", "write at least one `key: value` line")
            return None
        if start.version or start.tags:
            self._add(start.start_mark, "directives (%YAML, %TAG) are not allowed", "remove the line")
        root = self._node(self._next())
        self._next()
        further = self._next()
        if not isinstance(further, yaml.StreamEndEvent):
            self._add(further.start_mark, "a second document begins here", "keep one document per file")
        return root

    def _next(self) -> Any:  # a yaml.Event; its published types know neither marks nor tags
        return self._loader.get_event()  # type: ignore[no-untyped-call]

    def _node(self, event: Any) -> yaml.Node:
        if isinstance(event, yaml.AliasEvent):
            self._add(event.start_mark, f"the alias *{event.anchor} is not allowed", "write the value out")
            return _null(event)
        self._refuse_properties(event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if len(self._path) >= MAX_LEVELS:
            self._add(event.start_mark, f"more than {MAX_LEVELS} levels of nesting", "flatten it")
            raise _TooDeep
        return self._sequence(event) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(event)

    def _refuse_properties(self, event: Any) -> None:
        if event.anchor is not None:
            self._add(event.start_mark, f"the anchor &{event.anchor} is not allowed", "remove it")
        if event.tag is not None:
            tag = event.tag.replace(_TAG, "!!")
            self._add(event.start_mark, f"the tag {tag} is not allowed", "remove it")

    def _scalar(self, event: Any) -> yaml.ScalarNode:
        tag = _TAG + "str" if event.tag else self._resolve(event)
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark, style=event.style)
        trouble = _trouble(node)
        if trouble:
            self._add(event.start_mark, trouble, _TEXT_MEND if tag != _TAG + "str" else "write the character itself")
        return node

    def _resolve(self, event: Any) -> str:
        return str(self._loader.resolve(yaml.ScalarNode, event.value, event.implicit))  # type: ignore[no-untyped-call]

    def _sequence(self, start: Any) -> yaml.SequenceNode:
        items: list[yaml.Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            self._path.append(len(items))
            items.append(self._node(event))
            self._path.pop()
        end: Any = event
        return yaml.SequenceNode(_TAG + "seq", items, start.start_mark, end.end_mark, flow_style=start.flow_style)

    def _mapping(self, start: Any) -> yaml.MappingNode:
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        first: dict[str, yaml.Node] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            self._path.append("?")
            key = self._node(event)
            self._path[-1] = key.value if isinstance(key, yaml.ScalarNode) else "?"
            self._check_key(key, first, is_alias=isinstance(event, yaml.AliasEvent))
            pairs.append((key, self._node(self._next())))
            self._path.pop()
        end: Any = event
        return yaml.MappingNode(_TAG + "map", pairs, start.start_mark, end.end_mark, flow_style=start.flow_style)

    def _check_key(self, key: Any, first: dict[str, yaml.Node], *, is_alias: bool) -> None:
        if is_alias:
            return
        if key.tag != _TAG + "str":
            shown = f"the key {key.value} is" if isinstance(key, yaml.ScalarNode) else f"{_kind(key)} as a key is"
            self._add(key.start_mark, f"{shown} no text", "put the key in quotes")
        elif key.value == "<<" and key.style is None:
            self._add(key.start_mark, "the merge key << is not allowed", "write the keys out")
        elif key.value in first:
            mark = first[key.value].start_mark
            where = f"line {mark.line + 1}, column {mark.column + 1}"
            self._add(key.start_mark, f"the key {key.value!r} is already at {where}", "keep one of the two")
        first.setdefault(str(key.value), key)

    def _syntax_fault(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "it cannot be read"
        mend = "indent with spaces" if "\\t" in problem else "mend the line, or put text with special signs in quotes"
        what = f"not valid YAML: {problem}" + (f" {error.context}" if error.context and error.problem else "")
        self._add(mark, what, mend)

    def _add(self, mark: Any, what: str, mend: str) -> None:
        self.faults.append(_fault(mark, what, mend, file=self.file, pointer=join_pointer(*self._path)))


class _TooDeep(Exception):
    pass


def _fault(mark: Any, what: str, mend: str, *, file: str, pointer: str = "") -> Fault:
    return Fault(pointer=pointer, what=what, mend=mend, file=file, line=mark.line + 1, column=mark.column + 1)


def _null(event: Any) -> yaml.ScalarNode:
    return yaml.ScalarNode(_TAG + "null", "null", event.start_mark, event.end_mark)


def _trouble(node: yaml.ScalarNode) -> str:
    kind = node.tag.removeprefix(_TAG)
    if kind == "str" and any("\ud800" <= character <= "\udfff" for character in node.value):
        return _ESCAPES
    if kind == "float" and not math.isfinite(_float(node.value)):
        return f"{node.value} is not a finite number"
    if kind == "int" and not _fits_64_bits(node.value):
        return "the whole number needs more than 64 bits"
    return ""


def _fits_64_bits(text: str) -> bool:
    digits = text.lstrip("+-")
    return len(digits) < 1000 and -(2**63) <= _int(text) < 2**64


def _plain(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key.value: _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    return _SCALARS[node.tag.removeprefix(_TAG)](node.value)


def _int(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _int,
    "float": _float,
    "str": str,
}


def _places(root: yaml.Node, parts: list[str]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """(key or item, value) along a path, as far as it exists."""
    node = root
    for part in parts:
        place = _child(node, part)
        if place is None:
            return
        yield place
        node = place[1]


def _child(node: yaml.Node, part: str) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and re.fullmatch("0|[1-9][0-9]*", part) and int(part) < len(node.value):
        return node.value[int(part)], node.value[int(part)]
    return None


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a map"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return {"null": "nothing", "str": "text"}.get(node.tag.removeprefix(_TAG), "a single value")


def _line_and_column(text: str, index: int) -> tuple[int, int]:
    lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", text[:index])
    return len(lines), len(lines[-1]) + 1
