"""Ops to the text of the next revision; the guard; the difference in words.  Pure functions.

An op is applied where it stands in the user's text (`layout`), the result is read again and compared type-strictly
with the data that the op means.  Where that fails, the nearest map or list around it is written anew, then the next
one outwards, at last the whole text; a text that does not say exactly what was meant is never returned.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from lightning_autoresearch.document import Document, join_pointer, parse, split_pointer
from lightning_autoresearch.emit import UNPRINTABLE, flow_text
from lightning_autoresearch.errors import ResearchError, SpecError
from lightning_autoresearch.layout import (
    Unplaceable,
    add_entry,
    newline_of,
    remove_entry,
    set_lines,
    set_value,
    whole_text,
)
from lightning_autoresearch.source import names_config

NEVER = frozenset(
    "version name objective guards scales decision budget policy scientist execution tracking".split()  # noqa: SIM905
)
"""Sections of the spec that no proposal may change, whatever else is declared editable."""

_ABSENT: Any = object()
_MODELINE = "# yaml-language-server:"
_HEADER_BEGIN = re.compile(r"# revision \d+\b")
_HEADER_END = "# end of the revision's header"


class RewriteError(ResearchError):
    """An op does not fit the text, or its result cannot be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Op:
    """One change of the spec."""

    op: Literal["set", "add", "remove"]
    """`set` changes a value, `add` puts in a key or a list's item, `remove` takes one out."""
    pointer: str
    """JSON pointer into the spec, for example `/task/model/lr`; in a list, `add` takes an index or `-` for the end."""
    old: Any = None
    """The value expected there before, so that a stale op is refused; not looked at by `add`."""
    value: Any = None
    """The new value; not looked at by `remove`."""
    why: str = ""
    """The reason, in one sentence."""


def rewrite(text: str, ops: Sequence[Op], *, file: str = "<spec>") -> str:
    """The text with all ops applied, one after the other; everything outside the changed entries survives.

    `add` makes missing maps on its way, and takes a null for an empty map or list.  `set` of a map or list changes only
    what differs inside.  `old` is compared by value: 1 is 1.0, but neither is True.

    Raises:
        RewriteError: an op is stale or does not fit, or a value cannot be written in YAML; no op is applied then.
        SpecError: the text itself cannot be read.
    """
    document = parse(text, file=file)
    for op in ops:
        for step in _steps(document, op):
            document = _apply(document, step)
    return document.text


def ops_between(old_data: Mapping[str, Any], new_data: Mapping[str, Any]) -> tuple[Op, ...]:
    """The smallest ops that lead from one state of the data to another; lists of unequal length are set whole.

    >>> [(op.op, op.pointer, op.value) for op in ops_between({"a": {"b": 1, "c": 2}}, {"a": {"b": 1.0}, "d": []})]
    [('set', '/a/b', 1.0), ('remove', '/a/c', None), ('add', '/d', [])]
    """
    return tuple(_op_of(*difference) for difference in _differences(old_data, new_data, ()))


def inline_config(text: str, config_text: str, *, file: str = "<spec>") -> str:
    """A spec with `task: {config: FILE}` whose task is the file's content instead, comments included.

    Raises:
        RewriteError: the task is not of this form.
        SpecError: one of the two texts cannot be read.
    """
    document = parse(text, file=file)
    task = document.data.get("task")
    if not isinstance(task, dict) or not names_config(task):
        raise RewriteError(f"{file}: /task: there is no `task: {{config: FILE}}` to replace; leave the task as it is")
    data = parse(config_text, file=str(task["config"])).data
    cli = {"cli": task["cli"]} if "cli" in task else {}
    expected = {**document.data, "task": {**cli, **data}}
    lines = config_text.removeprefix("\ufeff").strip("\r\n").replace("\r\n", "\n").split("\n")
    lines = [*(f"cli: {name}" for name in cli.values()), *(line for line in lines if line.rstrip() != "---")]
    positional = _attempt(partial(set_lines, document, ["task"], lines), expected, file=file)
    return (positional or _reemitted(document, ["task", "?"], expected)).text


def guard(
    old_data: Mapping[str, Any],
    new_data: Mapping[str, Any],
    *,
    editable: Callable[[str], bool] | Collection[str],
) -> tuple[str, ...]:
    """What is wrong with a change, in words; empty when it may be made.

    The changed paths are computed from the two states, never from what a proposal claims to do.  An added or removed
    map counts as all that it holds.

    Args:
        old_data: the spec before.
        new_data: the spec after.
        editable: JSON pointers that may change, with all below them; or a function that says so of a pointer.
    """
    may = editable if callable(editable) else lambda pointer: _is_below(pointer, editable)
    differences = _differences(old_data, new_data, ())
    changed = [leaf for difference in differences for leaf in _leaves(*difference)]
    problems = [_problem(path, old, new, may=may) for path, old, new in changed]
    if not any(path[0] in NEVER for path, _, _ in changed) and protected_digest(old_data) != protected_digest(new_data):
        problems.append("the protected sections differ in a way that no path shows; leave them as they are")
    return tuple(problem for problem in problems if problem)


