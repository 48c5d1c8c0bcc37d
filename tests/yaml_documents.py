"""Random YAML documents in random layouts, with comments of which each knows where it belongs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from random import Random
from typing import Any

from lightning_autoresearch.document import parse, parse_value
from lightning_autoresearch.errors import SpecError

Path = tuple[str, ...]

KEYS = [
    "lr",
    "model",
    "init_args",
    "a.b.c",
    "on",
    "1e3",
    "010",
    "a: b",
    "x #y",
    "null",
    "two words",
    "<<",
    "",
    "~/t",
    "é",
    "-",
    "y",
]
TEXTS = [
    "adam", "recipes.gpt.GPT", "16-mixed", "no", "1e-3", "0x1f", "1:30", "2024-01-01", "", " padded ", "it's",
    'say "hi"', "a: b", "a #b", "# no comment", "[x]", "{", "*star", "one, two", "null", "~", "C:\\dir", "ends:",
    "two words of plain text", "\ttab", "bell\x07", "\u2028", "\U0001f600", "line\nline", "line\n  deeper\n\nline\n",
    "\nfirst empty", "last\n\n", "  in\nout", "trailing \nspace", "- dash\n# hash\n",
]  # fmt: skip
NUMBERS: list[tuple[Any, str]] = [
    (0.001, "1e-3"), (31, "0x1f"), (5, "+5"), (10, "010"), (0.5, ".5"), (1.0, "1."), (1.0, "1.0"), (1, "1"),
    (True, "true"), (False, "FALSE"), (None, "null"), (None, "~"), (None, ""), (-2.5e-05, "-2.5e-05"), (1000, "1000"),
    (8, "0o10"),
]  # fmt: skip


def random_value(rng: Random, *, depth: int = 0) -> Any:
    """A scalar, or with some probability a map or list, at most four levels deep."""
    kind = rng.random()
    if kind < 0.35 and depth < 4:
        keys = rng.sample(KEYS, rng.choice([0, 1, 1, 2, 3, 4]))
        return {key: random_value(rng, depth=depth + 1) for key in keys}
    if kind < 0.55 and depth < 4:
        return [random_value(rng, depth=depth + 1) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    return rng.choice(NUMBERS)[0] if kind < 0.8 else rng.choice(TEXTS)


@dataclass
class Writer:
    """Writes data as YAML, each part in a style of its own."""

    rng: Random
    comments: list[tuple[str, Path]] = field(default_factory=list)
    """Each comment and the path of the entry it belongs to; `*` at the end for one between entries."""

    def document(self, data: dict[str, Any]) -> str:
        lines = self.block(data, 0, ())
        lines += self.between((), 0, start=True) + self.between((), 0, start=True)
        text = "\n".join(lines) + "\n"
        if self.rng.random() < 0.2:
            text = text.replace("\n", "\r\n")
        if self.rng.random() < 0.2 and is_data(bare := text.rstrip("\r\n"), data):
            text = bare
        return text

    def comment(self, path: Path) -> str:
        text = f"# c{len(self.comments)}." + self.rng.choice(["", " it's: [odd] {", " lr: 3", ' "'])
        self.comments.append((text, path))
        return text

    def between(self, path: Path, column: int, *, start: bool) -> list[str]:
        """Blank lines and whole-line comments that stand among the entries of a collection."""
        lines = []
        while self.rng.random() < 0.25:
            if self.rng.random() < 0.4:
                lines.append("" if self.rng.random() < 0.8 or not start else "  ")
            else:
                indent = column if self.rng.random() < 0.8 else self.rng.randrange(column + 1)
                lines.append(" " * indent + self.comment((*path, "*")))
        return lines

    def beside(self, path: Path) -> str:
        """A comment at a line's end, or nothing."""
        if self.rng.random() < 0.75:
            return " " * (self.rng.random() < 0.05)
        return " " * self.rng.randint(1, 3) + self.comment(path)

    def block(self, data: Any, column: int, path: Path, *, compact: bool = False) -> list[str]:
        """The lines of a collection that is not empty; the first is not indented where it is compact."""
        lines: list[str] = []
        is_map = isinstance(data, dict)
        for number, (key, value) in enumerate(data.items() if is_map else enumerate(data)):
            if number or not compact:
                lines += self.between(path, column, start=not number)
            indent = "" if compact and not number else " " * column
            name = self.key(key) + self.rng.choice(["", "", "", " "]) + ":" if is_map else "-"
            first, *rest = self.entry(value, column, (*path, str(key)), in_map=is_map)
            lines += [indent + name + first, *rest]
        return lines

    def entry(self, value: Any, column: int, path: Path, *, in_map: bool) -> list[str]:
        """What follows `key:` or `-`."""
        gap = " " * self.rng.choice([1, 1, 1, 2, 4])
        inner = column + self.rng.choice([1, 2, 2, 2, 4])
        if not isinstance(value, (dict, list)) or not value or self.rng.random() < 0.3:
            return self.inline(value, inner, gap, path)
        if in_map:
            inner = column if isinstance(value, list) and self.rng.random() < 0.3 else inner
        elif self.rng.random() < 0.7:
            lines = self.block(value, column + 1 + len(gap), path, compact=True)
            return [gap + lines[0], *lines[1:]]
        return [self.beside(path), *self.block(value, inner, path)]

    def inline(self, value: Any, column: int, gap: str, path: Path) -> list[str]:
        if isinstance(value, (dict, list)):
            lines = self.flow(value, column, path).split("\n")
            return (
                [gap + lines[0], *lines[1:-1], lines[-1] + self.beside(path)]
                if lines[1:]
                else [gap + lines[0] + self.beside(path)]
            )
        if isinstance(value, str) and "\n" in value and self.rng.random() < 0.7:
            literal = self.literal(value, column, path)
            if literal:
                return [gap + literal[0], *literal[1:]]
        lines = self.scalar(value, column, flow=False).split("\n")
        if not lines[0] and not lines[1:]:
            return [self.beside(path)]
        if self.rng.random() < 0.08:
            return [self.beside(path), " " * column + lines[0], *lines[1:-1], *lines[1:][-1:]]
        lines[-1] += self.beside(path)
        return [gap + lines[0], *lines[1:]]

    def literal(self, value: str, column: int, path: Path) -> list[str]:
        header = self.rng.choice("|>") + ("+" if value.endswith("\n\n") else "" if value.endswith("\n") else "-")
        body = [" " * column + line if line.strip() else line for line in value.removesuffix("\n").split("\n")]
        if not is_value("\n".join([header, *body]) + "\n", value):
            return []
        return [header + self.beside(path), *body]

    def key(self, key: str) -> str:
        return self.text(key, 0, flow=True, one_line=True)

    def scalar(self, value: Any, column: int, *, flow: bool) -> str:
        if isinstance(value, str):
            return self.text(value, column, flow=flow)
        same = [text for number, text in NUMBERS if type(number) is type(value) and number == value]
        return self.rng.choice([text for text in same if text or not flow] or [repr(value)])

    def text(self, value: str, column: int, *, flow: bool, one_line: bool = False) -> str:
        style = self.rng.choice(["plain", "plain", "single", "double"])
        spread = not one_line and self.rng.random() < 0.3
        shape = value.replace(" ", "\n" + " " * max(column, 1), 1) if spread else value
        around = {"plain": shape, "single": "'" + shape.replace("'", "''") + "'", "double": json.dumps(shape)}
        text = around[style].replace("\\n", "\n") if style == "double" and spread else around[style]
        if not one_line or "\n" not in text:
            probe = f"{{{text}: 0}}" if one_line else f"[{text}]" if flow else text
            if is_value(probe, {value: 0} if one_line else [value] if flow else value) and not (
                style == "plain" and set(":#-") & set(text[:1] + text[1:].replace("-", ""))
            ):
                return text
        return quoted(value)

    def flow(self, value: Any, column: int, path: Path) -> str:
        if not isinstance(value, (dict, list)):
            return self.scalar(value, column, flow=True)
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        if not value:
            return opening + self.rng.choice(["", " "]) + closing
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        spread = self.rng.random() < 0.3
        parts = []
        for number, (key, item) in enumerate(pairs):
            place = (*path, str(key))
            comma = "," if number + 1 < len(value) or self.rng.random() < 0.2 else ""
            text = (
                (f"{self.key(key)}: " if isinstance(value, dict) else "") + self.flow(item, column + 2, place) + comma
            )
            if spread:
                whole = [" " * column + self.comment((*path, "*"))] if self.rng.random() < 0.15 else []
                parts += ["\n".join([*whole, " " * (column + 2) + text + self.beside(place)])]
            else:
                parts += [text]
        if spread:
            return "\n".join([opening, *parts, " " * max(column, 1) + closing])
        inside = self.rng.choice(["", " "])
        return opening + inside + " ".join(parts) + inside + closing


