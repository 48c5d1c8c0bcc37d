"""AutoResearch in a program's own process: what it changes, and above all what it leaves alone."""

from __future__ import annotations

import copy
import os
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_autoresearch import AutoResearch, load_spec
from lightning_autoresearch.chat import ScriptedChat
from lightning_autoresearch.errors import InputError, SpecError, StudyFailed, StudyMismatch, TrialError
from lightning_autoresearch.journal import read_journal
from lightning_autoresearch.trial import TrialStatus
from tests.live_project import (
    BETTER,
    SPEC,
    WORSE,
    Net,
    Points,
    Says,
    empty_folder,
    fit,
    loaders,
    points,
    quiet_trainer,
    research,
    weights,
)
from tests.scientists import WITH_SCIENTIST, answered, idea, op, reply

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*AutoResearch.*"),
    pytest.mark.filterwarnings("ignore:.*will be overridden.*"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory with a spec; the process as it was afterwards."""
    empty_folder(tmp_path, monkeypatch)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def outcome(trainer: pl.Trainer) -> tuple[bytes, float]:
    """Weights and metric, to be compared bit for bit."""
    return weights(trainer.lightning_module), trainer.callback_metrics["val_loss"].item()


def statuses(study: Path = Path("studies/live")) -> list[str]:
    return [entry.data["status"] for entry in read_journal(study) if entry.kind == "trial_finished"]


# -- the two lines ---------------------------------------------------------------------------------------------------


def test_a_plain_script_with_loaders_and_no_datamodule_gets_the_winner_into_its_own_objects() -> None:
    callback = research(BETTER)
    model = Net()
    trainer = fit(callback, model=model)
    assert callback.values == BETTER
    assert callback.task["model"]["lr"] == 0.1
    assert trainer.lightning_module is model
    assert model.hparams["lr"] == 0.1
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1
    assert callback.summary is not None
    assert callback.summary.confirmed_gain is not None
    assert set(statuses()) == {"finished"}


def test_the_fit_with_the_winner_is_the_fit_of_a_script_with_its_values() -> None:
    searched = fit(research(BETTER))
    written = fit(model=(pl.seed_everything(7, workers=True, verbose=False), Net(lr=0.1))[1])
    assert searched.lightning_module.hparams == written.lightning_module.hparams
    fresh = [(pl.seed_everything(7, workers=True, verbose=False), Net(lr=lr))[1] for lr in (0.1, 0.01)]
    assert weights(fresh[0]) == weights(fresh[1])
    assert searched.callback_metrics["val_loss"] < 0.9 * fit().callback_metrics["val_loss"]


def test_with_a_budget_of_no_trials_the_fit_is_bit_identical_to_that_without_the_callback(folder: Path) -> None:
    plain = fit()
    with_callback = fit(AutoResearch("spec.yaml", overrides=["budget.trials=0"]))
    assert outcome(with_callback) == outcome(plain)
    assert not (folder / "studies").exists()


def test_research_that_confirms_nothing_leaves_the_fit_bit_identical() -> None:
    plain = fit()
    callback = research(WORSE, {"model.width": 2})
    assert outcome(fit(callback)) == outcome(plain)
    assert callback.values == {}
    assert len(statuses()) >= 6


def test_the_programs_random_state_is_as_without_research() -> None:
    def numbers() -> tuple[Any, ...]:
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    fit()
    expected = numbers()
    fit(research(WORSE))
    assert numbers() == expected


def test_a_generator_of_the_programs_loader_is_where_it_was() -> None:
    def run(*callbacks: pl.Callback) -> tuple[bytes, float]:
        train, val = points()
        generator = torch.Generator().manual_seed(3)
        pl.seed_everything(7, verbose=False)
        trainer = quiet_trainer(callbacks=list(callbacks))
        trainer.fit(Net(), DataLoader(train, batch_size=16, shuffle=True, generator=generator), DataLoader(val))
        return outcome(trainer)

    assert run(research(WORSE)) == run()


def test_a_second_run_goes_on_from_the_study_and_fits_the_same() -> None:
    first = fit(research(BETTER))
    ran = len(statuses())
    assert outcome(fit(research(BETTER))) == outcome(first)
    assert len(statuses()) == ran


def test_an_interrupted_study_goes_on_and_the_fit_is_that_of_an_uninterrupted_run(folder: Path) -> None:
    whole = fit(research(BETTER, study="whole"))

    class Interrupts(Says):
        def propose(self, briefing: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            return super().propose(briefing)

    with pytest.raises(SystemExit):  # as Lightning ends a program after Ctrl-C
        fit(AutoResearch("spec.yaml", proposer=Interrupts(BETTER)))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
    broken_off = len(statuses())
    assert 0 < broken_off < len(statuses(Path("whole")))
    assert outcome(fit(research(BETTER))) == outcome(whole)
    assert len(statuses()) == len(statuses(Path("whole")))


def test_ctrl_c_ends_a_running_trial_at_its_next_batch_and_loses_nothing() -> None:
    slow = Net(step_seconds=0.05)
    timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(SystemExit):
        fit(research(BETTER), model=slow)
    timer.join()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert set(statuses()) <= {"finished"}
    kinds = [entry.kind for entry in read_journal(Path("studies/live"))]
    assert kinds[-1] == "session_ended"


def test_slurms_signal_stops_the_research_and_requeues_the_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin").mkdir()
    (folder / "bin/scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/requeued.txt\n')
    (folder / "bin/scontrol").chmod(0o755)
    whole = fit(research(BETTER, study="whole"))
    job = {"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_NNODES": "1",
           "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
           "PATH": f"{folder}/bin:{os.environ['PATH']}"}  # fmt: skip
    for name, value in job.items():
        monkeypatch.setenv(name, value)

    class Announced(Says):
        def propose(self, briefing: Any) -> Any:
            os.kill(os.getpid(), signal.SIGUSR1)
            return super().propose(briefing)

    with pytest.raises(SystemExit) as ended:
        fit(AutoResearch("spec.yaml", proposer=Announced(BETTER)))
    assert ended.value.code == 0
    assert (folder / "requeued.txt").read_text() == "requeue 12\n"
    assert outcome(fit(research(BETTER))) == outcome(whole)


def test_a_second_fit_of_the_same_callback_does_no_further_research() -> None:
    callback = research(BETTER)
    trainer = fit(callback)
    ran, model = len(statuses()), trainer.lightning_module
    again = quiet_trainer(callbacks=[callback])
    again.fit(model, *loaders())
    assert len(statuses()) == ran
    assert model.hparams["lr"] == 0.1


def test_load_from_checkpoint_carries_the_winner(tmp_path: Path) -> None:
    trainer = fit(research(BETTER, {"model.width": 16}))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Net.load_from_checkpoint(tmp_path / "model.ckpt")
    assert dict(loaded.hparams) == dict(trainer.lightning_module.hparams)
    assert weights(loaded) == weights(trainer.lightning_module)


def test_research_only_takes_no_step_and_changes_nothing() -> None:
    callback = research(BETTER, mode="research-only")
    model = Net()
    before = weights(model)
    trainer = fit(callback, model=model)
    assert trainer.global_step == 0
    assert weights(model) == before
    assert model.hparams["lr"] == 0.01
    assert callback.summary is not None
    assert callback.summary.incumbent["model.lr"] == 0.1
    assert callback.values == BETTER
    assert trainer.num_sanity_val_steps == 2
    trainer.fit(model, *loaders())
    assert trainer.global_step > 0


# -- failures --------------------------------------------------------------------------------------------------------

FAULTS = SPEC.replace(
    "  model.width:", "  model.fault: {type: categorical, choices: [none, raise, memory, nan]}\n  model.width:"
)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("raise", TrialStatus.ERROR),
        ("memory", TrialStatus.OUT_OF_MEMORY),
        ("nan", TrialStatus.NOT_FINITE),
    ],
)
def test_a_trials_failure_is_journaled_and_the_fit_still_runs(folder: Path, fault: str, status: TrialStatus) -> None:
    (folder / "spec.yaml").write_text(FAULTS)
    plain = fit()
    trainer = fit(research({"model.fault": fault}))
    assert status.value in statuses()
    assert outcome(trainer) == outcome(plain)


def test_a_baseline_that_does_not_train_is_told_and_the_fit_goes_on(folder: Path) -> None:
    (folder / "spec.yaml").write_text(SPEC.replace("val_loss", "val_accuracy"))
    plain = fit()
    with pytest.warns(UserWarning, match=r"no research, .*'val_accuracy' was never logged; these were: .*val_loss"):
        trainer = fit(research(BETTER))
    assert outcome(trainer) == outcome(plain)
    with pytest.raises(StudyFailed, match="never logged"):
        fit(research(BETTER, mode="research-only"))


def test_a_trial_beyond_its_time_is_ended_at_the_next_batch(folder: Path) -> None:
    text = SPEC.replace("  model.width:", "  model.step_seconds: {type: float, low: 0, high: 1}\n  model.width:")
    (folder / "spec.yaml").write_text(text + "execution: {timeout_seconds: 1}\n")
    fit(research({"model.step_seconds": 0.2}))
    assert "timed_out" in statuses()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_card_trials_leave_its_memory_and_random_state_as_they_were(folder: Path) -> None:
    (folder / "spec.yaml").write_text(FAULTS.replace("memory,", "memory_of_the_card,"))
    card = {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed"}
    plain = fit(**card)
    used = torch.cuda.memory_allocated()
    trainer = fit(research({"model.fault": "memory_of_the_card"}), **card)
    assert "out_of_memory" in statuses()
    assert outcome(trainer) == outcome(plain)
    assert torch.cuda.memory_allocated() <= 2 * used + (1 << 20)


# -- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  model.lr:", "  model.lrr:", r"spec.yaml:5:3: .*have no 'model.lrr'; did you mean 'model.lr'\?"),
        ("  model.lr:", "  data.batch_size:", "have no 'data.batch_size'; the data saves no hyperparameters"),
        ("trainer.max_steps", "trainer.precision", "have no 'trainer.precision'; there are: trainer.accumulate"),
        ("low: 0.0001", "low: 0.02", "the task's value 0.01 is outside"),
        ("  model.lr:", "  trainer.gradient_clip_val:", "null is not a number; give one to the Trainer, model or data"),
        ("name: live", "name: live\ntask: {model: {depth: 2}}", "have no 'model.depth'; did you mean 'model.width'"),
    ],
)
def test_a_spec_that_does_not_fit_the_objects_is_told_with_its_place(
    folder: Path, old: str, new: str, message: str
) -> None:
    (folder / "spec.yaml").write_text(SPEC.replace(old, new))
    with pytest.raises(SpecError, match=message):
        fit(research(BETTER))
    assert not (folder / "studies").exists()


def test_a_bad_spec_is_told_before_there_is_a_trainer(folder: Path) -> None:
    (folder / "spec.yaml").write_text(SPEC.replace("mode: min", "mode: minimal"))
    with pytest.raises(SpecError, match=r"spec.yaml:3:31: /objective/mode"):
        AutoResearch("spec.yaml")
    (folder / "spec.yaml").write_text(SPEC + "task: {model: {class_path: my.Net}}\n")
    with pytest.raises(SpecError, match=r"this task is a LightningCLI config.*fit"):
        AutoResearch("spec.yaml")
    with pytest.raises(InputError, match="neither 'research-then-fit' nor 'research-only'"):
        AutoResearch("spec.yaml", mode="research")  # type: ignore[arg-type]


def test_a_spec_without_a_task_is_for_the_callback_only(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"the key 'task' is missing; .*only the callback does without"):
        load_spec("spec.yaml")


def test_values_changed_in_the_program_are_another_study(folder: Path) -> None:
    fit(research(WORSE))
    with pytest.raises(StudyMismatch, match=r"/task/model/width was 8, is 9"):
        fit(research(WORSE), model=Net(width=9))


class Unsaved(Net):
    """Hides its hyperparameters."""

    def __init__(self, lr: float, width: int = 8):
        super().__init__(lr=lr, width=width)
        self._hparams.clear()
        self._hparams.update(fault="none", step_seconds=0.0)
        self.lr = lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Forgetful(Net):
    """Saves one hyperparameter of two."""

    def __init__(self, width: int = 8, lr: float = 0.01):
        super(Net, self).__init__()
        self.save_hyperparameters(ignore=["width"])
        self.hparams.update(fault="none", step_seconds=0.0)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.LayerNorm(width), torch.nn.Linear(width, 1))


ONE_KEY = SPEC.replace("  model.width: {type: int, low: 2, high: 32}\n", "")

CLIPPING = "trainer.gradient_clip_val: {type: categorical, choices: [null, 1.0]}"
OTHER_KEY = re.sub(r"  model.lr: .*\n", "  OTHER\n", ONE_KEY)


def test_a_model_that_cannot_be_built_again_is_refused_with_what_to_do(folder: Path) -> None:
    (folder / "spec.yaml").write_text(OTHER_KEY.replace("OTHER", CLIPPING))
    with pytest.raises(InputError, match=r"Unsaved cannot be built again .*'lr'. Save every argument with"):
        fit(research(), model=Unsaved(0.01))
    with pytest.raises(InputError, match=r"Forgetful is not what .*net.0.weight is 9x4, and 8x4 when it is made again"):
        fit(research(), model=Forgetful(width=9))


def test_weights_that_were_loaded_after_the_constructor_are_refused() -> None:
    model = Net()
    model.load_state_dict({name: value + 1 for name, value in Net().state_dict().items()})
    with pytest.raises(InputError, match=r"net.0.weight was changed after the constructor. .*loading weights, too"):
        fit(research(BETTER), model=model)


def test_build_makes_a_model_whose_hyperparameters_are_not_saved(folder: Path) -> None:
    (folder / "spec.yaml").write_text(ONE_KEY)

    def build(lr: float = 0.01, width: int = 8) -> Unsaved:
        return Unsaved(lr, width)

    model = Unsaved(0.01)
    trainer = fit(research(BETTER, build=build), model=model)
    assert trainer.lightning_module is model
    assert model.lr == 0.1
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1
    with pytest.raises(InputError, match="build: lr has no default"):
        fit(research(study="other", build=lambda lr: Unsaved(lr)), model=Unsaved(0.01))
    with pytest.raises(InputError, match=r"not what build\(\) gives again: net.0.weight is 8x4, and 9x4"):
        fit(research(study="other", build=lambda lr=0.01: Unsaved(lr, width=9)), model=Unsaved(0.01))


def test_a_strategy_that_spawns_is_refused_with_what_to_use() -> None:
    with pytest.raises(Exception, match=r"starts its processes by spawn .*strategy=\"ddp\""):
        fit(research(BETTER), devices=1, strategy="ddp_spawn")


def test_a_trainer_of_the_other_package_is_refused_with_what_to_import() -> None:
    other = pytest.importorskip("pytorch_lightning")
    trainer = other.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[research(BETTER)])

    class Module(other.LightningModule):  # type: ignore[misc, name-defined]
        training_step = Net.training_step
        validation_step = Net.validation_step
        configure_optimizers = Net.configure_optimizers

    with pytest.raises(InputError, match=r"of pytorch_lightning, .*import lightning.pytorch as pl"):
        trainer.fit(Module(), *loaders())


# -- when there is no research ---------------------------------------------------------------------------------------


def test_a_fit_from_a_checkpoint_has_the_known_winner_and_no_research(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = fit(research(BETTER, {"model.width": 16}), max_epochs=1)
    first.save_checkpoint("half.ckpt")
    ran = len(statuses())
    pl.seed_everything(7, verbose=False)
    model, trainer = Net(), quiet_trainer(callbacks=[research(BETTER)])
    trainer.fit(model, *loaders(), ckpt_path="half.ckpt")
    assert model.hparams == first.lightning_module.hparams
    assert trainer.global_step == 16
    assert len(statuses()) == ran


def test_a_fast_dev_run_does_no_research(folder: Path) -> None:
    fit(research(BETTER), fast_dev_run=1)
    assert not (folder / "studies").exists()


# -- data, Trainer, callbacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [True, False])
def test_a_datamodule_is_built_again_for_trials_and_shares_nothing_that_changes(folder: Path, saved: bool) -> None:
    class Counted(Points):
        def __init__(self, batch_size: int = 16, scale: float = 1.0):
            super().__init__(batch_size, scale)
            if not saved:
                self._hparams.clear()
                self._hparams_initial = copy.deepcopy(self._hparams)
            self.setups = 0

        def setup(self, stage: str) -> None:
            self.setups += 1
            super().setup(stage)

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.train, batch_size=self.hparams.get("batch_size", 16), shuffle=True)

    data = Counted()
    trainer = quiet_trainer(callbacks=[research(BETTER)])
    trainer.fit(Net(), datamodule=data)
    assert data.setups == 1
    assert set(statuses()) == {"finished"}


def test_the_winner_is_put_into_the_datamodule_and_the_trainer(folder: Path) -> None:
    keys = (
        "search_space:\n  data.batch_size: {type: int, low: 4, high: 64}\n"
        "  trainer.gradient_clip_val: {type: float, low: 0.001, high: 10, scale: log}\n"
    )
    (folder / "spec.yaml").write_text(SPEC.replace("search_space:\n", keys))
    data, model = Points(batch_size=64), Net(lr=0.05)
    best = {"data.batch_size": 16, "trainer.gradient_clip_val": 1.0, "model.width": 16}
    # compared within an epoch, a smaller batch takes more steps
    (folder / "spec.yaml").write_text(
        (folder / "spec.yaml").read_text().replace("trainer.max_steps: 12", "trainer.max_epochs: 1")
    )
    trainer = quiet_trainer(callbacks=[research(best)], gradient_clip_val=0.05)
    trainer.fit(model, datamodule=data)
    assert (data.hparams["batch_size"], trainer.gradient_clip_val, model.hparams["width"]) == (16, 1.0, 16)
    assert trainer.train_dataloader is not None
    assert trainer.train_dataloader.batch_size == 16
    assert trainer.datamodule is data  # type: ignore[attr-defined]


def test_trials_write_no_checkpoint_and_no_log_and_leave_callbacks_as_they_were(folder: Path) -> None:
    def run(name: str, *callbacks: pl.Callback) -> tuple[list[str], Any]:
        stopping = EarlyStopping("val_loss", patience=5)
        best = ModelCheckpoint(dirpath=f"{name}/checkpoints", monitor="val_loss")
        trainer = fit(
            *callbacks,
            stopping,
            best,
            LearningRateMonitor(),
            enable_checkpointing=True,
            logger=CSVLogger(f"{name}/logs", version=0),
            log_every_n_steps=1,
        )
        files = sorted(str(path.relative_to(name)) for path in Path(name).rglob("*") if path.is_file())
        return files, (outcome(trainer), stopping.state_dict(), (folder / name).joinpath(files[-1]).read_text())

    assert run("with", research(WORSE)) == run("plain")


def test_callbacks_that_are_left_out_do_not_see_trials() -> None:
    class Bell(pl.Callback):
        fits = 0

        def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            Bell.fits += 1

    fit(research(WORSE, without=[Bell]), Bell())
    assert Bell.fits == 1
    fit(research(WORSE, study="again"), Bell())
    assert Bell.fits > 3


def test_a_callback_that_cannot_be_copied_is_named(folder: Path) -> None:
    class Locked(pl.Callback):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    with pytest.warns(UserWarning, match=r"the callback Locked cannot be copied .*without=\[Locked\]"):
        fit(research(WORSE), Locked())
    fit(research(WORSE, without=[Locked]), Locked())
    assert set(statuses()) == {"finished"}


def test_what_the_program_gave_the_model_after_its_constructor_is_there_in_trials() -> None:
    model = Net()
    model.history = []  # type: ignore[assignment]

    def noted(self: Any, batch: Any, index: int) -> None:
        self.history.append(index)
        Net.validation_step(self, batch, index)

    model.validation_step = MethodType(noted, model)  # type: ignore[method-assign]
    fit(research(WORSE), model=model)
    assert set(statuses()) == {"finished"}
    assert model.history == [0, 1] * 3  # the sanity check and two epochs; nothing of the trials


def test_an_average_of_the_weights_follows_the_winner_wherever_its_callback_stands() -> None:
    from lightning.pytorch.callbacks import WeightAveraging

    average = WeightAveraging(device="cpu")
    trainer = fit(average, research({"model.lr": 0.1, "model.width": 16}))
    assert average._average_model is not None
    shapes = [tuple(parameter.shape) for parameter in average._average_model.module.parameters()]
    assert shapes == [tuple(parameter.shape) for parameter in trainer.lightning_module.parameters()]
    assert shapes[0] == (16, 4)


def test_a_language_model_adds_what_the_model_saved_to_the_search_space(folder: Path) -> None:
    text = OTHER_KEY.replace("OTHER", "model.width: {type: int, low: 2, high: 32}")
    (folder / "spec.yaml").write_text(text + WITH_SCIENTIST.replace("}", ", share: 1}"))
    faster = idea(op("set", "/task/model/lr", old=0.01, value=0.1), metric="val_loss")
    callback = AutoResearch("spec.yaml", chat=ScriptedChat([answered(reply(faster))]))
    trainer = fit(callback)
    assert callback.values["model.lr"] > 0.05, "the sampler may try another value of the key that the model added"
    assert trainer.lightning_module.hparams["lr"] == callback.values["model.lr"]
    revision = (folder / "studies/live/specs/0001.yaml").read_text()
    assert f"lr: {callback.values['model.lr']}" in revision
    assert "model.lr: {type: float, low: 0.01, high: 0.1, scale: log}" in revision


def test_a_model_that_lightning_cli_made_is_built_again_its_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.cli import LightningCLI

    monkeypatch.setattr("sys.argv", ["train.py"])
    config = {"model": {"class_path": "tests.live_project.Net", "init_args": {"lr": 0.01}},
              "data": {"class_path": "tests.live_project.Points", "init_args": {"batch_size": 64}},
              "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
              "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 100}},
              "trainer": {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "accelerator": "cpu",
                          "enable_progress_bar": False, "enable_model_summary": False}}  # fmt: skip
    keys = "data.batch_size: {type: int, low: 4, high: 64}\n  model.width: {type: int, low: 2, high: 32}"
    (folder / "spec.yaml").write_text(OTHER_KEY.replace("OTHER", keys).replace("max_steps: 12", "max_epochs: 2"))
    cli = LightningCLI(args=config, run=False, save_config_callback=None, seed_everything_default=7)
    best = {"data.batch_size": 16, "model.width": 9}
    cli.trainer.callbacks.insert(0, research(best))  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert set(statuses()) == {"finished"}
    assert (cli.model.hparams["width"], cli.datamodule.hparams["batch_size"]) == (9, 16)
    assert cli.model.configure_optimizers.__self__ is cli.model
    assert cli.trainer.optimizers[0].param_groups[0]["params"][0] is next(cli.model.parameters())
    assert cli.trainer.lr_scheduler_configs[0].scheduler.optimizer is cli.trainer.optimizers[0]


def test_an_optimizer_of_the_models_old_parameters_is_noticed_in_trials_and_in_the_fit() -> None:
    class Early(Net):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return made[0] if made else super().configure_optimizers()

    made: list[torch.optim.Optimizer] = []
    model = Early()
    made.append(torch.optim.SGD(model.parameters(), lr=0.01))
    with pytest.warns(UserWarning, match=r"SGD of Early was made of the parameters .*configure_optimizers\(\)"):
        fit(research(BETTER), model=model)
    made.clear()

    class Late(pl.Callback):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            made[:] = kept

    model = Early()
    kept = [torch.optim.SGD(model.parameters(), lr=0.01)]
    with pytest.raises(TrialError, match="SGD of Early was made of the parameters"):
        fit(research(BETTER, study="late", without=[Late]), Late(), model=model)


# -- revisions -------------------------------------------------------------------------------------------------------


def test_a_revision_holds_what_differs_from_the_program_and_is_put_in_without_trials(folder: Path) -> None:
    fit(research(BETTER))
    revised = (folder / "studies/live/specs/0001.yaml").read_text()
    assert revised.endswith(SPEC + "task: {model: {lr: 0.1}}\n")
    (folder / "adopted.yaml").write_text(revised)
    callback = AutoResearch("adopted.yaml", overrides=["budget.trials=0"])
    trainer = fit(callback)
    assert trainer.lightning_module.hparams["lr"] == 0.1
    assert outcome(trainer) == outcome(fit(research(BETTER)))


# -- ask and tell ----------------------------------------------------------------------------------------------------

OWN = SPEC + "task: {model: {lr: 0.01, width: 8}}\n"


def own_loop(callback: AutoResearch, *, each: Callable[[Any], None] = lambda trial: None, **settings: Any) -> None:
    for trial in callback.trials():
        with trial:
            each(trial)
            trainer = quiet_trainer(**trial.task["trainer"], callbacks=[callback], **settings)
            trainer.fit(Net(**trial.task["model"]), *loaders())


def evidence(study: str) -> list[Any]:
    finished = [entry.data for entry in read_journal(Path(study)) if entry.kind == "trial_finished"]
    return [(one["status"], one["objective"], one["curve"], one["steps"], one["samples"]) for one in finished]


def test_a_loop_of_the_programs_own_gives_the_same_evidence_as_the_callback(folder: Path) -> None:
    (folder / "spec.yaml").write_text(OWN)
    callback = research(BETTER)
    own_loop(callback)
    assert callback.values["model.lr"] == 0.1
    assert callback.summary is not None
    assert callback.summary.done
    (folder / "spec.yaml").write_text(SPEC)
    fit(research(BETTER, study="two-lines"), num_sanity_val_steps=0)
    assert evidence("studies/live") == evidence("two-lines")


def test_a_loop_that_is_left_goes_on_where_it_was(folder: Path) -> None:
    (folder / "spec.yaml").write_text(OWN)
    own_loop(research(BETTER, study="whole"))
    for number, trial in enumerate((callback := research(BETTER)).trials()):
        if number == 5:
            break
        quiet_trainer(**trial.task["trainer"], callbacks=[callback]).fit(Net(**trial.task["model"]), *loaders())
    assert len(statuses()) == 5
    own_loop(research(BETTER))
    assert evidence("studies/live") == evidence("whole")


def test_a_fit_that_raises_inside_with_trial_is_that_trials_outcome(folder: Path) -> None:
    (folder / "spec.yaml").write_text(OWN)

    def refuse(trial: Any) -> None:
        if trial["model.lr"] == 0.0002:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    own_loop(research(WORSE), each=refuse)
    assert statuses().count("out_of_memory") == 1
    assert statuses().count("finished") >= 4


def test_a_fit_that_is_not_the_trial_is_refused(folder: Path) -> None:
    (folder / "spec.yaml").write_text(OWN)
    callback = research(study="a")

    def with_other_steps() -> None:
        for trial in callback.trials():
            quiet_trainer(callbacks=[callback]).fit(Net(**trial.task["model"]), *loaders())

    def without_callback() -> None:
        for trial in research(study="b").trials():
            quiet_trainer(**trial.task["trainer"]).fit(Net(**trial.task["model"]), *loaders())

    with pytest.raises(InputError, match=r"trial 00001 asks for trainer.max_steps: 12, and its fit has -1"):
        with_other_steps()
    with pytest.raises(InputError, match=r"had no fit with the callback"):
        without_callback()
    with pytest.raises(InputError, match=r"works in its loop only"):
        quiet_trainer(callbacks=[callback]).fit(Net(), *loaders())
    (folder / "spec.yaml").write_text(SPEC)
    with pytest.raises(SpecError, match="the key 'task' is missing"):
        next(research(study="c").trials())
