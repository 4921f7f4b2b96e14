"""A server in processes of its own, for the tests and for the benchmark."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

ROOT = Path(__file__).parent.parent
LISTENING = r"(?:running on|listening at:?) (https?://(\S+):(\d+))"  # in the logs of ASGI servers
START_TIMEOUT = 60  # seconds: more than a server waits for a file that is locked


class ServerExited(Exception):
    """A server ended before it could be reached; the text is its exit code and its log."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.code = server.wait()
        super().__init__(f"exit code {self.code}, and in the log:\n{server.log}")


class Server:
    """A server that runs, with its workers, in a process group of its own.

        Server(db, "--workers", "2", TODO_TOKEN="secret")

    runs `uvicorn todo:app` with these options and environment variables; None unsets a variable,
    and those of the caller that would change a server are not passed on. `app` is another
    application, `folder` the working directory, `prefix` a command that runs the server (strace),
    `command` one that takes the place of `uvicorn` with its application and port.

    The constructor returns when all workers can be reached; it raises ServerExited if the server
    has ended, and TimeoutError after START_TIMEOUT. `url` and `address` are where it listens. As a
    context manager it is killed at the end.
    """

    def __init__(
        self,
        db: Path,
        *options: str,
        app: str = "todo:app",
        folder: Path = ROOT,
        prefix: Sequence[str] = (),
        command: Sequence[str] = (),
        **environment: str | None,
    ) -> None:
        uvicorn = [sys.executable, "-m", "uvicorn", app, "--port", "0", "--no-access-log"]
        self.db = db
        self.workers = 1
        if "--workers" in options:
            self.workers = int(options[options.index("--workers") + 1])
        self.has_uvicorn = not command
        self.url = ""
        self.address = ("", 0)
        self.lines: list[str] = []  # of the log
        self.process = subprocess.Popen(
            [*prefix, *(command or uvicorn), *options],
            cwd=folder,
            env=environment_with({"TODO_DB": str(db), **environment}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.log_reader = threading.Thread(target=self.read_log, daemon=True)
        self.log_reader.start()
        try:
            self.wait_until_reachable()
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """What the server has written to its log so far."""
        return "".join(self.lines)

    def read_log(self) -> None:
        """Read the log until its end."""
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self.lines.append(line)

    def wait_until_reachable(self) -> None:
        """Wait until all workers can be reached; raise ServerExited or TimeoutError."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_reachable():
            if not self.is_running():
                raise ServerExited(self)
            if time.monotonic() > deadline:
                raise TimeoutError(f"not reachable after {START_TIMEOUT} s:\n{self.log}")
            time.sleep(0.005)

    def is_reachable(self) -> bool:
        """Return whether all workers are up, and set `url` and `address` once they are known."""
        listening = re.search(LISTENING, self.log, re.IGNORECASE)
        if listening is None:
            return False
        self.url = listening[1]
        self.address = (listening[2], int(listening[3]))
        if self.has_uvicorn and self.log.count("startup complete") < self.workers:
            return False
        with socket.socket() as connection:  # A worker listens a moment after its start.
            return connection.connect_ex(self.address) == 0

    def is_running(self) -> bool:
        """Return whether the server's first process still runs."""
        return self.process.poll() is None

    def client(self) -> httpx.Client:
        """Return a client of this server, which must be closed."""
        # To load certificates, which plain HTTP never uses, would take longer than a request.
        return httpx.Client(base_url=self.url, timeout=30, verify=False)

    def request(self, method: str, target: str, **kwargs: Any) -> httpx.Response:
        """Send a request on a connection of its own and return the response."""
        with self.client() as client:
            return client.request(method, target, **kwargs)

    def list_tasks(self) -> list[dict[str, Any]]:
        """Return all tasks."""
        response = self.request("GET", "/tasks")
        assert response.status_code == 200, response.text
        tasks: list[dict[str, Any]] = response.json()
        return tasks

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers that `--workers` has started."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def forget_peak_memory(self) -> None:
        """Reset the peak of the memory of the first process to what it has now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_memory(self) -> int:
        """Return the most memory that the first process has had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Send this signal to the first process, wait for the end and return the exit code."""
        self.process.send_signal(sig)
        return self.wait()

    def kill(self) -> int:
        """Kill all processes at once (`kill -9`), if any runs, and return the exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of the server and of its log, and return the exit code."""
        code = self.process.wait(30)
        self.log_reader.join(30)
        return code


@contextlib.contextmanager
def paused(*pids: int) -> Iterator[None]:
    """Freeze these processes (SIGSTOP), and let them go on afterwards."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def environment_with(variables: dict[str, str | None]) -> dict[str, str]:
    """Return the caller's environment with these variables, and no others that set up a server.

    The servers of a test run share their bytecode: without it, each start takes 0.03 s longer.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TODO_", "UVICORN_")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    given = {name: value for name, value in variables.items() if value is not None}
    return inherited | given
