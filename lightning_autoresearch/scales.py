"""Proxy scales: cheap versions of the task, and the ladder that they form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """One proxy size of the task."""

    name: str
    """Name of the scale, unique in the ladder."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Dotted keys of the task and their values at this scale; applied last and out of the scientist's reach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """The scales from cheap to dear; the first is searched at, the last is the target."""

    scales: tuple[Scale, ...]
    """The scales in order."""

    def __iter__(self) -> Iterator[Scale]:
        return iter(self.scales)

    def __getitem__(self, name: str) -> Scale:
        return next(scale for scale in self.scales if scale.name == name)

    @property
    def search(self) -> Scale:
        """The scale that hypotheses are screened at."""
        return self.scales[0]

    @property
    def target(self) -> Scale:
        """The scale that the goal is about."""
        return self.scales[-1]

    def up_to(self, name: str) -> tuple[Scale, ...]:
        """The scales from the first to the named one, both included."""
        names = [scale.name for scale in self.scales]
        return self.scales[: names.index(name) + 1]
