"""Trainer, model and data as LightningCLI, or a project's own CLI, builds them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.cli import LightningCLI

from lightning_autoresearch.building import build, config_of, let_go
from lightning_autoresearch.errors import TrialError
from lightning_autoresearch.runner import run_job
from lightning_autoresearch.spec import Objective
from lightning_autoresearch.trial import Job, TrialStatus

# A trial shows warnings as warnings, Lightning's own deprecations among them.
pytestmark = pytest.mark.filterwarnings("default")

DEMOS = "lightning.pytorch.demos.boring_classes"
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}

PROJECT = f"""
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningCLI
from {DEMOS} import BoringDataModule, BoringModel

FITTED = []


class Net(BoringModel):
    def __init__(self, width: int = 4, classes: int = 2, rate: float = 0.1):
        super().__init__()
        self.save_hyperparameters()


class Data(BoringDataModule):
    classes = 7

    def __init__(self, width: int = 4, size: int = 8):
        super().__init__()
        self.size = size


class ProjectCLI(LightningCLI):
    def add_arguments_to_parser(self, parser):
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.link_arguments("data.width", "model.width")
        parser.set_defaults({{"data.size": 16}})


class Fixed(LightningCLI):
    def __init__(self, *args, **options):
        super().__init__(Net, Data, *args, **options)


class Meddling(ProjectCLI):
    def before_instantiate_classes(self):
        self.config.model.rate = 0.5


def main():
    cli = ProjectCLI(Net, Data, seed_everything_default=3, trainer_defaults={{"callbacks": EarlyStopping("x")}})
    FITTED.append(cli)


def main_that_fits():
    cli = ProjectCLI(Net, Data, run=False)
    FITTED.append(cli)
    cli.trainer.fit(cli.model, cli.datamodule)


def meddling():
    Meddling(Net, Data)


def careful():
    try:
        ProjectCLI(Net, Data)
    except Exception:
        raise SystemExit("caught")


def nothing():
    return 3


NOT_CALLABLE = 3
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "a_project.py").write_text(PROJECT)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("a_project", None)
    import a_project  # type: ignore[import-not-found]

    yield a_project
    let_go()
    from lightning_autoresearch import building

    for name in [name for name in building._KEPT if name.startswith("a_project")]:
        del building._KEPT[name]
    sys.modules.pop("a_project", None)


def config(name: str, **sections: Any) -> dict[str, Any]:
    return {"cli": f"a_project:{name}", "trainer": dict(QUIET), **sections}


@pytest.mark.parametrize("name", ["main", "main_that_fits", "Fixed", "careful"])
def test_the_projects_own_cli_builds_its_own_classes_and_goes_no_further(project, name):
    cli = build(config(name, model={"rate": 0.3}, data={"width": 5}), requested={"model.rate": 0.3, "data.width": 5})
    assert type(cli.model) is project.Net
    assert type(cli.datamodule) is project.Data
    assert cli.model.hparams["rate"] == 0.3
    assert project.FITTED == []
    assert cli.trainer.global_step == 0


def test_links_defaults_and_callbacks_of_the_project_hold(project):
    cli = build(config("main", data={"width": 5}), requested={})
    assert {name: cli.model.hparams[name] for name in ("width", "classes", "rate")} == {
        "width": 5,
        "classes": 7,
        "rate": 0.1,
    }
    assert cli.datamodule.size == 16
    assert any(type(callback).__name__ == "EarlyStopping" for callback in cli.trainer.callbacks)


def test_a_linked_key_that_cannot_take_the_value_is_a_clear_error(project):
    with pytest.raises(
        TrialError, match=r"model\.width was set to 9, but the project links model\.width to data\.width"
    ):
        build(config("main", model={"width": 9}, data={"width": 5}), requested={"model.width": 9})
    with pytest.raises(TrialError, match=r"model\.classes was set to 7, but the project links .* to data\.classes"):
        build(config("main", model={"classes": 7}), requested={"model.classes": 7})


def test_a_value_that_the_projects_hook_sets_is_a_clear_error(project):
    with pytest.raises(TrialError, match=r"model\.rate was set to 0\.2 and the parsed config has 0\.5"):
        build(config("meddling", model={"rate": 0.2}), requested={"model.rate": 0.2})


