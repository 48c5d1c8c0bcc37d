"""What a hypothesis may change and how far, and which edits of the search space are let through.  Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lightning_autoresearch.checks import show
from lightning_autoresearch.hypothesis import Hypothesis, SpaceEdit
from lightning_autoresearch.jsontext import LARGEST_WHOLE
from lightning_autoresearch.knobs import Knob
from lightning_autoresearch.space import Categorical, Domain, Float, Integer, Overrides, SearchSpace, Value, unsound
from lightning_autoresearch.spec import Policy
from lightning_autoresearch.trial import canonical

ROUNDING = 1.01
"""Slack on `max_factor`, because values are rounded to three digits."""

MOST_CHOICES = 50
"""Most choices of a domain that is added, and of one that is widened unless it had more."""
ADDED_FACTORS = 2
"""How many times `max_factor` an added range may reach beyond what its key is and what its range was in revision 0."""

_LARGEST_LOG = 700.0  # its exponential is still finite
_DONE = {"widen": "widened", "narrow": "narrowed", "freeze": "taken out of the search space", "add": "added"}


def refusal(
    hypothesis: Hypothesis,
    *,
    space: SearchSpace,
    branch: Mapping[str, Value],
    policy: Policy,
    tried: Collection[str],
    without_effect: Callable[[Overrides], Collection[str]] = lambda _: (),
) -> str | None:
    """Why a hypothesis may not be tried, in words; None when it may.

    Args:
        hypothesis: what is proposed, relative to the branch.
        space: the search space now.
        branch: value of every key in the branch.
        policy: the spec's policy.
        tried: canonical forms of the configurations that were screened before.
        without_effect: the keys of a configuration that its classes do not take (`knobs.keys_without_effect`).
    """
    overrides = hypothesis.overrides
    changed = [key for key, value in overrides.items() if not _same(branch.get(key), value)]
    if not changed:
        return "it changes nothing"
    if len(changed) > policy.max_changes:
        return f"it changes {len(changed)} keys, the policy allows {policy.max_changes}"
    if faults := space.faults(overrides):
        return "; ".join(faults)
    without = without_effect({**branch, **overrides})
    if idle := [key for key in changed if key in without]:
        return f"it sets {', '.join(idle)}, which has no effect: the class that would be used does not take it"
    for key in changed:
        if (
            factor := change_factor(branch.get(key), overrides[key], whole=isinstance(space[key], Integer))
        ) > policy.max_factor * ROUNDING:
            return f"it changes {key} by a factor of {factor:.3g}, the policy allows {policy.max_factor:g}"
    if canonical({**branch, **overrides}) in tried:
        return "this very configuration was tried before"
    return None


def space_after(
    space: SearchSpace,
    edits: Sequence[SpaceEdit],
    *,
    must_contain: Sequence[Mapping[str, Value]],
    knobs: Mapping[str, Knob] = MappingProxyType({}),
    max_factor: float = math.inf,
) -> tuple[SearchSpace, tuple[SpaceEdit, ...], tuple[str, ...]]:
    """The search space with those edits that are let through, these edits, and why each of the others was not.

    Args:
        space: the search space now.
        edits: what is wanted, applied in order.
        must_contain: configurations (the incumbent, the branch) of which no value may be shut out.
        knobs: the keys that may be added, and the choices that a domain may be widened to.
        max_factor: the spec's `policy.max_factor`, by which a bound may move at once.
    """
    accepted, refused = [], []
    for edit in edits:
        why = edit_refusal(space, edit, must_contain=must_contain, knobs=knobs, max_factor=max_factor)
        if why:
            refused.append(why)
        else:
            accepted.append(edit)
            space = edited(space, edit)
    return space, tuple(accepted), tuple(refused)


def edited(space: SearchSpace, edit: SpaceEdit) -> SearchSpace:
    """The search space with an edit in effect."""
    domains = {key: domain for key, domain in space.domains.items() if key != edit.key or edit.domain is not None}
    return SearchSpace(domains=domains if edit.domain is None else {**domains, edit.key: edit.domain})


def edit_refusal(
    space: SearchSpace,
    edit: SpaceEdit,
    *,
    must_contain: Sequence[Mapping[str, Value]],
    knobs: Mapping[str, Knob] = MappingProxyType({}),
    max_factor: float = math.inf,
) -> str | None:
    """Why an edit of the search space is not let through, in words; None when it is.

    No edit shuts out a value of `must_contain` or takes the last key.  `widen` and `narrow` keep the domain's kind and
    scale.  A bound moves outwards by `max_factor` at most where the scale is logarithmic, else by that factor,
    `max_factor - 1` times the range's width or half that width, whichever is most, and never across zero; whole numbers
    always by one.
    A choice is widened only to options of its knob.  `add` takes a knob that is not in the space yet, with a domain
    that suits its kind, contains its value and has no value of another sign; above zero it reaches at most
    `ADDED_FACTORS` times `max_factor` beyond the values that the key has and had in revision 0 and its range there.
    No domain gets more than `MOST_CHOICES` choices.  The arguments are those of `space_after`.
    """
    key, old, new = edit.key, space.domains.get(edit.key), edit.domain
    if edit.op == "add":
        held = [config[key] for config in must_contain if key in config]
        is_there = "it is in the search space already" if old is not None else ""
        why = is_there or _adding(knobs.get(key), new, held=held, max_factor=max_factor)
    elif old is None:
        why = "it is not in the search space"
    elif edit.op == "freeze":
        why = "" if len(space) > 1 else "it is the last key of the search space"
    else:
        why = _reshaping(edit.op, old, new, knob=knobs.get(key), max_factor=max_factor)
    if not why and new is not None:
        held = [config[key] for config in must_contain if key in config and not new.contains(config[key])]
        why = f"the present value {held[0]!r} is outside {new}" if held else ""
    return f"{key} cannot be {_DONE[edit.op]}: {why}" if why else None


def _adding(knob: Knob | None, new: Domain | None, *, held: Sequence[Value], max_factor: float) -> str:
    """Why a domain does not suit a knob that is to be added; empty where it does."""
    if knob is None:
        return "it is not among the keys that may be set"
    if new is None:
        return "a domain is missing"
    if why := _crowded(new, most=MOST_CHOICES) or unsound(new) or _unsuited(knob, new) or _changes_sign(knob, new):
        return why
    if not new.contains(knob.value):
        return f"its value in revision 0, {knob.value!r}, is outside {new}"
    return _out_of_reach(knob, new, held=held, most=max_factor**ADDED_FACTORS)


def _out_of_reach(knob: Knob, new: Domain, *, held: Sequence[Value], most: float) -> str:
    """Which end of a domain that is added lies too far from what its key is and was; empty where none does."""
    known = _numbers((knob.value, *held, *(() if knob.domain is None else _ends(knob.domain))))
    ends = _numbers(_ends(new))
    if knob.kind == "choice" or not known or not ends:
        return ""
    for end, reach, is_beyond in (
        (min(ends), min(known), min(ends) < min(known)),
        (max(ends), max(known), max(ends) > max(known)),
    ):
        if is_beyond and change_factor(reach, end, whole=knob.kind == "int") > most * ROUNDING:
            return (
                f"{end:g} is further than a factor of {most:g} from {reach:g}, to which its values reach so far; "
                "widen it later"
            )
    return ""


def _crowded(domain: Domain, *, most: int) -> str:
    """That a domain has too many choices; empty where it has not."""
    if not isinstance(domain, Categorical) or len(domain.choices) <= most:
        return ""
    return f"{len(domain.choices)} choices are more than {most}"


def _ends(domain: Domain) -> tuple[Value, ...]:
    return domain.choices if isinstance(domain, Categorical) else (domain.low, domain.high)


def _numbers(values: Sequence[Value]) -> list[float]:
    return [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]


def _changes_sign(knob: Knob, domain: Domain) -> str:
    """That a domain has values of the other sign than the knob's own; empty where it has none."""
    if knob.kind == "choice" or not isinstance(knob.value, (int, float)):
        return ""
    other = [end for end in _numbers(_ends(domain)) if end * knob.value < 0]
    return f"{other[0]!r} has another sign than its value in revision 0, {knob.value!r}" if other else ""


