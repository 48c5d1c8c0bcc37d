from __future__ import annotations

import random

import pytest

from lightning_autoresearch import reshape
from lightning_autoresearch.hypothesis import Hypothesis, Prediction, SpaceEdit
from lightning_autoresearch.knobs import Knob
from lightning_autoresearch.policy import (
    change_factor,
    domain_or_fault,
    refusal,
    smallest_domain,
    space_after,
    whole_numbers,
)
from lightning_autoresearch.space import Categorical, Float, Integer, SearchSpace
from lightning_autoresearch.spec import Policy
from lightning_autoresearch.trial import canonical

SPACE = SearchSpace(
    domains={
        "lr": Float(low=1e-4, high=0.1, scale="log"),
        "depth": Integer(low=1, high=6),
        "act": Categorical(choices=("relu", "gelu")),
        "drop": Float(low=0.0, high=0.5),
    }
)
BRANCH = {"lr": 0.003, "depth": 2, "act": "relu", "drop": 0.0}


def hypothesis(**overrides):
    return Hypothesis(
        id="h1",
        statement="s",
        mechanism="m",
        source="test",
        overrides=overrides,
        prediction=Prediction(gain=0.1, probability=0.5),
    )


def refused(overrides, *, policy=None, tried=()):
    return refusal(hypothesis(**overrides), space=SPACE, branch=BRANCH, policy=policy or Policy(), tried=tried)


@pytest.mark.parametrize(
    "overrides",
    [
        {"lr": 0.012},
        {"lr": 0.00075},
        {"depth": 3},
        {"act": "gelu"},
        {"drop": 0.5},
        {"lr": 0.006, "depth": 1, "act": "gelu"},
    ],
)
def test_what_the_policy_allows_is_let_through(overrides):
    assert refused(overrides) is None


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"lr": 0.003}, "changes nothing"),
        ({}, "changes nothing"),
        ({"lr": 0.004, "depth": 3, "act": "gelu", "drop": 0.1}, "changes 4 keys, the policy allows 3"),
        ({"lr": 0.013}, r"changes lr by a factor of 4\.33, the policy allows 4"),
        ({"lr": 0.5}, "lr = 0.5 is outside"),
        ({"act": "tanh"}, "act = 'tanh' is outside one of 'relu', 'gelu'"),
        ({"seed": 3}, "seed is not in the search space"),
        ({"depth": 2.5}, "depth = 2.5 is outside"),
        ({"lr": True}, "lr = True is outside"),
    ],
)
def test_what_the_policy_forbids_is_refused_with_the_reason(overrides, why):
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(refused(overrides))


def test_a_configuration_that_was_tried_is_refused_whatever_the_order_of_its_keys():
    tried = {canonical(dict(reversed({**BRANCH, "lr": 0.006}.items())))}
    assert refused({"lr": 0.006}, tried=tried) == "this very configuration was tried before"


def test_an_integer_may_always_move_by_one():
    assert refused({"depth": 1}, policy=Policy(max_factor=1.5)) is None
    assert "factor" in refused({"depth": 4}, policy=Policy(max_factor=1.5))


def edit(op, key, domain=None):
    return SpaceEdit(op=op, key=key, domain=domain, why="because")


def reason(bad, *, space=SPACE, knobs=None, max_factor=4.0, must_contain=(BRANCH,)):
    """Why an edit is refused; empty where it is let through.  What is refused changes nothing."""
    after, accepted, refused = space_after(
        space, [bad], must_contain=must_contain, knobs=knobs or {}, max_factor=max_factor
    )
    assert refused or (accepted == (bad,) and after != space)
    assert not refused or (after, accepted) == (space, ())
    return "".join(refused)


