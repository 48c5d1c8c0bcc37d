from __future__ import annotations

import pytest

from lightning_autoresearch.hypothesis import Hypothesis, Prediction, SpaceEdit
from lightning_autoresearch.policy import refusal, space_after, whole_numbers
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


def test_sound_edits_of_the_space_are_applied_in_order():
    wider = Float(low=1e-4, high=0.4, scale="log")
    space, accepted = space_after(SPACE, [edit("widen", "lr", wider), edit("freeze", "drop")], must_contain=[BRANCH])
    assert space["lr"] == wider
    assert "drop" not in space
    assert len(accepted) == 2


@pytest.mark.parametrize(
    "bad",
    [
        edit("narrow", "lr", Float(low=0.01, high=0.1, scale="log")),
        edit("narrow", "act", Categorical(choices=("gelu",))),
        edit("widen", "lr", Float(low=0.1, high=0.1)),
        edit("widen", "nothing", Float(low=0.0, high=1.0)),
        edit("freeze", "nothing"),
        edit("widen", "lr"),
    ],
)
def test_an_edit_that_shuts_out_the_branch_or_makes_no_sense_is_passed_over(bad):
    assert space_after(SPACE, [bad], must_contain=[BRANCH]) == (SPACE, ())


def test_the_last_key_is_never_frozen():
    space = SearchSpace(domains={"lr": SPACE["lr"]})
    assert space_after(space, [edit("freeze", "lr")], must_contain=[BRANCH]) == (space, ())


@pytest.mark.parametrize(
    "bad",
    [
        edit("widen", "lr", Float(low=0.0, high=0.4, scale="log")),
        edit("widen", "lr", Float(low=1e-4, high=0.4)),
        edit("widen", "lr", Float(low=1e-3, high=0.4, scale="log")),
        edit("narrow", "drop", Float(low=0.0, high=0.9)),
        edit("widen", "depth", Categorical(choices=(1, 2, 3))),
        edit("widen", "act", Categorical(choices=("relu", "tanh"))),
    ],
)
def test_an_edit_that_changes_the_kind_or_scale_or_not_what_it_says_is_passed_over(bad):
    assert space_after(SPACE, [bad], must_contain=[BRANCH]) == (SPACE, ())


def test_whole_numbers_become_such_where_the_key_wants_them():
    found = whole_numbers({"depth": 4.0, "lr": 1.0, "act": "gelu"}, space=SPACE)
    assert found == {"depth": 4, "lr": 1.0, "act": "gelu"}
    assert [type(value) for value in found.values()] == [int, float, str]
