"""A small conv net on scikit-learn's handwritten digits, where much of what can be varied is the data.

Two classes for a LightningCLI config: the model `DigitsNet` and the data `DigitsData`.  The images come with
scikit-learn (1797 of 8 x 8 pixels, ten classes), so nothing has to be downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

CLASSES = 10
"""Digits 0 to 9."""
DATA_SEED = 0
"""Seed of the split, the wrong labels and the rare digits' images: they belong to the data, so trials share them."""

Batch = Sequence[Tensor]

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
"""The non-linearities by name."""


class DigitsNet(L.LightningModule):
    """Two convolutions, one pooling, one linear layer; AdamW with a constant learning rate.

    Logs `train_loss` (nats, each step), and per validation `val_loss` (nats, without label smoothing) and
    `val_accuracy`, and, where the data has a second validation loader, `heldout_accuracy`.

    Args:
        width: Channels of the first convolution; the second has twice as many.  Cost grows with its square.
        activation: Non-linearity after each convolution; `leaky_relu` lets 1 % of a negative input through.
        batch_norm: Whether each convolution is followed by batch normalization.
        dropout: Share of the features before the linear layer that are set to zero in training.
        label_smoothing: Share of the target probability that is spread evenly over the classes in training; it also
            dampens the pull of wrong labels.
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay, on all parameters.
    """

    def __init__(
        self,
        width: int = 8,
        activation: Literal["relu", "leaky_relu", "gelu", "silu", "tanh"] = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.first = nn.Conv2d(1, width, kernel_size=3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, kernel_size=3, padding=1)
        self.first_norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.second_norm = nn.BatchNorm2d(2 * width) if batch_norm else nn.Identity()
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width * 4 * 4, CLASSES)
        self.val_loss = MeanMetric()
        self.val_accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.heldout_accuracy = MulticlassAccuracy(CLASSES, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 10) of images (batch, 1, 8, 8) with pixels in [0, 1]."""
        hidden = self.activation(self.first_norm(self.first(images)))
        hidden = F.max_pool2d(self.activation(self.second_norm(self.second(hidden))), 2)
        logits: Tensor = self.head(self.dropout(hidden.flatten(1)))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch in nats, each image counted with its weight."""
        images, labels, weights = batch
        losses = F.cross_entropy(
            self(images).float(), labels, reduction="none", label_smoothing=self.hparams["label_smoothing"]
        )
        loss = (losses * weights).sum() / weights.sum()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the metrics of validation (first loader) or of the held-out images (second loader)."""
        images, labels = batch
        logits = self(images).float()
        if dataloader_idx == 1:
            self.heldout_accuracy.update(logits, labels)
            self._log("heldout_accuracy", self.heldout_accuracy)
            return
        self.val_loss.update(F.cross_entropy(logits, labels), weight=len(labels))
        self.val_accuracy.update(logits, labels)
        self._log("val_loss", self.val_loss)
        self._log("val_accuracy", self.val_accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all parameters."""
        return torch.optim.AdamW(
            self.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"], foreach=True
        )

    def _log(self, name: str, metric: Any) -> None:
        self.log(name, metric, on_step=False, on_epoch=True, add_dataloader_idx=False, prog_bar=True)