def protected_digest(data: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the sections that no proposal may change, as canonical JSON."""
    protected = {key: data[key] for key in NEVER if key in data}
    canonical = json.dumps(protected, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text_digest(canonical)


def text_digest(text: str) -> str:
    """SHA-256 (hex) of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def changes_in_words(old_data: Mapping[str, Any], new_data: Mapping[str, Any]) -> tuple[str, ...]:
    """One line for each change: keys of the task by their dotted name, other sections with theirs in front.

    >>> old = {"task": {"lr": 0.003}, "search_space": {"lr": {"low": 0.0001, "high": 0.1}, "depth": {}}}
    >>> new = {"task": {"lr": 0.011}, "search_space": {"lr": {"low": 0.0001, "high": 0.4}}}
    >>> print(*changes_in_words(old, new), sep="\\n")
    lr: 0.003 -> 0.011
    search space: lr widened from 0.0001..0.1 to 0.0001..0.4
    search space: depth removed
    """
    old, new = ({**data, "search_space": {}} for data in (old_data, new_data))
    lines = [_change_in_words(*difference) for difference in _differences(old, new, ())]
    before, after = (data.get("search_space") or {} for data in (old_data, new_data))
    lines += [_domain_in_words(key, before[key], after.get(key, _ABSENT)) for key in before]
    lines += [f"search space: {key} added, {_in_words(after[key])}" for key in after if key not in before]
    return tuple(line for line in lines if line)


def with_header(text: str, lines: Sequence[str]) -> str:
    """The text with a comment block on top (below a modeline), in place of the one that an earlier revision wrote.

    Args:
        text: the spec.
        lines: the block without its `# `; the first begins with `revision N`.  Without lines the old block is removed.

    Raises:
        ValueError: the first line does not begin with `revision N`, so that the block could not be found again.
    """
    # One entry may hold a line break, by which text that somebody else wrote would leave the comment.
    comments = [f"# {part}".rstrip() for line in lines for part in _printable(line).split("\n")]
    comments = [comment for comment in comments if comment != _HEADER_END]
    if comments and not _HEADER_BEGIN.match(comments[0]):
        raise ValueError(f"the first line of a header begins with 'revision N', not {lines[0]!r}")
    mark = text[: len(text) - len(text.removeprefix("\ufeff"))]
    body = text.removeprefix("\ufeff").split("\n")
    top = [body.pop(0)] if body[0].startswith(_MODELINE) else []
    body = body[_header_length(body) :]
    carriage = newline_of(text).removesuffix("\n")
    header = [comment + carriage for comment in ([*comments, _HEADER_END] if comments else [])]
    return mark + "\n".join([*top, *header, *body])


def unified_diff(old_text: str, new_text: str, *, old_name: str, new_name: str) -> str:
    """The difference of two texts line by line, as `diff -u` shows it; empty when they are equal."""
    old, new = (re.findall(r"[^\n]*\n|[^\n]+", text) for text in (old_text, new_text))
    lines = difflib.unified_diff(old, new, fromfile=old_name, tofile=new_name)
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """An op that is known to fit, made plain: one edit of the text and the data that it leads to."""

    op: Literal["set", "add", "remove"]
    """What is done."""
    path: tuple[str, ...]
    """Where; an index of a list is a number."""
    value: Any
    """The new value, plain data."""


def _steps(document: Document, op: Op) -> list[_Step]:
    """The edits that make up one op, checked against the data."""
    path = tuple(split_pointer(op.pointer))
    if not path:
        raise _refusal(document, op, "an op changes something inside the spec", "name a key")
    if op.op == "add":
        return [_adding(document, op, path)]
    found = _lookup(document.data, path)
    if found is _ABSENT:
        raise _refusal(document, op, "there is nothing here", "name a key that exists, or add it")
    if not _same(found, _plain(op.old, where=op.pointer), strict=False):
        raise _refusal(document, op, f"the op expects {op.old!r}, but here is {found!r}", "read the spec again")
    if op.op == "remove":
        return [_Step(op="remove", path=path, value=None)]
    differences = _differences(found, _plain(op.value, where=op.pointer), path)
    return [_step_of(difference) for difference in differences]


def _adding(document: Document, op: Op, path: tuple[str, ...]) -> _Step:
    value = _plain(op.value, where=op.pointer)
    parent = _lookup(document.data, path[:-1])
    while parent is _ABSENT and len(path) > 1:
        *front, last = path
        path, value = tuple(front), {last: value}
        parent = _lookup(document.data, path[:-1])
    last = path[-1]
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last) if re.fullmatch("[0-9]{1,9}", last) else -1
        if not 0 <= index <= len(parent):
            raise _refusal(document, op, f"the list has {len(parent)} items", "name an index up to that, or `-`")
        path = (*path[:-1], str(index))
        return _Step(op="add", path=path, value=value) if parent else _Step(op="set", path=path[:-1], value=[value])
    if isinstance(parent, dict) and last in parent:
        raise _refusal(document, op, f"here is {parent[last]!r} already", "set it instead")
    if parent is None or parent == {}:
        new = [value] if parent is None and last == "-" else {last: value}
        return _Step(op="set", path=path[:-1], value=new) if path[:-1] else _Step(op="add", path=path, value=value)
    if not isinstance(parent, dict):
        raise _refusal(document, op, f"{join_pointer(*path[:-1])} is {parent!r}, no map or list", "name another key")
    return _Step(op="add", path=path, value=value)


