"""A Trainer of a program: its settings, and copies of it for trials."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.prediction_loop import _PredictionLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.states import RunningStage, TrainerFn

from lightning_autoresearch.errors import TrialError
from lightning_autoresearch.plain import plain
from lightning_autoresearch.space import get_key, has_key

QUIET = (Checkpoint, ModelSummary, ProgressBar)
"""Callbacks that a trial does without: they write files or to the terminal, and change nothing of the training."""
_ON_LOOP = ("max_epochs", "min_epochs")
_ON_EPOCH_LOOP = ("max_steps", "min_steps")
_ON_TRAINER = (
    "accumulate_grad_batches",
    "check_val_every_n_epoch",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "limit_train_batches",
    "limit_val_batches",
    "val_check_interval",
)


def settings_of(trainer: pl.Trainer) -> dict[str, Any]:
    """What of a Trainer can be changed after it was made."""
    names = sorted((*_ON_TRAINER, *_ON_LOOP, *_ON_EPOCH_LOOP))
    return plain({name: getattr(trainer, name) for name in names})


def validation_data(trainer: pl.Trainer) -> dict[str, Any]:
    """Arguments of `Trainer.validate` that give it the data of the fit."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if data is not None:
        return {"datamodule": data}
    source = trainer.fit_loop.epoch_loop.val_loop._data_source.instance
    return {} if source is trainer.lightning_module else {"dataloaders": source}


def put_setting(trainer: pl.Trainer, name: str, value: Any) -> None:
    """Change one setting of a Trainer that exists; its name is one of those that `settings_of` reads."""
    if name in _ON_EPOCH_LOOP:
        setattr(trainer.fit_loop.epoch_loop, name, value)
    elif name in _ON_LOOP:
        setattr(trainer.fit_loop, name, value)
    else:
        setattr(trainer, name, value)


def copied_trainer(
    old: pl.Trainer,
    model: pl.LightningModule,
    data: pl.LightningDataModule | None,
    folder: Path,
    *,
    without: tuple[type[pl.Callback], ...],
    asked: Mapping[str, Any],
) -> pl.Trainer:
    """A Trainer as the user made hers, with loops that have not run, and nothing that writes.

    Args:
        old: hers, in the setup of a fit.
        model: what the copy is to fit.
        data: its datamodule, if it has one.
        folder: stands in for folders of hers.
        without: classes of callbacks that the copy does without.
        asked: hyperparameters that the model was given on purpose.

    Raises:
        TrialError: a callback cannot be copied.
    """
    loops = (old.fit_loop, old.validate_loop, old.test_loop, old.predict_loop)
    memo: dict[int, Any] = {id(loop): None for loop in loops}
    own, nowhere = old.lightning_module, _Nowhere(folder)
    memo |= {id(own): model, id(old.strategy._launcher): None}
    if old.datamodule is not None:  # type: ignore[attr-defined]
        memo[id(old.datamodule)] = data  # type: ignore[attr-defined]
    profiler, files = old.profiler, old.strategy.checkpoint_io  # type: ignore[attr-defined]
    memo |= {id(profiler): PassThroughProfiler(), id(files): files}
    memo |= {id(logger): nowhere for logger in old.loggers}
    callbacks = old.callbacks  # type: ignore[attr-defined]
    memo[id(callbacks)] = []
    new = copy.deepcopy(old, memo)
    copies = [_copied_callback(one, memo) for one in callbacks if not isinstance(one, without)]
    new.callbacks = [*copies, OwnParameters(list(own.parameters())), KeepsValues(asked)]  # type: ignore[attr-defined]
    new._loggers = [nowhere]
    new._default_root_dir = str(folder)  # type: ignore[attr-defined]
    new.num_sanity_val_steps = 0
    _renew_loops(new, like=old)
    return new


class OwnParameters(pl.Callback):
    """Looks that an optimizer does not hold parameters of another model: it would train that one.

    Args:
        others: the other model's parameters.
    """

    def __init__(self, others: Sequence[torch.nn.Parameter]) -> None:
        self._others = others

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, as soon as there are optimizers.

        Raises:
            TrialError: one holds them.
        """
        others = {id(parameter) for parameter in self._others}
        for optimizer in trainer.optimizers:
            if any(id(one) in others for group in optimizer.param_groups for one in group["params"]):
                name = type(pl_module).__name__
                raise TrialError(
                    f"the {type(optimizer).__name__} of {name} was made of the parameters that the model had before "
                    "the trial: make it in configure_optimizers() of the class"
                )


class KeepsValues(pl.Callback):
    """Looks that a model was trained with the values that it was given, whatever ran in between.

    Args:
        asked: dotted keys of its hyperparameters, and their values.
    """

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self._asked = asked

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, when all is done.

        Raises:
            TrialError: another value stands there now.
        """
        saved = plain(dict(pl_module.hparams))
        for key, value in self._asked.items():
            if has_key(saved, key) and (got := get_key(saved, key)) != value:
                raise TrialError(
                    f"{key} was set to {value!r} and is {got!r} after the trial: a callback (one that finds "
                    "learning rates or batch sizes?) has changed it"
                )


class _Nowhere(DummyLogger):
    """Stands for the user's loggers in a trial: takes everything, writes nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = str(folder)

    @property
    def save_dir(self) -> str:
        """The trial's folder, for code that writes beside its logs."""
        return self._folder

    @property
    def log_dir(self) -> str:
        """The same, as loggers that write files call it."""
        return self._folder


def _renew_loops(trainer: pl.Trainer, *, like: pl.Trainer) -> None:
    """The loops that a Trainer's constructor makes, with the limits of another's."""
    inference = like.validate_loop.inference_mode
    fit_loop = _FitLoop(trainer, min_epochs=like.min_epochs, max_epochs=like.max_epochs)
    trainer.fit_loop = fit_loop
    fit_loop.epoch_loop = _TrainingEpochLoop(trainer, min_steps=like.min_steps, max_steps=like.max_steps)
    stages = RunningStage.VALIDATING, RunningStage.TESTING
    validating, testing = TrainerFn.VALIDATING, TrainerFn.TESTING
    trainer.validate_loop = _EvaluationLoop(trainer, validating, stages[0], inference_mode=inference)
    trainer.test_loop = _EvaluationLoop(trainer, testing, stages[1], inference_mode=inference)
    trainer.predict_loop = _PredictionLoop(trainer, inference_mode=inference)


def _copied_callback(callback: pl.Callback, memo: dict[int, Any]) -> pl.Callback:
    try:
        return copy.deepcopy(callback, memo)
    except (TypeError, RuntimeError) as error:
        name = type(callback).__name__
        raise TrialError(
            f"the callback {name} cannot be copied for a trial ({error}); leave it out there with without=[{name}]"
        ) from error
