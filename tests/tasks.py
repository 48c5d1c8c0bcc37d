"""Small tasks for the tests: a regression that trains in milliseconds, and its misbehaving relatives.

Tests name them by class path (`tasks.Regression`) with this folder in the job's search path.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Regression(pl.LightningModule):
    """Linear or two-layer regression by SGD; logs `val_loss` and `val_error`."""

    def __init__(self, lr: float = 0.1, width: int = 0, momentum: float = 0.0, penalty: float | None = None):
        super().__init__()
        self.save_hyperparameters()
        hidden = [torch.nn.Linear(4, width), torch.nn.Tanh()] if width else []
        self.net = torch.nn.Sequential(*hidden, torch.nn.Linear(width or 4, 1))

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        inputs, targets = batch
        return ((self.net(inputs) - targets) ** 2).mean()

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        loss = self.loss(batch)
        self.log_dict({"val_loss": loss, "val_error": loss.sqrt()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=self.hparams["momentum"])


class Points(pl.LightningDataModule):
    """Random points of a noisy line; as everything random, they follow from the trial's seed."""

    def __init__(self, samples: int = 64, batch_size: int = 16, workers: int = 0):
        super().__init__()
        self.samples, self.batch_size, self.workers = samples, batch_size, workers

    def setup(self, stage: str) -> None:
        inputs = torch.randn(2 * self.samples, 4)
        targets = inputs.sum(1, keepdim=True) + 0.1 * torch.randn(2 * self.samples, 1)
        self.train, self.val = (TensorDataset(*part) for part in zip(inputs.chunk(2), targets.chunk(2), strict=True))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=self.batch_size)


class Faulty(Regression):
    """Trains for two steps, then does what `fault` says."""

    def __init__(self, fault: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.fault = fault

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        if self.global_step >= 2:
            getattr(self, self.fault)()
        return super().training_step(batch, index)

    def fail(self) -> None:
        raise RuntimeError("the gradient went for a walk")

    def fail_in_library(self) -> None:
        torch.nn.functional.linear(torch.ones(2, 3), torch.ones(2, 4))

    def lack_memory(self) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    def leave(self) -> None:
        sys.exit(3)

    def leave_at_once(self) -> None:
        os._exit(0)

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    def terminate(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def crash(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def hang(self) -> None:
        time.sleep(600)

    def hang_for_good(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(600)

    def eat_memory(self) -> None:
        eaten = []
        for _ in range(40):  # 2 GB at most, should nobody stop it
            eaten.append(bytearray(os.urandom(1024)) * (50 * 1024))
            time.sleep(0.02)

    def eat_memory_in_a_child(self) -> None:
        code = "import time; eaten = [bytearray(b'x') * (50 << 20) for _ in range(24)]; time.sleep(600)"
        subprocess.run([sys.executable, "-c", code], check=False)

    def leave_a_daemon(self) -> None:
        """A grandchild in its own session whose parent is gone, which ignores SIGTERM."""
        code = (
            "import os, signal, time\n"
            "if os.fork(): os._exit(0)\n"
            "os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        )
        if self.global_step == 2:
            subprocess.run([sys.executable, "-c", code], check=True)


class NotANumber(Regression):
    """Logs NaN as its objective."""

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("val_loss", self.loss(batch) * float("nan"))


class Silent(Regression):
    """Never logs its objective."""

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("val_other", self.loss(batch))


class TooLarge(Regression):
    """Cannot be built."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        raise MemoryError("no room for the embedding")


class TooLargeForTorch(Regression):
    """Cannot be built, and only the text says why."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.big = torch.empty(1 << 60)


class Slow(Regression):
    """Takes a given time per step."""

    def __init__(self, step_seconds: float = 0.05, **kwargs: Any):
        super().__init__(**kwargs)
        self.step_seconds = step_seconds

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        time.sleep(self.step_seconds)
        return super().training_step(batch, index)


class Witness(Slow):
    """Writes down what it finds in its process, in `seen.json` of the trial's folder."""

    def on_train_start(self) -> None:
        seen = {
            "pid": os.getpid(),
            "cores": sorted(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "environment": dict(os.environ),
            "main": getattr(sys.modules["__main__"], "__file__", None),
            "started": time.time(),
        }
        Path(self.trainer.default_root_dir, "seen.json").write_text(json.dumps(seen))

    def on_train_end(self) -> None:
        with open(Path(self.trainer.default_root_dir, "runs.txt"), "a") as stream:
            stream.write("once\n")


class Waiting(Witness):
    """Goes on after its first step only once there is a file `go` in the trial's folder."""

    def on_train_batch_end(self, *_: Any) -> None:
        while not Path(self.trainer.default_root_dir, "go").exists():
            time.sleep(0.01)


class Leaky(Regression):
    """Changes global state and leaves it so."""

    def on_train_start(self) -> None:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = True
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        os.environ["LEFT_BEHIND"] = "1"
        sys.path.insert(0, "/left/behind")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class TrainOnly(Regression):
    """Has no validation and logs its objective while it trains."""

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("val_loss", loss, on_step=False, on_epoch=True)
        return loss

    validation_step = pl.LightningModule.validation_step


class Diverging(Regression):
    """Improves at first and then gets worse: `val_loss` is 3, 1, 2, ..."""

    def on_validation_epoch_start(self) -> None:
        self.turn = getattr(self, "turn", -1) + 1

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("val_loss", [3.0, 1.0, 2.0, float("nan")][min(self.turn, 3)])
