"""How long a person waits for `--help` and `check`, against a bare argparse process in the same run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BARE = [sys.executable, "-c", "import argparse; argparse.ArgumentParser().parse_args([])"]
CLI = [sys.executable, "-c", "import sys; from lightning_autoresearch.cli import main; sys.exit(main())"]
HELP = [*CLI, "--help"]
CHECK = [*CLI, "check", str(ROOT / "specs" / "quickstart.yaml")]
REFERENCE_SECONDS = 0.022
"""A bare argparse process on the machine that the promise of 150 ms was made for."""


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


@pytest.fixture(scope="module")
def medians() -> dict[str, float]:
    commands = {"bare": BARE, "help": HELP, "check": CHECK}
    rounds = [{name: seconds(command) for name, command in commands.items()} for _ in range(12)][1:]
    found = {name: statistics.median(each[name] for each in rounds) for name in commands}
    print("\n" + "  ".join(f"{name} {value * 1000:.0f} ms" for name, value in found.items()))
    return found


def test_help_takes_about_twice_a_bare_argparse_process_at_most(medians: dict[str, float]) -> None:
    assert medians["help"] <= 2.2 * medians["bare"]


def test_check_takes_150_ms_more_than_a_bare_argparse_process_at_most(medians: dict[str, float]) -> None:
    slower = max(1.0, medians["bare"] / REFERENCE_SECONDS)
    assert medians["check"] - medians["bare"] <= 0.150 * slower


@pytest.mark.parametrize("module", ["torch", "lightning", "optuna", "jsonschema", "scipy", "rich"])
def test_check_of_a_good_spec_imports_nothing_heavy(module: str) -> None:
    code = (
        "import sys; from lightning_autoresearch.cli import main; "
        f"main(sys.argv[1:]); sys.exit({module!r} in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *CHECK[3:]], stdout=subprocess.DEVNULL, check=True)
