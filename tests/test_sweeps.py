"""W&B sweeps as search spaces."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_autoresearch.space import domain_of, unsound
from lightning_autoresearch.sweeps import objective_of_sweep, parameters_of


def swept(**settings: Any) -> tuple[Any, str]:
    (one,) = parameters_of({"parameters": {"x": settings}})
    return one.domain, one.note


def log(low: float, high: float) -> dict[str, Any]:
    return {"type": "float", "low": pytest.approx(low, rel=1e-5), "high": pytest.approx(high, rel=1e-5), "scale": "log"}


@pytest.mark.parametrize(
    ("settings", "domain"),
    [
        ({"values": ["a", "b"]}, {"type": "categorical", "choices": ["a", "b"]}),
        (
            {"distribution": "categorical_w_probabilities", "values": [1, 2], "probabilities": [0.9, 0.1]},
            {"type": "categorical", "choices": [1, 2]},
        ),
        ({"min": 1, "max": 8}, {"type": "int", "low": 1, "high": 8}),
        ({"distribution": "int_uniform", "min": 1, "max": 8}, {"type": "int", "low": 1, "high": 8}),
        ({"min": 0.0, "max": 0.5}, {"type": "float", "low": 0.0, "high": 0.5}),
        ({"distribution": "uniform", "min": 0, "max": 1}, {"type": "float", "low": 0.0, "high": 1.0}),
        ({"distribution": "q_uniform", "min": 0, "max": 64, "q": 8}, {"type": "int", "low": 0, "high": 64}),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.1}, {"type": "float", "low": 0.0, "high": 1.0}),
        ({"distribution": "log_uniform", "min": -9, "max": -2}, log(math.exp(-9), math.exp(-2))),
        ({"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1}, log(1e-5, 0.1)),
        (
            {"distribution": "q_log_uniform_values", "min": 8, "max": 256, "q": 8},
            {"type": "int", "low": 8, "high": 256, "scale": "log"},
        ),
        ({"distribution": "q_log_uniform", "min": 0, "max": 3}, {"type": "int", "low": 1, "high": 20, "scale": "log"}),
        ({"distribution": "inv_log_uniform", "min": 2, "max": 9}, log(math.exp(-9), math.exp(-2))),
        ({"distribution": "inv_log_uniform_values", "min": 0.01, "max": 1.0}, log(0.01, 1.0)),
        ({"distribution": "normal", "mu": 1.0, "sigma": 0.5}, {"type": "float", "low": 0.0, "high": 2.0}),
        ({"distribution": "q_normal", "mu": 10, "sigma": 2}, {"type": "int", "low": 6, "high": 14}),
        ({"distribution": "log_normal", "mu": 0, "sigma": 1}, log(math.exp(-2), math.exp(2))),
        ({"distribution": "q_log_normal", "mu": 3, "sigma": 1}, {"type": "int", "low": 3, "high": 148, "scale": "log"}),
        ({"distribution": "beta", "a": 2, "b": 5}, {"type": "float", "low": 0.0, "high": 1.0}),
        ({"distribution": "q_beta", "a": 2, "b": 5, "q": 0.05}, {"type": "float", "low": 0.0, "high": 1.0}),
    ],
)
def test_every_distribution_becomes_a_sound_domain(settings: dict[str, Any], domain: dict[str, Any]) -> None:
    made, _ = swept(**settings)
    assert made == domain
    assert not unsound(domain_of(made))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"value": 3}, "constant; set 3 in the config"),
        ({"values": ["only"]}, "fewer than two single values"),
        ({"distribution": "uniform", "min": 2, "max": 1}, "do not make a domain"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "do not make a domain"),
        ({"distribution": "log_uniform", "min": 0, "max": 1e6}, "do not make a domain"),
        ({"distribution": "someday", "min": 0, "max": 1}, "someday: its settings do not make a domain"),
        ({"distribution": "uniform"}, "do not make a domain"),
        ({}, "do not make a domain"),
    ],
)
def test_what_makes_no_domain_says_why(settings: dict[str, Any], words: str) -> None:
    domain, note = swept(**settings)
    assert domain is None
    assert words in note


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"distribution": "q_uniform", "min": 0, "max": 64, "q": 8}, "steps of 8 are not kept"),
        ({"values": [1, 2], "probabilities": [0.9, 0.1]}, "the probabilities are not kept"),
        ({"values": [1, 2, [3]]}, "1 nested values are left out"),
        ({"distribution": "normal", "mu": 0, "sigma": 1}, "bounds at 2 standard deviations"),
    ],
)
def test_what_is_lost_is_said(settings: dict[str, Any], words: str) -> None:
    assert words in swept(**settings)[1]


def test_nested_parameters_have_dotted_names() -> None:
    sweep = {"parameters": {"optimizer": {"parameters": {"lr": {"min": 0.0, "max": 1.0}, "name": {"value": "sgd"}}}}}
    assert [one.name for one in parameters_of(sweep)] == ["optimizer.lr", "optimizer.name"]


def test_a_sweep_names_its_objective() -> None:
    assert objective_of_sweep({"metric": {"name": "val/acc", "goal": "maximize"}}) == ("val/acc", "max")
    assert objective_of_sweep({"metric": {"name": "loss"}}) == ("loss", "min")
    assert objective_of_sweep({}) is None


@pytest.mark.parametrize("sweep", [{}, {"parameters": None}, {"parameters": [1]}, {"parameters": {"x": 3}}])
def test_a_sweep_without_parameters_gives_none_that_is_searched(sweep: dict[str, Any]) -> None:
    assert all(one.domain is None for one in parameters_of(sweep))