def quoted(value: str) -> str:
    """Text in double quotes on one line."""
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08x}" for c in value) + '"'


def is_value(text: str, value: Any) -> bool:
    try:
        return identical(parse_value(text), value)
    except SpecError:
        return False


def is_data(text: str, data: Any) -> bool:
    try:
        return identical(parse(text).data, data)
    except SpecError:
        return False


def identical(one: Any, other: Any) -> bool:
    """Equality that tells 1, 1.0 and True apart, written without the code under test."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return set(one) == set(other) and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other and (not isinstance(one, float) or math.copysign(1, one) == math.copysign(1, other))


def random_document(rng: Random) -> tuple[str, dict[str, Any], list[tuple[str, Path]]]:
    """A text, its data, and its comments with the entries that they belong to."""
    keys = rng.sample(KEYS, rng.randint(1, 4))
    data = {key: random_value(rng, depth=rng.choice([0, 0, 2])) for key in keys}
    while True:  # a blank line drawn after a block that keeps its last line breaks would add to it
        writer = Writer(rng)
        text = writer.document(data)
        if is_data(text, data):
            return text, data, writer.comments


def random_op(rng: Random, data: dict[str, Any]) -> tuple[str, Path, Any]:
    """A legal op: what, where, and the new value; the index of a list's new item stands in its path."""
    path = rng.choice(list(paths(data)))
    parent = lookup(data, path[:-1])
    kind = rng.choice(["set", "set", "add", "remove"])
    if kind == "add":
        target = rng.choice([(), *(place for place in paths(data) if isinstance(lookup(data, place), (dict, list)))])
        parent = lookup(data, target)
        if isinstance(parent, list):
            return "add", (*target, rng.choice(["-", str(rng.randint(0, len(parent)))])), random_value(rng, depth=2)
        fresh = [key for key in KEYS if key not in parent]
        if fresh:
            return "add", (*target, rng.choice(fresh)), random_value(rng, depth=2)
        kind = "set"
    return kind, path, None if kind == "remove" else random_value(rng, depth=2)


def applied(data: dict[str, Any], kind: str, path: Path, value: Any) -> dict[str, Any]:
    """The data after an op, written without the code under test."""
    changed: dict[str, Any] = json.loads(json.dumps(data))
    parent = lookup(changed, path[:-1])
    if isinstance(parent, list):
        index = len(parent) if path[-1] == "-" else int(path[-1])
        parent[index : index + (kind != "add")] = [] if kind == "remove" else [value]
    elif kind == "remove":
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return changed


def may_go(comment: Path, kind: str, path: Path) -> bool:
    """Whether an op may take a comment away: it belongs to what is removed, or stands inside what is replaced."""
    inside = comment[: len(path)] == path
    return inside and (kind == "remove" or (kind == "set" and len(comment) > len(path)))


def lookup(data: Any, path: Path) -> Any:
    for part in path:
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


def paths(data: Any, path: Path = ()) -> list[Path]:
    """The paths of all entries."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in entries for place in ((*path, str(key)), *paths(value, (*path, str(key))))]