def _unsuited(knob: Knob, domain: Domain) -> str:
    """Why a domain does not suit the kind of a knob; empty where it does."""
    if isinstance(domain, Categorical):
        bad = [f"the choice {show(choice)} {fault}" for choice in domain.choices if (fault := knob.fault(choice))]
        return bad[0] if bad else ""
    if knob.kind == "choice":
        return f"it is {Categorical(choices=knob.options)}, not a range"
    wanted = "float" if knob.kind == "float" else "int"
    if isinstance(domain, Integer) != (knob.kind == "int"):
        return f"its type is {wanted}"
    bad = [f"the bound {bound!r} {fault}" for bound in (domain.low, domain.high) if (fault := knob.fault(bound))]
    return bad[0] if bad else ""


def _reshaping(op: str, old: Domain, new: Domain | None, *, knob: Knob | None, max_factor: float) -> str:
    """Why a domain may not be widened or narrowed to another one; empty where it may."""
    if new is None:
        return "a domain is missing"
    if type(new) is not type(old) or _scale(new) != _scale(old):
        return f"type and scale stay as they are ({old})"
    most = max(MOST_CHOICES, len(old.choices)) if isinstance(old, Categorical) else MOST_CHOICES
    if why := _crowded(new, most=most) or unsound(new):
        return why
    smaller, larger = (old, new) if op == "widen" else (new, old)
    if not within(smaller, larger):
        return f"{new} does not {'contain' if op == 'widen' else 'lie within'} {old}"
    if op == "narrow":
        return ""
    if isinstance(old, Categorical) or isinstance(new, Categorical):
        return _new_choices(old, new, knob=knob, max_factor=max_factor)  # type: ignore[arg-type]
    return _too_far(old, new, max_factor=max_factor)


