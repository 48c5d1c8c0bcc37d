"""The digits: exact noise, fixed parts, a seed that moves the order and nothing else."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from lightning_autoresearch.space import apply_overrides

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from recipes.digits import (
    ACTIVATIONS,
    DigitsData,
    DigitsNet,
    balance_weights,
    flip_labels,
    shift_some,
    split_digits,
)

SPEC = Path(__file__).parents[2] / "specs" / "digits.yaml"

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]


def digits(**changes: Any) -> DigitsData:
    data = DigitsData(**changes)
    data.setup("fit")
    return data


def quiet_trainer(**changes: Any) -> L.Trainer:
    silent = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**{"accelerator": "cpu", "max_steps": 3, "num_sanity_val_steps": 0, **silent, **changes})


def first_epoch(*, seed: int, noise_draws: int = 0, **changes: Any) -> list[Tensor]:
    L.seed_everything(seed, verbose=False)
    loader = digits(**changes).train_dataloader()
    torch.randn(noise_draws)
    batches = list(loader)
    return [torch.cat(column) for column in zip(*batches, strict=True)]


def test_the_three_parts_are_disjoint_and_cover_every_image() -> None:
    from sklearn.datasets import load_digits

    parts = split_digits()
    images = torch.cat([images.flatten(1) for images, _ in parts]) * 16
    everything = torch.from_numpy(load_digits().data).float()
    assert sorted(map(tuple, images.tolist())) == sorted(map(tuple, everything.tolist()))
    assert [len(labels) for _, labels in parts] == [896, 445, 456]


def test_every_class_is_split_in_the_same_shares() -> None:
    counts = [torch.bincount(labels, minlength=10) for _, labels in split_digits()]
    for part, share in zip(counts, (0.5, 0.25, 0.25), strict=True):
        torch.testing.assert_close(part / sum(counts), torch.full((10,), share), atol=0.02, rtol=0)


def test_the_parts_do_not_depend_on_the_seed() -> None:
    parts = []
    for seed in (1, 2):
        L.seed_everything(seed, verbose=False)
        split_digits.cache_clear()
        parts.append(split_digits())
    for (images, labels), (again, labels_again) in zip(*parts, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 1.0])
def test_exactly_the_asked_share_of_training_labels_is_wrong(share: float) -> None:
    data = digits(label_noise=share)
    assert int((data.labels != data.clean_labels).sum()) == round(share * len(data.labels))
    assert int(data.labels.min()) >= 0
    assert int(data.labels.max()) <= 9


def test_wrong_labels_are_spread_over_all_other_classes() -> None:
    flipped = flip_labels(torch.zeros(9000, dtype=torch.long), share=1.0, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(flipped, minlength=10)
    assert counts[0] == 0
    assert int(counts[1:].min()) > 850


def test_the_wrong_labels_are_the_same_in_every_run_and_only_in_training() -> None:
    runs = []
    for seed in (1, 2):
        L.seed_everything(seed, verbose=False)
        runs.append(digits(label_noise=0.2, rare_share=0.3))
    assert torch.equal(runs[0].labels, runs[1].labels)
    assert torch.equal(runs[0].images, runs[1].images)
    assert torch.equal(runs[0].validation[1], split_digits()[1][1])
    assert torch.equal(runs[0].heldout[1], split_digits()[2][1])


def test_rare_digits_keep_their_share_and_the_others_all() -> None:
    whole, rare = (torch.bincount(digits(rare_share=share).clean_labels) for share in (1.0, 0.1))
    assert torch.equal(rare[:5], whole[:5])
    assert rare[5:].tolist() == [round(0.1 * int(count)) for count in whole[5:]]


@pytest.mark.parametrize("name", ["shift_share", "label_noise", "rare_share"])
def test_a_share_above_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 1.5; a share lies between 0 and 1"):
        DigitsData(**{name: 1.5})  # type: ignore[arg-type]


def test_weights_even_out_the_classes_only_as_far_as_asked() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    assert torch.equal(balance_weights(labels, power=0.0), torch.ones(40))
    even = balance_weights(labels, power=1.0)
    assert even[labels == 0].sum().item() == pytest.approx(even[labels == 1].sum().item())


def test_a_weight_of_zero_takes_an_image_out_of_the_loss() -> None:
    model = DigitsNet()
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    weighted = model.training_step((images, labels, torch.tensor([1.0, 1.0, 0.0, 0.0])), 0)
    alone = model.training_step((images[:2], labels[:2], torch.ones(2)), 0)
    torch.testing.assert_close(weighted, alone)


def test_a_shift_moves_the_image_by_one_pixel() -> None:
    image = torch.zeros(200, 1, 8, 8)
    image[:, :, 3, 3] = 1.0
    shifted = shift_some(image, share=1.0, generator=torch.Generator().manual_seed(0))
    places = {tuple(place) for place in shifted.nonzero()[:, 2:].tolist()}
    assert places == {(2, 3), (4, 3), (3, 2), (3, 4)}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_asked_share_of_images_is_shifted(share: float) -> None:
    images = torch.rand(2000, 1, 8, 8)
    shifted = shift_some(images, share=share, generator=torch.Generator().manual_seed(0))
    moved = (shifted != images).flatten(1).any(1).float().mean().item()
    assert moved == pytest.approx(share, abs=0.05 if share == 0.5 else 0.0)


def test_equal_seeds_give_equal_batches_and_others_do_not() -> None:
    one, again, other = (first_epoch(seed=seed, shift_share=0.5) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])


def test_what_the_model_draws_does_not_move_the_data() -> None:
    plain, disturbed = first_epoch(seed=1, shift_share=0.5), first_epoch(seed=1, shift_share=0.5, noise_draws=1000)
    assert all(torch.equal(a, b) for a, b in zip(plain, disturbed, strict=True))


def test_shifting_leaves_the_order_of_the_labels() -> None:
    assert torch.equal(first_epoch(seed=1)[1], first_epoch(seed=1, shift_share=1.0)[1])


@pytest.mark.parametrize(
    "changes", [*({"activation": name} for name in ACTIVATIONS), {"batch_norm": True}, {"dropout": 0.5}], ids=str
)
def test_every_option_fits_a_few_steps(changes: dict[str, Any]) -> None:
    L.seed_everything(0, verbose=False)
    trainer = quiet_trainer()
    trainer.fit(DigitsNet(width=4, **changes), datamodule=digits())
    assert trainer.global_step == 3
    assert math.isfinite(trainer.callback_metrics["train_loss"])


def test_a_short_fit_learns_the_digits() -> None:
    L.seed_everything(0, verbose=False)
    trainer = quiet_trainer(max_steps=-1, max_epochs=3)
    trainer.fit(DigitsNet(lr=0.01), datamodule=DigitsData())
    metrics = trainer.callback_metrics
    assert metrics["val_accuracy"] > 0.85
    assert metrics["heldout_accuracy"] > 0.85
    assert metrics["val_loss"] < 0.6


def test_the_logged_loss_and_accuracy_are_those_of_the_validation_images() -> None:
    torch.manual_seed(0)
    model, data = DigitsNet(), DigitsData()
    logged = quiet_trainer().validate(model, datamodule=data, verbose=False)
    images, labels = data.validation
    with torch.no_grad():
        logits = model.cpu()(images)
    assert logged[0]["val_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert logged[0]["val_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse, by LightningCLI itself
def test_the_spec_makes_a_model_and_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fit"])
    spec = yaml.safe_load(SPEC.read_text())
    task = apply_overrides(spec["task"], {"trainer.logger": False})
    cli = LightningCLI(
        args=task, run=False, subclass_mode_model=True, subclass_mode_data=True, save_config_callback=None
    )
    assert isinstance(cli.model, DigitsNet)
    assert isinstance(cli.datamodule, DigitsData)
    arguments = {part: spec["task"][part]["init_args"] for part in ("model", "data")}
    assert {key: cli.model.hparams[key] for key in arguments["model"]} == arguments["model"]
    assert {key: getattr(cli.datamodule, key) for key in arguments["data"]} == arguments["data"]
    for key in spec["search_space"]:
        part, _, name = key.split(".")
        assert name in arguments[part]
