"""What is trained after a switch of a class: exactly what was stated, and nothing that the new class does not take."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_autoresearch.bench import Bench
from lightning_autoresearch.classes import read_class
from lightning_autoresearch.dispatch import Dispatcher
from lightning_autoresearch.journal import Journal
from lightning_autoresearch.knobs import class_choices, knobs_of
from lightning_autoresearch.rewrite import protected_digest
from lightning_autoresearch.spec import Spec, parse_spec
from lightning_autoresearch.study import Study
from lightning_autoresearch.trial import Job, Purpose
from tests.worlds import World

NETS = """\
class Base: ...


class Optimizer:
    def __init__(self, lr: float = 0.1): ...


class First(Base):
    def __init__(self, width: int = 8, lr: float = 0.1, opt: Optimizer | None = None): ...


class Second(Base):
    def __init__(self, lr: float = 0.5): ...
"""

SPEC = """\
version: 1
name: switch
task:
  model:
    class_path: switched_nets.First
    init_args:
      width: 16
      opt: {class_path: switched_nets.Optimizer, init_args: {lr: 0.2}}
objective: {metric: loss, mode: min}
search_space:
  model.init_args.width: {type: int, low: 4, high: 64}
  model.init_args.opt.init_args.lr: {type: float, low: 0.01, high: 1.0, scale: log}
scales: [{name: small, set: {trainer.max_steps: 3}}]
policy: {allowed_classes: [switched_nets.Second]}
"""

CLASS, LR, INNER = "model.class_path", "model.init_args.lr", "model.init_args.opt.init_args.lr"


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    (tmp_path / "switched_nets.py").write_text(NETS)
    return parse_spec(SPEC, path=tmp_path / "spec.yaml")


def job_of(spec: Spec, config: dict[str, object], folder: Path) -> Job:
    """The job of a configuration, with the class and the learning rate as keys that joined the space later."""
    path = (str(folder),)
    knobs = knobs_of(spec, search_path=path)
    texts = {name: read_class(name, search_path=path) for name in class_choices(spec)}
    study = Study(spec, folder=folder / "study")
    with Journal(folder / "journal") as journal:
        dispatcher = Dispatcher(
            journal, executor=World(), folder=folder, slots=1, make_job=lambda trial: pytest.fail("nothing is run here")
        )
        bench = Bench(spec, dispatcher=dispatcher)
        for key in (CLASS, LR):
            bench.add_key(key, knobs[key].value)
        trial = bench.trial({**bench.base, **config}, spec.scales.search, seed=1, purpose=Purpose.SCREEN)
    return study._guarded_job(trial, protected=protected_digest(spec.data), knobs=knobs, texts=texts)


def test_a_value_that_is_the_old_class_s_default_is_said_to_the_new_class(spec, tmp_path):
    job = job_of(spec, {CLASS: "switched_nets.Second", LR: 0.1}, tmp_path)
    assert job.task["model"] == {"class_path": "switched_nets.Second", "init_args": {"lr": 0.1}}
    assert job.requested[LR] == 0.1


def test_without_a_switch_a_default_is_left_to_the_class(spec, tmp_path):
    job = job_of(spec, {LR: 0.1}, tmp_path)
    assert "lr" not in job.task["model"]["init_args"]


def test_nothing_is_requested_of_an_argument_that_went_with_its_parent(spec, tmp_path):
    job = job_of(spec, {CLASS: "switched_nets.Second", INNER: 0.5}, tmp_path)
    assert "opt" not in job.task["model"]["init_args"]
    assert INNER not in job.requested