def test_a_bad_value_is_an_error_that_names_it(project):
    with pytest.raises(Exception, match="width"):
        build(config("main", data={"width": "wide"}), requested={"data.width": "wide"})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a_project:absent", "a_project:absent cannot be had"),
        ("no_such_module:main", "no_such_module:main cannot be had: No module named"),
        ("a_project:NOT_CALLABLE", "is no class or function but int"),
        ("a_project:nothing", "made no LightningCLI"),
    ],
)
def test_what_makes_no_cli_is_a_clear_error(project, name, words):
    with pytest.raises(TrialError, match=words):
        build({"cli": name, "trainer": dict(QUIET)}, requested={})


def test_lightning_is_left_as_it_was(project):
    before = LightningCLI.__init__
    build(config("main"), requested={})
    with pytest.raises(TrialError):
        build(config("nothing"), requested={})
    assert LightningCLI.__init__ is before


def test_projects_do_not_share_a_parser(project):
    demo = {"model": {"class_path": f"{DEMOS}.DemoModel", "init_args": {"out_dim": 3}}, "trainer": dict(QUIET)}
    assert type(build(config("main"), requested={}).model) is project.Net
    assert type(build(demo, requested={}).model).__name__ == "DemoModel"
    assert type(build(config("Fixed"), requested={}).model) is project.Net
    assert build(config("Fixed", model={"width": 8}), requested={"model.width": 8}).model.hparams["width"] == 8


# -- a config that was not written for this project --------------------------------------------------------------------

DEMO = {
    "seed_everything": True,
    "model": {"class_path": f"{DEMOS}.DemoModel", "init_args": {"out_dim": 10, "learning_rate": 0.02}},
    "data": {"class_path": f"{DEMOS}.BoringDataModule"},
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.5}},
    "trainer": {"max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 2, "accelerator": "cpu"},
}


def demo_job(**changes: Any) -> Job:
    return Job(
        trial_id="00001",
        task={**DEMO, **changes},
        requested={"optimizer.init_args.lr": 0.1},
        objective=Objective(metric="train_loss", mode="min"),
        guards=(),
        seed=1,
        search_path=(),
        timeout_seconds=60,
        memory_gb=None,
    )


def test_sections_for_optimizer_and_schedule_are_the_demo_models(tmp_path):
    configured, _ = config_of(demo_job(), tmp_path)
    cli = build(configured, requested={"optimizer.init_args.lr": 0.1, "lr_scheduler.init_args.gamma": 0.5})
    (optimizer,), (schedule,) = cli.model.configure_optimizers()
    assert type(optimizer).__name__ == "SGD"
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert schedule.gamma == 0.5


def test_a_demo_of_lightnings_own_is_trained_and_what_it_does_not_log_is_said(tmp_path):
    result = run_job(demo_job(), tmp_path)
    assert result.status is TrialStatus.METRIC_MISSING
    assert "'train_loss' was never logged" in (result.failure or "")
    assert result.steps == 4


def test_a_logger_that_writes_files_writes_into_the_trials_folder(tmp_path):
    loggers = [
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs", "name": "mine"}},
        {"class_path": "somebody.OwnLogger", "init_args": {"save_dir": "logs"}},
    ]
    configured, _ = config_of(demo_job(trainer={"logger": loggers}), tmp_path)
    assert configured["trainer"]["logger"][0]["init_args"] == {"save_dir": str(tmp_path), "name": "mine"}
    assert configured["trainer"]["logger"][1] == loggers[1]
    assert config_of(demo_job(trainer={"logger": True}), tmp_path)[0]["trainer"]["logger"] is True
    assert config_of(demo_job(), tmp_path)[0]["trainer"]["logger"] is False


def test_a_module_of_the_package_of_the_other_name_is_named_as_such(tmp_path, monkeypatch):
    pytest.importorskip("pytorch_lightning")
    text = "from pytorch_lightning.demos.boring_classes import BoringModel\n\nclass Net(BoringModel): pass\n"
    (tmp_path / "other_package.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TrialError, match=r"other_package.Net is a class of pytorch_lightning, .*lightning.pytorch"):
        build({"model": {"class_path": "other_package.Net"}, "trainer": QUIET}, requested={})
