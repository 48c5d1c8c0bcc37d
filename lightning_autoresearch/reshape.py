"""Rules by which the offline scientist rewrites the search space: widen, freeze, narrow.  Pure functions of the ledger.

Each rule asks for tests of one key alone, so that what another key did is not blamed on it.  The thresholds are the
constants below, chosen on simulated tasks.
Not covered: a key that only matters together with another can look inert, and a trend that another key turns round
is believed until new tests say otherwise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from lightning_autoresearch.hypothesis import SpaceEdit
from lightning_autoresearch.ledger import Ledger, Step, coordinate, shown
from lightning_autoresearch.space import Categorical, Float, Integer, SearchSpace, Value, unsound

EDGE = 0.05
"""A value leans on a bound when it is this close to it, as a share of the key's range."""
TREND = 0.5
"""To widen, the newest tests' gains, counted outward, must add up to this many standard deviations of a gain."""
TREND_TESTS = 6
"""Number of newest tests that make a trend."""
WIDER = 0.5
"""A linear range is widened by this share of its width."""
INERT_TESTS = 3
"""Tests with distinct values that are needed to freeze a key."""
INERT_GAIN = 0.1
"""Largest gain of an inert key, in standard deviations of a gain."""
NARROW_VALUES = 8
"""Distinct values that must be measured before a range is narrowed."""
NARROW_TESTS = 2
"""Tests that must have ended in the part that is cut off, every one of them worse by a standard deviation of a gain."""
NARROW_HALF = 0.25
"""A linear range keeps at least this share of its width on either side of the incumbent."""
NARROW_LEAST = 0.1
"""Smallest share of a range that is worth cutting off."""

Numeric = Float | Integer


def space_edits(ledger: Ledger) -> tuple[SpaceEdit, ...]:
    """The edits that the evidence asks for, at most one per key; the space never becomes empty."""
    edits = []
    left = len(ledger.space)
    for key in ledger.space:
        edit = _widening(ledger, key) or (_freezing(ledger, key) if left > 1 else None) or _narrowing(ledger, key)
        if edit is not None:
            edits.append(edit)
            left -= edit.op == "freeze"
    return tuple(edits)


def edited(space: SearchSpace, edits: Sequence[SpaceEdit]) -> SearchSpace:
    """The space with the edits in effect."""
    domains = dict(space.domains)
    for edit in edits:
        if edit.domain is None:
            domains.pop(edit.key)
        else:
            domains[edit.key] = edit.domain
    return SearchSpace(domains=domains)


# ------------------------------------------------------------------------------------------------------------- widen
def _widening(ledger: Ledger, key: str) -> SpaceEdit | None:
    """A wider range where good values lean on a bound, tests point outward, and nothing beyond it failed."""
    domain = ledger.space[key]
    if isinstance(domain, Categorical) or not ledger.is_placed(key) or domain.low == domain.high:
        return None
    for way in (1, -1):
        leaning, trend = _leaning(ledger, key, way), _trend(ledger, key, way)
        if not leaning or trend <= TREND * ledger.briefing.gain_sd:
            continue
        wider = _wider(domain, way, ledger.briefing.max_factor)
        if (
            wider == domain
            or unsound(wider)
            or _failed_beyond(ledger, key, way, wider)
            or _was_widened(ledger, key, way)
        ):
            continue
        bound, new = (domain.high, wider.high) if way > 0 else (domain.low, wider.low)
        why = (
            f"{leaning} leans on the bound {shown(bound)}, and the newest tests of {key} gain outward "
            f"({trend:.3g} in all), so the bound moves to {shown(new)}"
        )
        return SpaceEdit(op="widen", key=key, domain=wider, why=why)
    return None


def _leaning(ledger: Ledger, key: str, way: int) -> str:
    """What leans on a bound, in words; empty where nothing does."""
    domain = ledger.space[key]
    assert not isinstance(domain, Categorical)
    best = [config[key] for config in ledger.best() if domain.contains(config.get(key))]
    candidates = {"the branch's value": ledger.branch[key], "the incumbent's value": ledger.briefing.incumbent.get(key)}
    if len(best) > 2:
        candidates["the median of the best measured values"] = statistics.median_low(best)  # type: ignore[type-var]
    for words, value in candidates.items():
        if domain.contains(value) and _room(domain, way, value) <= EDGE:
            return f"{words} ({shown(value)})"
    return ""


