"""The search space: what may be varied, and how overrides are applied to a task.

A key is a dotted path into the task (`model.init_args.lr`); a number in it indexes a list
(`trainer.callbacks.0.init_args.patience`).  Overrides are a flat map from key to value.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Value: TypeAlias = float | int | bool | str | None
Overrides: TypeAlias = Mapping[str, Value]

SMALLEST = 1e-30
"""Smallest size of a bound or numeric choice that is not zero: far below, three digits of it are no longer numbers."""
LARGEST = 1e30
"""Largest size of a bound or numeric choice: far above, the width of a range is no longer a number."""
NARROWEST = 1e-6
"""Smallest width of a range of real numbers or on a log scale, as a share of its larger bound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Float:
    """A real number between two bounds, both included."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    scale: Literal["linear", "log"] = "linear"
    """`log` where factors matter (learning rates), `linear` where differences do."""

    def contains(self, value: Value) -> bool:
        """Whether the value is in the domain."""
        return _is_number(value) and self.low <= value <= self.high  # type: ignore[operator]

    def to_unit(self, value: float) -> float:
        """Position of `value` between the bounds: 0 at `low`, 1 at `high`."""
        return _to_unit(value, self.low, self.high, scale=self.scale)

    def from_unit(self, position: float) -> float:
        """The value at a position in [0, 1], rounded to three significant digits."""
        value = _from_unit(position, self.low, self.high, scale=self.scale)
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (", log" if self.scale == "log" else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Integer:
    """A whole number between two bounds, both included."""

    low: int
    """Smallest value."""
    high: int
    """Largest value."""
    scale: Literal["linear", "log"] = "linear"
    """`log` where factors matter (widths), `linear` where differences do."""

    def contains(self, value: Value) -> bool:
        """Whether the value is in the domain."""
        return _is_number(value) and float(value) == int(value) and self.low <= value <= self.high  # type: ignore[arg-type,operator]

    def to_unit(self, value: float) -> float:
        """Position of `value` between the bounds: 0 at `low`, 1 at `high`."""
        return _to_unit(value, self.low, self.high, scale=self.scale)

    def from_unit(self, position: float) -> int:
        """The whole number nearest to a position in [0, 1]."""
        return min(max(round(_from_unit(position, self.low, self.high, scale=self.scale)), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (", log" if self.scale == "log" else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Categorical:
    """One of a list of values; 1 and 1.0 are one value, true is another."""

    choices: tuple[Value, ...]
    """The values, in the order of the spec."""

    def contains(self, value: Value) -> bool:
        """Whether the value is in the domain."""
        return any(_is_same(value, choice) for choice in self.choices)

    def as_listed(self, value: Value) -> Value:
        """A value in the type that it is listed with: 1 for 1.0; one that is not listed stays as it is."""
        return next((choice for choice in self.choices if _is_same(value, choice)), value)

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.choices))


Domain: TypeAlias = Float | Integer | Categorical


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """The domains by key, in the order of the spec."""

    domains: Mapping[str, Domain]
    """Domain of each key."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.domains)

    def __len__(self) -> int:
        return len(self.domains)

    def __contains__(self, key: object) -> bool:
        return key in self.domains

    def __getitem__(self, key: str) -> Domain:
        return self.domains[key]

    def faults(self, overrides: Overrides) -> tuple[str, ...]:
        """What is wrong with the overrides, in words; empty when nothing is."""
        unknown = [f"{key} is not in the search space" for key in overrides if key not in self.domains]
        outside = [
            f"{key} = {value!r} is outside {self.domains[key]}"
            for key, value in overrides.items()
            if key in self.domains and not self.domains[key].contains(value)
        ]
        return (*unknown, *outside)


def get_key(tree: Any, key: str) -> Any:
    """The value at a dotted key of a task.

    Raises:
        KeyError: there is no such key; the message names the part that is missing.
    """
    node = tree
    for part in key.split("."):
        node = _child(node, part, key=key)
    return node


def has_key(tree: Any, key: str) -> bool:
    """Whether the task has a value at a dotted key."""
    try:
        get_key(tree, key)
    except KeyError:
        return False
    return True


