"""A project that was there before: its own LightningCLI, config and training script, used as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_autoresearch.init import copy_recipe
from lightning_autoresearch.spec import load_spec

pytest.importorskip("sklearn")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    copy_recipe("existing_project", tmp_path)
    return tmp_path


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)


def research(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(project, sys.executable, "-m", "lightning_autoresearch", *arguments)


def test_its_config_holds_nothing_that_is_ours(project):
    scripts = [path for path in project.rglob("*.py") if path.name != "with_callback.py"]
    assert "autoresearch" not in "".join(path.read_text() for path in scripts)
    assert "autoresearch" not in (project / "config.yaml").read_text()


@pytest.mark.slow
def test_it_trains_without_us(project):
    done = run(project, sys.executable, "train.py", "fit", "--config", "config.yaml", "--trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_its_training_script_and_config_are_the_task(project):
    checked = research(project, "check", "--deep", "spec.yaml")
    assert checked.returncode == 0, checked.stderr
    assert "logs lr-AdamW, parameters" in checked.stdout
    small = ["--set", "budget.trials=36", "--set", "decision.calibration_seeds=4", "--set", "decision.gate_pairs=4"]
    small += ["--set", "scales=[{name: tiny, set: {trainer.max_epochs: 2}}]", "--set", "decision.confirm_pairs=2"]
    done = research(project, "fit", "spec.yaml", "--plain", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads(research(project, "status", "studies/tumours", "--json").stdout)
    assert status["confirmed_gain"]["mean"] > 0, "the learning rate of the config is far too small"
    revision = load_spec(project / "studies" / "tumours" / "specs" / "0001.yaml")
    assert revision.task["cli"] == "train:main"
    assert not (project / "logs").exists(), "the project's log folder is for its own runs"


@pytest.mark.slow
def test_a_linked_key_that_cannot_take_a_value_is_told_by_check(project):
    text = (project / "config.yaml").read_text().replace("model:\n", "model:\n  num_features: 30\n")
    (project / "config.yaml").write_text(text)
    space = "{model.num_features: {type: int, low: 10, high: 40}}"
    done = research(project, "check", "--deep", "spec.yaml", "--set", f"search_space={space}")
    assert done.returncode == 2
    assert "the project links model.num_features to data.num_features" in done.stderr


@pytest.mark.slow
def test_a_first_spec_is_written_from_its_config(project):
    (project / "spec.yaml").unlink()
    done = research(project, "init", "--from", "config.yaml", "--cli", "train:main")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "spec.yaml\n"
    spec = load_spec(project / "spec.yaml")
    assert (spec.objective.metric, spec.objective.mode) == ("val_loss", "min")
    assert research(project, "check", "--deep", "spec.yaml").returncode == 0
    again = research(project, "init", "--from", "config.yaml")
    assert again.returncode == 2
    assert "spec.yaml is there already" in again.stderr


@pytest.mark.slow
def test_a_first_spec_for_a_demo_that_ships_with_lightning(tmp_path):
    (tmp_path / "demo.yaml").write_text(
        "model:\n  class_path: lightning.pytorch.demos.boring_classes.DemoModel\n"
        "  init_args: {out_dim: 10, learning_rate: 0.02}\n"
        "data: {class_path: lightning.pytorch.demos.boring_classes.BoringDataModule}\n"
        "trainer: {max_epochs: 1}\n"
    )
    done = research(tmp_path, "init", "--from", "demo.yaml")
    assert done.returncode == 0, done.stderr
    assert "the objective is a guess" in done.stderr
    domain = load_spec(tmp_path / "spec.yaml").search_space["model.init_args.learning_rate"]
    assert (domain.low, domain.high) == (0.002, 0.2)


@pytest.mark.slow
def test_a_first_spec_takes_its_search_space_from_a_sweep(project):
    (project / "spec.yaml").unlink()
    (project / "sweep.yaml").write_text(
        "program: train.py\nmethod: bayes\nmetric: {name: val_auroc, goal: maximize}\nparameters:\n"
        "  lr: {distribution: log_uniform, min: -9.2, max: -3.5}\n  model.width: {values: [8, 16, 32]}\n"
    )
    done = research(project, "init", "--from", "config.yaml", "--cli", "train:main", "--from-sweep", "sweep.yaml")
    assert done.returncode == 0, done.stderr
    spec = load_spec(project / "spec.yaml")
    assert set(spec.search_space) == {"optimizer.init_args.lr", "model.width"}
    assert (spec.objective.metric, spec.objective.mode) == ("val_auroc", "max")
    alone = research(project, "init", "--from-sweep", "sweep.yaml")
    assert alone.returncode == 2
    assert "name it with --from CONFIG" in alone.stderr


@pytest.mark.slow
def test_its_command_line_with_the_callback_does_research_before_its_own_fit(project):
    spec = project / "callback.yaml"
    small = "decision: {calibration_seeds: 3, gate_pairs: 4, keeps_per_round: 2}\nbudget: {trials: 24}\n"
    head, _, _ = spec.read_text().partition("decision:")
    spec.write_text(head + small)
    done = run(project, sys.executable, "with_callback.py", "fit", "--config", "config.yaml", "--trainer.max_epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads(research(project, "status", "studies/tumours-callback", "--json").stdout)
    assert status["done"]
    assert status["trials"]["failed"] == 0
    assert [path.name for path in (project / "logs/lightning_logs").iterdir()] == ["version_0"], "one run, her own"
    assert [path.suffix for path in (project / "logs").rglob("checkpoints/*")] == [".ckpt"]
