"""A training script as people have them, with the callback; the tests start it in processes of its own."""

from __future__ import annotations

import argparse
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist

from lightning_autoresearch import AutoResearch
from tests.live_project import Net, Says, loaders, quiet_trainer, weights


class Impatient(pl.Callback):
    """Has the process group give up after so many seconds, once all its processes have come."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if dist.is_initialized():
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=self.seconds))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--propose", default="[]", help="JSON: what the scientist proposes")
    parser.add_argument("--thinks", type=float, default=0.0, help="seconds that the scientist takes for an answer")
    parser.add_argument("--step-seconds", type=float, default=0.0)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--group-seconds", type=float, default=1800.0, help="time-out of the process group")
    arguments = parser.parse_args()
    several: dict[str, Any] = {}
    if arguments.devices > 1:
        several = {"devices": arguments.devices, "strategy": "ddp"}
    research = AutoResearch("spec.yaml", proposer=Says(*json.loads(arguments.propose), seconds=arguments.thinks))
    pl.seed_everything(7, workers=True)
    model = Net(step_seconds=arguments.step_seconds)
    trainer = quiet_trainer(callbacks=[Impatient(arguments.group_seconds), research], **several)
    trainer.fit(model, *loaders())
    outcome = {
        "weights": weights(model).hex(),
        "val_loss": trainer.callback_metrics["val_loss"].item(),
        "lr": model.hparams["lr"],
        "world": trainer.world_size,
        "environment": sorted(name for name in os.environ if name.startswith(("PL_", "LIGHTNING_AUTORESEARCH"))),
    }
    Path(f"outcome-{trainer.global_rank}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