def _new_choices(old: Categorical, new: Categorical, *, knob: Knob | None, max_factor: float) -> str:
    """Why choices may not join others; empty where they may."""
    for choice in new.choices:
        if old.contains(choice):
            continue
        if knob is None:
            return f"nobody has listed {show(choice)}"
        if fault := knob.fault(choice):
            return f"the choice {show(choice)} {fault}"
        if min(change_factor(one, choice, whole=knob.kind == "int") for one in old.choices) > max_factor * ROUNDING:
            return f"the choice {choice!r} is further than a factor of {max_factor:g} from every other"
    return ""


def _too_far(old: Float | Integer, new: Float | Integer, *, max_factor: float) -> str:
    """Which bound moves further than it may; empty where none does."""
    if old.low >= 0 > new.low or old.high <= 0 < new.high:
        return f"a range of one sign, {old}, is not widened across zero"
    width = (old.high - old.low) * (1.0 if math.isinf(max_factor) else max(max_factor - 1.0, 0.5))
    for name, before, after in (("low", old.low, new.low), ("high", old.high, new.high)):
        factor = change_factor(before, after, whole=isinstance(old, Integer))
        by_factor = before > 0 < after and factor <= max_factor * ROUNDING
        by_width = old.scale == "linear" and abs(after - before) <= width * ROUNDING + (ROUNDING - 1) * abs(before)
        by_one = isinstance(old, Integer) and abs(after - before) <= 1
        if before != after and not (math.isinf(max_factor) or by_factor or by_width or by_one):
            return f"{name} may not move from {before:g} to {after:g} at once (policy.max_factor is {max_factor:g})"
    return ""


def _scale(domain: Domain) -> str:
    return "" if isinstance(domain, Categorical) else domain.scale


def within(smaller: Domain, larger: Domain) -> bool:
    """Whether every value of one domain lies in another one of the same kind and scale."""
    if type(smaller) is not type(larger) or _scale(smaller) != _scale(larger):
        return False
    if isinstance(smaller, Categorical) or isinstance(larger, Categorical):
        return isinstance(smaller, Categorical) and all(larger.contains(choice) for choice in smaller.choices)
    return larger.low <= smaller.low and smaller.high <= larger.high


