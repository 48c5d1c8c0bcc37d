from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_autoresearch.space import (
    Categorical,
    Float,
    Integer,
    SearchSpace,
    apply_overrides,
    canonical,
    digest_of,
    domain_of,
    get_key,
    has_key,
    unsound,
)

TASK = {"model": {"init_args": {"lr": 0.1}}, "trainer": {"callbacks": [{"init_args": {"patience": 3}}]}, "data": None}


def test_a_key_reaches_through_maps_and_lists() -> None:
    assert get_key(TASK, "model.init_args.lr") == 0.1
    assert get_key(TASK, "trainer.callbacks.0.init_args.patience") == 3
    assert not has_key(TASK, "trainer.callbacks.1")
    assert not has_key(TASK, "model.init_args.lr.x")
    assert has_key(TASK, "data")


def test_a_missing_part_is_named() -> None:
    with pytest.raises(KeyError, match=r"model\.init_arg\.lr: no 'init_arg' here"):
        get_key(TASK, "model.init_arg.lr")


def test_overrides_change_a_copy_and_make_missing_maps() -> None:
    changed = apply_overrides(
        TASK, {"model.init_args.lr": 1, "data.init_args.n": 2, "trainer.callbacks.0.init_args.patience": 9}
    )
    assert (get_key(changed, "model.init_args.lr"), get_key(changed, "data.init_args.n")) == (1, 2)
    assert get_key(changed, "trainer.callbacks.0.init_args.patience") == 9
    assert TASK["data"] is None
    assert get_key(TASK, "trainer.callbacks.0.init_args.patience") == 3


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.init_args.lr.x", r"'lr' is no map"),
        ("model.init_args.lr.x.y", r"no 'x' here"),
        ("trainer.callbacks.1", r"no '1' here"),
        ("trainer.callbacks.1.x", r"no '1' here"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(key: str, message: str) -> None:
    with pytest.raises(KeyError, match=message):
        apply_overrides(TASK, {key: 1})


@pytest.mark.parametrize("value", [True, "0.5", None, math.nan, math.inf, 2, -1])
def test_what_is_no_number_between_the_bounds_is_outside(value: object) -> None:
    assert not Float(low=0, high=1).contains(value)  # type: ignore[arg-type]


def test_an_integer_contains_whole_numbers_only() -> None:
    domain = Integer(low=1, high=3)
    assert [value for value in (0, 1, 2.0, 2.5, 3, 4, True, "2") if domain.contains(value)] == [1, 2.0, 3]


def test_choices_are_compared_by_value_but_true_is_not_one() -> None:
    domain = Categorical(choices=(1, "a", False, None))
    found = [value for value in (1, 1.0, True, 0, False, None, "a", "1") if domain.contains(value)]
    assert list(map(repr, found)) == ["1", "1.0", "False", "None", "'a'"]
    assert [repr(domain.as_listed(value)) for value in (1.0, True, 0, 2.0)] == ["1", "True", "0", "2.0"]


@settings(deadline=None)  # the clock of a busy machine proves nothing
@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1.1, 1e6),
    position=st.floats(0, 1),
    scale=st.sampled_from(["linear", "log"]),
)
def test_a_float_at_any_position_is_inside_and_near_it(low: float, factor: float, position: float, scale: str) -> None:
    domain = Float(low=low, high=low * factor, scale=scale)  # type: ignore[arg-type]
    value = domain.from_unit(position)
    assert domain.contains(value)
    assert domain.to_unit(value) == pytest.approx(position, abs=0.01 * max(1, 10 / (factor - 1)))


@settings(deadline=None)  # the clock of a busy machine proves nothing
@given(low=st.integers(1, 1000), width=st.integers(1, 1000), scale=st.sampled_from(["linear", "log"]), data=st.data())
def test_every_integer_is_found_again_at_its_position(low: int, width: int, scale: str, data: st.DataObject) -> None:
    domain = Integer(low=low, high=low + width, scale=scale)  # type: ignore[arg-type]
    value = data.draw(st.integers(low, low + width))
    assert domain.from_unit(domain.to_unit(value)) == value


def test_overrides_are_told_what_is_wrong_with_them() -> None:
    space = SearchSpace(domains={"lr": Float(low=0.1, high=1, scale="log"), "n": Integer(low=1, high=2)})
    assert space.faults({"lr": 0.5, "n": 2}) == ()
    assert space.faults({"lr": 5, "x": 1}) == ("x is not in the search space", "lr = 5 is outside 0.1 to 1, log")


def test_a_domain_is_made_of_its_description() -> None:
    assert domain_of({"type": "int", "low": 1.0, "high": 6}) == Integer(low=1, high=6)
    assert repr(domain_of({"type": "int", "low": 1.0, "high": 6}).low) == "1"  # type: ignore[union-attr]
    assert domain_of({"type": "float", "low": 1, "high": 6, "scale": "log"}) == Float(low=1.0, high=6.0, scale="log")
    assert domain_of({"type": "categorical", "choices": [1, "a"]}) == Categorical(choices=(1, "a"))


def test_equal_overrides_have_one_canonical_form() -> None:
    assert canonical({"b": 1, "a": 0.5}) == canonical({"a": 0.5, "b": 1}) == '{"a": 0.5, "b": 1}'
    assert canonical({"a": 2, "b": 0}) == canonical({"a": 2.0, "b": -0.0}) == '{"a": 2, "b": 0}'
    assert len({canonical({"a": value}) for value in (1, True, "1", None, 1.5)}) == 5
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": math.nan})


def test_a_digest_tells_types_apart_but_not_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert len({digest_of({"a": value}) for value in (1, 1.0, True, "1", None)}) == 5


@pytest.mark.parametrize(
    ("domain", "why"),
    [
        (Float(low=0.0, high=5e-324), "the bound 4.94066e-324 is neither 0 nor of a size from 1e-30 to 1e"),
        (Float(low=-1.7e308, high=1.7e308), "neither 0 nor of a size"),
        (Float(low=0.001, high=0.0010000000000000002, scale="log"), "nearer to each other than a share of 1e-06"),
        (Float(low=1000.0, high=1000.0005), "nearer to each other"),
        (Float(low=0.0, high=math.inf), "finite"),
        (Integer(low=2**53 - 1, high=2**53, scale="log"), "nearer to each other"),
        (Integer(low=3, high=3), "low 3 is not below high 3"),
        (Categorical(choices=(1, 1.0)), "two or more distinct choices"),
        (Categorical(choices=(0.0, 1e300)), "the choice 1e.300 is neither 0 nor"),
    ],
)
def test_a_domain_that_nothing_can_be_drawn_from_is_unsound(domain: Any, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(unsound(domain))


@pytest.mark.parametrize(
    "domain",
    [
        Float(low=0.0, high=1e-30),
        Float(low=-1e30, high=1e30),
        Float(low=1e-30, high=1e30, scale="log"),
        Float(low=1.0, high=1.00001),
        Integer(low=10_000_000, high=10_000_003),
        Categorical(choices=(1, True, None, "1")),
    ],
)
def test_a_sound_domain_has_no_fault(domain: Any) -> None:
    assert unsound(domain) == ""
