"""Put the confirmed revision of a study in the place of the user's own spec, on request only."""

from __future__ import annotations

from pathlib import Path

from lightning_autoresearch.errors import InputError
from lightning_autoresearch.fold import summarize
from lightning_autoresearch.wording import is_program


def adopt(folder: Path, *, to: Path | None = None) -> str:
    """Copy the latest revision over the user's spec.

    Args:
        folder: the study's folder.
        to: the spec to replace; by default the one that the study began with.

    Returns:
        What was done, in words.

    Raises:
        InputError: nothing was confirmed, or the spec is not the text that the study began with.
    """
    summary = summarize(folder)
    if len(summary.revisions) < 2:
        raise InputError(f"{folder}: nothing was confirmed, so there is nothing to adopt")
    latest = summary.revisions[-1].number
    target = to or Path(summary.spec_path)
    original, revised = (folder / "specs" / f"{number:04d}.yaml" for number in (0, latest))
    if not target.is_file():
        raise InputError(f"{target}: there is no such spec; name the one to replace with --to")
    if target.read_bytes() == revised.read_bytes():
        return f"{target} is revision {latest} already"
    if target.read_bytes() != original.read_bytes():
        raise InputError(
            f"{target}: it has changed since the study began, so it was left alone; "
            f"compare it with {original} and take over what you want from {revised}"
        )
    draft = target.with_name(f".{target.name}.tmp")
    draft.write_bytes(revised.read_bytes())
    draft.chmod(target.stat().st_mode)
    draft.replace(target)
    done = f"{target} is now revision {latest} of study {summary.name}; the text before is {original}\n"
    if is_program(summary):
        return (
            f"{done}to train with it: AutoResearch({str(target)!r}, overrides=['budget.trials=0'])\n"
            f"to search on from it: AutoResearch({str(target)!r}, study={f'{folder}-next'!r})"
        )
    return f"{done}to search on from it: lightning-autoresearch fit {target} --study {folder}-next"
