"""What a supervisor reads of a trial's files; how it acts is in the contracts of executors."""

from __future__ import annotations

from lightning_autoresearch import supervisor


def test_the_end_of_a_long_log_does_not_begin_with_half_a_secret(tmp_path):
    secret = "abcdefghijklmnopqrstuvwxyz"
    for shift in (1, 10, 25):
        (tmp_path / "log.txt").write_text("x" * 50_000 + secret + "y" * (supervisor._TAIL_BYTES - shift))
        assert set(supervisor._tail(tmp_path / "log.txt")) == {"y"}
    (tmp_path / "log.txt").write_text(secret)
    assert supervisor._tail(tmp_path / "log.txt") == secret
