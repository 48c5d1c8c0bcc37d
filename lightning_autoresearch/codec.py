"""Frozen records to plain JSON data and back.

Enums become their values, tuples become lists, and a domain of the search space carries a `type`
(`float`, `int`, `categorical`).  JSON has no NaN and no infinity, so they are never written:

- a measured number (`float | None`) that is not finite becomes null;
- an infinite `low` or `high` of an interval becomes null, and is read back as minus or plus infinity;
- anything else that is not finite is an error, since null would change its meaning.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lightning_autoresearch.space import Categorical, Domain, Float, Integer

if TYPE_CHECKING:
    from cattrs.preconf.json import JsonConverter

Record = TypeVar("Record")

_DOMAINS: Mapping[str, type] = {"float": Float, "int": Integer, "categorical": Categorical}
_OPEN_ENDS = {"low": -math.inf, "high": math.inf}


def to_json(record: Any) -> dict[str, Any]:
    """The record as plain data, which `json.dumps(..., allow_nan=False)` accepts.

    Raises:
        ValueError: a number is not finite where null would change its meaning; the message names where.
    """
    try:
        data: dict[str, Any] = _plain(_converter().unstructure(record))
    except _NotFiniteHere:
        places = ", ".join(_not_finite(record)) or "a value"
        raise ValueError(f"{type(record).__name__}: {places} is not finite and cannot be written as JSON") from None
    return data


def from_json(data: Any, kind: type[Record]) -> Record:
    """The record that `to_json` made the data from.

    Raises:
        ValueError: the data do not fit the record; the message names every place that does not.
    """
    from cattrs import transform_error

    try:
        return _converter().structure(data, kind)
    except Exception as error:
        faults = "; ".join(transform_error(error, path=kind.__name__, format_exception=_in_words))
        raise ValueError(f"no valid {kind.__name__}: {faults}") from error


def warm_up(*kinds: type) -> None:
    """Compile the converters of these records now: tens of milliseconds that each forked process would pay again."""
    for kind in kinds:
        _converter().get_unstructure_hook(kind)
        _converter().get_structure_hook(kind)


def write_json(path: Path, data: Any, *, survives: Literal["crash", "power cut"] = "power cut") -> None:
    """Write plain data so that a reader sees the whole file or none: temporary file, fsync, rename.

    The fsync is left out where a process's crash is all that the file must survive.

    Raises:
        ValueError: a number in the data is not finite.
        OSError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(data, ensure_ascii=False, allow_nan=False))
        stream.flush()
        if survives == "power cut":
            os.fsync(stream.fileno())
    os.replace(temporary, path)


def read_json(path: Path) -> Any | None:
    """The plain data of a file, or None where there is no such file or it holds no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def finite_or_none(value: float | None) -> float | None:
    """The number, or None where there is none or it is not finite."""
    return value if value is not None and math.isfinite(value) else None


class _NotFiniteHere(ValueError):
    """A number is not finite where null would change its meaning."""


@cache
def _converter() -> JsonConverter:
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
    from cattrs.preconf.json import make_converter

    converter = make_converter()

    def unstructure_interval(kind: type) -> Any:
        hooks: Any = {end: override(unstruct_hook=_null_if_infinite) for end in _OPEN_ENDS}
        return make_dict_unstructure_fn(kind, converter, **hooks)

    def structure_interval(kind: type) -> Any:
        hooks: Any = {end: override(struct_hook=_open_end(value)) for end, value in _OPEN_ENDS.items()}
        return make_dict_structure_fn(kind, converter, **hooks)

    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    converter.register_unstructure_hook(float, _finite)
    converter.register_unstructure_hook_func(_is_measured, finite_or_none)
    converter.register_structure_hook(float, lambda value, _: _as_float(value))
    converter.register_structure_hook(int, lambda value, _: _as_int(value))
    converter.register_structure_hook(bool, lambda value, _: _as_bool(value))
    converter.register_unstructure_hook_factory(_is_interval, unstructure_interval)
    converter.register_structure_hook_factory(_is_interval, structure_interval)
    _register_domains(converter)
    return converter


def _register_domains(converter: JsonConverter) -> None:
    """A union of domains, with or without None, is told apart by its tag; so is a domain on its own."""
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

    readers: dict[str, Any] = {}
    for name, kind in _DOMAINS.items():
        writer: Any = make_dict_unstructure_fn(kind, converter)
        readers[name] = make_dict_structure_fn(kind, converter)
        converter.register_unstructure_hook(kind, _tagged(name, writer))
        converter.register_structure_hook(kind, readers[name])

    def read(value: Any, _: Any) -> Domain | None:
        if value is None:
            return None
        name = value.get("type") if isinstance(value, Mapping) else None
        if name not in readers:
            raise ValueError(f"type is {name!r}; allowed are float, int, categorical")
        domain: Domain = readers[name](value, _DOMAINS[name])
        return domain

    converter.register_structure_hook_func(_is_domain_union, read)
    converter.register_unstructure_hook_func(_is_domain_union, converter.unstructure)


def _in_words(error: BaseException, kind: type | None) -> str:
    from cattrs.v import format_exception

    return str(error) if isinstance(error, ValueError) and error.args else format_exception(error, kind)


def _plain(node: Any) -> Any:
    """The data with lists for tuples and values for enums, some of which cattrs leaves as they are."""
    if isinstance(node, Enum):
        return node.value
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return [_plain(item) for item in node] if isinstance(node, (list, tuple)) else node


def _tagged(name: str, writer: Any) -> Any:
    return lambda domain: {"type": name, **writer(domain)}


def _is_domain_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType) and set(get_args(kind)) - {NoneType} == set(_DOMAINS.values())


def _is_measured(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType) and set(get_args(kind)) == {float, NoneType}


def _is_interval(kind: Any) -> bool:
    if not dataclasses.is_dataclass(kind) or kind in _DOMAINS.values():
        return False
    names = {field.name for field in dataclasses.fields(kind)}
    if not names.issuperset(_OPEN_ENDS):
        return False
    hints = get_type_hints(kind)
    return all(hints[end] is float for end in _OPEN_ENDS)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise _NotFiniteHere
    return value


def _null_if_infinite(value: float) -> float | None:
    return None if math.isinf(value) else _finite(value)


def _open_end(end: float) -> Any:
    return lambda value, _: end if value is None else _as_float(value)


def _as_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _as_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _as_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _not_finite(node: Any, path: str = "") -> Iterator[str]:
    """The dotted places of numbers that are not finite."""
    if isinstance(node, float) and not math.isfinite(node):
        yield path
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from _not_finite(getattr(node, field.name), f"{path}.{field.name}".lstrip("."))
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _not_finite(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _not_finite(value, f"{path}.{index}")