class DigitsData(L.LightningDataModule):
    """The digits in three parts that never change: half for training, a quarter each for validation and held out.

    Each class is split in these shares.  Wrong labels and class imbalance are put into the training part only, to
    make the task as hard as real data; validation and held-out labels are as scikit-learn gives them.  Which labels
    are wrong and which images are left out is the same in every run, as in a real data set; the order of the images
    and their shifts follow the global seed (`seed_everything`) with generators of their own, so that a change of the
    model does not move them.

    Args:
        batch_size: Images per training step.  With `trainer.max_epochs` it changes the number of steps.
        shift_share: Share of the training images that are drawn shifted by one pixel, in a random direction each time.
        label_noise: Share of the training labels that are replaced by a wrong one before training; the number of
            images is rounded to the nearest.
        rare_share: Share of the training images of the digits 5 to 9 that are there at all; 1 is all of them.
        balance: How far the loss evens out the classes: an image weighs (images per class on average / images of its
            class) to this power, so 0 counts images alike and 1 counts classes alike.

    Raises:
        ValueError: a share is outside its range.
    """

    def __init__(
        self,
        batch_size: int = 32,
        shift_share: float = 0.0,
        label_noise: float = 0.0,
        rare_share: float = 1.0,
        balance: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in {"shift_share": shift_share, "label_noise": label_noise, "rare_share": rare_share}.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}; a share lies between 0 and 1")
        self.batch_size = batch_size
        self.shift_share = shift_share
        self.label_noise = label_noise
        self.rare_share = rare_share
        self.balance = balance

    def setup(self, stage: str) -> None:
        """Read the images (once per process) and spoil the training part as asked."""
        (images, labels), self.validation, self.heldout = split_digits()
        generator = torch.Generator().manual_seed(DATA_SEED)
        kept = keep_rare(labels, share=self.rare_share, generator=generator)
        self.images = images[kept]
        self.clean_labels = labels[kept]
        self.labels = flip_labels(self.clean_labels, share=self.label_noise, generator=generator)
        self.weights = balance_weights(self.labels, power=self.balance)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of images (batch, 1, 8, 8) float32, labels (batch,) int64 and weights (batch,) float32."""
        order, shifts = (torch.Generator().manual_seed(torch.initial_seed() + stream) for stream in (0, 1))

        def assemble(rows: list[Batch]) -> Batch:
            images, labels, weights = map(torch.stack, zip(*rows, strict=True))
            return shift_some(images, share=self.shift_share, generator=shifts), labels, weights

        return DataLoader(
            TensorDataset(self.images, self.labels, self.weights),
            batch_size=self.batch_size,
            shuffle=True,
            generator=order,
            collate_fn=assemble,
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Two loaders, validation and held-out: images (batch, 1, 8, 8) float32 and labels (batch,) int64."""
        return [DataLoader(TensorDataset(*part), batch_size=512) for part in (self.validation, self.heldout)]


@lru_cache(maxsize=1)
def split_digits() -> tuple[tuple[Tensor, Tensor], ...]:
    """Training, validation and held-out, each images (n, 1, 8, 8) float32 in [0, 1] and labels (n,) int64.

    Half, a quarter and a quarter of each class; the same for every seed.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16.0
    labels = torch.from_numpy(digits.target).long()
    generator = torch.Generator().manual_seed(DATA_SEED)
    parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for digit in range(CLASSES):
        rows = (labels == digit).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        half, quarter = len(rows) // 2, len(rows) // 4
        for part, chosen in zip(parts, (rows[:half], rows[half : half + quarter], rows[half + quarter :]), strict=True):
            part.append(chosen)
    return tuple((images[torch.cat(part)], labels[torch.cat(part)]) for part in parts)


def keep_rare(labels: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Mask (n,) of the images that stay: all of the digits 0 to 4, a random share of each of 5 to 9, at least one."""
    kept = labels < 5
    for digit in range(5, CLASSES):
        rows = (labels == digit).nonzero().squeeze(1)
        order = torch.randperm(len(rows), generator=generator)
        kept[rows[order[: max(1, round(share * len(rows)))]]] = True
    return kept


def flip_labels(labels: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """A copy of the labels (n,) in which exactly `round(share * n)` are wrong, each wrong class equally likely."""
    flipped = labels.clone()
    rows = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    away = torch.randint(1, CLASSES, (len(rows),), generator=generator)
    flipped[rows] = (labels[rows] + away) % CLASSES
    return flipped


def balance_weights(labels: Tensor, *, power: float) -> Tensor:
    """Weight of each image (n,), float32: (n / 10 / images of its class) to a power."""
    counts = torch.bincount(labels, minlength=CLASSES).clamp(min=1)
    return (len(labels) / CLASSES / counts[labels]).pow(power)


def shift_some(images: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Shift a random share of the images (n, 1, 8, 8) by one pixel up, down, left or right; background comes in."""
    chosen = torch.rand(len(images), generator=generator) < share
    directions = torch.randint(4, (len(images),), generator=generator)
    padded = F.pad(images, (1, 1, 1, 1))
    windows = [padded[..., 0:8, 1:9], padded[..., 2:10, 1:9], padded[..., 1:9, 0:8], padded[..., 1:9, 2:10]]
    shifted = torch.stack(windows)[directions, torch.arange(len(images))]
    return torch.where(chosen[:, None, None, None], shifted, images)