def domain_or_fault(data: Any) -> Domain | str | None:
    """The domain that plain data stands for; a text that says what is wrong where it is none; None for null."""
    if data is None:
        return None
    kind = data.get("type") if isinstance(data, dict) else None
    if kind == "categorical":
        return _categorical(data)
    if kind not in ("float", "int"):
        return f"{show(data)} is no domain with a type float, int or categorical"
    if not {"low", "high"} <= data.keys() <= {"type", "low", "high", "scale"}:
        return f"a domain of type {kind} has low, high and, if need be, scale"
    if data.get("scale", "linear") not in ("linear", "log"):
        return f"scale {show(data['scale'])} is neither linear nor log"
    bounds = [data["low"], data["high"]]
    if not all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in bounds):
        return "low and high are not numbers"
    scale = data.get("scale", "linear")
    if kind == "float":
        return Float(low=float(bounds[0]), high=float(bounds[1]), scale=scale)
    if not all(float(bound).is_integer() and abs(bound) <= LARGEST_WHOLE for bound in bounds):
        return "low and high are not whole numbers"
    return Integer(low=int(bounds[0]), high=int(bounds[1]), scale=scale)


def _categorical(data: Mapping[str, Any]) -> Domain | str:
    choices = data.get("choices")
    if data.keys() != {"type", "choices"} or not isinstance(choices, list):
        return "a domain of type categorical has choices, a list"
    if any(isinstance(choice, (dict, list)) for choice in choices):
        return "the choices are not single values"
    return Categorical(choices=tuple(choices))


def joining_domain(knob: Knob, values: Sequence[Value]) -> Domain:
    """The domain with which a knob joins the search space because it is set: it holds the values.

    The one that it had in revision 0 where that holds them, else the smallest that does.
    """
    if knob.domain is not None and all(map(knob.domain.contains, values)):
        return knob.domain
    return smallest_domain(knob, values)


def smallest_domain(knob: Knob, values: Sequence[Value]) -> Domain:
    """The smallest domain of a knob that holds some values (two distinct ones or more)."""
    if knob.kind == "choice":
        held = Categorical(choices=tuple(values))
        return Categorical(choices=tuple(option for option in knob.options if held.contains(option)))
    numbers = [value for value in values if isinstance(value, (int, float))]
    if len(numbers) < len(values):
        return Categorical(choices=(None, *dict.fromkeys(numbers)))
    if knob.kind == "int":
        return Integer(low=int(min(numbers)), high=int(max(numbers)))
    low, high = float(min(numbers)), float(max(numbers))
    return Float(low=low, high=high, scale="log" if low > 0 else "linear")


def whole_numbers(overrides: Overrides, *, space: SearchSpace) -> dict[str, Value]:
    """The overrides with numbers in the type that their domain has: 4.0 becomes 4 where it is listed so."""
    return {key: _as_in(space.domains.get(key), value) for key, value in overrides.items()}


def _as_in(domain: Domain | None, value: Value) -> Value:
    if isinstance(domain, Categorical):
        return domain.as_listed(value)
    is_whole = isinstance(domain, Integer) and isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value  # type: ignore[arg-type]


def _same(one: Value, other: Value) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def change_factor(old: Value, new: Value, *, whole: bool) -> float:
    """How many times larger or smaller a positive number became; 1 for anything else, and for a step of one.

    Args:
        old: the value before.
        new: the value after.
        whole: whether both are whole numbers, which may always move by one.
    """
    if (
        isinstance(old, bool)
        or isinstance(new, bool)
        or not isinstance(old, (int, float))
        or not isinstance(new, (int, float))
    ):
        return 1.0
    if old <= 0 or new <= 0 or (whole and abs(new - old) <= 1):
        return 1.0
    return math.exp(min(abs(math.log(new) - math.log(old)), _LARGEST_LOG))
