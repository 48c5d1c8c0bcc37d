from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator

from lightning_autoresearch import scales, space, spec, trial
from lightning_autoresearch.checks import _WORDINGS
from lightning_autoresearch.document import parse
from lightning_autoresearch.errors import InputError, SpecError
from lightning_autoresearch.space import Categorical, Float, Integer
from lightning_autoresearch.spec import load_spec, parse_spec, schema_text

BASE = """\
version: 1
name: tiny
task:
  model: {class_path: m.Net, init_args: {lr: 0.01, depth: 2, act: relu}}
  trainer: {callbacks: [{class_path: c.Stop, init_args: {patience: 3}}]}
objective: {metric: val_loss, mode: min}
guards:
  - {metric: heldout, mode: min, hidden: true}
  - {metric: peak_memory_gb, max: 8}
search_space:
  model.init_args.lr: {type: float, low: 0.001, high: 0.1, scale: log}
  model.init_args.depth: {type: int, low: 1, high: 6}
  model.init_args.act: {type: categorical, choices: [relu, gelu]}
scales:
  - {name: nano, set: {trainer.max_steps: 10}}
  - {name: target, set: {trainer.max_steps: 100}}
decision: {rule: gate, adopt_at: target}
budget: {trials: 20}
"""

BAD = [
    ("decision: {rule: gate, adopt_at: target}", "decision: []", ["17:1: /decision: a list is not a map; write a map"]),
    ("guards:\n  - {", "guards:\n  - 3\n  - {", ["8:5: /guards/0: 3 is not a map; write a map"]),
    ("version: 1", "version: 2", ["1:1: /version: 2 is not 1; write 1"]),
    ("version: 1\n", "", ["1:1: /: the key 'version' is missing; add `version:` (version of this format)"]),
    (
        "name: tiny",
        "name: a/b",
        [
            "2:1: /name: 'a/b' cannot be the name of a folder; write letters, digits, dots, dashes and "
            "underscores, the first a letter or digit"
        ],
    ),
    (
        "name: tiny",
        "name: 5",
        ["2:1: /name: 5 is not text; write letters, digits, dots, dashes and underscores, the first a letter or digit"],
    ),
    (
        "name: tiny",
        "name: ..\ngaol: x",
        [
            "2:1: /name: '..' cannot be the name of a folder; write letters, digits, dots, dashes and "
            "underscores, the first a letter or digit",
            "3:1: /gaol: unknown key 'gaol'; did you mean 'goal'?",
        ],
    ),
    (
        "name: tiny",
        "name: tiny\nzzz: 1",
        [
            "3:1: /zzz: unknown key 'zzz'; allowed here: version, name, goal, task, objective, guards, "
            "search_space, scales, decision, scientist, policy, budget, execution, tracking"
        ],
    ),
    (
        "metric: val_loss, mode: min",
        "metric: val_loss",
        [
            "6:1: /objective: the key 'mode' is missing; add `mode:` (whether smaller (`min`) or larger (`max`) "
            "is better)"
        ],
    ),
    (
        "metric: val_loss, mode: min",
        "metric: val_loss, mode: mim",
        ["6:31: /objective/mode: 'mim' is not one of 'min', 'max'; did you mean 'min'?"],
    ),
    (
        "metric: val_loss, mode: min",
        "metric: val_loss, mdoe: min",
        ["6:31: /objective/mdoe: unknown key 'mdoe'; did you mean 'mode'?"],
    ),
    (
        "mode: min}\nguards",
        "mode: min, read: first}\nguards",
        ["6:42: /objective/read: 'first' is not one of 'last', 'best'; write last, best or {mean_of_last: 3}"],
    ),
    (
        "mode: min}\nguards",
        "mode: min, read: 3}\nguards",
        ["6:42: /objective/read: 3 is not text or a map; write last, best or {mean_of_last: 3}"],
    ),
    (
        "mode: min}\nguards",
        "mode: min, read: {mean_of_last: 0}}\nguards",
        ["6:49: /objective/read/mean_of_last: 0 is below 1; write at least 1"],
    ),
    (
        "metric: val_loss",
        "metric: heldout",
        [
            "8:6: /guards/0/metric: the objective 'heldout' cannot be hidden; hide another metric; the scientist "
            "has to know the objective"
        ],
    ),
    (
        "metric: peak_memory_gb, max: 8",
        "metric: heldout, max: 8",
        ["9:6: /guards/1/metric: 'heldout' is already guarded by guard 0; put mode, min and max in one guard"],
    ),
    (
        "metric: peak_memory_gb, max: 8",
        "metric: peak_memory_gb",
        ["9:5: /guards/1: the guard 'peak_memory_gb' forbids nothing; add `mode: min`, `mode: max`, `min:` or `max:`"],
    ),
    (
        "metric: peak_memory_gb, max: 8",
        "metric: peak_memory_gb, min: 9, max: 8",
        ["9:30: /guards/1/min: min 9 is above max 8; swap them"],
    ),
    (
        "metric: peak_memory_gb, max: 8",
        "metric: peak_memory_gb, max: big",
        ["9:30: /guards/1/max: 'big' is not a number or null; write a number or null"],
    ),
    ("hidden: true", "hidden: yes", ["8:34: /guards/0/hidden: 'yes' is not true or false; write true or false"]),
    (
        "init_args.lr: {type: float, low: 0.001",
        "init_args.lr: {type: float, low: 0.5",
        [
            "11:37: /search_space/model.init_args.lr/low: low 0.5 is not below high 0.1; write low below high, "
            "or take the key out of the search space"
        ],
    ),
    (
        "low: 0.001",
        "low: 0",
        [
            "11:37: /search_space/model.init_args.lr/low: low 0 is not above 0, which scale: log needs; write a "
            "low above 0, or scale: linear"
        ],
    ),
    (
        "low: 0.001",
        "lwo: 0.001",
        ["11:37: /search_space/model.init_args.lr/lwo: unknown key 'lwo'; did you mean 'low'?"],
    ),
    (
        "init_args.lr: {type: float,",
        "init_args.lr: {type: flaot,",
        [
            "11:24: /search_space/model.init_args.lr/type: 'flaot' is not one of 'float', 'int', 'categorical'; "
            "did you mean 'float'?"
        ],
    ),
    (
        "init_args.lr: {type: float,",
        "init_args.lr: {",
        [
            "11:3: /search_space/model.init_args.lr: the key 'type' is missing; add `type:` (kind of the domain: "
            "a real number, a whole number, or one of a list)"
        ],
    ),
    (
        "low: 1, high: 6",
        "low: 1.5, high: 6",
        ["12:38: /search_space/model.init_args.depth/low: 1.5 is not a whole number; write a whole number"],
    ),
    (
        "low: 1, high: 6",
        "low: 3, high: 6",
        [
            "12:3: /search_space/model.init_args.depth: the task's value 2 is outside 3 to 6; widen the domain, "
            "or change the value in the task"
        ],
    ),
    (
        "low: 1, high: 6",
        "low: 1, high: 6, choices: [1]",
        [
            "12:55: /search_space/model.init_args.depth/choices: unknown key 'choices'; allowed here: type, low, "
            "high, scale"
        ],
    ),
    (
        "scale: log",
        "scale: logg",
        ["11:60: /search_space/model.init_args.lr/scale: 'logg' is not one of 'linear', 'log'; did you mean 'log'?"],
    ),
    (
        "choices: [relu, gelu]",
        "choices: []",
        ["13:44: /search_space/model.init_args.act/choices: has 0 of at least 2 entries; write at least 2"],
    ),
    (
        "choices: [relu, gelu]",
        "choices: [relu]",
        ["13:44: /search_space/model.init_args.act/choices: has 1 of at least 2 entries; write at least 2"],
    ),
    (
        "choices: [relu, gelu]",
        "choices: [relu, gelu, relu]",
        ["13:66: /search_space/model.init_args.act/choices/2: 'relu' is already item 0; keep one of the two"],
    ),
    (
        "choices: [relu, gelu]",
        "choices: [tanh, gelu]",
        [
            "13:3: /search_space/model.init_args.act: the task's value 'relu' is not one of 'tanh', 'gelu'; "
            "widen the domain, or change the value in the task"
        ],
    ),
    (
        "choices: [relu, gelu]",
        "choices: [relu, [gelu]]",
        [
            "13:60: /search_space/model.init_args.act/choices/1: a list is not a number, text, true or false or "
            "null; write a number, text, true or false or null"
        ],
    ),
    (
        "  model.init_args.depth: {",
        "  model.init_args.dept: {",
        [
            "12:3: /search_space/model.init_args.dept: the task has no key 'model.init_args.dept'; did you mean "
            "'model.init_args.depth'?"
        ],
    ),
    (
        "  model.init_args.depth: {",
        "  depth: {",
        ["12:3: /search_space/depth: the task has no key 'depth'; did you mean 'model.init_args.depth'?"],
    ),
    (
        "  model.init_args.depth: {",
        "  model.init_args: {",
        ["12:3: /search_space/model.init_args: the task has a map there, not a single value; name a key inside it"],
    ),
    (
        "  model.init_args.depth: {",
        "  seed_everything: {",
        [
            "12:3: /search_space/seed_everything: seed_everything belongs to the study; the study seeds every "
            "trial itself; change decision.seed for other seeds"
        ],
    ),
    (
        "depth: 2",
        "depth: two",
        [
            "12:3: /search_space/model.init_args.depth: the task's value 'two' is not a number; write a number "
            "in the task, or type: categorical"
        ],
    ),
    (
        "depth: 2",
        "depth: true",
        [
            "12:3: /search_space/model.init_args.depth: the task's value true is not a number; write a number in "
            "the task, or type: categorical"
        ],
    ),
    (
        "name: target, set",
        "name: nano, set",
        [
            "16:6: /scales/1/name: the name 'nano' is already that of scale 0; give every scale a name of its own",
            "17:24: /decision/adopt_at: there is no scale 'target'; write one of nano",
        ],
    ),
    (
        "name: nano, set: {trainer.max_steps: 10}",
        "name: nano, set: {}",
        [
            "15:5: /scales/0: nothing ends a trial at the scale 'nano', so Lightning would train for 1000 epochs "
            "or for ever; set trainer.max_steps in the scale"
        ],
    ),
    (
        "name: nano, set: {trainer.max_steps: 10}",
        "name: nano, set: {trainer.max_steps: -1}",
        [
            "15:5: /scales/0: nothing ends a trial at the scale 'nano', so Lightning would train for 1000 epochs "
            "or for ever; set trainer.max_steps in the scale"
        ],
    ),
    (
        "trainer.max_steps: 10}",
        "trainer.max_steps: 10, model.init_args.lr: 1}",
        ["15:47: /scales/0/set/model.init_args.lr: it is in the search space too; take one of the two out"],
    ),
    (
        "trainer.max_steps: 10}",
        "trainer.max_steps: 10, model.init_args: {}}",
        [
            "15:47: /scales/0/set/model.init_args: it overlaps with model.init_args.lr in the search space; take "
            "one of the two out"
        ],
    ),
    (
        "trainer.max_steps: 10}",
        "tariner.max_steps: 10}",
        ["15:24: /scales/0/set/tariner.max_steps: the task has no section 'tariner'; did you mean 'trainer'?"],
    ),
    (
        "trainer.max_steps: 10}",
        "trainer.max_steps: 10, trainer.callbacks.4.x: 1}",
        [
            "15:47: /scales/0/set/trainer.callbacks.4.x: it cannot be set in the task (trainer.callbacks.4.x: no "
            "'4' here); name a path of maps and existing list items"
        ],
    ),
    (
        "trainer.max_steps: 10}",
        "trainer.max_steps: 10, ckpt_path: x}",
        [
            "15:47: /scales/0/set/ckpt_path: ckpt_path belongs to the study; every trial starts from fresh "
            "weights; remove it"
        ],
    ),
    (
        "adopt_at: target",
        "adopt_at: tagret",
        ["17:24: /decision/adopt_at: there is no scale 'tagret'; did you mean 'target'?"],
    ),
    (
        "rule: gate",
        "rule: gates",
        ["17:12: /decision/rule: 'gates' is not one of 'gate', 'greedy', 'mean'; did you mean 'gate'?"],
    ),
    ("rule: gate", "rule: gate, alpha: 0", ["17:24: /decision/alpha: 0 is not above 0; write a number above 0"]),
    ("rule: gate", "rule: gate, alpha: 1", ["17:24: /decision/alpha: 1 is not below 1; write a number below 1"]),
    ("trials: 20", "trials: -1", ["18:10: /budget/trials: -1 is below 0; write at least 0"]),
    ("trials: 20", "trials: 2.5", ["18:10: /budget/trials: 2.5 is not a whole number; write a whole number"]),
    ("trials: 20", "trials: true", ["18:10: /budget/trials: true is not a whole number; write a whole number"]),
    (
        "budget: {trials: 20}",
        "budget:",
        ["18:1: /budget: null is not a map; write a map; an optional key may be removed"],
    ),
    (
        "budget: {trials: 20}",
        "policy: {approve: [spend]}",
        ["18:20: /policy/approve/0: 'spend' is not 'adopt'; write 'adopt'"],
    ),
    (
        "budget: {trials: 20}",
        "policy: {max_factor: 1}",
        ["18:10: /policy/max_factor: 1 is not above 1; write a number above 1"],
    ),
    (
        "budget: {trials: 20}",
        "scientist: {base_url: null}",
        ["18:1: /scientist: the key 'model' is missing; add `model:` (name of the model)"],
    ),
    (
        "budget: {trials: 20}",
        "scientist: {mailbox: box, model: gpt}",
        [
            "18:27: /scientist/model: unknown key 'model'; it belongs to a server: write either model or mailbox; "
            "with a mailbox there are mailbox, timeout_seconds, share, literature, prompt_characters"
        ],
    ),
    (
        "budget: {trials: 20}",
        "scientist: {model: gpt, api_key_env: sk-123}",
        [
            "18:25: /scientist/api_key_env: the text cannot be the name of an environment variable; write the "
            "variable's name, for example OPENAI_API_KEY, and keep the key out of the spec"
        ],
    ),
    (
        "budget: {trials: 20}",
        "scientist: {model: gpt, share: 2}",
        ["18:25: /scientist/share: 2 is above 1; write at most 1"],
    ),
    (
        "budget: {trials: 20}",
        "tracking: {wandb: {mode: offlin, project: p}}",
        [
            "18:20: /tracking/wandb/mode: 'offlin' is not one of 'online', 'offline', 'disabled'; did you mean "
            "'offline'?"
        ],
    ),
    (
        "budget: {trials: 20}",
        "execution: {executor: ray}",
        ["18:13: /execution/executor: 'ray' is not one of 'process', 'inline'; write one of these"],
    ),
    ("task:\n  model:", "task:\n  modle:", ["3:1: /task: the key 'model' is missing; did you mean it by 'modle'?"]),
    (
        "  trainer: {",
        "  ckpt_path: last.ckpt\n  trainer: {",
        [
            "5:3: /task/ckpt_path: a trial cannot go on from a checkpoint; every trial starts from fresh "
            "weights; remove it"
        ],
    ),
    (
        "  trainer: {",
        "  config: task.yaml\n  trainer: {",
        [
            "4:3: /task/model: unknown key 'model'; `config` stands alone: move this key into the file, or use --set",
            "6:3: /task/trainer: unknown key 'trainer'; `config` stands alone: move this key into the file, or "
            "use --set",
        ],
    ),
    (
        "version: 1",
        "version: 1\nversion: 1",
        ["2:1: /version: the key 'version' is already at line 1, column 1; keep one of the two"],
    ),
    (
        "trials: 20",
        "trials: .inf",
        ["18:18: /budget/trials: .inf is not a finite number; put it in quotes if it is meant as text"],
    ),
]
"""What is replaced in BASE, by what, and the faults without the file's name."""


