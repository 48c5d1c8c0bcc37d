"""What every `Proposer` must do, whoever it is.  To check another one, add it to `PROPOSERS`."""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_autoresearch.asking import Line
from lightning_autoresearch.chat import ScriptedChat
from lightning_autoresearch.hypothesis import Briefing, Finding, Hypothesis, Measurement, Prediction, Proposal, Proposer
from lightning_autoresearch.journal import Journal
from lightning_autoresearch.knobs import knobs_of
from lightning_autoresearch.sampler import Sampler
from lightning_autoresearch.scientist import Scientist, make_dossier
from lightning_autoresearch.space import Categorical, Domain, Float, Integer, SearchSpace, Value, apply_overrides
from lightning_autoresearch.spec import ScientistSettings, parse_spec
from lightning_autoresearch.team import Team
from lightning_autoresearch.trial import TrialStatus, canonical
from tests.scientists import idea, op, reply


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_autoresearch.asking.BACKOFF_SECONDS", 0.001)


PROPOSERS: dict[str, Callable[[], Proposer]] = {
    "sampler": Sampler,
    "team whose model answers": lambda: Table(answers=True),
    "team whose model is silent": lambda: Table(answers=False),
}


class Table:
    """A team at work on any briefing; its model says, as a reply of the contract, what the sampler would propose."""

    def __init__(self, *, answers: bool):
        self._answers = answers

    def propose(self, asked: Briefing) -> Proposal:
        spec = parse_spec(json.dumps(spec_data(asked)), path="spec.yaml")
        knobs = knobs_of(spec, search_path=())
        said = Sampler(reshapes=False).propose(asked).hypotheses if self._answers else ()
        chat = ScriptedChat([reply_of(asked, said)])
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
            line = Line(chat, journal=journal, settings=ScientistSettings(), budget=spec.budget, price=None)
            dossier = make_dossier(spec, knobs=knobs, search_path=())
            proposal = Team(Scientist(line, dossier=dossier), share=0.5, knobs=knobs).propose(asked)
        if said and asked.wanted > 1:
            assert "scripted" in {one.source for one in proposal.hypotheses}, proposal.notes
        return proposal


def spec_data(asked: Briefing) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "any",
        "task": apply_overrides({"model": {"class_path": "any.Model"}}, asked.base),
        "objective": {"metric": asked.metric, "mode": asked.mode},
        "search_space": {key: domain_data(domain) for key, domain in asked.space.domains.items()},
        "scales": [{"name": "only", "set": {"trainer.max_steps": 1}}],
        "scientist": {"model": "scripted", "base_url": "http://127.0.0.1:9"},
    }


def domain_data(domain: Domain) -> dict[str, Any]:
    if isinstance(domain, Categorical):
        return {"type": "categorical", "choices": list(domain.choices)}
    kind = "int" if isinstance(domain, Integer) else "float"
    return {"type": kind, "low": domain.low, "high": domain.high, "scale": domain.scale}


def reply_of(asked: Briefing, hypotheses: Sequence[Hypothesis]) -> str:
    sign = -1 if asked.mode == "min" else 1
    return reply(
        *(
            idea(
                *(
                    op("set", "/task/" + key.replace(".", "/"), old=asked.branch[key], value=value)
                    for key, value in one.overrides.items()
                ),
                metric=asked.metric,
                delta=sign * one.prediction.gain,
                probability=one.prediction.probability,
                statement=one.statement,
            )
            for one in hypotheses
        )
    )


MIXED = {
    "optimizer.lr": Float(low=1e-5, high=0.1, scale="log"),
    "model.width": Integer(low=16, high=512, scale="log"),
    "model.dropout": Float(low=0.0, high=0.5),
    "model.act": Categorical(choices=("relu", "gelu", None)),
    "model.bias": Categorical(choices=(True, False)),
    "data.batch_size": Categorical(choices=(16, 32, 64, 128)),
    "warmup": Integer(low=0, high=100),
}
MIXED_BRANCH = {
    "optimizer.lr": 0.003,
    "model.width": 64,
    "model.dropout": 0.1,
    "model.act": "relu",
    "model.bias": True,
    "data.batch_size": 32,
    "warmup": 0,
}
CHOICES = {
    "a": Categorical(choices=("x", "y")),
    "b": Categorical(choices=(1, 2, 4)),
    "c": Categorical(choices=(None, "z")),
}


def briefing(domains: Mapping, branch: Mapping[str, Value], **changes) -> Briefing:
    blank = Briefing(
        goal="Lower the loss.",
        metric="loss",
        mode="min",
        round=1,
        wanted=4,
        space=SearchSpace(domains=domains),
        base=branch,
        incumbent=branch,
        branch=branch,
        measurements=(),
        findings=(),
        gain_sd=0.02,
        max_changes=3,
        max_factor=4.0,
        trials_left=100,
        seed=7,
        tried=frozenset({canonical(branch)}),
    )
    return replace(blank, **changes)


