"""The measurements, and how they are split."""

from __future__ import annotations

import lightning as L
import torch
from sklearn.datasets import load_breast_cancer
from torch.utils.data import DataLoader, TensorDataset

SPLIT_SEED = 0


class Measurements(L.LightningDataModule):
    """569 biopsies with 30 measurements each, from scikit-learn; half for training, a quarter each for the rest.

    Args:
        batch_size: Biopsies per step.
        noise: Standard deviation of Gaussian noise on the training measurements, which have a standard deviation of 1.
    """

    num_features = 30

    def __init__(self, batch_size: int = 32, noise: float = 0.0):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        """Standardize by the training split."""
        table = load_breast_cancer()
        inputs, targets = torch.tensor(table.data).float(), torch.tensor(table.target)
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SPLIT_SEED))
        train, val, test = order.split([285, 142, 142])
        inputs = (inputs - inputs[train].mean(0)) / inputs[train].std(0)
        self.splits = {
            name: (inputs[part], targets[part]) for name, part in (("train", train), ("val", val), ("test", test))
        }

    def train_dataloader(self) -> DataLoader:
        """Training biopsies, with fresh noise in every epoch's loader."""
        inputs, targets = self.splits["train"]
        noisy = inputs + self.hparams.noise * torch.randn_like(inputs)
        return DataLoader(TensorDataset(noisy, targets), batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Biopsies to choose by."""
        return DataLoader(TensorDataset(*self.splits["val"]), batch_size=256)

    def test_dataloader(self) -> DataLoader:
        """Biopsies to report on."""
        return DataLoader(TensorDataset(*self.splits["test"]), batch_size=256)
