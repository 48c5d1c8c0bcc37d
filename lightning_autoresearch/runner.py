"""One trial through Lightning's Trainer: build from a LightningCLI config, fit once, read what was logged.

`python -m lightning_autoresearch.runner FOLDER` runs the `job.json` of a folder and leaves a `result.json` there; under
DDP, Lightning starts this very command again for the other ranks.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import math
import os
import platform
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_autoresearch.building import QUIET, Training, build, config_digest, let_go, training_of
from lightning_autoresearch.codec import from_json, read_json, to_json, write_json
from lightning_autoresearch.errors import MetricMissing, NotFinite
from lightning_autoresearch.spec import Objective
from lightning_autoresearch.tracebacks import causes, in_one_line, last_lines
from lightning_autoresearch.trial import Job, TrialResult, TrialStatus, digest_of

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class Halted(BaseException):
    """A trial is to end before its time; no exception that a task's code would catch."""

    def __init__(self, status: TrialStatus, why: str):
        super().__init__(why)
        self.status = status


def run_job(
    job: Job,
    folder: Path,
    *,
    threads: int | None = None,
    make: Callable[[Job, Path], Training] = training_of,
    halt: Callable[[], None] = lambda: None,
    search_path: Sequence[str] | None = None,
) -> TrialResult:
    """Run one trial in this process and say how it ended; whatever the task raises becomes the record.

    Everything random follows from `job.seed` alone: the same job gives bit-identical metrics in any process with the
    same number of threads.  Random state, torch's global flags, warning filters, signal handlers, `sys.path` and the
    environment are afterwards as they were.  `wall_seconds` is that of this call.

    Args:
        job: what to run.
        folder: the trial's folder.
        threads: number of torch's threads; as it is by default.
        make: builds what is run, after everything random is seeded.
        halt: asked after every batch; ends the trial by raising `Halted`.
        search_path: folders that classes are looked for in; the job's by default.

    Raises:
        KeyboardInterrupt: the user interrupted it.
    """
    started = time.monotonic()
    with isolated(job.search_path if search_path is None else search_path):
        if threads is not None and threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        run = Run(job, halt=halt)
        result = run.result(partial(run.train, make, folder))
        result = replace(result, wall_seconds=time.monotonic() - started)
        del run  # the model goes before the isolation ends and collects what is left
    return result


def run_folder(folder: Path) -> None:
    """Run the folder's `job.json`; rank zero leaves `result.json`, the only proof that the trial came to its end."""
    with open(folder / "stack.txt", "w", encoding="utf-8") as stack:
        if hasattr(faulthandler, "register"):
            faulthandler.register(signal.SIGUSR1, file=stack, all_threads=True)
        threads = int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())
        result = run_job(from_json(read_json(folder / "job.json"), Job), folder, threads=threads)
        if os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0":
            write_json(folder / "result.json", to_json(result), survives="crash")
        _leave_process_group()