def _room(domain: Numeric, way: int, value: Value) -> float:
    """Distance from a value to a bound, as a share of the range."""
    place = domain.to_unit(value)  # type: ignore[arg-type]
    return 1.0 - place if way > 0 else place


def _trend(ledger: Ledger, key: str, way: int) -> float:
    """Sum of the newest tests' gains, counted outward; a single one counts no more than three standard deviations."""
    most = 3.0 * ledger.briefing.gain_sd or math.inf
    newest = [step for step in ledger.steps if step.key == key and step.gain is not None][-TREND_TESTS:]
    return sum(way * step.direction * min(max(step.gain or 0.0, -most), most) for step in newest)


def _wider(domain: Numeric, way: int, max_factor: float) -> Numeric:
    """The range with one bound moved: by `max_factor` on a log scale, else by half the width; never across zero.

    A linear range within 0 to 1 is taken for a share, a probability or a decay rate; it is not widened past 1.
    """
    if way > 0:
        high = _outward(domain.high, 1, domain, max_factor)
        is_share = isinstance(domain, Float) and domain.scale == "linear" and domain.low >= 0 and domain.high <= 1
        return domain if is_share and high > 1 else _with_bounds(domain, domain.low, high)
    if isinstance(domain, Integer) and domain.low <= 1:
        return domain
    return _with_bounds(domain, _outward(domain.low, -1, domain, max_factor), domain.high)


def _outward(bound: float, way: int, domain: Numeric, max_factor: float) -> float:
    if domain.scale == "log":
        return bound * max_factor**way
    moved = bound + way * WIDER * (domain.high - domain.low)
    if bound * way >= 0:
        return moved if bound else 0.0 if _is_floor(domain, way) else moved
    towards_zero = bound / max_factor
    return min(moved, towards_zero) if way > 0 else max(moved, towards_zero)


def _is_floor(domain: Numeric, way: int) -> bool:
    """Whether the bound is zero and the range lies on its other side, so that moving it would cross zero."""
    return (domain.low == 0 and way < 0) or (domain.high == 0 and way > 0)


def _with_bounds(domain: Numeric, low: float, high: float) -> Numeric:
    """The domain with new bounds, in three digits or whole numbers; a bound that did not move stays as it is."""
    if isinstance(domain, Integer):
        low = low if low == domain.low else max(math.ceil(low), 1 if domain.low > 0 else math.ceil(low))
        return Integer(low=int(low), high=max(int(high), domain.low), scale=domain.scale)
    low = low if low == domain.low else float(f"{low:.3g}")
    high = high if high == domain.high else float(f"{high:.3g}")
    return Float(low=low, high=high, scale=domain.scale)


def _failed_beyond(ledger: Ledger, key: str, way: int, wider: Numeric) -> bool:
    """Whether a configuration failed at the bound or in the part that would be added, or a cliff stands before it."""
    domain = ledger.space[key]
    assert not isinstance(domain, Categorical)
    if (key, way) in ledger.cliffs:
        return True
    values = [config.get(key) for config, loss in ledger.configs if loss is None]
    return any(wider.contains(value) and _room(domain, way, value) <= EDGE for value in values)


def _was_widened(ledger: Ledger, key: str, way: int) -> bool:
    """Whether the bound may have been widened in this round already.

    A briefing does not tell; but then a test of this round began near where the bound was and went beyond it.  A round
    in which that happened by chance waits for the next one.
    """
    domain = ledger.space[key]
    assert not isinstance(domain, Categorical)
    bound = coordinate(domain, domain.high if way > 0 else domain.low)
    width = coordinate(domain, domain.high) - coordinate(domain, domain.low)
    if domain.scale == "log":
        olds = [bound - way * math.log(ledger.briefing.max_factor)]
    else:
        olds = [bound - way * width * WIDER / (1 + WIDER), bound * ledger.briefing.max_factor]
    now = [
        step
        for step in ledger.steps
        if step.key == key and step.round == ledger.briefing.round and step.direction == way
    ]
    return any(_passes(domain, step, way, old, EDGE * width) for step in now for old in olds)


