"""`check --deep`: build model, data and trainer at every scale and run two steps of each; ask the scientist once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_autoresearch.chat import ChatMessage, ChatRequest
from lightning_autoresearch.dispatch import MOST_CHARACTERS, redacted
from lightning_autoresearch.executor import make_executor
from lightning_autoresearch.guards import broken_bounds
from lightning_autoresearch.redaction import secrets_of
from lightning_autoresearch.scales import Scale
from lightning_autoresearch.scientist import make_chat
from lightning_autoresearch.space import get_key
from lightning_autoresearch.spec import ScientistSettings, Spec
from lightning_autoresearch.study import make_job, search_path
from lightning_autoresearch.trial import Job, Purpose, Trial, TrialResult, TrialStatus
from lightning_autoresearch.voice import Voice

QUESTION = 'Answer with one JSON object that fits the schema, and nothing else: {"ready": true}'
READY: dict[str, Any] = {
    "type": "object",
    "properties": {"ready": {"type": "boolean"}},
    "required": ["ready"],
    "additionalProperties": False,
}
TWO_STEPS = {"max_steps": 2, "limit_val_batches": 2}


def check_deeply(spec: Spec) -> Iterator[tuple[str, bool]]:
    """Try every scale of a spec, one after the other, then its scientist.

    Returns:
        (a line in words, whether it is good) per scale, and one for the scientist.
    """
    variable = spec.scientist.key_variable if spec.scientist else None
    executor = make_executor(spec.execution, task=spec.task, search_path=search_path(spec), key_variable=variable)
    secrets = secrets_of(spec.scientist, os.environ)
    try:
        with tempfile.TemporaryDirectory(prefix="lightning-autoresearch-") as folder:
            for scale in spec.scales:
                place = Path(folder) / scale.name
                place.mkdir()
                executor.submit(_short_job(spec, scale), place)
                while (result := executor.outcome(place)) is None:
                    executor.wait(0.2)
                yield _in_words(spec, scale, redacted(result, secrets=secrets))
    finally:
        executor.close()
    if spec.scientist is not None:
        yield _ask_scientist(spec, spec.scientist)


def probe(spec: Spec) -> TrialResult:
    """Two steps of the spec's task at its first scale, whatever it logs and whatever is searched; secrets redacted.

    Raises:
        ExecutorError: the device is not to be had.
    """
    executor = make_executor(spec.execution, task=spec.task, search_path=search_path(spec))
    try:
        with tempfile.TemporaryDirectory(prefix="lightning-autoresearch-") as folder:
            executor.submit(replace(_short_job(spec, spec.scales.search), requested={}), Path(folder) / "probe")
            while (result := executor.outcome(Path(folder) / "probe")) is None:
                executor.wait(0.2)
            return redacted(result, secrets=secrets_of(spec.scientist, os.environ))
    finally:
        executor.close()


def _ask_scientist(spec: Spec, settings: ScientistSettings) -> tuple[str, bool]:
    """One short question to the language model, as a study would ask it; a mailbox is only named."""
    if settings.mailbox is not None:
        return f"{spec.path}: scientist: requests will be left in {spec.path.parent / settings.mailbox}", True
    request = ChatRequest(
        key="check",
        messages=(ChatMessage(role="system", content=QUESTION), ChatMessage(role="user", content="Are you there?")),
        schema=READY,
        max_tokens=settings.max_tokens,
        timeout_seconds=settings.deadline_seconds,
    )
    reply = make_chat(spec).ask(request, stop=lambda: False)
    where = f"{spec.path}: scientist {settings.model}"
    if not reply.answered:
        return f"{where}: {reply.outcome.value.replace('_', ' ')}: {reply.detail}", False
    usage = reply.usage
    tokens = f"{usage.input_tokens + usage.output_tokens} tokens" if usage else "tokens not counted by the server"
    return f"{where}: answered as {reply.model} in {reply.seconds:.1f} s, format {reply.rung}, {tokens}", True


def _short_job(spec: Spec, scale: Scale) -> Job:
    trial = Trial(id="check", overrides={}, scale=scale.name, seed=0, purpose=Purpose.CALIBRATE, round=0)
    job = make_job(spec, trial)
    trainer = {**job.task.get("trainer", {}), **TWO_STEPS}
    task = {**job.task, "trainer": trainer}
    return replace(job, task=task, requested={key: get_key(task, key) for key in spec.search_space})


def _in_words(spec: Spec, scale: Scale, result: TrialResult) -> tuple[str, bool]:
    """A result without secrets in words, hidden metrics left out."""
    where = f"{spec.path}: scale {scale.name}"
    voice = Voice(spec)
    if result.finished:
        hidden = {guard.metric for guard in spec.guards if guard.hidden} - {spec.objective.metric}
        broken = voice.clean("; ".join(broken_bounds(spec.guards, result.metrics)), MOST_CHARACTERS)
        note = f"; after two steps: {broken}" if broken else ""
        logged = ", ".join(sorted(result.metrics.keys() - hidden))
        return (
            f"{where}: {result.parameters:,} parameters, two steps in {result.fit_seconds:.1f} s, logs {logged}{note}",
            True,
        )
    trace = "".join(f"\n    {voice.clean(line, MOST_CHARACTERS)}" for line in result.traceback)
    kind = result.status.value.replace("_", " ")
    failure = voice.clean(result.failure or "", MOST_CHARACTERS)
    return f"{where}: {kind}: {failure}{trace if result.status is TrialStatus.ERROR else ''}", False