def _refusal(document: Document, op: Op, what: str, mend: str) -> RewriteError:
    line, column = document.position(op.pointer)
    return RewriteError(f"{document.file}:{line}:{column}: {op.pointer or '/'}: cannot {op.op}: {what}; {mend}")


def _apply(document: Document, step: _Step) -> Document:
    """Apply a step in place, else by writing anew what is around it."""
    expected = _applied(document.data, step)
    for literal in (True, False):
        result = _attempt(partial(_edited, document, step, literal=literal), expected, file=document.file)
        if result:
            return result
    return _reemitted(document, step.path, expected)


def _edited(document: Document, step: _Step, *, literal: bool) -> str:
    if step.op == "remove":
        return remove_entry(document, step.path)
    if step.op == "add":
        return add_entry(document, step.path, step.value, literal=literal)
    return set_value(document, step.path, step.value, literal=literal)


def _reemitted(document: Document, path: Sequence[str], expected: dict[str, Any]) -> Document:
    """Write anew the nearest map or list around a path that can be, at last the whole text."""
    for depth in range(len(path) - 1, 0, -1):
        value = _lookup(expected, path[:depth])
        edit = partial(set_value, document, path[:depth], value, literal=False)
        result = _attempt(edit, expected, file=document.file)
        if result:
            return result
    result = _attempt(partial(whole_text, document, expected), expected, file=document.file)
    if result is None:
        raise RewriteError(
            f"{document.file}: {join_pointer(*path)}: the change cannot be written as YAML that reads back the same; "
            "use finite numbers, whole numbers of at most 64 bits, and text of valid characters"
        )
    return result


def _attempt(edit: Callable[[], str], expected: dict[str, Any], *, file: str) -> Document | None:
    """The edited text, read again; None unless it says exactly what is expected."""
    try:
        document = parse(edit(), file=file)
    except (Unplaceable, SpecError):
        return None
    return document if _same(document.data, expected, strict=True) else None


def _applied(data: dict[str, Any], step: _Step) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    parent: Any = _lookup(changed, step.path[:-1])
    last: Any = int(step.path[-1]) if isinstance(parent, list) else step.path[-1]
    if step.op == "remove":
        del parent[last]
    elif step.op == "add" and isinstance(parent, list):
        parent.insert(last, step.value)
    else:
        parent[last] = step.value
    return changed


def _lookup(data: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, list) and re.fullmatch("0|[1-9][0-9]{0,8}", part) and int(part) < len(data):
            data = data[int(part)]
        else:
            return _ABSENT
    return data


def _plain(value: Any, *, where: str) -> Any:
    """A copy as maps, lists and scalars, as YAML would give it back."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, where=where) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where=where) for item in value]
    if value is None or type(value) in (str, int, bool) or (type(value) is float and math.isfinite(value)):
        return value
    raise RewriteError(
        f"{where}: {value!r} cannot be written; use finite numbers, text, lists, and maps with text keys"
    )


def _same(one: Any, other: Any, *, strict: bool) -> bool:
    """Equality that tells 1 from True and, where strict, from 1.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key], strict=strict) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b, strict=strict) for a, b in zip(one, other, strict=True))
    if strict or isinstance(one, bool) or isinstance(other, bool):
        return type(one) is type(other) and repr(one) == repr(other)
    return bool(one == other)


