"""Tracebacks in a few lines, with the user's frames in sight."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lightning_autoresearch.errors import TrialError
from lightning_autoresearch.tracebacks import causes, in_one_line, is_library, last_lines, stuck_lines

DUMP = """Thread 0x00007f01 (most recent call first):
  File "/usr/lib/worker.py", line 3 in spin

Current thread 0x00007f02 (most recent call first):
  File "/home/me/model.py", line 9 in training_step
  File "/home/me/train.py", line 4 in fit
"""


def test_what_a_constructor_raised_is_not_lost_in_what_jsonargparse_says_around_it() -> None:
    error = ValueError(
        "Does not validate against any of the Union subtypes\nSubtypes: [<class 'Module'>, <class 'NoneType'>]\n"
        "Errors:\n"
        "  - width 64 is no multiple of 6\n  - Expected a <class 'NoneType'>\nGiven value type: <class 'Namespace'>"
    )
    assert in_one_line(error) == "ValueError: width 64 is no multiple of 6"


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    else:
        json.loads("{")


def caught(function: object, *arguments: object) -> BaseException:
    try:
        function(*arguments)  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError("it was to fail")


def test_the_message_of_an_exception_becomes_one_line() -> None:
    assert in_one_line(ValueError("two\n   lines")) == "ValueError: two lines"
    assert in_one_line(ValueError()) == "ValueError"
    assert in_one_line(TrialError("said in full")) == "said in full"
    assert in_one_line(SystemExit(3)) == "the task left by exit(3)"


def test_only_a_far_too_long_message_is_cut_where_no_secret_is_known() -> None:
    assert len(in_one_line(ValueError("x" * 10_000))) == 10_000 + len("ValueError: ")
    line = in_one_line(ValueError("x" * 100_000))
    assert len(line) == 20_000
    assert line.endswith("...")


def test_the_users_frames_and_the_innermost_one_are_in_sight() -> None:
    lines = last_lines(caught(deep, 30))
    assert len(lines) <= 10
    assert lines[-1].startswith("JSONDecodeError")
    assert any(line.endswith("in raw_decode") for line in lines)
    assert any(line.startswith(__file__) for line in lines)


def test_the_root_cause_is_shown_and_not_what_wrapped_it() -> None:
    def wrap() -> None:
        try:
            raise MemoryError("no room")
        except MemoryError as error:
            raise ValueError("could not build it") from error

    error = caught(wrap)
    assert [type(cause) for cause in causes(error)] == [ValueError, MemoryError]
    assert last_lines(error)[-1] == "MemoryError: no room"


def test_causes_that_go_in_a_circle_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert list(causes(first)) == [first, second]


def test_a_suppressed_context_is_no_cause() -> None:
    def replace() -> None:
        try:
            raise MemoryError
        except MemoryError:
            raise ValueError("instead") from None

    assert [type(cause) for cause in causes(caught(replace))] == [ValueError]


def test_a_stuck_stack_is_that_of_the_main_thread_innermost_last() -> None:
    assert stuck_lines(DUMP) == ("/home/me/train.py:4, in fit", "/home/me/model.py:9, in training_step")


def test_a_text_without_a_stack_has_no_stuck_lines() -> None:
    assert stuck_lines("epoch 3\nepoch 4\n") == ()


def test_python_its_libraries_and_this_package_are_not_the_user() -> None:
    assert is_library(json.__file__)
    assert is_library("<frozen runpy>")
    assert is_library(str(Path(sys.modules["lightning_autoresearch"].__file__ or "").parent / "runner.py"))
    assert not is_library(__file__)