def faults(text: str, *, path: Path | str = "s.yaml", overrides: Any = ()) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, path=path, overrides=overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("old", "new", "expected"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_spec_is_told_where_and_how_to_mend_it(old: str, new: str, expected: list[str]) -> None:
    assert old in BASE
    assert faults(BASE.replace(old, new, 1)) == [f"s.yaml:{line}" for line in expected]


def test_a_good_spec_becomes_a_record() -> None:
    made = parse_spec(BASE, path="s.yaml")
    assert made.name == "tiny"
    assert made.base == {"model.init_args.lr": 0.01, "model.init_args.depth": 2, "model.init_args.act": "relu"}
    assert made.search_space["model.init_args.lr"] == Float(low=0.001, high=0.1, scale="log")
    assert made.search_space["model.init_args.depth"] == Integer(low=1, high=6)
    assert made.search_space["model.init_args.act"] == Categorical(choices=("relu", "gelu"))
    assert made.guards[0].hidden
    assert made.guards[1].max == 8.0
    assert made.scales.target.set == {"trainer.max_steps": 100}
    assert made.budget.trials == 20
    assert made.policy.approve == ("adopt",)
    assert made.objective.read == "last"
    assert made.notes == ()
    assert (made.text, made.path) == (BASE, Path("s.yaml"))


def test_every_fault_is_told_at_once() -> None:
    text = BASE
    for old, new in (
        ("mode: min}\nguards", "mode: mim}\nguards"),
        ("low: 0.001", "low: 0"),
        ("choices: [relu, gelu]", "choices: [relu]"),
        ("adopt_at: target", "adopt_at: tagret"),
        ("trials: 20", "trails: 20"),
    ):
        text = text.replace(old, new, 1)
    assert [line.split(": ")[1] for line in faults(text)] == [
        "/objective/mode",
        "/search_space/model.init_args.lr/low",
        "/search_space/model.init_args.act/choices",
        "/decision/adopt_at",
        "/budget/trails",
    ]


def test_two_keys_of_a_scale_may_not_overlap() -> None:
    text = BASE.replace("{trainer.max_steps: 10}", "{trainer: 5, trainer.max_steps: 10}")
    assert faults(text) == [
        "s.yaml:15:24: /scales/0/set/trainer: it overlaps with trainer.max_steps in the same scale; keep one of "
        "the two",
        "s.yaml:15:36: /scales/0/set/trainer.max_steps: it overlaps with trainer in the same scale; keep one of "
        "the two",
    ]


PIECES = st.sampled_from([None, True, 0, 3, 2.5, -1, "x", "", "log", "trainer", [], {}, [1], {"a": 1}, [{"name": "n"}]])


def _paths(node: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from _paths(value, *path, key)


@settings(deadline=None)  # the clock of a busy machine proves nothing
@given(
    st.lists(st.tuples(st.sampled_from(list(_paths(parse(BASE).data))), PIECES, st.booleans()), min_size=1, max_size=4)
)
def test_whatever_stands_anywhere_is_a_spec_or_faults_with_words(changes: list[tuple[Any, Any, bool]]) -> None:
    data = parse(BASE).data
    for path, piece, rename in changes:
        with contextlib.suppress(KeyError, IndexError, TypeError):  # an earlier change took the place away
            parent = functools.reduce(lambda node, key: node[key], path[:-1], data)
            if rename and isinstance(parent, dict):
                parent[path[-1] + "x"] = parent.pop(path[-1])
            else:
                parent[path[-1]] = copy.deepcopy(piece)
    outcome = _outcome(json.dumps(data))
    if isinstance(outcome, tuple):
        assert outcome
        assert all(fault.what and fault.mend for fault in outcome)
        assert len(outcome) == len(set(outcome))
    else:
        assert outcome.base.keys() == data["search_space"].keys()


def _outcome(text: str) -> Any:
    try:
        return parse_spec(text, path="s.yaml")
    except SpecError as error:
        return error.faults


def test_a_ladder_that_is_a_map_is_one_fault() -> None:
    ladder = BASE[BASE.index("scales:") : BASE.index("decision:")]
    text = BASE.replace(ladder, "scales: {name: nano}\n")
    assert faults(text) == ["s.yaml:14:1: /scales: a map is not a list; write a list"]


def test_a_misspelt_required_key_is_one_fault() -> None:
    assert len(faults(BASE.replace("high: 6", "hihg: 6"))) == 1


def test_whole_bounds_written_with_a_point_become_integers() -> None:
    text = BASE.replace("low: 1, high: 6", "low: 1.0, high: 6.0").replace("depth: 2", "depth: 2.0")
    made = parse_spec(text.replace("trials: 20", "trials: 20.0"), path="s.yaml")
    assert repr(made.search_space["model.init_args.depth"].low) == "1"
    assert repr(made.base["model.init_args.depth"]) == "2"
    assert repr(made.budget.trials) == "20"


def test_the_mean_of_the_last_values_is_held_as_their_number() -> None:
    text = BASE.replace("mode: min}\nguards", "mode: min, read: {mean_of_last: 3}}\nguards")
    assert parse_spec(text, path="s.yaml").objective.read == 3


def test_sections_without_effect_are_noted() -> None:
    text = BASE + "tracking: {wandb: {project: p}}\n"
    assert parse_spec(text, path="s.yaml").notes == (
        "tracking: this version writes the journal and the report only; the section has no effect yet",
    )


def test_a_searched_key_of_the_measurement_or_the_length_is_noted() -> None:
    text = BASE.replace("trainer: {", "trainer: {val_check_interval: 5, limit_train_batches: 9, ").replace(
        "search_space:\n",
        "search_space:\n  trainer.val_check_interval: {type: int, low: 1, high: 9}\n"
        "  trainer.limit_train_batches: {type: int, low: 1, high: 9}\n",
    )
    measured, length = parse_spec(text, path="s.yaml").notes
    assert "trainer.val_check_interval changes what is measured" in measured
    assert "trainer.limit_train_batches changes how long a trial trains" in length


def test_the_tasks_own_seed_is_noted_and_left_out_of_the_task() -> None:
    made = parse_spec(BASE.replace("  trainer: {", "  seed_everything: 42\n  trainer: {"), path="s.yaml")
    assert "seed_everything" not in made.task
    assert made.data["task"]["seed_everything"] == 42
    assert "change decision.seed" in made.notes[0]


def test_a_null_checkpoint_path_is_no_fault() -> None:
    assert parse_spec(BASE.replace("  trainer: {", "  ckpt_path: null\n  trainer: {"), path="s.yaml").notes == ()


# --set


def test_set_reaches_keys_with_dots() -> None:
    made = parse_spec(
        BASE,
        path="s.yaml",
        overrides=[
            "budget.trials=7",
            "search_space.model.init_args.lr.high=0.5",
            "scales.0.set.trainer.max_steps=3",
            "scales.1.set.trainer.limit_val_batches=1",
            "task.model.init_args.lr=1e-2",
            "execution={slots: 2}",
            "budget.hours=1",
        ],
    )
    assert (made.budget.trials, made.budget.hours, made.execution.slots) == (7, 1.0, 2)
    assert made.search_space["model.init_args.lr"].high == 0.5
    assert made.scales.search.set == {"trainer.max_steps": 3}
    assert made.scales.target.set == {"trainer.max_steps": 100, "trainer.limit_val_batches": 1}
    assert made.text == BASE


def test_set_takes_a_map_and_the_later_of_two_texts() -> None:
    assert parse_spec(BASE, path="s.yaml", overrides={"budget.trials": "7"}).budget.trials == 7
    assert parse_spec(BASE, path="s.yaml", overrides=["budget.trials=7", "budget.trials=8"]).budget.trials == 8


SETTINGS = [
    (
        "budget.trails=3",
        "1:1: /budget/trails: unknown key 'trails'; allowed here: trials, hours, usd, tokens, usd_per_gain",
    ),
    ("budget", "1:1: /: 'budget' is not KEY=VALUE; write for example budget.trials=20"),
    ("=3", "1:1: /: '=3' is not KEY=VALUE; write for example budget.trials=20"),
    ("name=", "1:1: /: name has no value; write null for no value, '\"\"' for empty text"),
    ("name=on", None),
    (
        "name=010",
        "1:1: /name: 10 is not text; write letters, digits, dots, dashes and underscores, the first a letter or digit",
    ),
    ("name=&a b", "1:6: /: name: the anchor &a is not allowed; remove it"),
    ("guards.7.max=3", "1:1: /guards: guards.7.max: the list has the items 0 to 1, not 7; name a path of the spec"),
    ("name.x=3", "1:1: /name: name.x: name is neither a map nor a list; name a path of the spec"),
    ("budget.trials=-1", "1:1: /budget/trials: -1 is below 0; write at least 0"),
]


@pytest.mark.parametrize(("setting", "expected"), SETTINGS)
def test_a_bad_setting_is_a_fault_of_set(setting: str, expected: str | None) -> None:
    if expected is None:
        assert parse_spec(BASE, path="s.yaml", overrides=[setting]).name == "on"
    else:
        assert faults(BASE, overrides=[setting]) == [f"--set:{expected}"]


def test_faults_of_set_and_of_the_file_come_together_and_count_the_options() -> None:
    lines = faults(BASE.replace("trials: 20", "trials: -1"), overrides=["name=ok", "decision.alpha=[1"])
    assert [line.split(": ")[0] for line in lines] == ["--set:2:18", "s.yaml:18:10"]
    lines = faults("a: 1\na: 2\n", overrides=["decision.alpha=[1"])
    assert [line.split(": ")[0] for line in lines] == ["--set:1:18", "s.yaml:2:1"]


# task.config

TASK = BASE[BASE.index("task:") : BASE.index("objective:")]
WITH_CONFIG = BASE.replace(TASK, "task: {config: task.yaml}\n")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    body = "".join(line[2:] + "\n" for line in TASK.splitlines()[1:])
    (tmp_path / "task.yaml").write_text(body)
    (tmp_path / "spec.yaml").write_text(WITH_CONFIG)
    return tmp_path


def test_a_config_file_is_resolved_relative_to_the_spec(config: Path) -> None:
    made = load_spec(config / "spec.yaml")
    assert made.data == parse_spec(BASE, path="s.yaml").data
    assert made.digest == parse_spec(BASE, path="s.yaml").digest


def test_set_reaches_into_a_config_file(config: Path) -> None:
    assert (
        load_spec(config / "spec.yaml", overrides=["task.model.init_args.lr=0.02"]).base["model.init_args.lr"] == 0.02
    )


def test_set_may_name_another_config_file(config: Path) -> None:
    (config / "other.yaml").write_text((config / "task.yaml").read_text().replace("lr: 0.01", "lr: 0.03"))
    assert load_spec(config / "spec.yaml", overrides=["task.config=other.yaml"]).base["model.init_args.lr"] == 0.03


def test_faults_in_a_config_file_have_its_positions(config: Path) -> None:
    (config / "task.yaml").write_text("\nmodel: {}\n\nckpt_path: x\nmodel: {}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(config / "spec.yaml", overrides=["task.model.init_args.lr=0.02"])
    mend = "the key 'model' is already at line 2, column 1; keep one of the two"
    assert str(caught.value) == f"{config / 'task.yaml'}:5:1: /model: {mend}"
    (config / "task.yaml").write_text("\nmodel: {init_args: {lr: 0.01, depth: 2, act: relu}}\nckpt_path: x\n")
    with pytest.raises(SpecError, match=r"task\.yaml:3:1: /task/ckpt_path: a trial cannot go on from a checkpoint"):
        load_spec(config / "spec.yaml")


def test_the_projects_cli_stands_beside_its_config_file(config: Path) -> None:
    text = (config / "spec.yaml").read_text().replace("config: task.yaml", "config: task.yaml, cli: 'train:main'")
    (config / "spec.yaml").write_text(text)
    made = load_spec(config / "spec.yaml")
    plain = parse_spec(BASE, path="s.yaml")
    assert made.task == {"cli": "train:main", **plain.task}
    assert made.base == plain.base
    assert load_spec(config / "spec.yaml", overrides=["task.cli=train:other"]).task["cli"] == "train:other"


@pytest.mark.parametrize("name", ["train.main", "train:", ":main", "train:main()", "../train:main"])
def test_a_cli_is_a_module_and_a_name(name: str) -> None:
    with pytest.raises(SpecError, match="/task/cli"):
        parse_spec(BASE, path="s.yaml", overrides=[f"task.cli={name!r}"])


def test_a_cli_cannot_be_searched() -> None:
    space = '{"cli": {type: categorical, choices: ["train:main", "train:other"]}}'
    with pytest.raises(SpecError, match="cli belongs to the study"):
        parse_spec(BASE, path="s.yaml", overrides=["task.cli='train:main'", f"search_space={space}"])


def test_a_missing_config_file_is_a_fault(config: Path) -> None:
    (config / "task.yaml").unlink()
    with pytest.raises(SpecError, match=r"task\.yaml:1:1: /: there is no such file"):
        load_spec(config / "spec.yaml")


# Files


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(BASE)
    with pytest.raises(InputError, match=r"spec\.yml:1:1: /: there is no such file; did you mean .*spec\.yaml'\?"):
        load_spec(tmp_path / "spec.yml")
    with pytest.raises(InputError, match=r"there is no such file; check the path"):
        load_spec(tmp_path / "no" / "x")


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"this is a folder, not a file"):
        load_spec(tmp_path)


def test_a_path_that_no_system_can_open_is_a_fault() -> None:
    with pytest.raises(InputError, match=r"the file cannot be read: .*null"):
        load_spec("a\0b")


def test_bytes_that_are_no_utf8_are_a_fault_with_a_position(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_bytes("version: 1\nname: é".encode("latin-1"))
    with pytest.raises(SpecError, match=r"spec\.yaml:2:7: /: the byte 0xe9 is no UTF-8; save the file"):
        load_spec(tmp_path / "spec.yaml")


def test_the_text_is_kept_byte_for_byte(tmp_path: Path) -> None:
    content = BASE.replace("\n", "\r\n").encode()
    (tmp_path / "spec.yaml").write_bytes(content)
    assert load_spec(tmp_path / "spec.yaml").text.encode() == content


# Digest


def test_the_digest_ignores_comments_and_layout() -> None:
    laid_out = "# comment\n" + BASE.replace("budget: {trials: 20}", "budget:\n    trials:    20 # so many")
    assert parse_spec(laid_out, path="a").digest == parse_spec(BASE, path="b").digest


@pytest.mark.parametrize("value", ["1", "1.0", "true", "'1'", "null"])
def test_the_digest_tells_values_of_different_types_apart(value: str) -> None:
    others = {"1", "1.0", "true", "'1'", "null", "2"} - {value}
    digests = {_digest_with(other) for other in others}
    assert len(digests) == len(others)
    assert _digest_with(value) not in digests


def _digest_with(value: str) -> str:
    return parse_spec(BASE.replace("depth: 2", f"depth: 2, extra: {value}"), path="s.yaml").digest


def test_the_names_of_the_digest_are_those_of_the_trial_module_too() -> None:
    assert trial.digest_of is space.digest_of
    assert trial.canonical is space.canonical


# Schema


def schema() -> dict[str, Any]:
    return json.loads(schema_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("validator", [Draft7Validator, Draft202012Validator])
def test_the_schema_is_valid_under_both_drafts(validator: Any) -> None:
    validator.check_schema(schema())


def test_both_drafts_and_the_compiled_validator_give_the_same_verdict() -> None:
    older, newer = Draft7Validator(schema()), Draft202012Validator(schema())
    compiled = jsonschema_rs.Draft202012Validator(schema())
    texts = [BASE, WITH_CONFIG, *(BASE.replace(old, new, 1) for old, new, _ in BAD)]
    verdicts = []
    for text in texts:
        try:
            data = parse(text).data
        except SpecError:
            continue
        assert older.is_valid(data) == newer.is_valid(data) == compiled.is_valid(data), text
        verdicts.append(newer.is_valid(data))
    assert verdicts.count(True) > 10
    assert verdicts.count(False) > 30


def _schemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for key, value in node.items():
            if key in ("properties",):
                for child in value.values():
                    yield from _schemas(child)
            elif key in ("items", "if", "then", "else", "additionalProperties"):
                yield from _schemas(value)
            elif key == "allOf":
                for child in value:
                    yield from _schemas(child)


ANNOTATIONS = {"$schema", "$comment", "title", "description", "default", "examples", "writeOnly"}
APPLICATORS = {"properties", "items", "allOf", "if", "then", "else"}


def test_every_keyword_of_the_schema_has_words() -> None:
    used = {key for node in _schemas(schema()) for key in node}
    assert used - ANNOTATIONS - APPLICATORS == set(_WORDINGS)


def test_every_default_and_example_of_the_schema_is_valid() -> None:
    for node in _schemas(schema()):
        for value in [*node.get("examples", ()), *([node["default"]] if "default" in node else ())]:
            assert Draft202012Validator(node).is_valid(value), (node["title"], value)


def _docstrings(module: Any) -> dict[str, dict[str, str]]:
    classes = [node for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.ClassDef)]
    return {
        node.name: {
            field.target.id: text.value.value
            for field, text in zip(node.body, node.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
        }
        for node in classes
    }


def _sections() -> list[tuple[type, dict[str, Any]]]:
    top = schema()["properties"]
    domains = [branch["then"]["properties"] for branch in top["search_space"]["additionalProperties"]["allOf"]]
    return [
        (spec.Objective, top["objective"]["properties"]),
        (spec.Guard, top["guards"]["items"]["properties"]),
        (spec.DecisionRule, top["decision"]["properties"]),
        (spec.Policy, top["policy"]["properties"]),
        (spec.Budget, top["budget"]["properties"]),
        (spec.Execution, top["execution"]["properties"]),
        (scales.Scale, top["scales"]["items"]["properties"]),
        *zip((Float, Integer, Categorical), domains, strict=True),
    ]


def test_every_field_is_described_in_the_schema_as_in_the_record() -> None:
    documented = _docstrings(spec) | _docstrings(scales) | _docstrings(space)
    for record, properties in _sections():
        described = {name: entry["description"] for name, entry in properties.items() if name != "type"}
        assert described == documented[record.__name__], record


def test_every_section_is_described_in_the_schema_as_in_the_record() -> None:
    described = {name: entry["description"] for name, entry in schema()["properties"].items() if name != "version"}
    fields = _docstrings(spec)["Spec"]
    assert described == {name: fields[name] for name in described}
    assert set(fields) - set(described) == {"text", "path", "data", "digest", "notes", "live"}


def test_every_default_of_the_schema_is_that_of_the_record() -> None:
    for record, properties in _sections():
        for entry in dataclasses.fields(record):
            if entry.default is not dataclasses.MISSING:
                default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
                assert properties[entry.name]["default"] == default, (record, entry.name)


def test_the_keys_of_the_spec_are_frozen() -> None:
    task = ["version", "name", "goal", "task", "objective", "guards", "search_space", "scales"]
    study = ["decision", "scientist", "policy", "budget", "execution", "tracking"]
    assert list(schema()["properties"]) == [*task, *study]


def test_reading_a_spec_imports_neither_torch_nor_lightning(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(BASE)
    code = (
        "import sys; from lightning_autoresearch.spec import load_spec; load_spec(sys.argv[1]);"
        "print(sorted({'torch', 'lightning', 'optuna', 'openai', 'wandb', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "spec.yaml")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
