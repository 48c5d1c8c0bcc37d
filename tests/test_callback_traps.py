"""Projects in which trials could silently train something else than the fit: each is refused, or done right."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from torch.utils.data import DataLoader, TensorDataset

from lightning_autoresearch.errors import InputError
from lightning_autoresearch.journal import read_journal
from tests.live_project import (
    BETTER,
    SPEC,
    WORSE,
    Net,
    Points,
    empty_folder,
    fit,
    loaders,
    points,
    quiet_trainer,
    research,
    weights,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*AutoResearch.*"),
    pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`.*"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    empty_folder(tmp_path, monkeypatch)
    return tmp_path


def search(folder: Path, *domains: str) -> None:
    """A spec with these keys instead."""
    head, _, tail = SPEC.partition("search_space:\n")
    rest = tail[tail.index("scales:") :]
    keys = "".join(f"  {one}\n" for one in domains)
    (folder / "spec.yaml").write_text(f"{head}search_space:\n{keys}{rest}")


def finished(study: str = "studies/live") -> list[dict[str, Any]]:
    return [dict(entry.data) for entry in read_journal(Path(study)) if entry.kind == "trial_finished"]


LR = "model.lr: {type: float, low: 0.0001, high: 0.5, scale: log}"


class Plain(Net):
    """All of its weights are random: nothing of them tells that they were loaded."""

    def __init__(self, lr: float = 0.01, width: int = 8, scale: float = 1.0, criterion: Any = None):
        super(Net, self).__init__()
        self.save_hyperparameters(ignore=["criterion"])
        self.hparams.update(fault="none", step_seconds=0.0)
        self.criterion = criterion or torch.nn.MSELoss()
        self.scale = scale
        self.act = torch.nn.ReLU()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Dropout(0.0), torch.nn.Linear(width, 1))


def loaded(model: Plain) -> None:
    model.load_state_dict(Plain().state_dict())


def another_loss(model: Plain) -> None:
    model.__init__(criterion=torch.nn.HuberLoss())  # type: ignore[misc]


def another_dropout(model: Plain) -> None:
    model.net[1].p = 0.5


def another_activation(model: Plain) -> None:
    model.act = torch.nn.GELU()


def another_attribute(model: Plain) -> None:
    model.scale = 2.0


def another_precision(model: Plain) -> None:
    model.double()


def another_hyperparameter(model: Plain) -> None:
    model.hparams["step_seconds"] = 0.001


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (loaded, "net.0.weight was changed after the constructor"),
        (another_loss, "criterion is a HuberLoss, and MSELoss when it is made again"),
        (another_dropout, "p of net.1 is 0.5, and 0.0 when it is made again"),
        (another_activation, "act is a GELU, and ReLU when it is made again"),
        (another_attribute, "scale of the model is 2.0, and 1.0 when it is made again"),
        (another_precision, "net.0.weight is of torch.float64, and of torch.float32 when"),
        (another_hyperparameter, "the hyperparameter step_seconds is 0.001, and 0.0 when"),
    ],
)
def test_a_model_that_its_constructor_does_not_give_again_is_refused(
    folder: Path, change: Callable[[Plain], None], message: str
) -> None:
    search(folder, LR)
    model = Plain()
    change(model)
    with pytest.raises(InputError, match=message):
        fit(research(BETTER), model=model)
    assert not (folder / "studies/live/journal.jsonl").exists()


def test_what_is_frozen_stays_frozen_in_trials_and_with_the_winner() -> None:
    model = Net()
    model.net[0].requires_grad_(False)
    model.net[1].eval()
    seen: list[tuple[bool, bool]] = []

    class Looks(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            net: Any = pl_module.net
            seen.append((net[0].weight.requires_grad, net[1].training))

    fit(research(BETTER), Looks(), model=model)
    assert model.hparams["lr"] == 0.1
    assert len(seen) > 10
    assert set(seen) == {(False, False)}


class Act(enum.Enum):
    RELU = "relu"
    TANH = "tanh"


class WithEnum(Net):
    used: list[Act] = []  # noqa: RUF012

    def __init__(self, act: Act = Act.RELU, sizes: tuple[int, ...] = (8,), lr: float = 0.01):
        super().__init__(lr=lr)
        self.save_hyperparameters()
        self.hparams.update(fault="none", step_seconds=0.0)
        assert isinstance(act, Act)
        assert isinstance(sizes, tuple)
        WithEnum.used.append(act)


def test_a_member_of_an_enumeration_is_set_as_one(folder: Path) -> None:
    search(folder, "model.act: {type: categorical, choices: [relu, tanh]}")
    fit(research({"model.act": "tanh"}), model=WithEnum())
    assert Act.TANH in WithEnum.used
    assert {one["status"] for one in finished()} == {"finished"}


def test_data_that_is_set_up_once_only_is_set_up_anew_in_trials(folder: Path) -> None:
    class Guarded(Points):
        made: list[float] = []  # noqa: RUF012

        def setup(self, stage: str) -> None:
            if not hasattr(self, "train"):
                Guarded.made.append(self.hparams["scale"])
                super().setup(stage)

    search(folder, "data.scale: {type: float, low: 0.5, high: 4}")
    trainer = quiet_trainer(callbacks=[research({"data.scale": 2.0})])
    trainer.fit(Net(), datamodule=Guarded())
    assert 2.0 in Guarded.made


def test_data_without_saved_hyperparameters_is_not_set_up_a_second_time() -> None:
    class Halves(pl.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            (self.inputs, self.targets), _ = (part.tensors for part in points())

        def setup(self, stage: str) -> None:
            self.inputs.mul_(0.5)

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(TensorDataset(self.inputs, self.targets), batch_size=16)

        val_dataloader = train_dataloader

    data = Halves()
    before = data.inputs.clone()
    quiet_trainer(callbacks=[research(WORSE)]).fit(Net(), datamodule=data)
    assert torch.equal(data.inputs, before * 0.5)


def test_build_may_not_give_a_part_of_the_programs_own_model(folder: Path) -> None:
    search(folder, LR)
    backbone = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))

    class Given(Net):
        def __init__(self, net: torch.nn.Module, lr: float = 0.01):
            super().__init__(lr=lr)
            self.net = net  # type: ignore[assignment]

    with pytest.raises(InputError, match=r"build\(\) gives net.0.weight a second time .*copy.deepcopy"):
        fit(research(BETTER, build=lambda lr=0.01: Given(backbone, lr)), model=Given(backbone))


def test_hooks_of_a_model_from_build_belong_to_the_programs_own_model(folder: Path) -> None:
    search(folder, LR)

    class Hooked(Net):
        def __init__(self, lr: float = 0.01):
            super().__init__(lr=lr)
            self.calls = 0
            self.net[0].register_forward_hook(self.count)

        def count(self, *_: Any) -> None:
            self.calls += 1

    model = Hooked()
    fit(research(BETTER, build=lambda lr=0.01: Hooked(lr)), model=model)
    assert model.hparams["lr"] == 0.1
    assert model.calls > 0


def test_a_value_that_the_constructor_does_not_take_is_an_error_of_the_trial(folder: Path) -> None:
    search(folder, LR, "model.momentum: {type: float, low: 0.1, high: 0.9}")
    model = Net()
    model.save_hyperparameters({"momentum": 0.5})
    with pytest.raises(InputError, match=r"the hyperparameter momentum is 0.5, and None when"):
        fit(research({"model.momentum": 0.9}), model=model)


def test_a_callback_that_changes_a_searched_value_is_an_error_of_the_trial() -> None:
    class Finder(LearningRateFinder):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.hparams["lr"] = 0.05

    fit(research({"model.lr": 0.1}), Finder())
    failures = [one["failure"] for one in finished() if one["status"] == "error"]
    assert len(failures) == 1
    assert "model" not in failures[0].split("was set")[0]
    assert "lr was set to 0.1 and is 0.05 after the trial" in failures[0]


def test_loaders_that_a_model_or_a_callback_holds_are_there_in_trials() -> None:
    class Holds(pl.Callback):
        def __init__(self, data: pl.LightningDataModule) -> None:
            self.data = data

        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            assert self.data.hparams["batch_size"] == 16
            assert trainer.logger is None or trainer.logger.save_dir

    data = Points()
    trainer = quiet_trainer(callbacks=[research(WORSE), Holds(data)])
    trainer.fit(Net(), datamodule=data)
    assert {one["status"] for one in finished()} == {"finished"}
    model = Net()
    model.extra = loaders()[1]  # type: ignore[assignment]

    class Looks(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            assert len(pl_module.extra) == 2  # type: ignore[arg-type]

    fit(research(WORSE, study="loader"), Looks(), model=model)
    assert {one["status"] for one in finished("loader")} == {"finished"}


def test_what_cannot_be_copied_is_refused_and_not_shared() -> None:
    import threading

    class Locked(pl.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.lock, self.loaders = threading.Lock(), loaders()

        def train_dataloader(self) -> DataLoader[Any]:
            return self.loaders[0]

        def val_dataloader(self) -> DataLoader[Any]:
            return self.loaders[1]

    with pytest.warns(UserWarning, match=r"no research, .*Locked cannot be copied for a trial"):
        quiet_trainer(callbacks=[research(WORSE)]).fit(Net(), datamodule=Locked())


def test_the_same_callback_gives_every_further_model_the_winner() -> None:
    callback = research(BETTER)
    fit(callback)
    ran, second = len(finished()), Net()
    fit(callback, model=second)
    assert second.hparams["lr"] == 0.1
    assert len(finished()) == ran


def test_secrets_of_the_program_are_not_written_down(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Private(Net):
        def __init__(self, lr: float = 0.01, width: int = 8, hf_token: str = ""):
            super().__init__(lr=lr, width=width)
            self.save_hyperparameters()
            assert hf_token == "the-token-of-hers"

    monkeypatch.setattr("sys.argv", ["train.py", "--api-key=the-key-of-hers", "--password", "her-word", "--lr", "1"])
    fit(research(WORSE), model=Private(hf_token="the-token-of-hers"))
    written = "".join(path.read_text() for path in (folder / "studies").rglob("*") if path.is_file())
    assert "python train.py '--api-key=[redacted]' --password '[redacted]' --lr 1" in written
    for secret in ("the-token-of-hers", "the-key-of-hers", "her-word"):
        assert secret not in written


@pytest.mark.parametrize("how", ["budget.trials=0", "fast_dev_run", "schedule"])
def test_research_only_never_takes_a_step(how: str) -> None:
    class Scheduled(Net):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            steps = int(self.trainer.estimated_stepping_batches)
            return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)]

    model = Scheduled()
    before = weights(model)
    overrides = [how] if how.startswith("budget") else []
    settings = {"fast_dev_run": 2} if how == "fast_dev_run" else {}
    callback = research(BETTER, mode="research-only", overrides=overrides)
    trainer = fit(callback, model=model, **settings)
    assert trainer.global_step == 0
    assert weights(model) == before
    if how == "schedule":
        assert callback.summary is not None
    trainer.fit(model, *loaders())
    assert trainer.global_step > 0


def test_an_error_in_setup_gives_the_trainer_back_as_it_was() -> None:
    class Fails(pl.Callback):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            raise RuntimeError("no disk")

    trainer = quiet_trainer(callbacks=[research(BETTER, mode="research-only", without=[Fails]), Fails()])
    with pytest.raises(RuntimeError, match="no disk"):
        trainer.fit(Net(), *loaders())
    trainer.callbacks.pop()  # type: ignore[attr-defined]
    trainer.fit(Net(), *loaders())
    assert trainer.global_step > 0


def test_a_schedule_as_long_as_the_programs_fit_is_as_long_in_a_trial() -> None:
    seen: list[int | None] = []

    class Cosine(Net):
        def configure_optimizers(self) -> Any:
            seen.append(self.trainer.max_epochs)
            return super().configure_optimizers()

    fit(research(WORSE), model=Cosine(), max_epochs=3)
    assert set(seen) == {3}


OWN = SPEC + "task: {model: {lr: 0.01, width: 8}}\n"


def test_what_the_programs_loop_does_after_a_fit_is_not_the_trials_outcome(folder: Path) -> None:
    (folder / "spec.yaml").write_text(OWN)
    other = DataLoader(points(seed=5)[1], batch_size=8)

    def run(study: str, *, after: bool) -> list[Any]:
        callback = research(BETTER, study=study)
        for trial in callback.trials():
            trainer = quiet_trainer(**trial.task["trainer"], callbacks=[callback])
            model = Net(**trial.task["model"])
            trainer.fit(model, *loaders())
            if after:
                trainer.validate(model, other, verbose=False)
        return [(one["status"], one["objective"], one["curve"]) for one in finished(study)]

    assert run("with", after=True) == run("without", after=False)


def test_a_baseline_with_other_values_than_the_task_is_refused(folder: Path) -> None:
    (folder / "spec.yaml").write_text(OWN)
    callback = research(BETTER)

    def with_another_rate() -> None:
        for trial in callback.trials():
            trainer = quiet_trainer(**trial.task["trainer"], callbacks=[callback])
            trainer.fit(Net(lr=0.05), *loaders())

    with pytest.raises(InputError, match=r"trial 00001 asks for model.lr: 0.01, and its fit has 0.05"):
        with_another_rate()


def test_a_fit_that_raised_has_no_outcome_but_that_even_where_the_loop_catches_it(folder: Path) -> None:
    (folder / "spec.yaml").write_text(OWN)
    callback = research(BETTER)
    for trial in callback.trials():
        trainer = quiet_trainer(**trial.task["trainer"], callbacks=[callback])
        try:
            trainer.fit(Net(**trial.task["model"], fault="raise" if trial["model.lr"] == 0.1 else "none"), *loaders())
        except RuntimeError:
            continue
    assert [one["status"] for one in finished()].count("error") == 1
    assert callback.values == {}
