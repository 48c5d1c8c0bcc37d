"""The classifier."""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import BinaryAUROC


class Classifier(L.LightningModule):
    """A multilayer perceptron.  Its optimizer and schedule come from the config.

    Args:
        num_features: Measurements per biopsy; linked to the data.
        width: Units of each hidden layer.
        depth: Hidden layers.
        dropout: Share of the units that are set to zero in training.
        label_smoothing: How far the targets are moved towards one half in training.
    """

    def __init__(
        self,
        num_features: int,
        width: int = 16,
        depth: int = 1,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        self.save_hyperparameters()
        layers: list[nn.Module] = []
        for index in range(depth):
            layers += [nn.Linear(width if index else num_features, width), nn.ReLU(), nn.Dropout(dropout)]
        self.net = nn.Sequential(*layers, nn.Linear(width if depth else num_features, 1))
        self.val_auroc, self.test_auroc = BinaryAUROC(), BinaryAUROC()

    def forward(self, inputs: Tensor) -> Tensor:
        """The logit of being benign."""
        return self.net(inputs).squeeze(-1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy against smoothed targets."""
        inputs, targets = batch
        smoothed = targets.float() * (1 - self.hparams.label_smoothing) + 0.5 * self.hparams.label_smoothing
        loss = F.binary_cross_entropy_with_logits(self(inputs), smoothed)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Cross-entropy and area under the ROC curve."""
        self._evaluate("val", batch, self.val_auroc)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """The same on the biopsies that nobody chose by."""
        self._evaluate("test", batch, self.test_auroc)

    def _evaluate(self, name: str, batch: list[Tensor], auroc: BinaryAUROC) -> None:
        inputs, targets = batch
        logits = self(inputs)
        auroc(torch.sigmoid(logits), targets)
        self.log(f"{name}_loss", F.binary_cross_entropy_with_logits(logits, targets.float()))
        self.log(f"{name}_auroc", auroc)
