"""A byte-level GPT and the text that it learns: small enough for one CPU core, right for a GPU.

Two classes for a LightningCLI config: the model `GPT` and the data `SourceText`.  Every choice is an init argument
with a plain type, so that it can stand in a search space under `model.init_args.` or `data.init_args.`.

The quality is measured in bits per byte, log2 of the perplexity per byte: 8 is a uniform guess, lower is better, and
values are comparable between models because no tokenizer comes in between.
"""

from __future__ import annotations

import hashlib
import math
import os
import sysconfig
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset
from torchmetrics import Metric

BYTES = 256
"""Size of the vocabulary: every value of a byte."""
NOT_SCORED = -100
"""Target of a padded position; it adds nothing to a loss (the default `ignore_index` of `cross_entropy`)."""
PASSAGE_BYTES = 1024
"""Length of the passages that are scored in validation; no context reaches over a passage's start."""
SKIPPED_FOLDERS = frozenset(
    {"dist-packages", "site-packages"}  # other packages
    | {"idlelib", "test", "tests", "turtledemo"}
    | {"config", "encodings", "pydoc_data"}  # tables and build settings
    | {"distutils", "ensurepip", "lib2to3"}  # not in every version, or wheels
)
"""Folders of the standard library that are not read."""

Decay = Literal["cosine", "linear", "constant", "wsd"]
Activation = Literal["gelu", "relu_squared", "silu"]