def test_sound_edits_of_the_space_are_applied_in_order():
    wider = Float(low=1e-4, high=0.4, scale="log")
    edits = [edit("widen", "lr", wider), edit("freeze", "nothing"), edit("freeze", "drop")]
    space, accepted, refused = space_after(SPACE, edits, must_contain=[BRANCH])
    assert space["lr"] == wider
    assert "drop" not in space
    assert accepted == (edits[0], edits[2])
    assert refused == ("nothing cannot be taken out of the search space: it is not in the search space",)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (
            edit("narrow", "lr", Float(low=0.01, high=0.1, scale="log")),
            "the present value 0.003 is outside 0.01 to 0.1",
        ),
        (edit("narrow", "act", Categorical(choices=("gelu",))), "needs two or more distinct choices"),
        (edit("widen", "lr", Float(low=0.1, high=0.1, scale="log")), "low 0.1 is not below high 0.1"),
        (
            edit("widen", "nothing", Float(low=0.0, high=1.0)),
            "nothing cannot be widened: it is not in the search space",
        ),
        (edit("freeze", "nothing"), "it is not in the search space"),
        (edit("widen", "lr"), "a domain is missing"),
        (edit("widen", "lr", Float(low=0.0, high=0.4, scale="log")), "scale log needs a low above 0"),
        (edit("widen", "lr", Float(low=1e-4, high=0.4)), r"type and scale stay as they are \(0.0001 to 0.1, log\)"),
        (edit("widen", "lr", Float(low=1e-3, high=0.4, scale="log")), "does not contain 0.0001 to 0.1, log"),
        (edit("narrow", "drop", Float(low=0.0, high=0.9)), "0 to 0.9 does not lie within 0 to 0.5"),
        (edit("widen", "depth", Categorical(choices=(1, 2, 3))), "type and scale stay"),
        (edit("widen", "act", Categorical(choices=("relu", "tanh"))), "does not contain"),
        (edit("widen", "act", Categorical(choices=("relu", "gelu", "tanh"))), "nobody has listed 'tanh'"),
        (edit("widen", "drop", Float(low=0.0, high=float("inf"))), "the bounds must be finite numbers"),
        (edit("add", "drop", Float(low=0.0, high=0.9)), "drop cannot be added: it is in the search space already"),
        (edit("add", "width", Integer(low=1, high=9)), "it is not among the keys that may be set"),
    ],
)
def test_an_edit_that_makes_no_sense_is_refused_with_the_reason(bad, why):
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(reason(bad))


def test_the_last_key_is_never_frozen():
    space = SearchSpace(domains={"lr": SPACE["lr"]})
    assert "it is the last key" in reason(edit("freeze", "lr"), space=space)


@pytest.mark.parametrize(
    ("wider", "largest"),
    [
        (lambda high: edit("widen", "lr", Float(low=1e-4, high=high, scale="log")), 0.4),
        (lambda low: edit("widen", "lr", Float(low=1e-4 / low, high=0.1, scale="log")), 4.0),
        (lambda high: edit("widen", "drop", Float(low=0.0, high=high)), 2.0),
        (lambda high: edit("widen", "depth", Integer(low=1, high=int(high))), 24),
    ],
)
def test_a_bound_moves_by_the_policys_factor_or_width_and_no_further(wider, largest):
    assert reason(wider(largest)) == ""
    assert "at once (policy.max_factor is 4)" in reason(wider(largest * 1.1))
    assert reason(wider(largest * 1.1), max_factor=8.0) == ""


def test_a_small_factor_leaves_the_sampler_its_half_width_and_whole_numbers_a_step_of_one():
    assert reason(edit("widen", "drop", Float(low=0.0, high=0.75)), max_factor=1.2) == ""
    assert "may not move" in reason(edit("widen", "drop", Float(low=0.0, high=0.8)), max_factor=1.2)
    space = SearchSpace(domains={"depth": Integer(low=2, high=3, scale="log"), "lr": SPACE["lr"]})
    assert reason(edit("widen", "depth", Integer(low=1, high=3, scale="log")), space=space, max_factor=1.2) == ""


def test_a_range_of_one_sign_is_not_widened_across_zero():
    assert "not widened across zero" in reason(edit("widen", "drop", Float(low=-0.1, high=0.5)))


