"""The rules that rewrite the search space, one by one."""

from __future__ import annotations

import pytest

from lightning_autoresearch.hypothesis import Briefing, SpaceEdit
from lightning_autoresearch.ledger import Ledger
from lightning_autoresearch.reshape import space_edits
from lightning_autoresearch.space import Float, Integer, SearchSpace
from tests.simulation import LR, START, finding, measured, told


def edits_of(briefing: Briefing) -> dict[str, SpaceEdit]:
    return {edit.key: edit for edit in space_edits(Ledger(briefing, briefing.space))}


OUTWARD = (finding("lr", 0.01, 0.04, 0.05, kept=True), finding("lr", 0.04, 0.1, 0.03, kept=True))


def test_a_log_bound_moves_by_the_largest_factor():
    edit = edits_of(told(OUTWARD, branch={**START, "lr": 0.1}))["lr"]
    assert (edit.op, edit.domain) == ("widen", Float(low=1e-4, high=0.4, scale="log"))
    assert "leans on the bound 0.1" in edit.why


def test_a_linear_bound_moves_by_half_the_width():
    space = SearchSpace(domains={**LR, "x": Float(low=0.0, high=2.0)})
    tests = [finding("x", 1.0, 1.5, 0.02, kept=True), finding("x", 1.5, 2.0, 0.02, kept=True)]
    edit = edits_of(told(tests, branch={**START, "x": 2.0}, space=space))["x"]
    assert edit.domain == Float(low=0.0, high=3.0)


def test_a_share_is_not_widened_past_one():
    tests = [finding("x", 0.5, 0.75, 0.02, kept=True), finding("x", 0.75, 1.0, 0.02, kept=True)]
    assert "x" not in edits_of(told(tests, branch={**START, "x": 1.0}))
    space = SearchSpace(domains={**LR, "x": Float(low=0.0, high=0.5)})
    tests = [finding("x", 0.2, 0.5, 0.02, kept=True)]
    assert edits_of(told(tests, branch={**START, "x": 0.5}, space=space))["x"].domain == Float(low=0.0, high=0.75)


def test_a_bound_never_crosses_zero():
    tests = [finding("x", 0.5, 0.25, 0.02, kept=True), finding("x", 0.25, 0.0, 0.02, kept=True)]
    assert "x" not in edits_of(told(tests, branch={**START, "x": 0.0}))


def test_a_positive_linear_bound_stays_positive():
    space = SearchSpace(domains={**LR, "x": Float(low=0.1, high=1.0)})
    tests = [finding("x", 0.3, 0.1, 0.02, kept=True)]
    assert edits_of(told(tests, branch={**START, "x": 0.1}, space=space))["x"].domain == Float(low=0.025, high=1.0)


def test_whole_numbers_are_not_widened_below_one():
    tests = [finding("n", 2, 1, 0.02, kept=True)]
    assert "n" not in edits_of(told(tests, branch={**START, "n": 1}))
    space = SearchSpace(domains={**LR, "n": Integer(low=2, high=8)})
    tests = [finding("n", 3, 2, 0.02, kept=True)]
    assert edits_of(told(tests, space=space))["n"].domain == Integer(low=1, high=8)


def test_leaning_without_a_trend_widens_nothing():
    assert "lr" not in edits_of(told(branch={**START, "lr": 0.1}))
    inward = [finding("lr", 0.1, 0.05, 0.05)]
    assert "lr" not in edits_of(told(inward, branch={**START, "lr": 0.1}))


def test_a_failure_at_the_bound_keeps_it_where_it_is():
    failed = (measured({"lr": 0.098, "n": 8}, None),)
    assert "lr" not in edits_of(told(OUTWARD, branch={**START, "lr": 0.1}, measurements=failed))


def test_a_bound_that_was_passed_in_this_round_waits_for_the_next():
    tests = [*OUTWARD, finding("lr", 0.1, 0.4, 0.03, kept=True)]
    space = SearchSpace(domains={**LR, "lr": Float(low=1e-4, high=0.4, scale="log")})
    assert "lr" not in edits_of(told(tests, branch={**START, "lr": 0.4}, space=space))
    assert edits_of(told(tests, branch={**START, "lr": 0.4}, space=space, round=2))["lr"].op == "widen"


INERT = (finding("x", 0.5, 0.7, 0.0), finding("x", 0.5, 0.3, 0.0005), finding("x", 0.5, 0.9, -0.0005))


def test_a_key_that_does_nothing_is_frozen():
    edit = edits_of(told(INERT))["x"]
    assert (edit.op, edit.domain) == ("freeze", None)
    assert edit.why == "3 tests of x alone changed the objective by 0.0005 at most, the noise is 0.01; it stays at 0.5"


@pytest.mark.parametrize(
    "tests",
    [
        INERT[:2],
        (*INERT, finding("x", 0.5, 0.1, 0.002)),
        (*INERT, finding("x", 0.5, 0.1, None)),
        tuple(finding("x", 0.5, value, 0.0) for value in (0.6, 0.7, 0.8)),
        tuple(finding("x", 0.5, value, 0.0) for value in (0.3, 0.7, 0.7)),
    ],
    ids=["too few tests", "one had an effect", "one failed", "one direction only", "too few values"],
)
def test_a_key_is_not_frozen_on_weak_evidence(tests):
    assert "x" not in edits_of(told(tests))


def test_the_last_key_is_never_frozen():
    space = SearchSpace(domains={"x": LR["x"]})
    assert edits_of(told(INERT, space=space)) == {}


def test_a_range_is_narrowed_where_every_far_test_was_clearly_worse():
    values = (0.05, 0.1, 0.8, 0.95, 0.4, 0.45, 0.6, 0.55)
    tests = [finding("x", 0.5, value, -0.05 if abs(value - 0.5) > 0.25 else -0.002) for value in values]
    runs = tuple(measured({"x": value}, 1.0) for value in values)
    edit = edits_of(told(tests, measurements=runs))["x"]
    assert (edit.op, edit.domain) == ("narrow", Float(low=0.25, high=0.75))
    assert "x" not in edits_of(told(tests, measurements=runs[:7])), "seven values are too few"
    assert "x" not in edits_of(told(tests, measurements=runs, gain_sd=0.06)), "not worse than the noise"


def test_narrowing_keeps_a_factor_around_the_incumbent_and_the_branch():
    values = (1e-4, 1.5e-4, 0.05, 0.09, 0.002, 0.004, 0.006, 0.0015)
    tests = [finding("lr", 0.003, value, -0.05 if not 0.001 < value < 0.02 else -0.002) for value in values]
    runs = tuple(measured({"lr": value}, 1.0) for value in values)
    edit = edits_of(told(tests, measurements=runs, branch={**START, "lr": 0.006}))["lr"]
    assert edit.domain == Float(low=0.00075, high=0.024, scale="log")