def _passes(domain: Numeric, step: Step, way: int, old: float, near: float) -> bool:
    try:
        before, after = coordinate(domain, step.before), coordinate(domain, step.after)
    except (TypeError, ValueError):
        return False
    return abs(before - old) <= near and way * (after - old) > 0


# ------------------------------------------------------------------------------------------------------------ freeze
def _freezing(ledger: Ledger, key: str) -> SpaceEdit | None:
    """Take a key out that did nothing in several tests of it alone, in both directions where there is room."""
    steps = [step for step in ledger.steps if step.key == key]
    least = INERT_GAIN * ledger.briefing.gain_sd
    if len({repr(step.after) for step in steps}) < INERT_TESTS or not _tested_all_ways(ledger, key, steps):
        return None
    if any(step.gain is None or abs(step.gain) > least for step in steps):
        return None
    largest = max(abs(step.gain or 0.0) for step in steps)
    sd = ledger.briefing.gain_sd
    why = f"{len(steps)} tests of {key} alone changed the objective by {largest:.3g} at most, the noise is {sd:.3g}"
    return SpaceEdit(op="freeze", key=key, domain=None, why=f"{why}; it stays at {shown(ledger.branch[key])}")


def _tested_all_ways(ledger: Ledger, key: str, steps: Sequence[Step]) -> bool:
    domain, value = ledger.space[key], ledger.branch[key]
    if isinstance(domain, Categorical):
        return {repr(choice) for choice in ledger.options(key)} <= {repr(step.after) for step in steps}
    ways = [way for way in (1, -1) if not domain.contains(value) or _room(domain, way, value) > EDGE]
    return {step.direction for step in steps} >= set(ways)


# ------------------------------------------------------------------------------------------------------------ narrow
def _narrowing(ledger: Ledger, key: str) -> SpaceEdit | None:
    """Cut off the far parts of a range that was measured well and in which every test was clearly worse."""
    domain = ledger.space[key]
    if isinstance(domain, Categorical) or not ledger.is_placed(key):
        return None
    held = [ledger.branch[key], ledger.briefing.incumbent.get(key)]
    measured = {config[key] for config, _ in ledger.configs if domain.contains(config.get(key))}
    if len(measured) < NARROW_VALUES or not all(domain.contains(value) for value in held):
        return None
    low, high = _core(domain, held, ledger.briefing.max_factor)  # type: ignore[arg-type]
    low = low if _is_bad(ledger, key, domain.low, low) else domain.low
    high = high if _is_bad(ledger, key, high, domain.high) else domain.high
    narrower = _with_bounds(domain, low, high)
    if not all(narrower.contains(value) for value in held) or not narrower.low < narrower.high:
        return None
    if domain.to_unit(narrower.high) - domain.to_unit(narrower.low) > 1.0 - NARROW_LEAST:
        return None
    why = f"{len(measured)} values of {key} were measured, and every test of it outside {narrower} was clearly worse"
    return SpaceEdit(op="narrow", key=key, domain=narrower, why=why)


def _core(domain: Numeric, held: Sequence[float], max_factor: float) -> Iterator[float]:
    """The part that must stay: a factor of `max_factor`, or a quarter of the range, around the values held."""
    lowest, highest = min(held), max(held)
    if domain.scale == "log":
        lowest, highest = lowest / max_factor, highest * max_factor
    else:
        room = NARROW_HALF * (domain.high - domain.low)
        lowest, highest = lowest - room, highest + room
    yield max(lowest, domain.low)
    yield min(highest, domain.high)


def _is_bad(ledger: Ledger, key: str, low: float, high: float) -> bool:
    """Whether enough tests ended between two values and every one failed or lost more than the noise."""
    steps = [step for step in ledger.steps if step.key == key and low <= step.after <= high]  # type: ignore[operator]
    worse = [step.gain is None or step.gain < -ledger.briefing.gain_sd for step in steps]
    return len(worse) >= NARROW_TESTS and all(worse)
