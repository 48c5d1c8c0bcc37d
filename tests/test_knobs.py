from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_autoresearch.classes import ClassText, read_class
from lightning_autoresearch.knobs import (
    Knob,
    class_choices,
    fitted,
    guard_task,
    keys_without_effect,
    knobs_of,
    unfitting_keys,
)
from lightning_autoresearch.space import apply_overrides
from lightning_autoresearch.spec import parse_spec
from tests.replies import gpt, gpt_knobs

MODELS = """
from typing import Any, Literal
class Base:
    pass
class Net(Base):
    def __init__(self, width: int = 8, lr: float = 0.1, act: Literal["relu", "gelu"] = "relu", name: str = "net",
                 path: str = "/tmp/x", drop: float | None = None, bias: bool = True, flag: bool | None = None,
                 size: int | str = 4, seed: int = 1, init_seed: int = 2, random_state: int = 3, seeds_up: int = 4,
                 _hidden: float = 1.0, one: Literal["only"] = "only", code: Literal["${x}", "b"] = "b", free=0.5,
                 parts: tuple = (1, 2), needed: float = ..., class_path: Literal["a", "b"] = "a"): ...
class Wide(Net):
    def __init__(self, width: int = 8, lr: float = 0.1, extra: float = 1.0): ...
class Any_(Base):
    def __init__(self, **kwargs: Any): ...
class Stranger:
    def __init__(self, width: int = 8): ...
class Data:
    def __init__(self, mix: float = 0.5, batch: int = 8, seed: int = 0): ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models.py").write_text(MODELS)
    return tmp_path


def knobs(folder: Path, *, space: Any = None, task: Any = None, scale: Any = None, **policy: Any) -> dict[str, Knob]:
    default = {
        "model": {"class_path": "models.Net", "init_args": {"width": 16, "lr": 0.2}},
        "data": {"class_path": "models.Data"},
    }
    data = {
        "version": 1,
        "name": "x",
        "task": {**default, **(task or {})},
        "objective": {"metric": "loss", "mode": "min"},
        "search_space": space if space is not None else {},
        "scales": [{"name": "s", "set": scale or {"trainer.max_steps": 3}}],
        "policy": policy,
    }
    spec = parse_spec(yaml.safe_dump(data, sort_keys=False), path=folder / "spec.yaml")
    return dict(knobs_of(spec, search_path=[str(folder)]))


A = "model.init_args."


def test_arguments_of_the_model_are_knobs_with_their_value_in_revision_0(folder: Path) -> None:
    found = knobs(folder)
    assert list(found) == [A + name for name in ("width", "lr", "act", "drop", "bias", "flag", "size", "free")]
    assert found[A + "width"] == Knob(key=A + "width", value=16, kind="int")
    assert found[A + "lr"] == Knob(key=A + "lr", value=0.2, kind="float")
    assert found[A + "act"] == Knob(key=A + "act", value="relu", kind="choice", options=("relu", "gelu"), in_task=False)
    assert found[A + "drop"] == Knob(key=A + "drop", value=None, kind="float", nullable=True, in_task=False)
    assert found[A + "bias"].options == (False, True)
    assert found[A + "flag"].options == (False, True, None)
    assert (found[A + "size"].kind, found[A + "free"].kind) == ("int", "float")


def test_text_seeds_code_and_interpolations_are_no_knobs_even_where_the_task_has_them(folder: Path) -> None:
    arguments = {
        "name": "a", "path": "/x", "seed": 1, "init_seed": 1, "random_state": 1, "seed_offset": 1, "_hidden": 2.0,
        "code": "b", "one": "only", "size": "big", "act": "tanh", "mine": "${oc.env:HOME}", "_target_": "os.system",
        "class_path": "a", "dict_kwargs": {"a": 1}, "deep": {"a": {"b": 1}}, "a.b": 3, "list": [1, 2], "when": None,
    }  # fmt: skip
    task = {"model": {"class_path": "models.Net", "init_args": arguments}}
    assert [key.removeprefix(A) for key in knobs(folder, task=task)] == ["width", "lr", "drop", "bias", "flag", "free"]


def test_what_a_scale_sets_is_no_knob_nor_what_lies_above_or_below_it(folder: Path) -> None:
    found = knobs(folder, scale={"trainer.max_steps": 3, A + "width": 4, A + "cfg.deep": 1})
    assert A + "width" not in found
    task = {"model": {"class_path": "models.Net", "init_args": {"cfg": {"deep": {"x": 1}}, "lr": 0.1}}}
    patterns = [A + "*", A + "*.*", A + "*.*.*"]
    assert A + "cfg.deep.x" in knobs(folder, task=task, editable=patterns)
    assert A + "cfg.deep.x" not in knobs(
        folder, task=task, editable=patterns, scale={"trainer.max_steps": 1, A + "cfg.deep.x": 2}
    )
    assert A + "lr" not in knobs(folder, scale={"trainer.max_steps": 3, A + "lr": 4})


def test_the_search_space_comes_first_and_its_choices_are_the_only_options(folder: Path) -> None:
    space = {
        "data.init_args.batch": {"type": "int", "low": 1, "high": 64},
        A + "act": {"type": "categorical", "choices": ["relu", "gelu", None]},
        A + "name": {"type": "categorical", "choices": ["net", "other"]},
    }
    task = {
        "model": {"class_path": "models.Net", "init_args": {"act": "relu", "name": "net"}},
        "data": {"class_path": "models.Data", "init_args": {"batch": 8}},
    }
    found = knobs(folder, space=space, task=task)
    assert list(found)[:3] == list(space)
    assert found["data.init_args.batch"].kind == "int"
    assert found[A + "act"].options == ("relu", "gelu", None)
    assert found[A + "name"].options == ("net", "other")
    assert "data.init_args.mix" not in found


def test_seeds_and_what_the_study_owns_are_no_knobs_even_in_the_search_space(folder: Path) -> None:
    task = {"data": {"class_path": "models.Data", "init_args": {"seed": 0}}}
    found = knobs(folder, space={"data.init_args.seed": {"type": "int", "low": 0, "high": 9}}, task=task)
    assert "data.init_args.seed" not in found


def test_data_and_trainer_are_closed_until_they_are_named(folder: Path) -> None:
    task = {"trainer": {"gradient_clip_val": 1.0, "limit_val_batches": 3}}
    assert not [key for key in knobs(folder, task=task, editable=["*.*", "*.*.*", "trainer.*"]) if key[0] in "dt"]
    named = knobs(folder, task=task, editable=["data.init_args.m*", "trainer.gradient_clip_val"])
    assert list(named) == ["trainer.gradient_clip_val", "data.init_args.mix"]


def test_a_star_stands_for_one_part_and_nothing_else_is_a_pattern(folder: Path) -> None:
    assert list(knobs(folder, editable=[A + "wid*"])) == [A + "width"]
    assert not knobs(folder, editable=["model.*", A + "wid", A + "w?dth", A + "[wl]*", A + "(width|lr)", "*"])


@pytest.mark.parametrize("arguments", [None, {}])
def test_a_class_without_arguments_in_the_task_has_those_of_its_signature(folder: Path, arguments: Any) -> None:
    task = {"model": {"class_path": "models.Net", "init_args": arguments}}
    found = knobs(folder, task=task)
    assert found[A + "width"] == Knob(key=A + "width", value=8, kind="int", in_task=False)


def test_a_class_that_cannot_be_read_has_the_numbers_of_the_task(folder: Path) -> None:
    arguments = {"a": 1, "b": 0.5, "c": True, "d": "text", "e": None}
    found = knobs(folder, task={"model": {"class_path": "gone.Net", "init_args": arguments}})
    assert {key.removeprefix(A): knob.kind for key, knob in found.items()} == {"a": "int", "b": "float", "c": "choice"}


def test_a_class_path_is_a_choice_among_allowed_classes_of_its_family(folder: Path) -> None:
    allowed = ["models.Wide", "models.Stranger", "gone.Unread", "models.Net"]
    assert "model.class_path" not in knobs(folder)
    found = knobs(folder, allowed_classes=allowed)
    assert found["model.class_path"].options == ("models.Net", "models.Wide", "gone.Unread")
    assert "data.class_path" not in found
    assert A + "extra" not in found, "only the allowed class has it"
    assert "model.class_path" not in knobs(folder, allowed_classes=["models.Net"])
    assert "model.class_path" not in knobs(folder, allowed_classes=allowed, editable=[A + "lr"])
    assert "model.class_path" in knobs(folder, allowed_classes=allowed, editable=["model.class_path"])


def test_a_class_that_does_not_take_what_a_scale_sets_is_not_offered(folder: Path) -> None:
    assert "model.class_path" in knobs(
        folder, allowed_classes=["models.Wide"], scale={"trainer.max_steps": 3, A + "width": 4}
    )
    assert "model.class_path" not in knobs(
        folder, allowed_classes=["models.Wide"], scale={"trainer.max_steps": 3, A + "bias": False}
    )
    assert "model.class_path" in knobs(
        folder, allowed_classes=["models.Any_"], scale={"trainer.max_steps": 3, A + "bias": False}
    )


def test_a_class_path_in_the_search_space_needs_the_allowance_too(folder: Path) -> None:
    space = {"model.class_path": {"type": "categorical", "choices": ["models.Net", "models.Wide", "os.system"]}}
    assert "model.class_path" not in knobs(folder, space=space)
    found = knobs(folder, space=space, allowed_classes=["models.Wide"])
    assert found["model.class_path"].options == ("models.Net", "models.Wide")
    space = {A + "_target_": {"type": "categorical", "choices": ["a.B", "os.system"]}}
    task = {"model": {"class_path": "models.Net", "init_args": {"_target_": "a.B"}}}
    assert A + "_target_" not in knobs(folder, space=space, task=task, allowed_classes=["os.system"])


def test_the_recipes_knobs() -> None:
    found = gpt_knobs()
    assert len(found) == 23
    assert found["model.init_args.bias"].value is False
    assert found["model.init_args.lr"].about.startswith("Peak learning rate of AdamW")
    assert not [key for key in found if not key.startswith("model.init_args.")]


@pytest.mark.parametrize(
    ("knob", "good", "bad"),
    [
        (Knob(key="a", value=1, kind="int"), [1, -3, 2.0], [True, "1", None, 1.5, 2**60, 1e300]),
        (
            Knob(key="a", value=1.0, kind="float", nullable=True),
            [1, 0.5, None, 0.0, 1e-30],
            [False, "0.5", 1e-31, 1e31, 5e-324],
        ),
        (Knob(key="a", value=True, kind="choice", options=(True, 1.0)), [True, 1.0, 1], [False, None, "True", 2]),
    ],
)
def test_a_knob_tells_what_it_can_hold(knob: Knob, good: list[Any], bad: list[Any]) -> None:
    assert not [value for value in good if knob.fault(value)]
    assert [value for value in bad if knob.fault(value)] == bad


TASK = {
    "model": {"class_path": "models.Net", "init_args": {"width": 8, "lr": 0.1, "opt": {"class_path": "models.Data"}}},
    "trainer": None,
    "data": {"x": "${paths.data}"},
}


def test_a_task_that_differs_in_allowed_keys_passes_the_guard() -> None:
    task = apply_overrides(TASK, {A + "lr": 0.4, "trainer.clip": 1.0, A + "opt.init_args.beta": 0.5})
    allowed = [A + "lr", "trainer.clip", A + "opt.init_args.beta"]
    assert guard_task(TASK, task, allowed_keys=allowed) == ()
    assert guard_task(TASK, TASK, allowed_keys=[]) == ()


def test_every_other_difference_of_a_task_is_named() -> None:
    task = apply_overrides(
        TASK, {A + "lr": 0.4, A + "width": 9, "trainer.max_steps": 5, "model.class_path": "os.system"}
    )
    problems = guard_task(TASK, task, allowed_keys=[A + "lr", "model.class_path"])
    assert len(problems) == 3
    assert problems[0] == "/task/model/init_args/width: 8 -> 9: this key is not editable"
    assert problems[1].startswith("/task/trainer")
    assert problems[2] == "class_path: 'os.system' is neither in the spec nor allowed by it"
    assert (
        guard_task(
            TASK,
            task,
            allowed_keys=[A + "lr", A + "width", "trainer", "model.class_path"],
            allowed_classes=["os.system"],
        )
        == ()
    )


@pytest.mark.parametrize("value", ["${oc.env:HOME}", {"_target_": "os.system"}, [{"class_path": "os.system"}]])
def test_an_allowed_key_may_not_smuggle_in_code(value: Any) -> None:
    assert guard_task(TASK, apply_overrides(TASK, {A + "lr": value}), allowed_keys=[A + "lr"])


def test_values_of_a_scale_are_guarded_where_they_are_part_of_the_base() -> None:
    scale = gpt().scales["nano"].set
    base = apply_overrides(gpt().task, scale)
    longer = apply_overrides(base, {"trainer.max_steps": 10_000})
    assert guard_task(base, apply_overrides(base, {A + "lr": 0.1}), allowed_keys=gpt_knobs()) == ()
    assert len(guard_task(base, longer, allowed_keys=gpt_knobs())) == 1


def texts(folder: Path) -> dict[str, ClassText | None]:
    names = ["models.Net", "models.Wide", "models.Any_", "models.Data", "gone.Net"]
    return {name: read_class(name, search_path=[str(folder)]) for name in names}


@pytest.mark.parametrize(
    ("class_path", "left"),
    [
        ("models.Wide", ["width", "lr"]),
        ("models.Data", []),
        ("models.Any_", ["width", "lr", "opt"]),
        ("gone.Net", ["width", "lr", "opt"]),
        ("models.Net", ["width", "lr", "opt"]),
    ],
)
def test_after_a_switch_arguments_that_the_class_does_not_take_are_left_out(
    folder: Path, class_path: str, left: list[str]
) -> None:
    task = apply_overrides(TASK, {"model.class_path": class_path})
    new = fitted(task, base_task=TASK, class_texts=texts(folder))
    assert list(new["model"]["init_args"]) == left
    assert list(task["model"]["init_args"]) == ["width", "lr", "opt"]
    gone = unfitting_keys(task, base_task=TASK, class_texts=texts(folder))
    assert gone == tuple(A + name for name in ("width", "lr", "opt") if name not in left)


def test_a_switch_inside_of_what_is_left_out_does_no_harm(folder: Path) -> None:
    task = apply_overrides(
        TASK, {"model.class_path": "models.Wide", A + "opt.class_path": "models.Wide", A + "opt.init_args.z": 1}
    )
    assert unfitting_keys(task, base_task=TASK, class_texts=texts(folder)) == (A + "opt",)
    inner = apply_overrides(TASK, {A + "opt.class_path": "models.Wide", A + "opt.init_args.z": 1})
    assert fitted(inner, base_task=TASK, class_texts=texts(folder))["model"]["init_args"]["opt"]["init_args"] == {}


@pytest.mark.parametrize(
    "name",
    [
        "seed",
        "randomseed",
        "manualSeed",
        "rng",
        "np_rng",
        "split_seed_offset",
        "np_random_state",
        "rand_seed_val",
        "randomState",
    ],
)
def test_a_seed_is_no_knob_by_whatever_name(folder: Path, name: str) -> None:
    task = {"model": {"class_path": "models.Net", "init_args": {name: 3, "energy": 0.5, "warning": 1}}}
    found = knobs(folder, task=task)
    assert A + name not in found
    assert A + "energy" in found
    assert A + "warning" in found


def test_arguments_that_a_class_does_not_take_have_no_effect_nor_has_what_lies_below_them(folder: Path) -> None:
    config = {"model.class_path": "models.Wide", A + "width": 9, A + "opt.init_args.beta": 0.5, "trainer.clip": 1.0}
    idle = keys_without_effect(config, base_task=TASK, class_texts=texts(folder))
    assert idle == {A + "opt.init_args.beta"}
    for value in (0.1, 0.2):
        changed = apply_overrides(TASK, {**config, A + "opt.init_args.beta": value})
        assert fitted(changed, base_task=TASK, class_texts=texts(folder)) == fitted(
            apply_overrides(TASK, config), base_task=TASK, class_texts=texts(folder)
        )
    back = {**config, "model.class_path": "models.Net"}
    assert keys_without_effect(back, base_task=TASK, class_texts=texts(folder)) == set()


def test_what_the_user_lists_in_her_search_space_may_be_run_whatever_it_becomes(folder: Path) -> None:
    net = {"class_path": "models.Net", "init_args": {"name": "net", "act": "relu", "sub": {"_target_": "a.B"}}}
    space = {
        A + "name": {"type": "categorical", "choices": ["net", "a${b}c"]},
        A + "act": {"type": "categorical", "choices": ["relu", "gelu"]},
        A + "sub._target_": {"type": "categorical", "choices": ["a.B", "a.C"]},
        "model.class_path": {"type": "categorical", "choices": ["models.Net", "models.Wide"]},
    }
    data = {
        "version": 1, "name": "x", "task": {"model": net}, "objective": {"metric": "loss", "mode": "min"},
        "search_space": space, "scales": [{"name": "s", "set": {"trainer.max_steps": 3}}],
    }  # fmt: skip
    spec = parse_spec(yaml.safe_dump(data), path=folder / "spec.yaml")
    assert set(class_choices(spec)) == {"a${b}c", "a.B", "a.C", "models.Net", "models.Wide"}
    chosen = {A + "name": "a${b}c", A + "sub._target_": "a.C", "model.class_path": "models.Wide"}
    task = apply_overrides(spec.task, chosen)
    assert guard_task(spec.task, task, allowed_keys=space, allowed_classes=class_choices(spec)) == ()
    other = apply_overrides(spec.task, {A + "name": "${oc.env:HOME}"})
    assert guard_task(spec.task, other, allowed_keys=space, allowed_classes=class_choices(spec))
