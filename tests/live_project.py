"""A program as people have them, for the tests of the callback: a model, loaders, a datamodule, and who proposes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_autoresearch import AutoResearch
from lightning_autoresearch.hypothesis import Briefing, Hypothesis, Prediction, Proposal
from lightning_autoresearch.space import Value

SPEC = """\
version: 1
name: live
objective: {metric: val_loss, mode: min}
search_space:
  model.lr: {type: float, low: 0.0001, high: 0.5, scale: log}
  model.width: {type: int, low: 2, high: 32}
scales:
  - {name: short, set: {trainer.max_steps: 12}}
budget: {trials: 60}
decision: {keeps_per_round: 1, proposals_per_round: 2, calibration_seeds: 4}
policy: {max_factor: 100}
"""
BETTER: Mapping[str, Value] = {"model.lr": 0.1}
"""A tenfold learning rate: better at the scale `short` by far more than the noise."""
WORSE: Mapping[str, Value] = {"model.lr": 0.0002}

Batch = list[torch.Tensor]


class Net(pl.LightningModule):
    """A regression that does what `fault` says at its third step."""

    def __init__(self, lr: float = 0.01, width: int = 8, fault: str = "none", step_seconds: float = 0.0):
        super().__init__()
        self.save_hyperparameters()
        layers = [torch.nn.Linear(4, width), torch.nn.LayerNorm(width), torch.nn.Linear(width, 1)]
        self.net = torch.nn.Sequential(*layers)

    def loss(self, batch: Batch) -> torch.Tensor:
        inputs, targets = batch
        return ((self.net(inputs) - targets) ** 2).mean()

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        if step_seconds := self.hparams["step_seconds"]:
            time.sleep(step_seconds)
        if self.global_step == 2 and self.hparams["fault"] != "none":
            getattr(self, f"fault_{self.hparams['fault']}")()
        return self.loss(batch)

    def validation_step(self, batch: Batch, index: int) -> None:
        loss = self.loss(batch)
        self.log("val_loss", loss * float("nan") if self.hparams["fault"] == "nan" else loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

    def fault_raise(self) -> None:
        raise RuntimeError("the gradient went for a walk")

    def fault_raise_on_rank_one(self) -> None:
        if self.global_rank == 1:
            raise RuntimeError("the gradient went for a walk on rank one")

    def fault_die_on_rank_one(self) -> None:
        if self.global_rank == 1:
            self.fault_die()

    def fault_die(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def fault_memory(self) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def fault_memory_of_the_card(self) -> None:
        torch.empty(1 << 50, device=self.device)

    def fault_nan(self) -> None:
        """The objective is NaN, see above."""


def points(seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """128 points to train on and 64 to validate with, always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(192, 4, generator=generator)
    targets = inputs.sum(1, keepdim=True) + 0.1 * torch.randn(192, 1, generator=generator)
    return TensorDataset(inputs[:128], targets[:128]), TensorDataset(inputs[128:], targets[128:])


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of the points; the order of training follows from the program's random state."""
    train, val = points()
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=32)


class Points(pl.LightningDataModule):
    """The same as a datamodule that saves its hyperparameters."""

    def __init__(self, batch_size: int = 16, scale: float = 1.0):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        self.train, self.val = points()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.hparams["batch_size"], shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=32)


class Says:
    """Proposes what it was told, one after the other, and never the same again.

    Args:
        overrides: what the hypotheses set.
        seconds: how long it thinks before its first answer.
    """

    def __init__(self, *overrides: Mapping[str, Value], seconds: float = 0.0):
        self.overrides = overrides
        self.seconds = seconds

    def propose(self, briefing: Briefing) -> Proposal:
        time.sleep(self.seconds)
        self.seconds = 0.0
        tested = [finding.hypothesis.overrides for finding in briefing.findings if not finding.void]
        new = [one for one in self.overrides if one not in tested]
        hypotheses = tuple(
            Hypothesis(
                id="h?",
                statement=f"Set {dict(one)}.",
                mechanism="Because.",
                source="sampler",
                overrides=dict(one),
                prediction=Prediction(gain=0.5, probability=0.5),
            )
            for one in new[: briefing.wanted]
        )
        return Proposal(hypotheses=hypotheses, source="sampler")


def quiet_trainer(**settings: Any) -> pl.Trainer:
    """A Trainer on the CPU that writes nothing."""
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    usual: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "enable_checkpointing": False, **silent}
    return pl.Trainer(**{**usual, **settings})


def weights(model: torch.nn.Module) -> bytes:
    """All parameters and buffers, bit for bit."""
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


def empty_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a spec, and an environment in which nothing was seeded."""
    monkeypatch.chdir(folder)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (folder / "spec.yaml").write_text(SPEC)


def research(*proposed: Mapping[str, Value], **options: Any) -> AutoResearch:
    """The callback with a scientist that proposes just that."""
    return AutoResearch("spec.yaml", proposer=Says(*proposed), **options)


def fit(*callbacks: pl.Callback, model: pl.LightningModule | None = None, **settings: Any) -> pl.Trainer:
    """A whole program: seed, model, loaders, Trainer, fit."""
    pl.seed_everything(7, workers=True, verbose=False)
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(model or Net(), *loaders())
    return trainer