def _differences(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, old, new) of each difference, as deep as the two have maps and lists of equal length in common."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and (not path or old.keys() & new.keys()):
        for key in [*old, *(key for key in new if key not in old)]:
            before, after = old.get(key, _ABSENT), new.get(key, _ABSENT)
            yield from _differences(before, after, (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, (*path, str(index)))
    elif not _same(old, new, strict=True):
        yield path, old, new


def _op_of(path: tuple[str, ...], old: Any, new: Any) -> Op:
    pointer = join_pointer(*path)
    if new is _ABSENT:
        return Op(op="remove", pointer=pointer, old=old)
    return (
        Op(op="add", pointer=pointer, value=new)
        if old is _ABSENT
        else Op(op="set", pointer=pointer, old=old, value=new)
    )


def _step_of(difference: tuple[tuple[str, ...], Any, Any]) -> _Step:
    path, old, new = difference
    if new is _ABSENT:
        return _Step(op="remove", path=path, value=None)
    return _Step(op="add" if old is _ABSENT else "set", path=path, value=new)


def _leaves(path: tuple[str, ...], old: Any, new: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """A difference as (path, old, new) of all that the maps on either side hold."""
    maps = [side for side in (old, new) if isinstance(side, Mapping)]
    keys = list(dict.fromkeys(key for side in maps for key in side))
    if not keys or not all(side is _ABSENT or isinstance(side, Mapping) for side in (old, new)):
        yield path, old, new
        return
    for key in keys:
        before, after = (side.get(key, _ABSENT) if side is not _ABSENT else _ABSENT for side in (old, new))
        if not _same(before, after, strict=True):
            yield from _leaves((*path, key), before, after)


def _is_below(pointer: str, editable: Collection[str]) -> bool:
    return any(pointer == allowed or pointer.startswith(allowed + "/") for allowed in editable)


def _problem(path: tuple[str, ...], old: Any, new: Any, *, may: Callable[[str], bool]) -> str:
    pointer, change = join_pointer(*path), f"{_in_words(old)} -> {_in_words(new)}"
    if path[0] in NEVER:
        return f"{pointer}: {change}: no proposal may change the section `{path[0]}`"
    return "" if may(pointer) else f"{pointer}: {change}: this key is not editable"


def _change_in_words(path: tuple[str, ...], old: Any, new: Any) -> str:
    key = ".".join(path[1:] if path[0] == "task" and path[1:] else path)
    if old is _ABSENT:
        return f"{key}: added, {_in_words(new)}"
    return f"{key}: removed, was {_in_words(old)}" if new is _ABSENT else f"{key}: {_in_words(old)} -> {_in_words(new)}"


def _domain_in_words(key: str, old: Any, new: Any) -> str:
    if new is _ABSENT:
        return f"search space: {key} removed"
    if _same(old, new, strict=True):
        return ""
    before, after = _without_extent(old), _without_extent(new)
    if before is None or not _same(before, after, strict=True):
        return f"search space: {key} changed from {_in_words(old)} to {_in_words(new)}"
    return f"search space: {key} {_movement(old, new)} from {_extent(old)} to {_extent(new)}"


def _without_extent(domain: Any) -> dict[str, Any] | None:
    """A domain without its bounds or choices; None where it has neither."""
    if isinstance(domain, Mapping) and isinstance(domain.get("choices"), list):
        return {**domain, "choices": None}
    numbers = isinstance(domain, Mapping) and all(isinstance(domain.get(end), (int, float)) for end in ("low", "high"))
    return {**domain, "low": None, "high": None} if numbers else None


def _movement(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """How the new extent of a domain lies to the old one."""
    if "choices" in old:
        before, after = ({(type(choice).__name__, repr(choice)) for choice in side["choices"]} for side in (old, new))
        wider, narrower = after >= before, after <= before
    else:
        wider = new["low"] <= old["low"] and new["high"] >= old["high"]
        narrower = new["low"] >= old["low"] and new["high"] <= old["high"]
    return "rewritten" if wider and narrower else "widened" if wider else "narrowed" if narrower else "moved"


def _extent(domain: Mapping[str, Any]) -> str:
    return (
        _in_words(domain["choices"])
        if "choices" in domain
        else f"{_in_words(domain['low'])}..{_in_words(domain['high'])}"
    )


def _in_words(value: Any) -> str:
    return "nothing" if value is _ABSENT else flow_text(_plain(value, where="value"))


def _printable(line: str) -> str:
    """Text with plain line breaks and nothing else that a YAML reader could stumble over."""
    parts = re.split("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]", line)
    return "\n".join(UNPRINTABLE.sub(" ", part) for part in parts)


def _header_length(lines: Sequence[str]) -> int:
    """Number of lines of the header that an earlier revision wrote; 0 where there is none."""
    if not _HEADER_BEGIN.match(lines[0]):
        return 0
    for count, line in enumerate(lines, start=1):
        if not line.startswith("#"):
            return 0
        if line.rstrip("\r") == _HEADER_END:
            return count
    return 0
