"""A process that has imported torch, Lightning and the spec's `preload` modules, and forks a supervisor per trial.

Not `multiprocessing`'s forkserver: that one is a single one per process, takes its environment from the live
`os.environ`, and imports the caller's `__main__` again in every child.  This one has the environment and import path
it was given, knows nothing of the caller's main module, and is gone when the caller is: its trials are not.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lightning_autoresearch.errors import ExecutorError

_MESSAGE_BYTES = 8192
_MOST_DESCRIPTORS = 128
_GOODBYE_SECONDS = 5.0


class ForkServer:
    """The caller's side."""

    def __init__(self, *, environment: Mapping[str, str], search_path: Iterable[str], preload: Iterable[str]):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the server)
        self._asked = False
        arguments = json.dumps({"socket": theirs.fileno(), "path": list(search_path), "preload": list(preload)})
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lightning_autoresearch.forkserver", arguments],
                env=dict(environment),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )

    def start(self, folder: Path, *, notify: int, keep: tuple[int, ...] = ()) -> None:
        """Have the folder's trial supervised; returns at once, also while the server still imports.

        The supervisor holds `notify` and the descriptors to keep open as long as it lives, the trial does not hold
        `notify`.

        Raises:
            ExecutorError: the server is gone; the message has the end of its log.
        """
        self._asked = True
        message = str(folder).encode()
        if len(message) > _MESSAGE_BYTES:
            raise ExecutorError(f"the path of the trial's folder is too long: {folder}")
        try:
            sent = socket.send_fds(self._socket, [message.ljust(_MESSAGE_BYTES, b"\0")], [notify, *keep])
            self._socket.sendall(message.ljust(_MESSAGE_BYTES, b"\0")[sent:])
        except OSError as error:
            raise ExecutorError(self.failure() or f"the fork server does not answer: {error}") from error

    def failure(self, *, wait_seconds: float = 0.0) -> str | None:
        """Why the server is gone, or None while it runs; a process that just closed its files takes a moment to end."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_seconds)
        if self._process.returncode is None:
            return None
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"the fork server ended with exit code {self._process.returncode}: {' | '.join(lines[-3:])}"

    def was_killed(self) -> bool:
        """Whether a signal ended the server, so that another one is likely to start."""
        return (self._process.poll() or 0) < 0

    def close(self) -> None:
        """End the server; trials that run go on."""
        self._socket.close()
        if not self._asked:  # it may still import, for nobody
            self._process.kill()
        try:
            self._process.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def serve(connection: socket.socket) -> None:
    """Fork a supervisor for each message until the caller is gone."""
    # Nobody waits for the supervisors: their folders tell how it went.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors = _receive(connection)
        if not message:
            return
        if os.fork() == 0:
            connection.close()
            _be_supervisor(Path(message.rstrip(b"\0").decode()), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    message, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, _MOST_DESCRIPTORS)
    while message and len(message) < _MESSAGE_BYTES:
        more = connection.recv(_MESSAGE_BYTES - len(message))
        if not more:
            return b"", descriptors
        message += more
    return message, descriptors


def _be_supervisor(folder: Path, descriptors: list[int]) -> NoReturn:
    from lightning_autoresearch.supervisor import supervise

    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        supervise(folder, to_close=(descriptors[0],))
        os.close(descriptors[0])  # the caller knows now, and not only when this process's memory is gone
    except BaseException:  # nothing may climb into the server's loop
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Import what trials need, then serve the socket named on the command line."""
    given = json.loads(sys.argv[1])
    sys.argv = sys.argv[:1]
    sys.path[:0] = given["path"]
    gc.disable()  # imports make little garbage, and much to look through
    for module in given["preload"]:  # first, so that one which is not there is told at once
        importlib.import_module(module)
    from lightning_autoresearch import codec, runner, supervisor
    from lightning_autoresearch.trial import Job, TrialResult

    runner.warm_up()
    codec.warm_up(Job, TrialResult, supervisor.Launch, supervisor.ProcessIdentity)
    gc.collect()
    gc.freeze()  # children would copy every page that their collector touches
    gc.enable()
    serve(socket.socket(fileno=given["socket"]))
    os._exit(0)


if __name__ == "__main__":
    main()