def warm_up() -> None:
    """Build a throw-away model and Trainer once: fills the kept parser and the caches that every trial needs."""
    with isolated(()):
        config = {"model": {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"}}
        quiet = {"trainer": {**QUIET, "accelerator": "cpu", "enable_checkpointing": False}}
        cli = build({**config, **quiet}, requested={})
        config_digest(cli)
        _environment(cli.trainer)


class _Meter(pl.Callback):
    """Counts steps, samples and training seconds, and records the objective at each validation."""

    def __init__(self, metric: str, halt: Callable[[], None]):
        self.metric = metric
        self.halt = halt
        self.curve: list[tuple[int, float | None]] = []
        self.samples = 0
        self.train_seconds = 0.0
        self.validated_at: int | None = None
        self.paused = False
        self._since: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.samples += _batch_size(batch) * trainer.world_size
        self.halt()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.halt()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.paused:
            self._stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.paused:  # a validation of the program's own, after the trial
            return
        if not trainer.sanity_checking:
            self.validated_at = trainer.global_step
            self._record(trainer)
        if trainer.training or trainer.state.fn == "fit":
            self._start(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.validated_at is None:  # a task without validation may log its objective while it trains
            self._record(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        with suppress(RuntimeError):  # a broken card cannot be synchronized
            self._stop(trainer)

    def _record(self, trainer: pl.Trainer) -> None:
        value = trainer.callback_metrics.get(self.metric)
        if value is not None:
            self.curve.append((trainer.global_step, float(value)))

    def _start(self, trainer: pl.Trainer) -> None:
        _synchronize(trainer)
        self._since = time.monotonic()

    def _stop(self, trainer: pl.Trainer) -> None:
        if self._since is not None:
            _synchronize(trainer)
            self.train_seconds += time.monotonic() - self._since
            self._since = None


class Run:
    """One trial as it goes, so that what is known when it breaks off still gets into the record.

    Args:
        job: what is run.
        halt: asked after every batch; ends the trial by raising `Halted`.
    """

    def __init__(self, job: Job, *, halt: Callable[[], None] = lambda: None) -> None:
        self.job = job
        self.meter = _Meter(job.objective.metric, halt)
        self.metrics: dict[str, float] = {}
        self.fit_seconds = 0.0
        self.training: Training | None = None

    def result(self, act: Callable[[], float]) -> TrialResult:
        """Do what gives the objective; whatever it raises becomes the record.  `wall_seconds` are not known here.

        Raises:
            KeyboardInterrupt: the user interrupted it.
        """
        ending = self._ending(act)
        return TrialResult(trial_id=self.job.trial_id, **ending, **self._measured())

    def train(self, make: Callable[[Job, Path], Training], folder: Path) -> float:
        """Seed, build, fit.

        Returns:
            The objective.
        """
        pl.seed_everything(self.job.seed, workers=True, verbose=False)
        training = make(self.job, folder)
        self.watch(training)
        started = time.monotonic()
        try:
            training.trainer.fit(training.model, **training.fit)
            return self.conclude()
        finally:
            self.fit_seconds = time.monotonic() - started

    def watch(self, training: Training) -> None:
        """Take part in a fit that is about to begin."""
        self.training = training
        callbacks = training.trainer.callbacks  # type: ignore[attr-defined]
        training.trainer.callbacks = [self.meter, *callbacks]  # type: ignore[attr-defined]
        _forget_peak_memory(training.trainer)

    def fitted(self) -> None:
        """The fit has ended; whatever the program does with the Trainer before `conclude` is none of the trial's."""
        assert self.training is not None
        self._take_metrics(self.training.trainer)
        self.meter.paused = True

    def conclude(self) -> float:
        """Validate once more where the fit stopped between two validations: it has no metric of its last step then.

        Returns:
            The objective.

        Raises:
            MetricMissing: it, or a guard, was never logged.
            NotFinite: it, or a guard, is not finite.
        """
        assert self.training is not None
        trainer = self.training.trainer
        if not self.meter.paused:
            self._take_metrics(trainer)
        self.meter.paused = False
        if trainer.enable_validation and self.meter.validated_at != trainer.global_step:
            trainer.validate(self.training.model, **self.training.validate, verbose=False)
            self._take_metrics(trainer)
        self.metrics |= {
            "train_seconds": self.meter.train_seconds,
            "parameters": float(_count_parameters(self.training.model)),
            "peak_memory_gb": _peak_memory_gb(trainer),
        }
        self._check_guards()
        return _read_objective(self.job.objective, self.metrics, self.meter.curve, listed=self._listed())

    def _ending(self, act: Callable[[], float]) -> dict[str, Any]:
        """The fields of the record that say how it ended."""
        try:
            objective = act()
        except MetricMissing as error:
            return {"status": TrialStatus.METRIC_MISSING, "failure": str(error)}
        except NotFinite as error:
            return {"status": TrialStatus.NOT_FINITE, "failure": str(error)}
        except Halted as error:
            return {"status": error.status, "failure": str(error)}
        except (Exception, SystemExit) as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit
                raise KeyboardInterrupt from None
            status = classify(error)
            failure = "ended by SIGTERM from outside" if status is TrialStatus.KILLED else in_one_line(error)
            return {"status": status, "failure": failure, "traceback": last_lines(error)}
        return {"status": TrialStatus.FINISHED, "objective": objective}

    def _measured(self) -> dict[str, Any]:
        """The fields of the record that hold whatever was measured, also of a trial that failed."""
        trainer, model = (self.training.trainer, self.training.model) if self.training else (None, None)
        steps = trainer.global_step if trainer else 0
        seconds = self.meter.train_seconds
        return {
            "metrics": {name: _finite_or_none(value) for name, value in self.metrics.items()},
            "curve": tuple((step, _finite_or_none(value)) for step, value in self.meter.curve),
            "steps": steps,
            "samples": self.meter.samples,
            "train_seconds": seconds,
            "fit_seconds": self.fit_seconds,
            "steps_per_second": steps / seconds if seconds > 0 else None,
            "peak_memory_gb": _peak_memory_gb(trainer),
            "parameters": _count_parameters(model),
            "shapes_digest": digest_of(_shapes(model)) if model else "",
            "config_digest": self.training.digest() if self.training else "",
            "environment": _environment(trainer),
        }

    def _take_metrics(self, trainer: pl.Trainer) -> None:
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}

    def _check_guards(self) -> None:
        for guard in self.job.guards:
            if guard.metric not in self.metrics:
                raise MetricMissing(_missing("guard", guard.metric, self._listed()))
            if not math.isfinite(self.metrics[guard.metric]):
                raise NotFinite(f"the guard {guard.metric!r} is {self.metrics[guard.metric]} at the end")

    def _listed(self) -> list[str]:
        """The metrics that a message may name: hidden guards stay hidden."""
        hidden = {guard.metric for guard in self.job.guards if guard.hidden}
        return sorted(set(self.metrics) - hidden)


def _read_objective(
    objective: Objective, metrics: Mapping[str, float], curve: Sequence[tuple[int, float | None]], *, listed: list[str]
) -> float:
    """The objective as the spec reads it.

    Raises:
        MetricMissing: it was never logged.
        NotFinite: what was read is NaN or infinite; for `best`, there is no finite value at all.
    """
    if objective.metric not in metrics:
        raise MetricMissing(_missing("objective", objective.metric, listed))
    values = [value for _, value in curve if value is not None] or [metrics[objective.metric]]
    if objective.read == "last":
        value = metrics[objective.metric]
    elif objective.read == "best":
        finite = [value for value in values if math.isfinite(value)] or [math.nan]
        value = min(finite) if objective.mode == "min" else max(finite)
    else:
        last = values[-objective.read :]
        value = math.fsum(last) / len(last) if all(map(math.isfinite, last)) else math.nan
    if not math.isfinite(value):
        raise NotFinite(f"the objective {objective.metric!r} (read: {objective.read}) is {value}")
    return value


def classify(error: BaseException) -> TrialStatus:
    """What an exception of a trial means: out of memory, ended from outside, or an error of the task."""
    for cause in causes(error):
        if isinstance(cause, SIGTERMException):
            return TrialStatus.KILLED
        if isinstance(cause, (MemoryError, torch.cuda.OutOfMemoryError)):
            return TrialStatus.OUT_OF_MEMORY
        # jsonargparse wraps what a constructor raised in a ValueError or an error of its own, as text
        if any(words in str(cause).lower() for words in _NO_MEMORY):
            return TrialStatus.OUT_OF_MEMORY
    return TrialStatus.ERROR


def _missing(what: str, metric: str, listed: list[str]) -> str:
    return f"the {what} {metric!r} was never logged; these were: {', '.join(listed) or 'none'}"


def _batch_size(batch: Any) -> int:
    """First dimension of the first tensor, 0 where there is none."""
    if isinstance(batch, torch.Tensor):
        return batch.shape[0] if batch.ndim else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return next(filter(None, map(_batch_size, batch)), 0)
    return 0


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _count_parameters(model: torch.nn.Module | None) -> int:
    uninitialized = torch.nn.parameter.UninitializedParameter
    parameters = model.parameters() if model else ()
    return sum(p.numel() for p in parameters if p.requires_grad and not isinstance(p, uninitialized))


def _shapes(model: torch.nn.Module) -> list[list[Any]]:
    uninitialized = torch.nn.parameter.UninitializedParameter
    named = model.named_parameters()
    return [[name, None if isinstance(p, uninitialized) else list(p.shape)] for name, p in named]


def _card(trainer: pl.Trainer | None) -> torch.device | None:
    device = trainer.strategy.root_device if trainer else None
    return device if device is not None and device.type == "cuda" else None


def _synchronize(trainer: pl.Trainer) -> None:
    """Wait for the card, so that work still queued is charged to the phase that queued it."""
    if card := _card(trainer):
        torch.cuda.synchronize(card)


def _forget_peak_memory(trainer: pl.Trainer) -> None:
    if card := _card(trainer):
        torch.cuda.reset_peak_memory_stats(card)
    with suppress(OSError):  # 5 resets the high-water mark: man 5 proc, clear_refs
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_gb(trainer: pl.Trainer | None) -> float:
    """Peak memory of the card, else of this process since the trial began (since its start outside Linux)."""
    if card := _card(trainer):
        return torch.cuda.max_memory_allocated(card) / 1e9
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _environment(trainer: pl.Trainer | None) -> dict[str, str]:
    card = _card(trainer)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(card) if card else _processor(),
        "threads": str(torch.get_num_threads()),
    }


@cache
def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def isolated(search_path: Sequence[str]) -> Iterator[None]:
    """Leave random state, torch's flags, filters, signal handlers, `sys.path` and environment as they were."""
    with ExitStack() as stack:
        stack.enter_context(_few_objects())
        stack.enter_context(isolate_rng(include_cuda=cuda_in_use()))
        stack.callback(_restore_torch())
        stack.callback(_restore_signals())
        stack.enter_context(same_environment())
        stack.callback(sys.path.__setitem__, slice(None), list(sys.path))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", module=r"lightning\b")
        for name in ("lightning.pytorch", "lightning.fabric"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        sys.path[:0] = search_path
        yield


def cuda_in_use() -> bool:
    """Whether this process has a CUDA context."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@contextmanager
def _few_objects() -> Iterator[None]:
    """Collect what the trial leaves (model and trainer point at each other) without walking all else there is."""
    gc.freeze()
    try:
        yield
    finally:
        let_go()
        gc.collect()
        gc.unfreeze()
        if cuda_in_use():
            torch.cuda.empty_cache()


def _restore_torch() -> Any:
    """A function that sets torch's global flags to what they are now."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    benchmark, cudnn_deterministic = cudnn.benchmark, cudnn.deterministic
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    threads, grad, anomaly = torch.get_num_threads(), torch.is_grad_enabled(), torch.is_anomaly_enabled()

    def restore() -> None:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        cudnn.benchmark, cudnn.deterministic = benchmark, cudnn_deterministic
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.autograd.set_detect_anomaly(anomaly)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    return restore


def _restore_signals() -> Any:
    """A function that restores the handlers that Lightning touches; on Ctrl-C it leaves SIGINT ignored."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def restore() -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)

    return restore


@contextmanager
def same_environment() -> Iterator[None]:
    """Leave the environment as it was."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _leave_process_group() -> None:
    """Under DDP: wait for the other ranks, else some scripts abort at exit."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        with suppress(RuntimeError):
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


def main() -> None:
    """Run the trial of the folder named on the command line, then leave without the second of interpreter shutdown."""
    run_folder(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
