"""Cores, cards, memory and environment of a trial."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_autoresearch import devices
from lightning_autoresearch.devices import Card
from lightning_autoresearch.errors import ExecutorError

TWO_CARDS = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb)
"""
SLICED = """GPU 0: NVIDIA A100 (UUID: GPU-aaaa)
  MIG 1g.5gb Device 0: (UUID: MIG-1111)
  MIG 1g.5gb Device 1: (UUID: MIG-2222)
GPU 1: NVIDIA A100 (UUID: GPU-bbbb)
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "lightning-autoresearch"


def nvidia_smi(folder: Path, answer: str) -> dict[str, str]:
    """An environment in which `nvidia-smi` gives this answer."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nprint({answer!r}, end='')\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": str(folder)}


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_slots_have_disjoint_blocks_of_equal_size() -> None:
    assert devices.split_cores(3, cores=tuple(range(8))) == ((0, 1), (2, 3), (4, 5))


def test_more_slots_than_cores_share_them() -> None:
    assert devices.split_cores(3, cores=(4, 6)) == ((4,), (6,), (4,))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_usable_cores_are_within_the_affinity() -> None:
    cores = devices.usable_cores()
    assert cores
    assert set(cores) <= os.sched_getaffinity(0)


def test_a_quota_cuts_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert len(devices.usable_cores()) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert set(devices.usable_cores()) == os.sched_getaffinity(0)


def test_a_container_limit_bounds_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("50000000")
    (tmp_path / "memory.current").write_text("20000000")
    assert devices.free_memory_gb() == pytest.approx(0.03)
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.free_memory_gb() > 0.03


def test_every_numeric_library_is_told_the_number_of_threads() -> None:
    assert set(devices.thread_environment(3).values()) == {"3"}
    assert {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} <= set(devices.thread_environment(3))


def test_without_nvidia_smi_there_are_no_cards(on_path: Path) -> None:
    assert devices.visible_cards({"PATH": str(on_path)}) == ()


def test_cards_are_found_by_uuid(on_path: Path) -> None:
    environment = nvidia_smi(on_path, TWO_CARDS)
    assert [card.name for card in devices.visible_cards(environment)] == ["GPU-aaaa", "GPU-bbbb"]


def test_slices_stand_for_their_card(on_path: Path) -> None:
    environment = nvidia_smi(on_path, SLICED)
    assert [card.name for card in devices.visible_cards(environment)] == ["MIG-1111", "MIG-2222", "GPU-bbbb"]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("1", [Card(name="1", lease="GPU-bbbb")]),
        ("GPU-bbbb, 0", [Card(name="GPU-bbbb", lease="GPU-bbbb"), Card(name="0", lease="GPU-aaaa")]),
        ("", []),
        ("-1,0", []),
    ],
)
def test_only_named_cards_are_visible_and_one_card_has_one_lease(
    on_path: Path, named: str, expected: list[Card]
) -> None:
    environment = nvidia_smi(on_path, TWO_CARDS) | {"CUDA_VISIBLE_DEVICES": named}
    assert list(devices.visible_cards(environment)) == expected


@pytest.mark.parametrize(
    ("trainer", "available", "expected"),
    [
        ({}, 0, 0),
        ({}, 4, 1),
        ({"accelerator": "auto", "devices": "auto"}, 4, 1),
        ({"accelerator": "cpu", "devices": 2}, 4, 0),
        ({"accelerator": "gpu", "devices": 2}, 4, 2),
        ({"accelerator": "cuda", "devices": [0, 3]}, 4, 2),
        ({"accelerator": "gpu", "devices": "0, 1, 2"}, 4, 3),
        ({"accelerator": "gpu", "devices": -1}, 4, 1),
        ({"accelerator": "gpu", "devices": "2"}, 4, 2),
    ],
)
def test_the_task_says_how_many_cards_it_wants(trainer: dict[str, object], available: int, expected: int) -> None:
    assert devices.wanted_cards({"trainer": trainer}, available=available) == expected


def test_a_task_that_asks_for_gpus_never_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ExecutorError, match=r"needs 1 GPU\(s\) and 0 can be seen"):
        devices.wanted_cards({"trainer": {"accelerator": "gpu"}}, available=0)


def test_two_leases_never_hold_one_card(runtime: Path) -> None:
    cards = tuple(Card(name=str(index), lease=f"GPU-{index}") for index in range(3))
    first = devices.lease_cards(cards, count=1, wait_seconds=0)
    second = devices.lease_cards(cards, count=2, wait_seconds=0)
    assert {card.name for card in first.cards} | {card.name for card in second.cards} == {"0", "1", "2"}
    with pytest.raises(ExecutorError, match=r"1 GPU\(s\) wanted, 0 of 3 free after 0.2 s"):
        devices.lease_cards(cards, count=1, wait_seconds=0.2)
    first.close()
    third = devices.lease_cards(cards, count=1, wait_seconds=0)
    assert third.cards == first.cards
    second.close()
    third.close()


def test_a_lease_that_fails_holds_nothing(runtime: Path) -> None:
    cards = (Card(name="0", lease="GPU-0"), Card(name="1", lease="GPU-1"))
    first = devices.lease_cards(cards, count=1, wait_seconds=0)
    with pytest.raises(ExecutorError, match="1 of 2 free"):
        devices.lease_cards(cards, count=2, wait_seconds=0)
    second = devices.lease_cards(cards, count=1, wait_seconds=0)
    first.close()
    second.close()


def test_a_process_that_inherits_a_lease_holds_it_on(runtime: Path) -> None:
    card = Card(name="0", lease="GPU-0")
    lease = devices.lease_cards((card,), count=1, wait_seconds=0)
    heir = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=lease.descriptors
    )
    lease.close()
    with pytest.raises(ExecutorError, match="0 of 1 free"):
        devices.lease_cards((card,), count=1, wait_seconds=0)
    heir.communicate()
    devices.lease_cards((card,), count=1, wait_seconds=1).close()


def test_the_lease_folder_is_private(runtime: Path) -> None:
    assert devices.runtime_folder() == runtime
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