class GPT(L.LightningModule):
    """A decoder-only transformer over bytes: pre-norm, causal attention, AdamW with a learning-rate schedule per step.

    Logs `train_loss` (nats per byte, each step), and per validation `val_bpb` and, where the data has a second
    validation loader, `heldout_bpb` (bits per byte).

    Args:
        width: Size of the residual stream; a multiple of `heads`, and of `2 * heads` with rotary positions.  Cost
            grows with its square.
        depth: Number of blocks (attention, then MLP).  Cost grows in proportion.
        heads: Number of attention heads, each of size `width / heads`.
        mlp_ratio: Hidden size of the MLP divided by `width`.
        activation: Non-linearity of the MLP; `relu_squared` is the square of ReLU.
        positions: `rotary` turns queries and keys by an angle that grows with the position; `learned` adds a trained
            vector per position.
        rotary_base: Slowest rotary wavelength, in units of 2 pi positions; small values suit short contexts.  No effect
            with learned positions.
        max_length: Longest input in bytes with learned positions; no effect with rotary ones.
        norm: `layer` subtracts the mean and divides by the standard deviation, `rms` only divides by the root mean
            square.
        norm_eps: Number added to the variance in a norm.
        bias: Whether linear layers and layer norms have biases.
        tie_weights: Whether the output layer shares the embedding's matrix.
        dropout: Share of activations set to zero in training, after the embedding and at the end of each sub-block.
        init_std: Standard deviation of the initial weights; those that write to the residual stream get
            `init_std / sqrt(2 * depth)`.
        lr: Peak learning rate of AdamW.  The best value falls with width and with the number of steps.
        min_lr_ratio: Learning rate at the end divided by the peak; no effect with a `constant` schedule.
        warmup_steps: Steps of linear rise to the peak, at most all of them.
        decay: Shape after the warm-up: half a `cosine`, a `linear` fall, `constant`, or `wsd` (warm-up, stable, decay:
            constant, then a linear fall).
        decay_share: Share of all steps that the final fall of `wsd` takes; no effect otherwise.
        weight_decay: Decoupled weight decay on matrices (embeddings included); never on biases and norms.
        beta1: Decay of Adam's mean of gradients.
        beta2: Decay of Adam's mean of squared gradients; 0.95 adapts within about 20 steps, 0.999 within about 1000.
        label_smoothing: Share of the target probability that is spread evenly over all bytes in training.

    Raises:
        ValueError: the sizes do not fit together, or a schedule that falls has no end to aim at.
    """

    def __init__(
        self,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        positions: Literal["rotary", "learned"] = "rotary",
        rotary_base: float = 10000.0,
        max_length: int = 1024,
        norm: Literal["layer", "rms"] = "layer",
        norm_eps: float = 1e-5,
        bias: bool = False,
        tie_weights: bool = True,
        dropout: float = 0.0,
        init_std: float = 0.02,
        lr: float = 1e-3,
        min_lr_ratio: float = 0.1,
        warmup_steps: int = 20,
        decay: Decay = "cosine",
        decay_share: float = 0.2,
        weight_decay: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.95,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _check_sizes(width=width, heads=heads, positions=positions)
        self.save_hyperparameters()
        self.embedding = nn.Embedding(BYTES, width)
        self.positions = nn.Embedding(max_length, width) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                heads=heads,
                hidden=max(1, round(mlp_ratio * width)),
                activation=activation,
                norm=norm,
                norm_eps=norm_eps,
                bias=bias,
                dropout=dropout,
            )
            for _ in range(depth)
        )
        self.norm = make_norm(norm, width=width, eps=norm_eps, bias=bias)
        self.head = nn.Linear(width, BYTES, bias=False)
        self._init_weights(std=init_std, depth=depth)
        if tie_weights:
            self.head.weight = self.embedding.weight
        self.validation_bits = BitsPerByte()
        self.heldout_bits = BitsPerByte()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of the next byte: from int64 of shape (batch, length) to (batch, length, 256).

        Raises:
            ValueError: the input is longer than learned positions reach.
        """
        length = inputs.shape[1]
        stream = self.embedding(inputs)
        rotation = None
        if self.positions is None:
            head_size = self.hparams["width"] // self.hparams["heads"]
            rotation = rotary_table(length, head_size, base=self.hparams["rotary_base"], device=inputs.device)
        elif length > self.positions.num_embeddings:
            raise ValueError(
                f"input of {length} bytes, but max_length is {self.positions.num_embeddings}; raise max_length"
            )
        else:
            stream = stream + self.positions(torch.arange(length, device=inputs.device))
        stream = self.dropout(stream)
        for block in self.blocks:
            stream = block(stream, rotation)
        logits: Tensor = self.head(self.norm(stream))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean cross-entropy over the bytes of a batch, in nats."""
        inputs, targets = batch
        logits = self(inputs).float()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=self.hparams["label_smoothing"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to `val_bpb` (first loader) or `heldout_bpb` (second loader)."""
        inputs, targets = batch
        name, bits = ("heldout_bpb", self.heldout_bits) if dataloader_idx == 1 else ("val_bpb", self.validation_bits)
        bits.update(self(inputs), targets)
        self.log(
            name, bits, on_step=False, on_epoch=True, add_dataloader_idx=False, prog_bar=True, batch_size=len(inputs)
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with weight decay on matrices only, and the schedule over all steps of the fit."""
        matrices = [parameter for parameter in self.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in self.parameters() if parameter.ndim < 2]
        groups = [{"params": matrices, "weight_decay": self.hparams["weight_decay"]}]
        if vectors:
            groups.append({"params": vectors, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(
            groups, lr=self.hparams["lr"], betas=(self.hparams["beta1"], self.hparams["beta2"]), foreach=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._schedule(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _schedule(self, total_steps: int | float) -> Any:
        decay: Decay = self.hparams["decay"]
        if not math.isfinite(total_steps) and decay != "constant":
            raise ValueError(
                f"decay {decay!r} needs a known number of steps: set trainer.max_steps, max_epochs, or decay: constant"
            )

        def factor(step: int) -> float:
            return lr_factor(
                step,
                total_steps=total_steps,
                warmup_steps=self.hparams["warmup_steps"],
                decay=decay,
                decay_share=self.hparams["decay_share"],
                min_lr_ratio=self.hparams["min_lr_ratio"],
            )

        return factor

    @torch.no_grad()
    def _init_weights(self, *, std: float, depth: int) -> None:
        """Scaled as in GPT-2 (Radford et al. 2019).  The same seed draws the same numbers for every `init_std`."""
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                writes_to_stream = name.endswith(("attention.out.weight", "mlp.out.weight"))
                parameter.normal_(0.0, std / math.sqrt(2 * depth) if writes_to_stream else std)
            elif name.endswith("bias"):
                parameter.zero_()


class Block(nn.Module):
    """One transformer block: attention, then MLP, each on a normed copy of the stream and added to it."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        hidden: int,
        activation: Activation,
        norm: Literal["layer", "rms"],
        norm_eps: float,
        bias: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm = make_norm(norm, width=width, eps=norm_eps, bias=bias)
        self.attention = CausalAttention(width=width, heads=heads, bias=bias)
        self.mlp_norm = make_norm(norm, width=width, eps=norm_eps, bias=bias)
        self.mlp = MLP(width=width, hidden=hidden, activation=activation, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """From and to (batch, length, width)."""
        stream = stream + self.dropout(self.attention(self.attention_norm(stream), rotation))
        out: Tensor = stream + self.dropout(self.mlp(self.mlp_norm(stream)))
        return out


class CausalAttention(nn.Module):
    """Multi-head attention in which a byte sees itself and what is before it."""

    def __init__(self, *, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, stream: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """From and to (batch, length, width)."""
        batch, length, width = stream.shape
        qkv = self.qkv(stream).view(batch, length, 3, self.heads, width // self.heads)
        query_key, value = qkv.permute(2, 0, 3, 1, 4).split([2, 1])
        if rotation is not None:
            query_key = rotate(query_key, rotation)
        query, key = query_key
        mixed = F.scaled_dot_product_attention(query, key, value[0], is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class MLP(nn.Module):
    """Two linear layers with a non-linearity between them."""

    def __init__(self, *, width: int, hidden: int, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.activation = activation
        self.into = nn.Linear(width, hidden, bias=bias)
        self.out = nn.Linear(hidden, width, bias=bias)

    def forward(self, stream: Tensor) -> Tensor:
        """From and to (batch, length, width)."""
        hidden = self.into(stream)
        if self.activation == "relu_squared":
            hidden = F.relu(hidden).square()
        elif self.activation == "silu":
            hidden = F.silu(hidden)
        else:
            hidden = F.gelu(hidden)
        out: Tensor = self.out(hidden)
        return out


class RMSNorm(nn.Module):
    """Division by the root mean square (Zhang and Sennrich 2019); written out because torch before 2.4 has none."""

    def __init__(self, *, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, stream: Tensor) -> Tensor:
        """From and to (..., width); in float32 inside."""
        wide = stream.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return scaled.type_as(stream) * self.weight


def make_norm(kind: Literal["layer", "rms"], *, width: int, eps: float, bias: bool) -> nn.Module:
    """The norm of a kind, with a learned scale."""
    return RMSNorm(width=width, eps=eps) if kind == "rms" else nn.LayerNorm(width, eps=eps, bias=bias)


def rotary_table(length: int, head_size: int, *, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles (Su et al. 2021), each float32 of shape (length, head_size / 2).

    They are made anew in each pass: as buffers they would lose their precision with the parameters' in `bf16-true`.
    """
    pairs = torch.arange(0, head_size, 2, device=device, dtype=torch.float32)
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), base ** (-pairs / head_size))
    return angles.cos(), angles.sin()


def rotate(vectors: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries and keys of shape (..., length, head_size) by their position; given back in their own precision."""
    cosines, sines = rotation
    first, second = vectors.float().chunk(2, dim=-1)
    turned: Tensor = torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
    return turned.type_as(vectors)


def lr_factor(
    step: int,
    *,
    total_steps: int | float,
    warmup_steps: int,
    decay: Decay,
    decay_share: float = 0.2,
    min_lr_ratio: float = 0.0,
) -> float:
    """Learning rate at a step (counted from 0) divided by the peak.

    >>> [round(lr_factor(step, total_steps=5, warmup_steps=2, decay="linear"), 2) for step in range(5)]
    [0.5, 1.0, 1.0, 0.67, 0.33]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if decay == "constant":
        return 1.0
    falling = (
        total_steps - warmup_steps if decay != "wsd" else min(decay_share * total_steps, total_steps - warmup_steps)
    )
    progress = min(max((step - (total_steps - falling)) / max(falling, 1), 0.0), 1.0)
    remaining = 0.5 * (1.0 + math.cos(math.pi * progress)) if decay == "cosine" else 1.0 - progress
    return min_lr_ratio + (1.0 - min_lr_ratio) * remaining


class BitsPerByte(Metric):
    """Mean cross-entropy in bits over every byte that was scored.

    Its states are sums, so that the ranks of a distributed run, or batches of unequal size, add up to the same number
    as one process with one batch.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    nats: Tensor
    scored: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("nats", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("scored", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add logits (batch, length, 256) and their targets (batch, length); `NOT_SCORED` targets are left out."""
        # Not in place: a state that `Trainer.validate` reset under inference mode could not be added to by a later fit.
        self.nats = self.nats + F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
        self.scored = self.scored + (targets != NOT_SCORED).sum()

    def compute(self) -> Tensor:
        """Bits per byte, a scalar."""
        return self.nats / self.scored / math.log(2)


class SourceText(L.LightningDataModule):
    """Text files as bytes, split by file into training, validation and held-out parts.

    By default the text is the source code of the running Python's standard library, so that nothing has to be
    downloaded; numbers are then comparable only under the same Python version.  A file belongs to a part by a hash of
    its path relative to the folder: 80 % training, 10 % validation, 10 % held out, of the files in expectation,
    whatever the seed.  No file is in two parts, but files that copy from each other may be: nothing looks for
    near-duplicates.

    Training draws crops at random starts, with replacement: the k-th crop of a run depends on the global seed
    (`seed_everything`), on k and on `block_size`, and on nothing that the model does.  Validation scores the same bytes
    whatever `block_size` and `batch_size` are; only the context that a byte is given depends on `block_size`.  (Under
    DDP Lightning repeats some windows so that ranks get equally many, and so those bytes count twice.)

    Args:
        block_size: Length of a training crop and longest context in validation, in bytes.
        batch_size: Crops per training step on each device.  With `trainer.max_steps` it changes how much text is seen.
        folder: Folder of text files, searched with its subfolders but not with hidden ones; null is the standard
            library's source.
        suffixes: Endings of the file names that are read.
        eval_bytes: Bytes that are scored in each of validation and held-out, spread evenly over the part; rounded
            down to whole passages of 1024, at least one.
        num_workers: Worker processes that load data; 0 loads in the training process, which is fastest for small text.

    Raises:
        ValueError: there is no such folder, or too little text in one of the parts.
    """

    def __init__(
        self,
        block_size: int = 64,
        batch_size: int = 16,
        folder: str | None = None,
        suffixes: Sequence[str] = (".py",),
        eval_bytes: int = 32768,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.block_size = block_size
        self.batch_size = batch_size
        self.folder = folder
        self.suffixes = tuple(suffixes)
        self.eval_bytes = eval_bytes
        self.num_workers = num_workers

    def setup(self, stage: str) -> None:
        """Read the text (once per process) and cut the validation windows."""
        self.train_text, *scored = read_parts(self.folder, self.suffixes)
        needed = max(self.block_size + 1, PASSAGE_BYTES + 1)
        for name, text in zip(("training", "validation", "held-out"), (self.train_text, *scored), strict=True):
            if len(text) < needed:
                where = self.folder or "the standard library"
                raise ValueError(
                    f"{where}: the {name} part has {len(text)} bytes of {', '.join(self.suffixes)} files, "
                    f"{needed} are needed; give a folder with more files"
                )
        self.scored = [score_windows(text, block_size=self.block_size, eval_bytes=self.eval_bytes) for text in scored]

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of (inputs, targets), each int64 of shape (batch_size, block_size); an epoch has the text's bytes."""
        crops = Crops(self.train_text, block_size=self.block_size)
        return DataLoader(
            crops,
            batch_size=self.batch_size,
            sampler=CropSampler(
                len(crops), crops_per_epoch=max(self.batch_size, len(self.train_text) // self.block_size)
            ),
            collate_fn=_as_is,
            drop_last=True,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Two loaders, validation and held-out: (inputs, targets), each int64 of shape (windows, block_size)."""
        # Not `batch_size`: the order of summation, and so the last digits, must not depend on a knob of training.
        windows = max(1, 8192 // self.block_size)
        return [
            DataLoader(TensorDataset(*pair), batch_size=windows, num_workers=self.num_workers) for pair in self.scored
        ]


class Crops(Dataset[Any]):
    """Every crop of a text; a crop's index is its start."""

    def __init__(self, text: Tensor, *, block_size: int) -> None:
        self.text = text
        self.offsets = torch.arange(block_size + 1)

    def __len__(self) -> int:
        return len(self.text) - len(self.offsets) + 1

    def __getitem__(self, start: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.__getitems__([start])
        return inputs[0], targets[0]

    def __getitems__(self, starts: list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch at once; the loader prefers it to single items."""
        crops = self.text[torch.tensor(starts)[:, None] + self.offsets].long()
        return crops[:, :-1], crops[:, 1:]


class CropSampler(Sampler[int]):
    """Random starts with replacement from a generator of its own, so that nothing else shifts the order.

    It is seeded by the global seed, and goes on where it stopped in the next epoch.
    """

    def __init__(self, starts: int, *, crops_per_epoch: int) -> None:
        self.starts = starts
        self.crops_per_epoch = crops_per_epoch
        self.generator = torch.Generator().manual_seed(torch.initial_seed())

    def __len__(self) -> int:
        return self.crops_per_epoch

    def __iter__(self) -> Iterator[int]:
        yield from torch.randint(self.starts, (self.crops_per_epoch,), generator=self.generator).tolist()


def score_windows(text: Tensor, *, block_size: int, eval_bytes: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, int64 of shape (windows, block_size), that score the same bytes for every block size.

    Passages of 1024 scored bytes lie evenly over the text; each is cut into windows of at most `block_size`, and the
    last window of a passage is padded with targets `NOT_SCORED`.
    """
    passages = min(max(1, eval_bytes // PASSAGE_BYTES), (len(text) - 1) // PASSAGE_BYTES)
    stride = (len(text) - 1) // passages
    starts = torch.arange(passages) * stride
    passage = text[starts[:, None] + torch.arange(PASSAGE_BYTES + 1)].long()
    block_size = min(block_size, PASSAGE_BYTES)
    padding = -PASSAGE_BYTES % block_size
    inputs = F.pad(passage[:, :-1], (0, padding))
    targets = F.pad(passage[:, 1:], (0, padding), value=NOT_SCORED)
    return inputs.reshape(-1, block_size), targets.reshape(-1, block_size)


@lru_cache(maxsize=4)
def read_parts(folder: str | None, suffixes: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The text of a folder as (training, validation, held-out), each uint8 (bytes,); a zero byte ends each file.

    Raises:
        ValueError: there is no such folder.
    """
    root = Path(folder).expanduser() if folder is not None else Path(sysconfig.get_path("stdlib"))
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; `folder` must name a folder of text files")
    parts = (bytearray(), bytearray(), bytearray())
    for name in list_files(root, suffixes=suffixes, skip=SKIPPED_FOLDERS if folder is None else frozenset()):
        parts[part_of(name)].extend((root / name).read_bytes() + b"\0")
    train, validation, heldout = map(_to_tensor, parts)
    return train, validation, heldout


def list_files(root: Path, *, suffixes: tuple[str, ...], skip: frozenset[str]) -> list[str]:
    """Paths relative to a folder, with forward slashes, sorted: the same on every machine that has the same files."""
    found = []
    for parent, folders, names in os.walk(root):
        # The standard library's own `config-3.12-x86_64-linux-gnu` carries its platform in its name.
        folders[:] = [name for name in folders if name[0] != "." and not skip & {name, name.partition("-")[0]}]
        below = Path(parent).relative_to(root)
        found += [(below / name).as_posix() for name in names if name.endswith(suffixes)]
    return sorted(found)


def part_of(name: str) -> int:
    """Which part a file belongs to: 0 training (80 %), 1 validation (10 %), 2 held out (10 %)."""
    tenth = hashlib.sha256(name.encode()).digest()[0] * 10 // 256
    return 0 if tenth < 8 else tenth - 7


def _to_tensor(text: bytearray) -> Tensor:
    return torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)


def _as_is(batch: Any) -> Any:
    return batch


def _check_sizes(*, width: int, heads: int, positions: str) -> None:
    unit = 2 * heads if positions == "rotary" else heads
    if width % unit:
        raise ValueError(f"width {width} is no multiple of {unit}, which {heads} heads with {positions} positions need")
