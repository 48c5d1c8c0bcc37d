"""One trial in this process: what is recorded, how failures are classified, what is left behind."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import random
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_autoresearch.runner import run_job
from lightning_autoresearch.space import Value, apply_overrides
from lightning_autoresearch.spec import Guard, Objective
from lightning_autoresearch.trial import Job, TrialResult, TrialStatus

HERE = str(Path(__file__).parent)
READINGS: tuple[Any, ...] = ("best", 2, "last")
TASK: Mapping[str, Any] = {
    "model": {"class_path": "tasks.Regression", "init_args": {"lr": 0.1}},
    "data": {"class_path": "tasks.Points"},
    "trainer": {"max_steps": 10, "accelerator": "cpu"},
}


def make_job(
    changes: Mapping[str, Any] | None = None,
    *,
    model: str = "tasks.Regression",
    requested: Mapping[str, Value] | None = None,
    objective: Objective = Objective(metric="val_loss", mode="min"),  # noqa: B008
    guards: tuple[Guard, ...] = (),
    seed: int = 1,
) -> Job:
    task = apply_overrides(TASK, {"model.class_path": model, **(changes or {})})
    return Job(
        trial_id="00001",
        task=apply_overrides(task, requested or {}),
        requested=requested or {},
        objective=objective,
        guards=guards,
        seed=seed,
        search_path=(HERE,),
        timeout_seconds=60.0,
        memory_gb=None,
    )


def run(folder: Path, changes: Mapping[str, Any] | None = None, **kwargs: Any) -> TrialResult:
    return run_job(make_job(changes, **kwargs), folder)


def test_a_good_trial_is_recorded_in_full(tmp_path: Path) -> None:
    result = run(tmp_path, {"trainer.check_val_every_n_epoch": 1})
    assert result.status is TrialStatus.FINISHED, result
    assert result.objective == result.metrics["val_loss"]
    assert (result.steps, result.samples, result.parameters) == (10, 160, 5)
    assert [step for step, _ in result.curve] == [4, 8, 10]
    assert {"val_loss", "val_error", "train_loss", "peak_memory_gb", "parameters", "train_seconds"} <= set(
        result.metrics
    )
    assert 0 < result.train_seconds < result.fit_seconds < result.wall_seconds
    assert result.steps_per_second == pytest.approx(10 / result.train_seconds)
    assert result.peak_memory_gb is not None
    assert 0.05 < result.peak_memory_gb < 64
    assert {"python", "torch", "lightning", "platform", "device", "threads"} == set(result.environment)
    assert (result.failure, result.traceback) == (None, ())


def test_the_same_seed_gives_bit_identical_metrics_and_another_seed_does_not(tmp_path: Path) -> None:
    first, again, other = (run(tmp_path, seed=seed) for seed in (1, 1, 2))
    assert first.curve == again.curve
    assert first.metrics["train_loss"] == again.metrics["train_loss"]
    assert first.curve != other.curve
    assert first.config_digest == again.config_digest == other.config_digest


def test_training_is_the_same_as_without_us(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    sys.path.insert(0, HERE)
    try:
        import tasks
    finally:
        sys.path.remove(HERE)
    result = run(tmp_path, {"trainer.check_val_every_n_epoch": 1, "trainer.max_steps": 8})
    pl.seed_everything(1, workers=True, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        model, data = tasks.Regression(lr=0.1), tasks.Points()
        trainer = pl.Trainer(
            max_steps=8, accelerator="cpu", enable_checkpointing=False, num_sanity_val_steps=0, **quiet
        )
        trainer.fit(model, datamodule=data)
    del os.environ["PL_GLOBAL_SEED"], os.environ["PL_SEED_WORKERS"]
    assert result.objective == float(trainer.callback_metrics["val_loss"])


def test_the_digests_tell_what_changed(tmp_path: Path) -> None:
    base = run(tmp_path)
    other_rate = run(tmp_path / "elsewhere", requested={"model.init_args.lr": 0.2})
    wider = run(tmp_path, requested={"model.init_args.width": 3})
    assert base.shapes_digest == other_rate.shapes_digest != wider.shapes_digest
    assert len({base.config_digest, other_rate.config_digest, wider.config_digest}) == 3
    assert run(tmp_path / "elsewhere").config_digest == base.config_digest


def test_a_default_that_is_written_out_keeps_the_config_digest(tmp_path: Path) -> None:
    assert run(tmp_path).config_digest == run(tmp_path, requested={"model.init_args.width": 0}).config_digest


@pytest.mark.parametrize(
    ("read", "value"),
    [("last", 2.0), ("best", 1.0), (2, 1.5), (3, 2.0), (9, 2.0)],
)
def test_the_objective_is_read_as_asked(tmp_path: Path, read: Any, value: float) -> None:
    objective = Objective(metric="val_loss", mode="min", read=read)
    result = run(tmp_path, {"trainer.max_steps": 12}, model="tasks.Diverging", objective=objective)
    assert [value for _, value in result.curve] == [3.0, 1.0, 2.0]
    assert result.objective == value


def test_the_best_of_a_maximised_objective_is_its_largest(tmp_path: Path) -> None:
    objective = Objective(metric="val_loss", mode="max", read="best")
    assert run(tmp_path, {"trainer.max_steps": 12}, model="tasks.Diverging", objective=objective).objective == 3.0


def test_the_best_survives_a_nan_at_the_end_and_the_last_does_not(tmp_path: Path) -> None:
    longer = {"trainer.max_steps": 16}
    best, mean, last = (
        run(tmp_path, longer, model="tasks.Diverging", objective=Objective(metric="val_loss", mode="min", read=read))
        for read in READINGS
    )
    assert (best.status, best.objective) == (TrialStatus.FINISHED, 1.0)
    assert (mean.status, last.status) == (TrialStatus.NOT_FINITE, TrialStatus.NOT_FINITE)
    assert last.curve[-1] == (16, None)


def test_a_nan_objective_is_not_finite(tmp_path: Path) -> None:
    result = run(tmp_path, model="tasks.NotANumber")
    assert result.status is TrialStatus.NOT_FINITE
    assert (result.objective, result.metrics["val_loss"]) == (None, None)
    assert result.failure == "the objective 'val_loss' (read: last) is nan"
    assert result.steps == 10


def test_a_missing_objective_names_the_metrics_that_exist(tmp_path: Path) -> None:
    result = run(tmp_path, model="tasks.Silent")
    assert result.status is TrialStatus.METRIC_MISSING
    assert result.failure == (
        "the objective 'val_loss' was never logged; "
        "these were: parameters, peak_memory_gb, train_loss, train_seconds, val_other"
    )


def test_a_missing_guard_is_named_and_hidden_ones_are_not_listed(tmp_path: Path) -> None:
    guards = (Guard(metric="val_error", mode="min", hidden=True), Guard(metric="val_bits", mode="min"))
    result = run(tmp_path, guards=guards)
    assert result.status is TrialStatus.METRIC_MISSING
    assert result.failure is not None
    assert "the guard 'val_bits' was never logged" in result.failure
    assert "val_error" not in result.failure


def test_what_the_runner_measures_can_be_guarded(tmp_path: Path) -> None:
    names = ("peak_memory_gb", "parameters", "train_seconds")
    result = run(tmp_path, guards=tuple(Guard(metric=name, max=1e12) for name in names))
    assert result.finished
    assert result.metrics["parameters"] == 5
    assert result.metrics["train_seconds"] == result.train_seconds


def test_a_fit_that_ends_between_validations_is_validated_at_its_end(tmp_path: Path) -> None:
    result = run(tmp_path, {"trainer.check_val_every_n_epoch": 2})
    assert [step for step, _ in result.curve] == [8, 10]
    assert result.objective == result.curve[-1][1]
    assert "train_loss" in result.metrics


def test_a_task_without_validation_may_log_its_objective_while_it_trains(tmp_path: Path) -> None:
    result = run(tmp_path, {"trainer.max_steps": 8}, model="tasks.TrainOnly")
    assert result.finished, result
    assert [step for step, _ in result.curve] == [4, 8]


def test_validation_is_not_charged_to_training(tmp_path: Path) -> None:
    slow = run(tmp_path, {"model.init_args.step_seconds": 0.02}, model="tasks.Slow")
    assert 0.2 <= slow.train_seconds < slow.fit_seconds


def test_an_optimizer_and_a_schedule_of_the_config_replace_the_models_own(tmp_path: Path) -> None:
    sections = {
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.05}},
        "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": 0.5}},
    }
    adam = run(tmp_path, sections, requested={"optimizer.init_args.lr": 0.05})
    assert adam.finished, adam
    assert adam.objective != run(tmp_path).objective
    without_schedule = run(tmp_path, {"optimizer": sections["optimizer"]})
    assert adam.objective != without_schedule.objective


def test_a_seed_in_the_config_does_not_count(tmp_path: Path) -> None:
    assert run(tmp_path, {"seed_everything": 99}).curve == run(tmp_path).curve


def test_a_checkpoint_of_the_config_is_written_and_a_fit_can_start_from_it(tmp_path: Path) -> None:
    keep = {
        "trainer.callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"dirpath": str(tmp_path), "filename": "kept", "monitor": "val_loss"},
            }
        ]
    }
    first = run(tmp_path, keep)
    assert first.finished, first
    assert (tmp_path / "kept.ckpt").exists()
    onward = run(tmp_path, {"ckpt_path": str(tmp_path / "kept.ckpt"), "trainer.max_steps": 12})
    assert onward.finished, onward
    assert onward.samples < run(tmp_path, {"trainer.max_steps": 12}).samples


def test_nothing_is_written_unless_the_task_asks_for_it(tmp_path: Path) -> None:
    run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_integral_float_is_accepted_for_an_integer_parameter(tmp_path: Path) -> None:
    as_float = run(tmp_path, requested={"model.init_args.width": 3.0, "model.init_args.lr": 0.1})
    as_int = run(tmp_path, requested={"model.init_args.width": 3, "model.init_args.lr": 0.1})
    assert as_float.finished, as_float
    assert as_float.curve == as_int.curve


def test_a_whole_number_is_accepted_for_a_real_parameter(tmp_path: Path) -> None:
    assert run(tmp_path, requested={"model.init_args.penalty": 1}).finished


def test_a_key_that_the_class_does_not_have_is_an_error(tmp_path: Path) -> None:
    result = run(tmp_path, requested={"model.init_args.depth": 3})
    assert result.status is TrialStatus.ERROR
    assert result.failure is not None
    assert "depth" in result.failure
    assert "\n" not in result.failure


def test_a_value_that_the_parsed_config_does_not_have_is_an_error(tmp_path: Path) -> None:
    job = dataclasses.replace(make_job({"model.init_args.lr": 0.1}), requested={"model.init_args.lr": 0.3})
    result = run_job(job, tmp_path)
    assert result.status is TrialStatus.ERROR
    assert result.failure is not None
    assert result.failure.startswith("model.init_args.lr was set to 0.3 and the parsed config has 0.1")
    assert result.steps == 0


def test_a_value_of_the_wrong_type_is_an_error(tmp_path: Path) -> None:
    result = run(tmp_path, requested={"model.init_args.width": 3.5})
    assert result.status is TrialStatus.ERROR
    assert result.failure is not None
    assert "3.5" in result.failure


def test_an_exception_is_an_error_with_the_users_line(tmp_path: Path) -> None:
    result = run(tmp_path, {"model.init_args.fault": "fail"}, model="tasks.Faulty")
    assert result.status is TrialStatus.ERROR
    assert result.failure == "RuntimeError: the gradient went for a walk"
    assert result.traceback[-1] == result.failure
    assert any("tasks.py" in line and line.endswith("in fail") for line in result.traceback)
    assert '    raise RuntimeError("the gradient went for a walk")' in result.traceback
    assert len(result.traceback) <= 10
    assert (result.steps, result.parameters) == (2, 5)
    assert result.train_seconds > 0


def test_an_exception_inside_a_library_shows_the_users_frames_too(tmp_path: Path) -> None:
    result = run(tmp_path, {"model.init_args.fault": "fail_in_library"}, model="tasks.Faulty")
    assert any(line.endswith("in fail_in_library") for line in result.traceback)
    assert any(line.endswith("in training_step") for line in result.traceback)
    assert len(result.traceback) <= 10


@pytest.mark.parametrize("model", ["tasks.TooLarge", "tasks.TooLargeForTorch"])
def test_no_memory_for_the_model_is_out_of_memory_though_it_is_wrapped(tmp_path: Path, model: str) -> None:
    result = run(tmp_path, model=model)
    assert result.status is TrialStatus.OUT_OF_MEMORY, result
    assert any(line.endswith("in __init__") and "tasks.py" in line for line in result.traceback)


def test_no_memory_in_a_step_is_out_of_memory(tmp_path: Path) -> None:
    result = run(tmp_path, {"model.init_args.fault": "lack_memory"}, model="tasks.Faulty")
    assert result.status is TrialStatus.OUT_OF_MEMORY


def test_leaving_by_exit_is_an_error(tmp_path: Path) -> None:
    result = run(tmp_path, {"model.init_args.fault": "leave"}, model="tasks.Faulty")
    assert (result.status, result.failure) == (TrialStatus.ERROR, "the task left by exit(3)")


def test_sigterm_is_killed_and_not_finished(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    result = run(tmp_path, {"model.init_args.fault": "terminate"}, model="tasks.Faulty")
    assert (result.status, result.failure) == (TrialStatus.KILLED, "ended by SIGTERM from outside")
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_is_passed_on_and_stays_usable(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, {"model.init_args.fault": "interrupt"}, model="tasks.Faulty")
    assert signal.getsignal(signal.SIGINT) == before


def test_global_state_is_left_as_it_was(tmp_path: Path) -> None:
    def state() -> tuple[Any, ...]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.get_default_dtype(),
            torch.get_num_threads(),
            dict(os.environ),
            list(sys.path),
            signal.getsignal(signal.SIGTERM),
            list(warnings.filters),
            random.getstate(),
            torch.get_rng_state().tolist(),
        )

    before = state()
    result = run(tmp_path, model="tasks.Leaky")
    assert result.steps > 0, result
    assert state() == before


def test_the_model_is_freed_when_the_trial_ends(tmp_path: Path) -> None:
    gc.collect()  # what an interrupted trial of another test left is none of this one's business
    run(tmp_path)
    run(tmp_path, {"model.init_args.fault": "fail"}, model="tasks.Faulty")
    modules = [item for item in gc.get_objects() if type(item).__module__ == "tasks"]
    assert modules == []


def test_a_trial_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_the_class_of_each_trial_gets_its_own_hyperparameters(tmp_path: Path) -> None:
    rates = (0.01, 0.3)
    curves = {rate: run(tmp_path, requested={"model.init_args.lr": rate}).curve for rate in rates}
    assert curves[0.01] != curves[0.3]


def test_a_diverged_loss_never_reads_as_a_number(tmp_path: Path) -> None:
    result = run(tmp_path, {"trainer.max_steps": 60}, requested={"model.init_args.lr": 1e9})
    assert result.status is TrialStatus.NOT_FINITE
    assert all(value is None or math.isfinite(value) for value in result.metrics.values())
