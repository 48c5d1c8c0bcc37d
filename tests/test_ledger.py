"""What a briefing says, made ready for the offline scientist."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_autoresearch.ledger import Ledger, corrected_means
from lightning_autoresearch.space import SearchSpace
from lightning_autoresearch.trial import TrialStatus
from tests.simulation import LR, finding, measured, told


def test_infrastructure_failures_say_nothing():
    lost = replace(finding("lr", 0.003, 0.01, None), status=TrialStatus.LOST)
    ledger = Ledger(
        told([lost], measurements=(replace(measured({"lr": 0.01}, None), status=TrialStatus.VOID),)),
        SearchSpace(domains=LR),
    )
    assert ledger.steps == ()
    assert ledger.configs == []
    assert ledger.cliffs == {}


def test_a_cliff_falls_when_something_finishes_beyond_it():
    tests = [finding("x", 0.5, 0.7, None)]
    space = SearchSpace(domains=LR)
    assert Ledger(told(tests), space).cliffs == {("x", 1): 0.7}
    assert Ledger(told(tests, measurements=(measured({"x": 0.8}, 1.0),)), space).cliffs == {}


def test_the_luck_of_seeds_is_taken_out_of_the_means():
    truth, luck = {"a": 1.0, "b": 0.5, "c": 0.8}, {0: 0.3, 1: -0.3, 2: 0.0}
    ran = {"a": (0, 1, 2), "b": (0, 1, 2), "c": (0,)}
    runs = {name: [(pair, truth[name] + luck[pair]) for pair in pairs] for name, pairs in ran.items()}
    means = corrected_means(runs)
    assert means["c"] == pytest.approx(0.8, abs=0.15), "without correction 1.1"
    assert means["b"] < means["c"] < means["a"]
