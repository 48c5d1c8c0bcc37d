from __future__ import annotations

from lightning_autoresearch.guards import broken_bounds, worse_guards
from lightning_autoresearch.spec import Guard

MEMORY = Guard(metric="peak_memory_gb", max=8.0)
ACCURACY = Guard(metric="accuracy", mode="max")
HIDDEN = Guard(metric="secret", mode="min", max=2.0, hidden=True)


def test_a_bound_that_holds_is_no_problem():
    assert broken_bounds([MEMORY, Guard(metric="speed", min=1.0)], {"peak_memory_gb": 8.0, "speed": 1.0}) == ()


def test_a_broken_bound_is_named_with_its_numbers():
    assert broken_bounds([MEMORY], {"peak_memory_gb": 9.25}) == ("peak_memory_gb = 9.25 is above its bound 8",)
    assert broken_bounds([Guard(metric="speed", min=1.0)], {"speed": 0.5}) == ("speed = 0.5 is below its bound 1",)


def test_a_metric_without_a_finite_value_breaks_its_bound():
    assert broken_bounds([MEMORY], {"peak_memory_gb": None}) == ("peak_memory_gb has no finite value",)
    assert broken_bounds([Guard(metric="speed", min=1.0)], {}) == ("speed has no finite value",)


def test_a_hidden_guard_is_named_without_its_value():
    assert broken_bounds([HIDDEN], {"secret": 3.125}) == ("secret is above its bound 2",)
    assert worse_guards([HIDDEN], [({"secret": 1.0}, {"secret": 1.5})] * 2) == ("secret got worse",)


def test_a_guard_that_got_worse_beyond_the_noise_is_named():
    pairs = [
        ({"accuracy": 0.90}, {"accuracy": 0.85}),
        ({"accuracy": 0.91}, {"accuracy": 0.86}),
        ({"accuracy": 0.90}, {"accuracy": 0.86}),
    ]
    assert worse_guards([ACCURACY], pairs) == ("accuracy got worse by 0.0467 on average over 3 pairs",)


def test_a_change_within_the_noise_is_not_worse():
    pairs = [({"accuracy": 0.90}, {"accuracy": 0.80}), ({"accuracy": 0.80}, {"accuracy": 0.89})]
    assert worse_guards([ACCURACY], pairs) == ()


def test_a_better_guard_is_never_worse():
    assert worse_guards([ACCURACY], [({"accuracy": 0.8}, {"accuracy": 0.9})] * 3) == ()


def test_a_guard_that_is_no_longer_finite_is_worse():
    assert worse_guards([ACCURACY], [({"accuracy": 0.8}, {"accuracy": None})] * 2) == (
        "accuracy got worse by inf on average over 2 pairs",
    )
