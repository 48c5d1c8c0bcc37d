"""A task that is live objects: the Trainer, the model and the data that a program gave to `Trainer.fit`.

They are read as plain data, copied or built again for trials, and changed in place when something has won.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.device_dtype_mixin import _DeviceDtypeModuleMixin
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_autoresearch.building import Training
from lightning_autoresearch.comparing import difference, shared
from lightning_autoresearch.errors import InputError, TrialError
from lightning_autoresearch.plain import like, plain
from lightning_autoresearch.rebuilding import carry_over, copied, heavy, instantiator, made_again, renew
from lightning_autoresearch.trainers import (
    QUIET,
    copied_trainer,
    put_setting,
    settings_of,
    validation_data,
)
from lightning_autoresearch.trial import Job, digest_of


class Build(Protocol):
    """Makes a model from named values, each with a default: the program's own."""

    def __call__(self, **values: Any) -> pl.LightningModule:
        """A model with fresh weights."""
        ...


_NOTHING = object()


class LiveTask:
    """The objects of a fit that is about to begin (`setup("fit")`), as a task.

    Args:
        trainer: the user's Trainer, with model and data attached.
        build: makes the model, where its hyperparameters are not saved.
        without: classes of callbacks that trials do without.

    Attributes:
        task: what was read, as plain data: `model`, `trainer`, and `data` where there is a datamodule.

    Raises:
        InputError: the model cannot be built again from what is known of it.
    """

    def __init__(
        self, trainer: pl.Trainer, *, build: Build | None = None, without: tuple[type[pl.Callback], ...] = ()
    ) -> None:
        self.trainer = trainer
        self.model = trainer.lightning_module
        self.data: pl.LightningDataModule | None = trainer.datamodule  # type: ignore[attr-defined]
        self.build = build
        self._without = (*QUIET, *without)
        model = _defaults(build) if build else dict(self.model.hparams)
        self.task: dict[str, Any] = {"model": plain(model), "trainer": settings_of(trainer)}
        if self.data is not None:
            self.task["data"] = plain(dict(self.data.hparams))

    # -- trials ------------------------------------------------------------------------------------------------------

    def training(self, job: Job, folder: Path) -> Training:
        """A trial of the task: a copy of the Trainer, model and data built again with the job's values.

        Raises:
            TrialError: the model did not take a value that it was given.
        """
        changes = changed(self.task, job.task)
        model = self._new_model(_below("model", changes))
        carry_over(self.model, model)
        self._without_files(model)
        fit, validate = self._data_for(_below("data", changes))
        trainer = copied_trainer(
            self.trainer, model, fit.get("datamodule"), folder, without=self._without, asked=_below("model", changes)
        )
        for name, value in _below("trainer", changes).items():
            put_setting(trainer, name, value)
        return Training(
            trainer=trainer, model=model, fit=fit, validate=validate, digest=partial(digest_of, dict(job.task))
        )

    def check(self) -> None:
        """Refuse what trials would silently get wrong: a model that its constructor does not give again.

        Raises:
            InputError: it cannot be built again, has other parameters then, or its weights were changed since.
        """
        if self.model._compiler_ctx is not None:
            raise InputError("a compiled model cannot be built again: call torch.compile in its configure_model()")
        with isolate_rng(include_cuda=False):
            fresh = self._first_fresh(0), self._first_fresh(1)
        if name := shared((self.model, *fresh)):
            raise InputError(
                f"{self._source} gives {name} a second time instead of a new one, so a trial would train your model: "
                "make every part anew there (copy.deepcopy of a part that is given)"
            )
        if text := difference(self.model, fresh):
            raise InputError(
                f"{self._name} is not what {self._source} gives again: {text}. Trials would train another model than "
                f"your fit. {self._remedy}"
            )

    @property
    def _name(self) -> str:
        return type(self.model).__name__

    @property
    def _source(self) -> str:
        return "build()" if self.build else "its constructor with the saved hyperparameters"

    @property
    def _remedy(self) -> str:
        if self.build:
            return "Let build() do all that makes your model, with its values as defaults"
        return (
            "Save every argument with self.save_hyperparameters() and do the rest (loading weights, too) in __init__, "
            "or give a function that makes the model as build="
        )

    def _first_fresh(self, seed: int) -> pl.LightningModule:
        torch.manual_seed(seed)
        try:
            return self._new_model({})
        except Exception as error:
            raise InputError(
                f"{self._name} cannot be built again by {self._source}: {type(error).__name__}: {error}. {self._remedy}"
            ) from error

    def _new_model(self, changes: Mapping[str, Any]) -> pl.LightningModule:
        if self.build:
            defaults = _defaults(self.build)
            new = self.build(**{**defaults, **{key: like(defaults.get(key), one) for key, one in changes.items()}})
        else:
            new = made_again(self.model, changes)
        if type(new) is not type(self.model):
            raise TrialError(f"build() gave a {type(new).__name__}, and the Trainer was given a {self._name}")
        return new

    def _without_files(self, model: pl.LightningModule) -> None:
        """The callbacks that a model brings along are those of a trial too."""
        configure = model.configure_callbacks

        def kept() -> list[pl.Callback]:
            callbacks = configure()
            listed = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
            return [one for one in listed if not isinstance(one, self._without)]

        model.configure_callbacks = kept  # type: ignore[method-assign]

    def _data_for(self, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of `Trainer.fit` and of `validate`: own copies of all that has a state, the datasets shared."""
        if self.data is not None:
            data = self._fresh_data(changes)
            return {"datamodule": data}, {"datamodule": data}
        train = self.trainer.fit_loop._data_source.instance
        fit = {} if train is self.model else {"train_dataloaders": copied(train, {})}
        validate = {name: copied(one, {}) for name, one in validation_data(self.trainer).items()}
        return fit | {f"val_{name}": one for name, one in validate.items()}, validate

    def _fresh_data(self, changes: Mapping[str, Any]) -> pl.LightningDataModule:
        """The datamodule made again, or, where its hyperparameters are not saved, a copy that has been set up."""
        assert self.data is not None
        if self.data.hparams:
            fresh: pl.LightningDataModule = made_again(self.data, changes)
            return fresh
        shared_parts = {id(part): part for part in heavy(self.data.__dict__)}
        data: pl.LightningDataModule = copied(self.data, {id(self.trainer): None, **shared_parts})
        for name in ("prepare_data", "setup", "teardown"):  # done, in the program's own; a second time may be too much
            setattr(data, name, lambda *_, **__: None)
        return data

    # -- the winner --------------------------------------------------------------------------------------------------

    def put_in(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Change the user's own objects to the values of a task; what it does not change keeps its state.

        Model and data are made anew in place, so every variable of the program still means them.

        Returns:
            What was changed: dotted keys and values.
        """
        changes = changed(self.task, task)
        if of_model := _below("model", changes):
            self._renew_model(of_model)
        if (of_data := _below("data", changes)) and self.data is not None:
            renew(self.data, made_again(self.data, of_data) if instantiator(self.data) else None, of_data)
            self.data.trainer = self.trainer
            self.trainer._data_connector.prepare_data()
            self.data.setup("fit")
        for name, value in _below("trainer", changes).items():
            put_setting(self.trainer, name, value)
        return changes

    def _renew_model(self, changes: Mapping[str, Any]) -> None:
        model = self.model
        ready_made = self._new_model(changes) if self.build or instantiator(model) else None
        renew(model, ready_made, changes)
        model.trainer = self.trainer
        for module in model.modules():  # as Lightning does before it calls the setup hooks
            if isinstance(module, _DeviceDtypeModuleMixin):
                module._device = self.trainer.strategy.root_device


def changed(task: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys whose values in another task differ, with the other's values."""
    found: dict[str, Any] = {}
    for key, value in other.items():
        mine = task.get(key, _NOTHING)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            found |= {f"{key}.{below}": one for below, one in changed(mine, value).items()}
        elif mine != value or isinstance(mine, bool) != isinstance(value, bool):
            found[key] = value
    return found


def _below(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{section}."
    return {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}


def _defaults(build: Build) -> dict[str, Any]:
    """The values that `build` uses when it is given none.

    Raises:
        InputError: an argument has no default.
    """
    parameters = inspect.signature(build).parameters.values()
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if missing := [one.name for one in named if one.default is one.empty]:
        raise InputError(f"build: {', '.join(missing)} has no default; let it be the value that your model has")
    return {one.name: one.default for one in named}


# -- looking ---------------------------------------------------------------------------------------------------------
