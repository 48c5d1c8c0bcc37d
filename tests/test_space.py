from __future__ import annotations

import math

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


def test_choices_are_compared_with_their_types() -> None:
    domain = Categorical(choices=(1, "a", False, None))
    assert [value for value in (1, 1.0, True, 0, False, None, "a", "1") if domain.contains(value)] == [
        1,
        False,
        None,
        "a",
    ]


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
    assert canonical({"a": 1}) != canonical({"a": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": math.nan})


def test_a_digest_tells_types_apart_but_not_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert len({digest_of({"a": value}) for value in (1, 1.0, True, "1", None)}) == 5
