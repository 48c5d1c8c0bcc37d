"""Where a spec's data comes from: the file, the file that `task.config` names, and `--set`.

The three are merged into one tree of plain data, and every place in it can still be traced to its file.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lightning_autoresearch.document import Document, join_pointer, parse, parse_value
from lightning_autoresearch.errors import Fault, SpecError

SET_FILE = "--set"
"""Stands for the file in faults of `--set`; the line is the number of the option, counted from 1."""

Settings: TypeAlias = Mapping[str, str] | Sequence[str]
"""`KEY=VALUE` texts, or a map from KEY to VALUE."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One `--set KEY=VALUE`."""

    key: str
    """Dotted path into the spec."""
    value: Any
    """The value, plain data."""
    number: int
    """Number of the option, counted from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The merged data, and where each part came from."""

    data: dict[str, Any]
    """The whole spec as plain data, `--set` applied and `task.config` resolved."""
    document: Document
    """The spec's own file."""
    config: Document | None
    """The file that `task.config` names."""
    places: Mapping[str, int]
    """JSON pointer of each value that `--set` gave, and the number of the option."""
    faults: tuple[Fault, ...]
    """What went wrong on the way, with positions."""

    def locate(self, fault: Fault) -> Fault:
        """The same fault with the file and position of its pointer."""
        number = self._setting(fault.pointer)
        if number is not None:
            return dataclasses.replace(fault, file=SET_FILE, line=number, column=1)
        document, pointer = self.document, fault.pointer
        if self.config and pointer.startswith("/task/"):
            document, pointer = self.config, pointer.removeprefix("/task")
        line, column = document.position(pointer)
        return dataclasses.replace(fault, file=document.file, line=line, column=column)

    def _setting(self, pointer: str) -> int | None:
        above = [number for place, number in self.places.items() if f"{pointer}/".startswith(f"{place}/")]
        return max(above, default=None)


