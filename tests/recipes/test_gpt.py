"""The byte-level GPT and its text: causal, measured right, split by file, and driven by the seed alone."""

from __future__ import annotations

import itertools
import math
import sys
import sysconfig
from pathlib import Path
from typing import Any, get_args

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from lightning_autoresearch.space import apply_overrides
from recipes.gpt import (
    GPT,
    NOT_SCORED,
    PASSAGE_BYTES,
    SKIPPED_FOLDERS,
    Activation,
    BitsPerByte,
    Decay,
    SourceText,
    list_files,
    lr_factor,
    part_of,
    read_parts,
)

SPECS = Path(__file__).parents[2] / "specs"

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Forty files of 2,000 bytes that each name themselves in every line."""
    for number in range(40):
        line = f"this is line of file {number:02}\n"
        (tmp_path / f"file{number:02}.txt").write_text((line * 100)[:2000])
    return str(tmp_path)


def small_text(folder: str, **changes: Any) -> SourceText:
    arguments: dict[str, Any] = {"block_size": 16, "batch_size": 4, "suffixes": [".txt"], "eval_bytes": 1024}
    return SourceText(folder=folder, **{**arguments, **changes})


def small_gpt(**changes: Any) -> GPT:
    return GPT(**{"width": 16, "depth": 2, "heads": 2, "max_length": 32, **changes})


def quiet_trainer(**changes: Any) -> L.Trainer:
    silent = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**{"accelerator": "cpu", "max_steps": 3, **silent, **changes})


def fit(folder: str, *, seed: int = 0, **changes: Any) -> tuple[GPT, L.Trainer]:
    L.seed_everything(seed, verbose=False)
    model, trainer = small_gpt(**changes), quiet_trainer()
    trainer.fit(model, datamodule=small_text(folder))
    return model, trainer


def first_batches(folder: str, *, seed: int, **changes: Any) -> list[Tensor]:
    L.seed_everything(seed, verbose=False)
    data = small_text(folder, **changes)
    data.setup("fit")
    return [inputs for inputs, _ in data.train_dataloader()]


def scored_bytes(folder: str, **changes: Any) -> list[list[int]]:
    data = small_text(folder, **changes)
    data.setup("fit")
    parts = [torch.cat([targets.flatten() for _, targets in loader]) for loader in data.val_dataloader()]
    return [part[part != NOT_SCORED].tolist() for part in parts]


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_future_byte_changes_no_earlier_logits(positions: Any) -> None:
    model = small_gpt(positions=positions, init_std=0.5).eval()
    inputs = torch.randint(0, 256, (2, 12))
    changed = inputs.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 256
    with torch.no_grad():
        before, after = model(inputs), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert not torch.allclose(before[:, 7], after[:, 7])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_the_order_of_earlier_bytes_matters(positions: Any) -> None:
    model = small_gpt(positions=positions, init_std=0.5, depth=1).eval()
    with torch.no_grad():
        forward, swapped = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[2, 1, 3]]))
    assert not torch.allclose(forward[:, 2], swapped[:, 2], atol=1e-4)


def test_an_input_that_is_too_long_for_learned_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="input of 33 bytes, but max_length is 32; raise max_length"):
        small_gpt(positions="learned")(torch.zeros(1, 33, dtype=torch.long))


def test_sizes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="width 18 is no multiple of 4, which 2 heads with rotary positions need"):
        small_gpt(width=18)
    small_gpt(width=18, positions="learned")


def test_a_uniform_guess_costs_eight_bits_per_byte() -> None:
    bits = BitsPerByte()
    bits.update(torch.zeros(2, 5, 256), torch.randint(0, 256, (2, 5)))
    assert bits.compute().item() == pytest.approx(8.0, abs=1e-5)


def test_a_padded_position_is_not_scored() -> None:
    logits, targets = torch.randn(1, 4, 256), torch.tensor([[1, 2, 3, NOT_SCORED]])
    padded, plain = BitsPerByte(), BitsPerByte()
    padded.update(logits, targets)
    plain.update(logits[:, :3], targets[:, :3])
    assert padded.compute().item() == pytest.approx(plain.compute().item(), rel=1e-6)
    assert padded.scored.item() == 3


def test_the_states_of_two_ranks_add_up_to_those_of_one() -> None:
    logits, targets = torch.randn(5, 8, 256), torch.randint(0, 256, (5, 8))
    second, whole = BitsPerByte(), BitsPerByte()
    second.update(logits[1:], targets[1:])
    whole.update(logits, targets)
    others = iter([second.nats, second.scored])
    first = BitsPerByte(dist_sync_fn=lambda own, group: [own, next(others)], distributed_available_fn=lambda: True)
    first.update(logits[:1], targets[:1])
    assert first.compute().item() == pytest.approx(whole.compute().item(), rel=1e-6)
    assert next(others, None) is None


def test_the_three_parts_share_no_file(folder: str) -> None:
    names = list_files(Path(folder), suffixes=(".txt",), skip=frozenset())
    parts = read_parts(folder, (".txt",))
    ends = [int((part == 0).sum()) for part in parts]
    assert ends == [sum(part_of(name) == index for name in names) for index in range(3)]
    assert sum(ends) == 40
    for name in names:
        line = f"this is line of file {name[4:6]}".encode()
        assert [line in bytes(part.tolist()) for part in parts] == [part_of(name) == index for index in range(3)]


def test_a_file_stays_in_its_part_for_ever() -> None:
    assert [part_of(name) for name in ("abc.py", "bisect.py", "asyncio/locks.py", "shutil.py")] == [0, 0, 1, 2]


def test_other_files_do_not_move_a_file_to_another_part(folder: str, tmp_path: Path) -> None:
    before = [bytes(part.tolist()) for part in read_parts(folder, (".txt",))]
    (tmp_path / "note.md").write_text("one more")
    after = [bytes(part.tolist()) for part in read_parts(folder, (".txt", ".md"))]
    grown = part_of("note.md")
    assert [len(b) - len(a) for a, b in zip(before, after, strict=True)] == [9 * (part == grown) for part in range(3)]


def test_hidden_folders_and_other_suffixes_are_not_read(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md", ".git/c.txt", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    assert list_files(tmp_path, suffixes=(".txt",), skip=frozenset()) == ["a.txt", "sub/d.txt"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder; `folder` must name a folder of text files"):
        SourceText(folder=str(tmp_path / "nowhere")).setup("fit")


def test_too_little_text_is_an_error_that_says_which_part(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("short")
    with pytest.raises(ValueError, match=r"the training part has \d bytes of .txt files, 1025 are needed"):
        SourceText(folder=str(tmp_path), suffixes=[".txt"]).setup("fit")


def test_the_standard_library_is_there_and_large_enough() -> None:
    train, validation, heldout = read_parts(None, (".py",))
    assert len(train) > 2_000_000
    assert min(len(validation), len(heldout)) > 200_000


def test_the_standard_library_is_read_without_other_packages_and_tests() -> None:
    names = list_files(Path(sysconfig.get_path("stdlib")), suffixes=(".py",), skip=SKIPPED_FOLDERS)
    assert {"textwrap.py", "json/decoder.py"} <= set(names)
    assert not {folder for name in names for folder in name.split("/")[:-1]} & {
        "site-packages",
        "test",
        "tests",
        "idlelib",
    }


def test_equal_seeds_give_equal_batches_and_others_do_not(folder: str) -> None:
    one, again, other = (torch.cat(first_batches(folder, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_what_the_model_draws_does_not_move_the_data(folder: str) -> None:
    plain = first_batches(folder, seed=1)
    L.seed_everything(1, verbose=False)
    data = small_text(folder)
    data.setup("fit")
    torch.randn(1000)
    loader = data.train_dataloader()
    torch.randn(1000)
    assert all(torch.equal(a, b) for a, (b, _) in zip(plain, loader, strict=True))


def test_the_kth_crop_does_not_depend_on_the_batch_size(folder: str) -> None:
    four, eight = first_batches(folder, seed=1), first_batches(folder, seed=1, batch_size=8)
    assert torch.equal(torch.cat(four[:8]), torch.cat(eight[:4]))


def test_a_second_epoch_draws_new_crops(folder: str) -> None:
    data = small_text(folder)
    data.setup("fit")
    loader = data.train_dataloader()
    first, second = (torch.cat([inputs for inputs, _ in loader]) for _ in range(2))
    assert not torch.equal(first, second)


def test_targets_are_the_inputs_one_byte_later(folder: str) -> None:
    data = small_text(folder)
    data.setup("fit")
    inputs, targets = next(iter(data.train_dataloader()))
    assert inputs.shape == targets.shape == (4, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    crop = bytes([*inputs[0].tolist(), targets[0, -1].item()])
    assert crop in bytes(data.train_text.tolist())


@pytest.mark.parametrize("changes", [{"batch_size": 7}, {"block_size": 5}, {"block_size": 2000}, {"block_size": 64}])
def test_the_same_bytes_are_scored_for_every_batch_and_block_size(folder: str, changes: dict[str, Any]) -> None:
    scored = scored_bytes(folder, **changes)
    assert scored == scored_bytes(folder)
    assert [len(part) for part in scored] == [PASSAGE_BYTES, PASSAGE_BYTES]


def test_scored_passages_lie_evenly_over_the_part(folder: str) -> None:
    validation, _ = scored_bytes(folder, eval_bytes=2048)
    text = read_parts(folder, (".txt",))[1]
    stride = (len(text) - 1) // 2
    starts = (1, 1 + stride)
    assert validation == [byte for start in starts for byte in text[start : start + PASSAGE_BYTES].tolist()]


@pytest.mark.parametrize(
    "changes",
    [
        *({"decay": decay} for decay in get_args(Decay)),
        *({"activation": activation} for activation in get_args(Activation)),
        {"positions": "learned"},
        {"norm": "rms"},
        {"bias": True},
        {"tie_weights": False},
        {"dropout": 0.2, "label_smoothing": 0.1},
    ],
    ids=str,
)
def test_every_option_fits_a_few_steps(folder: str, changes: dict[str, Any]) -> None:
    model, trainer = fit(folder, **changes)
    assert trainer.global_step == 3
    assert math.isfinite(trainer.callback_metrics["train_loss"])
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_fit_lowers_the_loss_and_logs_both_parts(folder: str) -> None:
    L.seed_everything(0, verbose=False)
    model, data, trainer = small_gpt(lr=0.01), small_text(folder), quiet_trainer(max_steps=60)
    before = trainer.validate(model, datamodule=data, verbose=False)
    trainer.fit(model, datamodule=data)
    after = trainer.validate(model, datamodule=data, verbose=False)
    for index, name in enumerate(("val_bpb", "heldout_bpb")):
        assert before[index][name] == pytest.approx(8.0, abs=0.2)
        assert after[index][name] < 5.0


def test_equal_seeds_give_equal_weights(folder: str) -> None:
    (one, _), (again, _), (other, _) = fit(folder, seed=1), fit(folder, seed=1), fit(folder, seed=2)
    assert torch.equal(one.embedding.weight, again.embedding.weight)
    assert not torch.equal(one.embedding.weight, other.embedding.weight)


def test_bfloat16_autocast_stays_close_to_full_precision() -> None:
    model = small_gpt(init_std=0.2).eval()
    inputs = torch.randint(0, 256, (2, 16))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(inputs)
    with torch.no_grad():
        exact = model(inputs)
    assert rough.dtype is torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)


def test_only_matrices_are_decayed(folder: str) -> None:
    model, trainer = fit(folder, bias=True, weight_decay=0.3)
    decayed, spared = trainer.optimizers[0].param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_initial_weights_of_two_spreads_are_the_same_draws() -> None:
    torch.manual_seed(0)
    narrow = small_gpt(init_std=0.01)
    torch.manual_seed(0)
    wide = small_gpt(init_std=0.1)
    torch.testing.assert_close(narrow.embedding.weight * 10, wide.embedding.weight)


def test_weights_that_write_to_the_stream_start_smaller() -> None:
    model = small_gpt(width=64, depth=8, init_std=0.02)
    weights = model.state_dict()
    assert weights["blocks.0.attention.out.weight"].std().item() == pytest.approx(0.005, rel=0.1)
    assert weights["blocks.0.attention.qkv.weight"].std().item() == pytest.approx(0.02, rel=0.1)


def test_tied_weights_are_one_matrix() -> None:
    tied, free = small_gpt(), small_gpt(tie_weights=False)
    assert tied.head.weight is tied.embedding.weight
    assert sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters()) == 256 * 16


@pytest.mark.parametrize("decay", get_args(Decay))
def test_the_schedule_rises_to_the_peak_and_never_rises_again(decay: Decay) -> None:
    curve = [lr_factor(step, total_steps=100, warmup_steps=10, decay=decay, min_lr_ratio=0.1) for step in range(101)]
    assert curve[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert curve[10] == pytest.approx(1.0)
    assert all(later <= earlier for earlier, later in itertools.pairwise(curve[10:]))
    assert curve[100] == pytest.approx(1.0 if decay == "constant" else 0.1)


def test_shapes_of_decay_at_half_time() -> None:
    half = {decay: lr_factor(25, total_steps=100, warmup_steps=0, decay=decay) for decay in get_args(Decay)}
    cosine = 0.5 * (1 + math.cos(math.pi / 4))
    assert half == pytest.approx({"cosine": cosine, "linear": 0.75, "constant": 1.0, "wsd": 1.0})
    assert lr_factor(90, total_steps=100, warmup_steps=0, decay="wsd", decay_share=0.2) == pytest.approx(0.5)


@pytest.mark.parametrize("decay", get_args(Decay))
def test_a_warmup_longer_than_the_fit_only_rises(decay: Decay) -> None:
    curve = [lr_factor(step, total_steps=5, warmup_steps=50, decay=decay) for step in range(5)]
    assert curve == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])


def test_the_optimizer_follows_the_schedule(folder: str) -> None:
    _, trainer = fit(folder, lr=0.01, warmup_steps=0, decay="linear", min_lr_ratio=0.1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001)


@pytest.mark.filterwarnings("ignore:.*max_epochs.* was not set")
def test_a_falling_schedule_without_an_end_is_refused(folder: str) -> None:
    endless: dict[str, Any] = {"max_steps": -1, "max_epochs": -1, "max_time": {"seconds": 0.2}}
    with pytest.raises(ValueError, match=r"decay 'cosine' needs a known number of steps: set trainer.max_steps"):
        quiet_trainer(**endless).fit(small_gpt(), datamodule=small_text(folder))
    trainer = quiet_trainer(**endless)
    trainer.fit(small_gpt(decay="constant"), datamodule=small_text(folder))
    assert trainer.global_step > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse, by LightningCLI itself
@pytest.mark.parametrize("name", ["quickstart", "gpt"])
def test_the_spec_makes_a_model_and_its_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fit"])
    spec = yaml.safe_load((SPECS / f"{name}.yaml").read_text())
    task = apply_overrides(spec["task"], {"trainer.logger": False})
    cli = LightningCLI(
        args=task, run=False, subclass_mode_model=True, subclass_mode_data=True, save_config_callback=None
    )
    assert isinstance(cli.model, GPT)
    assert isinstance(cli.datamodule, SourceText)
    arguments = spec["task"]["model"]["init_args"]
    assert {key: cli.model.hparams[key] for key in arguments} == arguments
    assert {key.rpartition(".")[2] for key in spec["search_space"]} <= set(arguments)