def with_history(start: Briefing, *, tests: int, failing: float = 0.15, seed: int = 0) -> Briefing:
    """The briefing after tests of random configurations with random results."""
    rng = random.Random(seed)
    measurements, findings, tried = [], [], set(start.tried)
    for number in range(tests):
        keys = rng.sample(list(start.space), rng.randint(1, min(2, len(start.space))))
        overrides = {key: _any_value(start.space[key], rng) for key in keys}
        config = {**start.branch, **overrides}
        failed = rng.random() < failing
        status = TrialStatus.OUT_OF_MEMORY if failed else TrialStatus.FINISHED
        gain = None if failed else rng.gauss(0, 0.03)
        for pair in (2 * (number // 8), 2 * (number // 8) + 1):
            loss = None if gain is None else 1.0 - gain + rng.gauss(0, 0.01)
            measurements.append(Measurement(config=config, pair=pair, status=status, objective=loss))
        tested = Hypothesis(
            id=f"h{number}",
            statement="",
            mechanism="",
            source="sampler",
            overrides=overrides,
            prediction=Prediction(gain=0.0, probability=0.5),
        )
        kept = gain is not None and gain > 0.03
        before = {key: start.branch[key] for key in keys}
        findings.append(
            Finding(hypothesis=tested, before=before, gain=gain, kept=kept, status=status, round=1 + number // 20)
        )
        tried.add(canonical(config))
    history = {"measurements": tuple(measurements), "findings": tuple(findings), "tried": frozenset(tried)}
    return replace(start, round=1 + tests // 20, **history)


def _any_value(domain, rng: random.Random) -> Value:
    return rng.choice(domain.choices) if isinstance(domain, Categorical) else domain.from_unit(rng.random())


BRIEFINGS: dict[str, Briefing] = {
    "the first round": briefing(MIXED, MIXED_BRANCH),
    "one at a time": briefing(MIXED, MIXED_BRANCH, wanted=1),
    "more than there are keys": briefing(MIXED, MIXED_BRANCH, wanted=20),
    "single changes by small factors": briefing(MIXED, MIXED_BRANCH, max_changes=1, max_factor=1.3),
    "a history": with_history(briefing(MIXED, MIXED_BRANCH), tests=30),
    "a history to be maximized": with_history(briefing(MIXED, MIXED_BRANCH, mode="max"), tests=60, seed=1),
    "every trial failed": with_history(briefing(MIXED, MIXED_BRANCH), tests=20, failing=1.0),
    "one knob": briefing({"lr": Float(low=1e-4, high=1e-1, scale="log")}, {"lr": 1e-3}),
    "one knob with a history": with_history(
        briefing({"lr": Float(low=1e-4, high=1e-1, scale="log")}, {"lr": 1e-3}), tests=25
    ),
    "choices only": briefing(CHOICES, {"a": "x", "b": 1, "c": None}),
    "choices only, half tried": with_history(briefing(CHOICES, {"a": "x", "b": 1, "c": None}), tests=5, failing=0.0),
    "huge integers": with_history(
        briefing(
            {"n": Integer(low=1, high=10**12, scale="log"), "m": Integer(low=-(10**9), high=10**9)}, {"n": 1000, "m": 0}
        ),
        tests=20,
    ),
    "a range that is hardly one": briefing(
        {"x": Float(low=0.12345, high=0.12347), "n": Integer(low=3, high=4)}, {"x": 0.12346, "n": 3}
    ),
    "on the bounds": with_history(briefing({"lr": Float(low=1e-4, high=0.1, scale="log")}, {"lr": 0.1}), tests=12),
    "a key that left the space": with_history(
        briefing({"lr": Float(low=1e-4, high=0.1)}, {"lr": 0.05, "gone": "x"}), tests=12
    ),
    "a number that is not set yet": briefing({"clip": Float(low=0.1, high=10.0, scale="log")}, {"clip": None}),
    "noise that is zero": with_history(briefing(MIXED, MIXED_BRANCH, gain_sd=0.0), tests=30),
}


TEAMS_GET = ("the first round", "a history to be maximized", "choices only, half tried")
"""Briefings of a team, which is slower: its spec, prompt and reply are real."""

CASES = [(who, what) for who in PROPOSERS for what in BRIEFINGS if who == "sampler" or what in TEAMS_GET]


@pytest.fixture(params=CASES, ids=": ".join)
def case(request) -> tuple[str, str]:
    return request.param


@pytest.fixture
def make(case) -> Callable[[], Proposer]:
    return PROPOSERS[case[0]]


@pytest.fixture
def proposer(make) -> Proposer:
    return make()


@pytest.fixture
def asked(case) -> Briefing:
    return BRIEFINGS[case[1]]


def space_after(asked: Briefing, proposal: Proposal) -> SearchSpace:
    domains = dict(asked.space.domains)
    for edit in proposal.space_edits:
        if edit.op == "freeze":
            del domains[edit.key]
        else:
            domains[edit.key] = edit.domain
    return SearchSpace(domains=domains)


def test_the_same_briefing_gives_the_same_proposal(make, asked):
    once = make().propose(asked)
    random.seed(99)
    again = make().propose(asked)
    assert replace(once, seconds=0.0) == replace(again, seconds=0.0)


def test_the_state_of_other_random_numbers_is_left_alone(proposer, asked):
    random.seed(5)
    before = random.getstate()
    proposer.propose(asked)
    assert random.getstate() == before


def test_no_more_hypotheses_come_than_were_wanted(proposer, asked):
    assert len(proposer.propose(asked).hypotheses) <= asked.wanted


def test_something_comes_while_something_is_left(proposer, asked):
    assert proposer.propose(asked).hypotheses


def test_values_lie_in_the_space(proposer, asked):
    proposal = proposer.propose(asked)
    space = space_after(asked, proposal)
    assert [fault for one in proposal.hypotheses for fault in space.faults(one.overrides)] == []


def test_every_override_changes_something_and_there_are_no_more_than_allowed(proposer, asked):
    for one in proposer.propose(asked).hypotheses:
        assert 1 <= len(one.overrides) <= asked.max_changes
        for key, value in one.overrides.items():
            assert repr(value) != repr(asked.branch[key])


def test_positive_numbers_change_by_no_more_than_the_largest_factor(proposer, asked):
    for one in proposer.propose(asked).hypotheses:
        for key, new in one.overrides.items():
            old = asked.branch[key]
            step_of_one = isinstance(asked.space[key], Integer) and abs(new - old) <= 1
            if _is_positive(old) and _is_positive(new) and not step_of_one:
                assert abs(math.log(new / old)) <= math.log(asked.max_factor) + 1e-9, (key, old, new)


def test_no_configuration_is_proposed_twice(proposer, asked):
    names = [canonical({**asked.branch, **one.overrides}) for one in proposer.propose(asked).hypotheses]
    assert len(set(names)) == len(names)
    assert not asked.tried.intersection(names)


def test_statements_name_what_changes_from_what_to_what(proposer, asked):
    for one in proposer.propose(asked).hypotheses:
        assert one.mechanism
        for key, value in one.overrides.items():
            assert key in one.statement
            assert _spellings(asked.branch[key]) & set(_words(one.statement)), (one.statement, asked.branch[key])
            assert _spellings(value) & set(_words(one.statement)), (one.statement, value)


def test_predictions_are_finite_and_probabilities_lie_between_zero_and_one(proposer, asked):
    for one in proposer.propose(asked).hypotheses:
        assert math.isfinite(one.prediction.gain)
        assert 0.0 <= one.prediction.probability <= 1.0


def test_space_edits_are_well_formed(proposer, asked):
    edits = proposer.propose(asked).space_edits
    assert len({edit.key for edit in edits}) == len(edits)
    for edit in edits:
        assert edit.why
        assert (edit.domain is None) == (edit.op == "freeze")
        assert (edit.key in asked.space) == (edit.op != "add")


def test_the_space_stays_a_space_and_holds_the_incumbent_and_the_branch(proposer, asked):
    proposal = proposer.propose(asked)
    space = space_after(asked, proposal)
    assert len(space) >= 1
    for edit in proposal.space_edits:
        if edit.domain is not None:
            assert edit.domain.contains(asked.branch[edit.key])
            assert edit.domain.contains(asked.incumbent[edit.key])


@pytest.mark.parametrize("who", PROPOSERS)
def test_an_exhausted_space_gives_no_hypothesis(who):
    proposer = PROPOSERS[who]()
    start = briefing(CHOICES, {"a": "x", "b": 1, "c": None}, wanted=5)
    tried = set(start.tried)
    for _ in range(12):
        proposal = proposer.propose(replace(start, tried=frozenset(tried)))
        tried |= {canonical({**start.branch, **one.overrides}) for one in proposal.hypotheses}
    assert not proposer.propose(replace(start, tried=frozenset(tried))).hypotheses
    assert len(tried) == 2 * 3 * 2


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _spellings(value: Value) -> set[str]:
    number = {f"{value:g}"} if isinstance(value, (int, float)) else set()
    return {str(value), repr(value), json.dumps(value)} | number


def _words(text: str) -> list[str]:
    return [word.rstrip(":;,.") for word in text.split()]
