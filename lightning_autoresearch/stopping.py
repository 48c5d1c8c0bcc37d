"""Signals during research in a program: Ctrl-C, SIGTERM, and SLURM's announcement that the job's time ends."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment


class Stop:
    """Whether somebody asked to stop, and how.

    Args:
        requeue: the signal by which SLURM announces the end of the job's time, where Lightning would requeue the job.
    """

    def __init__(self, requeue: int | None = None) -> None:
        self.requeue = requeue
        self.signal: int | None = None

    @property
    def asked(self) -> bool:
        """Whether somebody did."""
        return self.signal is not None

    def act(self) -> None:
        """End the program as the signal would have."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal == self.requeue:
            _requeue_job()
            raise SystemExit(0)
        raise SystemExit(128 + int(self.signal or 0))


def requeue_signal(trainer: pl.Trainer) -> int | None:
    """The signal on which Lightning would requeue the program's SLURM job; None where it would not."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return environment.requeue_signal or signal.SIGUSR1
    return None


def _requeue_job() -> None:
    """Put the SLURM job back into the queue; the study goes on when it runs again."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    subprocess.run(["scontrol", "requeue", job], check=False)


@contextmanager
def ignored(number: int | None) -> Iterator[None]:
    """Leave a signal to another process."""
    if number is None:
        yield
        return
    usual = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, usual)


@contextmanager
def stopping(stop: Stop, interrupt: Callable[[], None]) -> Iterator[None]:
    """First Ctrl-C, SIGTERM or SLURM's signal: stop the study after a clean write; the second has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, *([stop.requeue] if stop.requeue else []))
    usual = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, _: object) -> None:
        again: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        signal.signal(number, again.get(number, signal.SIG_IGN))
        stop.signal = number
        interrupt()

    for number in usual:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
