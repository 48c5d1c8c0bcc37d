"""What a trial may use: cores, cards (GPUs), memory.  Imports no torch.

Not covered: cards of other makers than NVIDIA are not leased, and leases hold between processes of one user on one
machine only.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_autoresearch.errors import ExecutorError

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One GPU."""

    name: str
    """What CUDA_VISIBLE_DEVICES calls it: an index or a UUID."""
    lease: str
    """Name of its lease file: the UUID where it is known, so that one card has one name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """Cards held against every other process of this user that asks for them here."""

    cards: tuple[Card, ...] = ()
    """The cards."""
    descriptors: tuple[int, ...] = ()
    """Open lock files; a process that inherits them holds the lease too, so it outlives a killed controller."""

    def close(self) -> None:
        """Give this process's share of the lease back."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may use: its affinity, cut to the container's CPU quota."""
    if not hasattr(os, "sched_getaffinity"):
        return tuple(range(os.cpu_count() or 1))
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return cores[: _quota_cores() or len(cores)]


def split_cores(slots: int, *, cores: tuple[int, ...] | None = None) -> tuple[tuple[int, ...], ...]:
    """The cores of each slot: disjoint blocks of equal size.

    The size is equal because results depend on the number of threads in their last bits; a remainder stays unused.
    With fewer cores than slots each slot gets one core and some share it.
    """
    cores = usable_cores() if cores is None else cores
    size = len(cores) // slots
    if size == 0:
        return tuple((cores[slot % len(cores)],) for slot in range(slots))
    return tuple(cores[slot * size : (slot + 1) * size] for slot in range(slots))


def pin(cores: Iterable[int]) -> None:
    """Bind this process and its future children to the cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def thread_environment(threads: int) -> dict[str, str]:
    """The variables that numeric libraries read their number of threads from."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    return dict.fromkeys(names, str(threads))


def free_memory_gb() -> float:
    """Memory that new processes can take now, in 1e9 bytes: the machine's, or the container's where that is less."""
    import psutil

    free = psutil.virtual_memory().available
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        free = min(free, max(limit - used, 0))
    return float(free) / 1e9


def visible_cards(environment: Mapping[str, str] = os.environ) -> tuple[Card, ...]:
    """The NVIDIA cards (or their MIG slices) that this process may use, found without importing torch."""
    installed = _installed_cards(environment)
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(Card(name=uuid, lease=uuid) for uuid in installed)
    cards = []
    for name in filter(None, (part.strip() for part in named.split(","))):
        if name == "-1":
            break  # CUDA ignores what follows an invalid entry
        known = name.isdecimal() and int(name) < len(installed)
        cards.append(Card(name=name, lease=installed[int(name)] if known else name))
    return tuple(cards)


def wanted_cards(task: Mapping[str, Any], *, available: int) -> int:
    """How many cards a trial of this task needs; 0 where it runs on the CPU or another accelerator.

    Raises:
        ExecutorError: the task asks for GPUs and there are too few; it is never run on the CPU instead.
    """
    trainer = task.get("trainer") or {}
    accelerator = trainer.get("accelerator") or "auto"
    if accelerator not in ("auto", "gpu", "cuda") or (accelerator != "cuda" and sys.platform == "darwin"):
        return 0
    if accelerator == "auto" and available == 0:
        return 0
    count = device_count(task)
    if count > available:
        raise ExecutorError(
            f"a trial needs {count} GPU(s) and {available} can be seen; "
            "set trainer.accelerator to cpu, ask for fewer trainer.devices, or mend CUDA_VISIBLE_DEVICES"
        )
    return count


def device_count(task: Mapping[str, Any]) -> int:
    """The task's `trainer.devices` as a number; `auto` and -1 mean one device, since slots share the machine."""
    devices = (task.get("trainer") or {}).get("devices")
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if isinstance(devices, (list, tuple)):
        return len(devices)
    if isinstance(devices, str) and devices.lstrip("-").isdecimal():
        devices = int(devices)
    return devices if isinstance(devices, int) and devices > 0 else 1


def lease_cards(cards: Iterable[Card], *, count: int, wait_seconds: float) -> Lease:
    """Hold so many of the cards, all at once or none, waiting for others to give theirs back.

    Raises:
        ExecutorError: they were not to be had in that time.
    """
    cards = tuple(cards)
    deadline = time.monotonic() + wait_seconds
    while True:
        held: list[tuple[Card, int]] = []
        for card in cards:
            descriptor = _try_lock(card) if len(held) < count else None
            if descriptor is not None:
                held.append((card, descriptor))
        if len(held) == count:
            return Lease(cards=tuple(card for card, _ in held), descriptors=tuple(lock for _, lock in held))
        for _, descriptor in held:
            os.close(descriptor)
        if time.monotonic() >= deadline:
            raise ExecutorError(
                f"{count} GPU(s) wanted, {len(held)} of {len(cards)} free after {wait_seconds:g} s; "
                f"other studies hold the rest (lock files in {runtime_folder()})"
            )
        time.sleep(0.1)


def runtime_folder() -> Path:
    """The folder of this user's lease files, made if need be.

    Raises:
        ExecutorError: somebody else owns a folder of that name.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    name = "lightning-autoresearch" if base else f"lightning-autoresearch-{os.getuid()}"
    folder = Path(base or tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True, parents=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ExecutorError(f"{folder} belongs to another user; remove it, or set XDG_RUNTIME_DIR")
    return folder


def _try_lock(card: Card) -> int | None:
    name = re.sub(r"[^A-Za-z0-9.-]", "_", card.lease)
    descriptor = os.open(runtime_folder() / f"card-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _installed_cards(environment: Mapping[str, str]) -> tuple[str, ...]:
    """UUIDs in the order of the PCI bus; where a card is cut into MIG slices, theirs instead."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True, env=dict(environment)
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    found: list[list[str]] = []
    for line in answer.stdout.splitlines():
        match = re.search(r"UUID: ([^)\s]+)", line)
        if match and line.startswith("GPU"):
            found.append([match[1]])
        elif match and found:
            found[-1].append(match[1])
    return tuple(uuid for first, *slices in found for uuid in (slices or [first]))


def _quota_cores() -> int | None:
    """Whole cores that the container's quota amounts to, at least 1; None without a quota (cgroup v2)."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return max(1, math.floor(int(quota) / int(period)))
    except (OSError, ValueError):
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