def apply_overrides(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of the task with the overrides in it; missing maps on the way are made.

    Raises:
        KeyError: a key leads through a value that is neither a map nor a list, or past a list's end.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(tree))
    for key, value in overrides.items():
        *parents, last = key.split(".")
        node: Any = changed
        for part in parents:
            if isinstance(node, dict) and node.get(part) is None:
                node[part] = {}
            node = _child(node, part, key=key)
        if isinstance(node, list):
            _child(node, last, key=key)
            node[int(last)] = copy.deepcopy(value)
        elif isinstance(node, dict):
            node[last] = copy.deepcopy(value)
        else:
            raise KeyError(f"{key}: {parents[-1]!r} is no map")
    return changed


def canonical(overrides: Mapping[str, Value]) -> str:
    """One text for equal overrides, whatever their order: the key of duplicates and of paired runs.

    Numbers are compared by value: 2.0 is 2, and 0.0 is 0; true is neither.
    """
    values = {key: int(value) if _is_whole_float(value) else value for key, value in overrides.items()}  # type: ignore[arg-type]
    return json.dumps(values, sort_keys=True, ensure_ascii=False, allow_nan=False)


def digest_of(data: object) -> str:
    """SHA-256 (hex) of JSON data in canonical form: sorted keys, no white space."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def domain_of(data: Mapping[str, Any]) -> Domain:
    """The domain that a spec describes, for example `{type: int, low: 1, high: 6}`; bounds such as 3.0 become 3.

    The schema has been checked before.
    """
    if data["type"] == "categorical":
        return Categorical(choices=tuple(data["choices"]))
    scale = data.get("scale", "linear")
    if data["type"] == "int":
        return Integer(low=int(data["low"]), high=int(data["high"]), scale=scale)
    return Float(low=float(data["low"]), high=float(data["high"]), scale=scale)


def unsound(domain: Domain) -> str:
    """Why a domain is none that values can be drawn from, in words; empty where it is one.

    Bounds and numeric choices are 0 or of a size from `SMALLEST` to `LARGEST`.  Low lies below high, on a log scale
    above 0, and a range of real numbers or on a log scale is not narrower than `NARROWEST`.  Choices are two or more
    values.
    """
    if isinstance(domain, Categorical):
        distinct = {(isinstance(choice, bool), choice) for choice in domain.choices}
        if len(distinct) < len(domain.choices) or len(distinct) < 2:
            return "a categorical needs two or more distinct choices"
        bad = [choice for choice in domain.choices if isinstance(choice, (int, float)) and not is_sound(choice)]
        return f"the choice {bad[0]!r} {NO_SOUND_NUMBER}" if bad else ""
    low, high = domain.low, domain.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return "the bounds must be finite numbers"
    if not low < high:
        return f"low {low:g} is not below high {high:g}"
    if domain.scale == "log" and low <= 0:
        return "scale log needs a low above 0"
    if bad := [bound for bound in (low, high) if not is_sound(bound)]:
        return f"the bound {bad[0]:g} {NO_SOUND_NUMBER}"
    is_even = isinstance(domain, Integer) and domain.scale == "linear"
    if not is_even and high - low < NARROWEST * max(abs(low), abs(high)):
        return f"{low!r} and {high!r} are nearer to each other than a share of {NARROWEST:g}"
    return ""


NO_SOUND_NUMBER = f"is neither 0 nor of a size from {SMALLEST:g} to {LARGEST:g}"
"""What is said of a number that is too large or too small to search among."""


def is_sound(number: float) -> bool:
    """Whether a number is 0 or of a size from `SMALLEST` to `LARGEST`."""
    return number == 0 or SMALLEST <= abs(number) <= LARGEST


def _child(node: Any, part: str, *, key: str) -> Any:
    if isinstance(node, Mapping) and part in node:
        return node[part]
    if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        return node[int(part)]
    raise KeyError(f"{key}: no {part!r} here")


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole_float(value: Value) -> bool:
    return isinstance(value, float) and value.is_integer()


def _is_same(one: Value, other: Value) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _to_unit(value: float, low: float, high: float, *, scale: str) -> float:
    if high == low:
        return 0.5
    if scale == "log":
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _from_unit(position: float, low: float, high: float, *, scale: str) -> float:
    if scale == "log":
        return math.exp(math.log(low) + position * (math.log(high) - math.log(low)))
    return low + position * (high - low)


def lies_in(key: str, places: Collection[str]) -> bool:
    """Whether a dotted key is one of some places in a task, or lies below one of them."""
    return any(f"{key}.".startswith(f"{place}.") for place in places)
