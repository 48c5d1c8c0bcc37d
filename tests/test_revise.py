"""The text of the next revision, where the search space was edited and classes were switched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_autoresearch.classes import read_class
from lightning_autoresearch.knobs import class_choices
from lightning_autoresearch.revise import Reviser, Revision
from lightning_autoresearch.space import Categorical, Domain, Float, Integer, SearchSpace
from lightning_autoresearch.spec import Spec, parse_spec

MODELS = """
class Opt:
    def __init__(self, lr: float = 0.1): ...
class A:
    def __init__(self, width: int = 8, opt=None): ...
class B:
    def __init__(self, width: int = 8): ...
"""
A = "model.init_args."
LR = A + "opt.init_args.lr"
DATA: dict[str, Any] = {
    "version": 1,
    "name": "x",
    "task": {
        "model": {
            "class_path": "nets.A",
            "init_args": {"width": 16, "opt": {"class_path": "nets.Opt", "init_args": {"lr": 0.2}}},
        },
    },
    "objective": {"metric": "loss", "mode": "min"},
    "search_space": {
        A + "width": {"type": "int", "low": 4, "high": 64},
        LR: {"type": "float", "low": 0.01, "high": 1, "scale": "log"},
    },
    "scales": [{"name": "s", "set": {"trainer.max_steps": 3}}],
    "policy": {"allowed_classes": ["nets.B"]},
}


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    (tmp_path / "nets.py").write_text(MODELS)
    return parse_spec(yaml.safe_dump(DATA, sort_keys=False), path=tmp_path / "spec.yaml")


def reviser_of(spec: Spec) -> Reviser:
    folder = spec.path.parent
    texts = {path: read_class(path, search_path=[str(folder)]) for path in class_choices(spec)}
    return Reviser(spec, text=spec.text, config_text=None, folder=folder, class_texts=texts)


def revised(spec: Spec, *, space: dict[str, Domain], config: dict[str, Any]) -> Spec:
    """The first revision, read again as a spec."""
    reviser = reviser_of(spec)
    reviser.space = SearchSpace(domains=space)
    made = Revision(number=1, config=config, hypotheses=(), evidence=(), total=None, step=None)
    return parse_spec(reviser.write(made)["text"], path=spec.path)


@pytest.mark.parametrize(
    "domain",
    [
        Float(low=0.0, high=1.0),
        Float(low=0.1, high=1.0, scale="log"),
        Categorical(choices=(0.1, 0.2)),
        Integer(low=0, high=4),
    ],
)
def test_a_domain_of_another_type_or_scale_takes_nothing_over_from_that_of_revision_0(
    spec: Spec, domain: Domain
) -> None:
    config = {**spec.base, LR: 1} if isinstance(domain, Integer) else spec.base
    new = revised(spec, space={A + "width": spec.search_space[A + "width"], LR: domain}, config=config)
    assert new.search_space[LR] == domain


def test_what_lies_below_an_argument_that_the_class_does_not_take_leaves_the_search_space(spec: Spec) -> None:
    classes = Categorical(choices=("nets.A", "nets.B"))
    space = {**spec.search_space.domains, "model.class_path": classes}
    new = revised(spec, space=space, config={**spec.base, "model.class_path": "nets.B"})
    assert list(new.search_space) == [A + "width", "model.class_path"]
    assert new.task["model"] == {"class_path": "nets.B", "init_args": {"width": 16}}


def test_the_reviser_knows_what_has_no_effect(spec: Spec) -> None:
    assert reviser_of(spec).without_effect({**spec.base, "model.class_path": "nets.B"}) == {LR}
    assert reviser_of(spec).without_effect(spec.base) == set()