KNOBS = {
    knob.key: knob
    for knob in (
        Knob(key="width", value=64, kind="int"),
        Knob(key="decay", value=0.1, kind="float"),
        Knob(key="clip", value=None, kind="float", nullable=True),
        Knob(key="norm", value="rms", kind="choice", options=("layer", "rms", "none")),
        Knob(key="act", value="relu", kind="choice", options=("relu", "gelu", "silu")),
        Knob(key="batch", value=16, kind="int"),
    )
}


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("width", Integer(low=32, high=128)),
        ("width", Categorical(choices=(32, 64))),
        ("decay", Float(low=0.01, high=1.0, scale="log")),
        ("clip", Categorical(choices=(None, 1.0, 0.5))),
        ("norm", Categorical(choices=("layer", "rms"))),
    ],
)
def test_a_knob_is_added_with_a_domain_that_suits_it(key, domain):
    assert reason(edit("add", key, domain), knobs=KNOBS) == ""


@pytest.mark.parametrize(
    ("key", "domain", "why"),
    [
        ("width", Float(low=32.0, high=128.0), "its type is int"),
        ("width", Integer(low=65, high=128), "its value in revision 0, 64, is outside 65 to 128"),
        ("width", Categorical(choices=(64, "big")), "the choice 'big' is not a whole number"),
        ("width", Categorical(choices=(64, None)), "the choice null is not a number"),
        ("width", Integer(low=1, high=2**60), "is not a whole number of at most"),
        ("decay", Integer(low=0, high=1), "its type is float"),
        ("decay", Float(low=0.0, high=1.0, scale="log"), "scale log needs a low above 0"),
        ("decay", Float(low=float("nan"), high=1.0), "finite"),
        ("clip", Float(low=0.1, high=1.0), "its value in revision 0, None, is outside"),
        ("norm", Float(low=0.0, high=1.0), "it is one of 'layer', 'rms', 'none', not a range"),
        ("norm", Categorical(choices=("rms", "batch")), "the choice 'batch' is not one of"),
        ("norm", Categorical(choices=("rms", "rms")), "two or more distinct"),
        ("norm", None, "a domain is missing"),
        ("clip", Categorical(choices=(None, 1.0, 1)), "two or more distinct"),
        ("decay", Float(low=0.0, high=5e-324), "neither 0 nor of a size"),
        ("decay", Float(low=0.1, high=0.1000000001), "nearer to each other"),
        ("decay", Float(low=1e-300, high=1e300), "neither 0 nor of a size"),
        ("decay", Float(low=1e-3, high=1.0), "0.001 is further than a factor of 16 from 0.1"),
        ("decay", Float(low=0.05, high=2.0), "2 is further than a factor of 16 from 0.1"),
        ("decay", Categorical(choices=(0.1, 2.0)), "2 is further than a factor of 16"),
        ("width", Integer(low=1, high=64), "1 is further than a factor of 16 from 64"),
        ("width", Categorical(choices=tuple(range(30, 81))), "51 choices are more than 50"),
        ("seed", Integer(low=0, high=9), "not among the keys that may be set"),
    ],
)
def test_a_domain_that_does_not_suit_the_knob_is_refused(key, domain, why):
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(reason(edit("add", key, domain), knobs=KNOBS))


def test_an_added_domain_holds_the_branch():
    held = {**BRANCH, "width": 256}
    assert "present value 256" in reason(
        edit("add", "width", Integer(low=32, high=128)), knobs=KNOBS, must_contain=[held]
    )


def test_choices_are_widened_to_listed_options_only():
    three = edit("widen", "act", Categorical(choices=("relu", "gelu", "silu")))
    assert reason(three, knobs=KNOBS) == ""
    four = edit("widen", "act", Categorical(choices=("relu", "gelu", "tanh")))
    assert "'tanh' is not one of" in reason(four, knobs=KNOBS)


def test_numeric_choices_are_widened_by_the_factor():
    space = SearchSpace(domains={"batch": Categorical(choices=(8, 16)), "lr": SPACE["lr"]})
    assert reason(edit("widen", "batch", Categorical(choices=(8, 16, 64))), space=space, knobs=KNOBS) == ""
    assert "further than a factor of 4" in reason(
        edit("widen", "batch", Categorical(choices=(8, 16, 80))), space=space, knobs=KNOBS
    )