def read_text(path: Path) -> str:
    """The text of a file, byte for byte.

    Raises:
        SpecError: there is no such file, it is a folder, it cannot be read, or it is no UTF-8.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file", _nearby(path)) from None
    except IsADirectoryError:
        raise _unreadable(path, "this is a folder, not a file", "name the YAML file in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _unreadable(path, f"the file cannot be read: {reason}", "check the path and its permissions") from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        lines = content[: error.start].decode("utf-8").split("\n")
        what = f"the byte 0x{content[error.start]:02x} is no UTF-8"
        mend = "save the file with the encoding UTF-8"
        raise _unreadable(path, what, mend, line=len(lines), column=len(lines[-1]) + 1) from None


def merge(text: str, *, path: Path, overrides: Settings) -> Source:
    """Parse the text, resolve `task.config` and apply the overrides; later ones win.

    Raises:
        SpecError: the text itself cannot be parsed; faults of `--set` are then named too.
    """
    settings, faults = _parse_settings(overrides)
    try:
        document = parse(text, file=str(path))
    except SpecError as error:
        raise SpecError([*error.faults, *faults]) from None
    data = copy.deepcopy(document.data)
    places: dict[str, int] = {}
    first = [setting for setting in settings if _names_the_config(setting)]
    faults += _apply(first, data, places)
    config = None
    try:
        config = _read_config(data, folder=path.parent)
    except SpecError as error:
        faults += error.faults
        settings = [setting for setting in settings if setting.key.split(".")[0] != "task"]
    if config:
        cli = {key: value for key, value in data["task"].items() if key == "cli"}
        data["task"] = {**cli, **copy.deepcopy(config.data)}
        places = {place: number for place, number in places.items() if not place.startswith("/task")}
    faults += _apply([setting for setting in settings if setting not in first], data, places)
    return Source(data=data, document=document, config=config, places=places, faults=tuple(faults))


def _names_the_config(setting: Setting) -> bool:
    return setting.key in ("task", "task.config", "task.cli")


def _read_config(data: Mapping[str, Any], *, folder: Path) -> Document | None:
    task = data.get("task")
    if not isinstance(task, dict) or not names_config(task):
        return None
    path = folder / task["config"]
    return parse(read_text(path), file=str(path))


def names_config(task: Mapping[str, Any]) -> bool:
    """Whether a task is a config file of its own (and perhaps the project's CLI), instead of standing in the spec."""
    return isinstance(task.get("config"), str) and task.keys() <= {"config", "cli"}


def _parse_settings(overrides: Settings) -> tuple[list[Setting], list[Fault]]:
    if isinstance(overrides, Mapping):
        texts = [f"{key}={value}" for key, value in overrides.items()]
    else:
        texts = list(overrides)
    settings: list[Setting] = []
    faults: list[Fault] = []
    for number, text in enumerate(texts, start=1):
        try:
            settings.append(_parse_setting(text, number=number))
        except SpecError as error:
            faults += error.faults
    return settings, faults


def _parse_setting(text: str, *, number: int) -> Setting:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise SpecError([_bad_setting(number, f"{text!r} is not KEY=VALUE", "write for example budget.trials=20")])
    if not value.strip():
        raise SpecError([_bad_setting(number, f"{key} has no value", "write null for no value, '\"\"' for empty text")])
    try:
        return Setting(key=key, value=parse_value(value, file=SET_FILE), number=number)
    except SpecError as error:
        raise SpecError(
            dataclasses.replace(
                fault,
                what=f"{key}: {fault.what}",
                line=number,
                column=fault.column + (len(key) + 1 if fault.line == 1 else 0),
            )
            for fault in error.faults
        ) from None


def _apply(settings: Sequence[Setting], data: dict[str, Any], places: dict[str, int]) -> list[Fault]:
    faults = []
    for setting in settings:
        path: list[str] = []
        try:
            _assign(data, setting.key.split("."), setting.value, path=path)
        except KeyError as error:
            what = f"{setting.key}: {error.args[0]}"
            faults.append(_bad_setting(setting.number, what, "name a path of the spec", pointer=join_pointer(*path)))
        else:
            places[join_pointer(*path)] = setting.number
    return faults


def _assign(node: Any, parts: list[str], value: Any, *, path: list[str]) -> None:
    """Set a value below a node; keys with dots in them (search space, scales) are found by the longest match."""
    key, rest = _next_key(node, parts, path=path)
    path.append(str(key))
    if not rest:
        node[key] = copy.deepcopy(value)
        return
    if isinstance(node, dict) and node.get(key) is None:
        node[key] = {}
    _assign(node[key], rest, value, path=path)


def _next_key(node: Any, parts: list[str], *, path: list[str]) -> tuple[Any, list[str]]:
    if isinstance(node, list):
        if parts[0].isdecimal() and int(parts[0]) < len(node):
            return int(parts[0]), parts[1:]
        raise KeyError(f"the list has the items 0 to {len(node) - 1}, not {parts[0]}")
    if not isinstance(node, dict):
        raise KeyError(f"{path[-1]} is neither a map nor a list")
    for count in range(len(parts), 0, -1):
        key = ".".join(parts[:count])
        if key in node:
            return key, parts[count:]
    if path == ["search_space"] or (path[:1] == ["scales"] and path[2:] == ["set"]):
        return ".".join(parts), []
    return parts[0], parts[1:]


def _bad_setting(number: int, what: str, mend: str, *, pointer: str = "") -> Fault:
    return Fault(pointer=pointer, what=what, mend=mend, file=SET_FILE, line=number)


def _unreadable(path: Path, what: str, mend: str, *, line: int = 1, column: int = 1) -> SpecError:
    return SpecError([Fault(pointer="", what=what, mend=mend, file=str(path), line=line, column=column)])


def _nearby(path: Path) -> str:
    from difflib import get_close_matches

    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1)
    return f"did you mean {str(path.parent / near[0])!r}?" if near else "check the path"
