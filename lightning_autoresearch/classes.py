"""What a class of the task takes, read from its source: signature, types, documentation.  Nothing is imported or run.

Each module on the way is parsed on its own by griffe, never through its loader, which would read whole packages.  The
file of a module is looked for as Python's import system does it (packages, plain modules, namespace packages), without
import hooks: a class that only such a hook can find is not found here.
Not covered: parameters that a `**kwargs` hands on, `__init__` methods made by decorators (dataclasses), names that are
bound at run time.
"""

from __future__ import annotations

import ast
import math
import tokenize
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lightning_autoresearch.space import Value

if TYPE_CHECKING:
    import griffe

MAX_SOURCE_BYTES = 2_000_000
"""Largest source file that is read."""
MAX_HOPS = 20
"""Longest chain of re-exports, aliases or base classes that is followed."""
MAX_LOOKUPS = 300
"""Most names that are looked up for one class; those behind `from x import *` can be many."""

ValueKind: TypeAlias = Literal["float", "int", "bool", "text", "other"]

_KINDS: Mapping[str, ValueKind] = {"float": "float", "int": "int", "bool": "bool", "str": "text"}
_KIND_OF_TYPE: Mapping[type, ValueKind] = {float: "float", int: "int", bool: "bool", str: "text"}
_WRAPPERS = frozenset({"Annotated", "Final", "Required"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One argument of `__init__`."""

    name: str
    """Its name."""
    annotation: str
    """Its type as it stands in the source; empty where there is none."""
    kind: ValueKind
    """What its values are; `other` where that is not one of the four plain types."""
    default: Value
    """Its default where that is a plain value; null otherwise."""
    has_default: bool
    """Whether it has a default that is a plain value (a finite number, true, false, text or null)."""
    default_text: str = ""
    """Its default as it stands in the source, whatever it is; empty where it has none."""
    options: tuple[Value, ...] = ()
    """The only values that a `Literal` allows; empty where there is none."""
    nullable: bool = False
    """Whether null is allowed too."""
    about: str = ""
    """What the class's documentation says of it, in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassText:
    """A class as its source tells it."""

    class_path: str
    """The dotted path that it was asked for by."""
    docstring: str
    """Its documentation (that of `__init__` where the class has none), indentation removed; empty without any."""
    parameters: tuple[Parameter, ...]
    """The named arguments of its `__init__`, own or inherited, without `self`."""
    file: str
    """The file that it stands in."""
    bases: tuple[str, ...] = ()
    """Dotted paths of the classes it derives from, nearest first, as far as they stand in the same package."""
    takes_any: bool = False
    """Whether `__init__` takes any further keyword (`**kwargs`), or could not be found at all."""

    @property
    def names(self) -> frozenset[str]:
        """The names of its parameters."""
        return frozenset(parameter.name for parameter in self.parameters)


def read_class(class_path: str, *, search_path: Sequence[str]) -> ClassText | None:
    """Read a class from the source file that `import` would load.

    Args:
        class_path: dotted path, for example `my_project.models.Transformer`.
        search_path: folders that its top-level module is looked for in, in this order.

    Returns:
        What the source says; None where no such class is found, or its file cannot be parsed.
    """
    reader = _Reader(search_path)
    found = reader.find(class_path)
    return reader.text_of(found, class_path) if found is not None and found.is_class else None


def class_paths(task: Any) -> tuple[str, ...]:
    """Every `class_path` in a task, in its order, each once.

    >>> class_paths({"model": {"class_path": "a.B", "init_args": {"opt": {"class_path": "c.D"}}}, "data": None})
    ('a.B', 'c.D')
    """
    return tuple(dict.fromkeys(_class_paths(task)))


def _class_paths(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("class_path"), str):
            yield node["class_path"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _class_paths(item)


# -- finding ---------------------------------------------------------------------------------------------------------


class _Reader:
    """Finds objects by dotted path; each module is parsed once."""

    def __init__(self, search_path: Sequence[str]):
        self._folders = [Path(folder) for folder in dict.fromkeys(search_path) if Path(folder).is_dir()]
        self._modules: dict[str, griffe.Module | None] = {}
        self._found: dict[str, griffe.Object | None] = {}
        self._hops = 0

    def find(self, path: str) -> griffe.Object | None:
        """The object at a dotted path, re-exports followed; None where there is none."""
        if path not in self._found:
            self._found[path] = None  # so that modules which import each other end the search
            self._hops += 1
            self._found[path] = self._look_for(path.split(".")) if self._hops < MAX_HOPS else None
            self._hops -= 1
        return self._found[path]

    def _look_for(self, parts: Sequence[str]) -> griffe.Object | None:
        if not all(part.isidentifier() for part in parts) or len(self._found) > MAX_LOOKUPS:
            return None
        for count in range(len(parts) - 1, 0, -1):
            module = self._module(".".join(parts[:count]))
            if module is not None:
                return self._member(module, parts[count:])
        return None

    def _member(self, node: griffe.Object, parts: Sequence[str]) -> griffe.Object | None:
        for index, part in enumerate(parts):
            member = node.members.get(part)
            rest = ".".join(parts[index:])
            if member is None:
                targets = [f"{target}.{rest}" for target in _wildcards(node)]
                return next((found for one in targets if (found := self.find(one))), None)
            if member.is_alias:
                beyond = ".".join([member.target_path, *parts[index + 1 :]])  # type: ignore[union-attr]
                return self.find(beyond)
            node = member  # type: ignore[assignment]
        return node

    def _module(self, name: str) -> griffe.Module | None:
        if name not in self._modules:
            file = self._file(name)
            self._modules[name] = _parsed(name, file) if file else None
        return self._modules[name]

    def _file(self, name: str) -> Path | None:
        *parents, last = name.split(".")
        folders = self._folders
        for part in parents:
            folders = _inside(folders, part)
        files = (path for folder in folders for path in (folder / last / "__init__.py", folder / f"{last}.py"))
        return next((path for path in files if path.is_file()), None)

    # -- reading -----------------------------------------------------------------------------------------------------

    def text_of(self, found: griffe.Object, class_path: str) -> ClassText:
        """What the source of a class says."""
        init = self._init(found)
        own = [one.docstring for one in (found, init) if one is not None and one.docstring is not None]
        about = {name: text for docstring in reversed(own) for name, text in _documented(docstring).items()}
        parameters = [] if init is None else [one for one in init.parameters if one.name not in ("self", "cls")]
        return ClassText(
            class_path=class_path,
            docstring=own[0].value if own else "",
            parameters=tuple(
                self._parameter(one, init.module, about.get(one.name, ""))  # type: ignore[union-attr]
                for one in parameters
                if _kind(one) in ("positional or keyword", "keyword-only")
            ),
            file=str(found.filepath),
            bases=tuple(dict.fromkeys(self._line(found))),
            takes_any=init is None or any(_kind(one) == "variadic keyword" for one in parameters),
        )

    def _init(self, found: griffe.Object) -> griffe.Function | None:
        """Its own `__init__`, else the nearest inherited one: depth first, bases from left to right."""
        candidates: list[griffe.Object] = [found, *self._ancestors(found)]
        inits: Iterator[Any] = (one.members.get("__init__") for one in candidates)
        return next((one for one in inits if one is not None and not one.is_alias and one.is_function), None)

    def _ancestors(self, found: griffe.Object, *, hops: int = 0) -> Iterator[griffe.Object]:
        for path in _bases(found) if hops < MAX_HOPS else ():
            base = self.find(path)
            if base is not None and base.is_class and base is not found:
                yield base
                yield from self._ancestors(base, hops=hops + 1)

    def _line(self, found: griffe.Object, *, hops: int = 0) -> Iterator[str]:
        """Paths of its base classes; those of other packages are named but not read."""
        for path in _bases(found) if hops < MAX_HOPS else ():
            yield path
            base = self.find(path) if path.split(".")[0] == found.path.split(".")[0] else None
            if base is not None and base.is_class and base is not found:
                yield from self._line(base, hops=hops + 1)

    def _parameter(self, parameter: griffe.Parameter, module: griffe.Module, about: str) -> Parameter:
        annotation = "" if parameter.annotation is None else str(parameter.annotation)
        text = "" if parameter.default is None else str(parameter.default)
        has_default, default = self._literal(_node(text), module) if text else (False, None)
        hint = _Hint()
        if annotation:
            self._read_hint(_node(annotation), module, hint)
        return Parameter(
            name=parameter.name,
            annotation=annotation,
            kind=hint.kind(default) if annotation else _KIND_OF_TYPE.get(type(default), "other"),
            default=default,
            has_default=has_default,
            default_text=text,
            options=tuple(hint.options) if not hint.kinds else (),
            nullable=hint.nullable or (has_default and default is None),
            about=about,
        )

    def _literal(self, node: ast.expr | None, module: griffe.Module, *, hops: int = 0) -> tuple[bool, Value]:
        """(whether an expression is a plain value, the value); a name is looked up."""
        if isinstance(node, (ast.Name, ast.Attribute)) and hops < MAX_HOPS:
            target = self._definition(ast.unparse(node), module)
            return self._literal(target[0], target[1], hops=hops + 1) if target else (False, None)
        try:
            value: Any = ast.literal_eval(node) if node is not None else ...
        except (ValueError, TypeError, MemoryError, RecursionError):
            return False, None
        is_plain = value is None or type(value) in (bool, str, int) or (type(value) is float and math.isfinite(value))
        return (True, value) if is_plain else (False, None)

    def _definition(self, name: str, module: griffe.Module) -> tuple[ast.expr | None, griffe.Module] | None:
        """What a name of a module stands for, as an expression, and the module that the expression is written in."""
        found = self._member(module, name.split("."))
        value = getattr(found, "value", None) if found is not None else None
        return (_node(str(value)), found.module) if value is not None and found is not None else None

    def _read_hint(self, node: ast.expr | None, module: griffe.Module, hint: _Hint, *, hops: int = 0) -> None:
        """Add to a hint what one part of an annotation allows."""
        if hops > MAX_HOPS or node is None:
            hint.kinds.add("other")
        elif isinstance(node, ast.Constant) and node.value is None:
            hint.nullable = True
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self._read_hint(_node(node.value), module, hint, hops=hops + 1)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            for side in (node.left, node.right):
                self._read_hint(side, module, hint, hops=hops + 1)
        elif isinstance(node, ast.Subscript):
            self._read_subscript(node, module, hint, hops=hops)
        elif isinstance(node, ast.Name) and node.id in _KINDS and node.id not in module.members:
            hint.kinds.add(_KINDS[node.id])
        elif isinstance(node, (ast.Name, ast.Attribute)) and (target := self._definition(ast.unparse(node), module)):
            self._read_hint(target[0], target[1], hint, hops=hops + 1)
        else:
            hint.kinds.add("other")

    def _read_subscript(self, node: ast.Subscript, module: griffe.Module, hint: _Hint, *, hops: int) -> None:
        name = ast.unparse(node.value).rpartition(".")[2]
        items = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            for item in items:
                is_plain, value = self._literal(item, module)
                hint.add_option(value) if is_plain else hint.kinds.add("other")
            return
        if name in _WRAPPERS:
            items = items[:1]
        elif name == "Optional":
            hint.nullable = True
        elif name != "Union":
            hint.kinds.add("other")
            return
        for item in items:
            self._read_hint(item, module, hint, hops=hops + 1)


class _Hint:
    """What an annotation allows; filled while it is read."""

    def __init__(self) -> None:
        self.kinds: set[ValueKind] = set()
        self.options: list[Value] = []
        self.nullable = False

    def add_option(self, value: Value) -> None:
        if value is None:
            self.nullable = True
        elif not any(type(value) is type(option) and value == option for option in self.options):
            self.options.append(value)

    def kind(self, default: Value) -> ValueKind:
        """One kind for all; where there are several, that of the default decides."""
        kinds = set(self.kinds) | {_KIND_OF_TYPE[type(option)] for option in self.options}
        if kinds == {"int", "float"}:
            return "float"
        if len(kinds) == 1:
            return next(iter(kinds))
        of_default = _KIND_OF_TYPE.get(type(default), "other")
        return of_default if of_default in kinds and not self.options else "other"


def _inside(folders: Sequence[Path], part: str) -> list[Path]:
    """The folders of a package: one where it is a regular package, else all that share its name."""
    for folder in folders:
        if (folder / part / "__init__.py").is_file():
            return [folder / part]
        if (folder / f"{part}.py").is_file():
            return []
    return [folder / part for folder in folders if (folder / part).is_dir()]


def _parsed(name: str, file: Path) -> griffe.Module | None:
    """The members of a module; None where its source cannot be parsed."""
    import griffe

    try:
        if file.stat().st_size > MAX_SOURCE_BYTES:
            return None
        with tokenize.open(file) as stream:
            code = stream.read()
        *parents, last = name.split(".")
        parent: griffe.Module | None = None
        for depth, part in enumerate(reversed(range(len(parents)))):
            folder = file.parents[part + (file.name == "__init__.py")]
            parent = griffe.Module(parents[depth], filepath=folder / "__init__.py", parent=parent)
        with warnings.catch_warnings():  # of the user's source, for example an invalid escape
            warnings.simplefilter("ignore")
            return griffe.visit(last, filepath=file, code=code, parent=parent)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _kind(parameter: griffe.Parameter) -> str:
    return "" if parameter.kind is None else parameter.kind.value


def _wildcards(node: griffe.Object) -> list[str]:
    """The modules that a module imports everything from, the last one first."""
    members = [member for member in node.members.values() if member.is_alias]
    return [one.target_path for one in reversed(members) if one.wildcard]  # type: ignore[union-attr]


def _bases(found: griffe.Object) -> list[str]:
    """Dotted paths of the direct bases, as far as they are names."""
    paths = []
    for base in getattr(found, "bases", ()):
        path = base if isinstance(base, str) else str(base.canonical_path)
        if path and all(part.isidentifier() for part in path.split(".")):
            paths.append(path)
    return paths


def _node(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _documented(docstring: griffe.Docstring) -> dict[str, str]:
    """What a docstring says of each parameter, in the style of Google, NumPy or Sphinx, whichever finds some."""
    import griffe

    for parse in (griffe.parse_google, griffe.parse_numpy, griffe.parse_sphinx):
        sections: list[Any] = parse(docstring, warnings=False)
        items = [item for section in sections if section.kind.value == "parameters" for item in section.value]
        if items:
            return {item.name.strip("*"): " ".join(str(item.description).split()) for item in items}
    return {}