def test_an_added_key_can_be_edited_and_taken_out_again():
    edits = [
        edit("add", "width", Integer(low=32, high=128)),
        edit("widen", "width", Integer(low=32, high=256)),
        edit("freeze", "width"),
    ]
    assert space_after(SPACE, edits, must_contain=[BRANCH], knobs=KNOBS, max_factor=4.0) == (SPACE, tuple(edits), ())


@pytest.mark.parametrize(
    ("data", "domain"),
    [
        ({"type": "float", "low": 1, "high": 2}, Float(low=1.0, high=2.0)),
        ({"type": "int", "low": 1.0, "high": 2, "scale": "log"}, Integer(low=1, high=2, scale="log")),
        ({"type": "categorical", "choices": ["a", None, True]}, Categorical(choices=("a", None, True))),
        (None, None),
    ],
)
def test_a_domain_is_read_from_plain_data(data, domain):
    assert domain_or_fault(data) == domain


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (3, "3 is no domain"),
        ({"low": 1, "high": 2}, "a map is no domain with a type"),
        ({"type": "text"}, "no domain with a type float, int or categorical"),
        ({"type": "float", "low": 1}, "a domain of type float has low, high"),
        ({"type": "float", "low": 1, "high": 2, "step": 1}, "has low, high and, if need be, scale"),
        ({"type": "float", "low": True, "high": 2}, "not numbers"),
        ({"type": "float", "low": "1", "high": 2}, "not numbers"),
        ({"type": "float", "low": 1, "high": 2, "scale": "sqrt"}, "scale 'sqrt' is neither linear nor log"),
        ({"type": "float", "low": 1, "high": 2, "scale": ["log"]}, "scale a list is neither"),
        ({"type": "int", "low": 1.5, "high": 2}, "not whole numbers"),
        ({"type": "int", "low": 1, "high": 1e300}, "not whole numbers"),
        ({"type": "categorical", "choices": "ab"}, "has choices, a list"),
        ({"type": "categorical", "choices": [[1], 2]}, "not single values"),
    ],
)
def test_what_is_no_domain_is_told(data, why):
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(domain_or_fault(data))


@pytest.mark.parametrize(
    ("knob", "values", "domain"),
    [
        ("decay", [0.1, 0.2, 0.05], Float(low=0.05, high=0.2, scale="log")),
        ("decay", [0.1, 0.0], Float(low=0.0, high=0.1)),
        ("width", [64, 128], Integer(low=64, high=128)),
        ("norm", ["rms", "layer"], Categorical(choices=("layer", "rms"))),
        ("clip", [None, 1.0, 1.0], Categorical(choices=(None, 1.0))),
    ],
)
def test_the_smallest_domain_holds_the_values(knob, values, domain):
    assert smallest_domain(KNOBS[knob], values) == domain


@pytest.mark.parametrize(("old", "new"), [(1e300, 1e-300), (5e-324, 1e308), (2, 1e308)])
def test_enormous_changes_have_a_finite_factor(old, new):
    assert 1e200 < change_factor(old, new, whole=False) < float("inf")


def test_whole_numbers_become_such_where_the_key_wants_them():
    found = whole_numbers({"depth": 4.0, "lr": 1.0, "act": "gelu"}, space=SPACE)
    assert found == {"depth": 4, "lr": 1.0, "act": "gelu"}
    assert [type(value) for value in found.values()] == [int, float, str]


