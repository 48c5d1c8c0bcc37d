"""What a hypothesis may change and how far, and which edits of the search space are let through.  Pure functions."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from lightning_autoresearch.hypothesis import Hypothesis, SpaceEdit
from lightning_autoresearch.space import Categorical, Domain, Integer, Overrides, SearchSpace, Value
from lightning_autoresearch.spec import Policy
from lightning_autoresearch.trial import canonical

ROUNDING = 1.01
"""Slack on `max_factor`, because values are rounded to three digits."""


def refusal(
    hypothesis: Hypothesis,
    *,
    space: SearchSpace,
    branch: Mapping[str, Value],
    policy: Policy,
    tried: Collection[str],
) -> str | None:
    """Why a hypothesis may not be tried, in words; None when it may.

    Args:
        hypothesis: what is proposed, relative to the branch.
        space: the search space now.
        branch: value of every key in the branch.
        policy: the spec's policy.
        tried: canonical forms of the configurations that were screened before.
    """
    overrides = hypothesis.overrides
    changed = [key for key, value in overrides.items() if not _same(branch.get(key), value)]
    if not changed:
        return "it changes nothing"
    if len(changed) > policy.max_changes:
        return f"it changes {len(changed)} keys, the policy allows {policy.max_changes}"
    if faults := space.faults(overrides):
        return "; ".join(faults)
    for key in changed:
        if (
            factor := _factor(branch.get(key), overrides[key], integer=isinstance(space[key], Integer))
        ) > policy.max_factor * ROUNDING:
            return f"it changes {key} by a factor of {factor:.3g}, the policy allows {policy.max_factor:g}"
    if canonical({**branch, **overrides}) in tried:
        return "this very configuration was tried before"
    return None


def space_after(
    space: SearchSpace, edits: Sequence[SpaceEdit], *, must_contain: Sequence[Mapping[str, Value]]
) -> tuple[SearchSpace, tuple[SpaceEdit, ...]]:
    """The search space with those edits that are let through, and these edits.

    An edit is passed over when it is about an unknown key, would shut out a value of a configuration in
    `must_contain` (the incumbent, the branch), or would leave nothing to search.
    """
    domains = dict(space.domains)
    accepted = []
    for edit in edits:
        if edit.op == "freeze" and edit.key in domains and len(domains) > 1:
            del domains[edit.key]
        elif edit.op in ("widen", "narrow") and edit.key in domains and _sound(edit, domains[edit.key], must_contain):
            assert edit.domain is not None
            domains[edit.key] = edit.domain
        else:
            continue
        accepted.append(edit)
    return SearchSpace(domains=domains), tuple(accepted)


def _sound(edit: SpaceEdit, old: Domain, must_contain: Sequence[Mapping[str, Value]]) -> bool:
    """Whether an edit keeps the kind and scale of its domain, does what its name says, and shuts nothing out."""
    new = edit.domain
    if new is None or type(new) is not type(old):
        return False
    smaller, larger = (old, new) if edit.op == "widen" else (new, old)
    if not _within(smaller, larger):
        return False
    return all(new.contains(config[edit.key]) for config in must_contain if edit.key in config)


def _within(smaller: Domain, larger: Domain) -> bool:
    """Whether every value of one domain lies in another one of the same kind and scale."""
    if isinstance(smaller, Categorical) or isinstance(larger, Categorical):
        return (
            isinstance(smaller, Categorical)
            and isinstance(larger, Categorical)
            and len(smaller.choices) > 1
            and all(larger.contains(choice) for choice in smaller.choices)
        )
    if smaller.scale != larger.scale or not smaller.low < smaller.high:
        return False
    return larger.low <= smaller.low and smaller.high <= larger.high and (larger.scale == "linear" or larger.low > 0)


def whole_numbers(overrides: Overrides, *, space: SearchSpace) -> dict[str, Value]:
    """The overrides with whole numbers as such where the key's domain is one of whole numbers: 4.0 becomes 4."""
    return {
        key: int(value)
        if isinstance(value, float) and value.is_integer() and key in space and isinstance(space[key], Integer)
        else value
        for key, value in overrides.items()
    }


def _same(one: Value, other: Value) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _factor(old: Value, new: Value, *, integer: bool) -> float:
    """How many times larger or smaller a positive number became; 1 for anything else, and for a step of one."""
    if (
        isinstance(old, bool)
        or isinstance(new, bool)
        or not isinstance(old, (int, float))
        or not isinstance(new, (int, float))
    ):
        return 1.0
    if old <= 0 or new <= 0 or (integer and abs(new - old) <= 1):
        return 1.0
    return math.exp(abs(math.log(new / old)))
