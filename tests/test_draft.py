"""A first spec for an existing project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_autoresearch.draft import MOST_KEYS, draft, draft_for, guesses_of, mode_of, objective_of
from lightning_autoresearch.errors import SpecError
from lightning_autoresearch.knobs import Knob
from lightning_autoresearch.spec import Spec, load_spec, parse_spec
from lightning_autoresearch.trial import TrialResult, TrialStatus

TASK: dict[str, Any] = {
    "model": {
        "class_path": "nets.Net",
        "init_args": {
            "lr": 0.003,
            "hidden_dim": 64,
            "num_layers": 2,
            "dropout": 0.1,
            "activation": "gelu",
            "bias": True,
            "seed": 3,
            "mystery": 0.7,
            "name": "net",
        },
    },
    "data": {"init_args": {"batch_size": 32, "num_workers": 4, "random_state": 0}},
    "optimizer": {"init_args": {"weight_decay": 0.0, "betas": [0.9, 0.99], "momentum": 0.9}},
    "lr_scheduler": {"init_args": {"T_max": 40}},
    "trainer": {"max_epochs": 40, "devices": 1},
}
A = "model.init_args."
KNOBS = {A + "activation": Knob(key=A + "activation", value="gelu", kind="choice", options=("gelu", "relu"))}


def domains(task: dict[str, Any] = TASK) -> dict[str, tuple[dict[str, Any], bool]]:
    return {guess.key: (dict(guess.domain), guess.sure) for guess in guesses_of(task, KNOBS)}


def test_names_and_values_give_domains_around_today() -> None:
    assert domains() == {
        A + "lr": ({"type": "float", "low": 0.0003, "high": 0.03, "scale": "log"}, True),
        A + "hidden_dim": ({"type": "int", "low": 16, "high": 256, "scale": "log"}, True),
        A + "num_layers": ({"type": "int", "low": 0, "high": 5}, True),
        A + "dropout": ({"type": "float", "low": 0.0, "high": 0.5}, True),
        A + "activation": ({"type": "categorical", "choices": ["gelu", "relu"]}, True),
        A + "bias": ({"type": "categorical", "choices": [True, False]}, False),
        A + "mystery": ({"type": "float", "low": 0.07, "high": 7.0, "scale": "log"}, False),
        "data.init_args.batch_size": ({"type": "int", "low": 8, "high": 128, "scale": "log"}, True),
        "optimizer.init_args.weight_decay": ({"type": "float", "low": 0.0, "high": 0.1}, True),
        "optimizer.init_args.momentum": ({"type": "float", "low": 0.8, "high": 0.99}, True),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0.0), ("lr", -1.0), ("dropout", 1.0), ("momentum", 0.0), ("width", 2.5), ("depth", -1), ("batch_size", 0)],
)
def test_a_value_that_does_not_fit_its_name_is_only_mentioned(name: str, value: float) -> None:
    ((key, (domain, sure)),) = domains({"model": {name: value}}).items()
    assert key == f"model.{name}"
    assert not sure
    assert domain["low"] < domain["high"]


@pytest.mark.parametrize(
    ("logged", "metric", "mode"),
    [
        (["train_loss", "val_loss", "val_acc"], "val_loss", "min"),
        (["train_loss", "val_acc"], "val_acc", "max"),
        (["eval/f1", "loss"], "eval/f1", "max"),
        (["train/loss"], "train/loss", "min"),
        (["valuable", "loss_total"], "loss_total", "min"),
        ([], "val_loss", "min"),
    ],
)
def test_the_objective_is_what_is_measured_on_validation_data(logged: list[str], metric: str, mode: str) -> None:
    assert objective_of(logged)[:2] == (metric, mode)


def test_a_loss_is_to_fall_whatever_else_its_name_says() -> None:
    assert mode_of("val_f1_loss") == "min"
    assert mode_of("val_MulticlassAUROC") == "max"


def text(**changes: Any) -> str:
    known: dict[str, Any] = {"name": "a project", "config": "c.yaml", "cli": None, "task": TASK, "knobs": KNOBS}
    return draft(**{**known, "logged": ["val_loss", "val_acc"], **changes})


def test_the_draft_is_yaml_with_a_reason_beside_every_domain() -> None:
    data = yaml.safe_load(text())
    assert data["objective"] == {"metric": "val_loss", "mode": "min"}
    assert data["scales"] == [
        {"name": "short", "set": {"trainer.max_epochs": 10, "lr_scheduler.init_args.T_max": 10}},
        {"name": "whole", "set": {"trainer.max_epochs": 40}},
    ]
    rows = [line for line in text().splitlines() if "type: " in line]
    assert len(rows) == len(domains())
    assert all(line.count("  # ") >= 1 for line in rows)
    assert "#   - {metric: val_acc, mode: max}" in text()


def test_keys_beyond_ten_are_comments() -> None:
    data = yaml.safe_load(
        text(task={"model": {f"lr{number}": 0.1 for number in range(15)}, "trainer": {"max_steps": 3}})
    )
    assert len(data["search_space"]) == MOST_KEYS
    assert data["scales"] == [{"name": "whole", "set": {"trainer.max_steps": 3}}]


def test_without_anything_to_go_by_the_draft_says_so() -> None:
    bare = text(task={}, logged=())
    assert "a guess: what is logged could not be found out" in bare
    assert "the config names no length: write yours" in bare
    assert yaml.safe_load(bare)["search_space"] == {}


def result(**fields: Any) -> TrialResult:
    return TrialResult(trial_id="x", **{"status": TrialStatus.FINISHED, **fields})


def test_a_config_gives_a_spec_that_loads(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "c.yaml").write_text(yaml.safe_dump(TASK))
    seen: list[Spec] = []

    def probe(spec: Spec) -> TrialResult:
        seen.append(spec)
        return result(metrics={"val/loss": 1.0, "parameters": 3.0})

    made, fault = draft_for(tmp_path / "conf" / "c.yaml", folder=tmp_path, cli="train:main", probe=probe)
    spec = parse_spec(made, path=tmp_path / "spec.yaml")
    assert fault == ""
    assert seen[0].task["cli"] == spec.task["cli"] == "train:main"
    assert spec.objective.metric == "val/loss"
    assert spec.name == "conf"


def test_a_probe_that_fails_leaves_a_guess_and_its_reason(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(TASK))
    failed = result(status=TrialStatus.ERROR, failure="ValueError: no data")
    made, fault = draft_for(tmp_path / "c.yaml", folder=tmp_path, cli=None, probe=lambda spec: failed)
    assert fault == "ValueError: no data"
    assert "val_loss" in made


def test_a_config_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such file"):
        draft_for(tmp_path / "c.yaml", folder=tmp_path, cli=None, probe=lambda spec: result())


def test_the_recipes_own_spec_is_close_to_its_draft() -> None:
    folder = Path(__file__).parent.parent / "recipes" / "existing_project"
    logged = result(metrics={"val_loss": 0.5, "val_auroc": 0.9})
    made, _ = draft_for(folder / "config.yaml", folder=folder, cli="train:main", probe=lambda spec: logged)
    drafted, mine = parse_spec(made, path=folder / "draft.yaml"), load_spec(folder / "spec.yaml")
    assert set(drafted.search_space) == set(mine.search_space)
    assert drafted.objective == mine.objective


SWEEP = {
    "method": "bayes",
    "metric": {"name": "val_acc", "goal": "maximize"},
    "parameters": {
        "model.init_args.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1},
        "batch_size": {"values": [16, 32, 64]},
        "max_epochs": {"value": 3},
        "absent": {"min": 0.0, "max": 1.0},
    },
}


def test_a_sweep_says_what_is_searched_and_for_which_metric() -> None:
    made = text(sweep=SWEEP)
    data = yaml.safe_load(made)
    assert data["search_space"] == {
        A + "lr": {"type": "float", "low": 0.0001, "high": 0.1, "scale": "log"},
        "data.init_args.batch_size": {"type": "categorical", "choices": [16, 32, 64]},
    }
    assert data["objective"] == {"metric": "val_acc", "mode": "max"}
    assert "# max_epochs: constant; set 3 in the config" in made
    assert "# absent: {type: float, low: 0.0, high: 1.0}  # the config has no such key" in made
    assert "mode: max}\n" in made
    assert "#   - {metric: val_loss, mode: min}" in made


def test_a_parameter_that_several_keys_end_with_is_left_to_the_reader() -> None:
    task = {"model": {"lr": 0.1}, "optimizer": {"lr": 0.1}}
    made = text(task=task, sweep={"parameters": {"lr": {"min": 0.0, "max": 1.0}}})
    assert yaml.safe_load(made)["search_space"] == {}
    assert "several keys of the config end so: model.lr, optimizer.lr" in made