@pytest.mark.parametrize("max_factor", [1.2, 1.5, 2.0, 4.0, 10.0])
def test_what_the_sampler_widens_is_let_through(max_factor):
    rng = random.Random(3)
    for _ in range(300):
        low = rng.choice([0.0, 10 ** rng.uniform(-5, 1), -1.0, 0.3])
        high = low + 10 ** rng.uniform(-3, 2)
        scale = "log" if low > 0 and rng.random() < 0.5 else "linear"
        domain = (
            Float(low=float(f"{low:.3g}"), high=float(f"{high:.4g}"), scale=scale)
            if rng.random() < 0.6
            else Integer(low=max(round(low), 1 if scale == "log" else 0), high=round(high) + 3, scale=scale)
        )
        for way in (1, -1):
            wider = reshape._wider(domain, way, max_factor)
            if wider != domain:
                space = SearchSpace(domains={"x": domain, "lr": SPACE["lr"]})
                assert reason(edit("widen", "x", wider), space=space, max_factor=max_factor) == "", (domain, wider)


def test_an_added_range_may_reach_as_far_as_in_revision_0_and_a_factor_beyond():
    seed = Float(low=1e-5, high=0.5, scale="log")
    knobs = {"decay": Knob(key="decay", value=0.1, kind="float", domain=seed)}
    assert reason(edit("add", "decay", Float(low=1e-6, high=8.0)), knobs=knobs) == ""
    assert "1e-07 is further" in reason(edit("add", "decay", Float(low=1e-7, high=8.0)), knobs=knobs)
    assert "9 is further than a factor of 16 from 0.5" in reason(
        edit("add", "decay", Float(low=0.0, high=9.0)), knobs=knobs
    )
    bare = {"decay": Knob(key="decay", value=0.1, kind="float")}
    moved = [{**BRANCH, "decay": 0.4}]
    assert reason(edit("add", "decay", Float(low=0.0, high=6.4)), knobs=bare, must_contain=moved) == ""
    zero = {"decay": Knob(key="decay", value=0.0, kind="float")}
    assert reason(edit("add", "decay", Float(low=0.0, high=100.0)), knobs=zero) == ""


def test_a_small_whole_number_that_is_added_may_move_by_one_under_any_factor():
    knobs = {"width": Knob(key="width", value=1, kind="int")}
    assert reason(edit("add", "width", Integer(low=1, high=2)), knobs=knobs, max_factor=1.1) == ""


def test_a_long_list_of_the_user_may_be_shortened_but_not_made_longer():
    many = tuple(range(1, 81))
    space = SearchSpace(domains={"batch": Categorical(choices=many), "lr": SPACE["lr"]})
    held = [{**BRANCH, "batch": 16}]
    assert reason(edit("narrow", "batch", Categorical(choices=many[:60])), space=space, must_contain=held) == ""
    longer = edit("widen", "batch", Categorical(choices=(*many, 81)))
    assert "81 choices are more than 80" in reason(longer, space=space, knobs=KNOBS, must_contain=held)


def test_a_domain_is_not_widened_to_what_nothing_can_be_drawn_from():
    space = SearchSpace(domains={"lr": Float(low=1e-30, high=0.1, scale="log"), "depth": SPACE["depth"]})
    assert "neither 0 nor" in reason(edit("widen", "lr", Float(low=5e-31, high=0.1, scale="log")), space=space)


def test_what_has_no_effect_is_refused_before_it_is_paid_for():
    asked = {"space": SPACE, "branch": BRANCH, "policy": Policy(), "tried": ()}
    why = refusal(hypothesis(depth=3), **asked, without_effect=lambda _: {"depth", "drop"})
    assert why == "it sets depth, which has no effect: the class that would be used does not take it"
    assert "sets depth," in refusal(
        hypothesis(depth=3, lr=0.004),
        **asked,
        without_effect=lambda config: {"depth"} if config["lr"] == 0.004 else set(),
    )
    assert refusal(hypothesis(lr=0.004), **asked, without_effect=lambda _: {"depth", "drop"}) is None


def test_a_choice_is_tried_as_it_is_listed():
    space = SearchSpace(domains={"batch": Categorical(choices=(8, 16, True)), "wd": Categorical(choices=(0.0, 0.1))})
    found = whole_numbers({"batch": 8.0, "wd": 0, "new": 2.0}, space=space)
    assert [repr(value) for value in found.values()] == ["8", "0.0", "2.0"]
