"""Starts of servers, and what they leave behind: files, locks and migrations."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from assertions import assert_json, assert_status, assert_task
from database import execute
from server import ROOT, Server

STOPPED = (0, -signal.SIGTERM, -signal.SIGINT)  # exit codes: uvicorn may raise the signal again
MIGRATIONS = ["0001-task", "0002-idempotency-key"]  # all that the application has


def file_names(folder: Path) -> list[str]:
    """Return the names of all files in a folder, in alphabetical order."""
    return sorted(file.name for file in folder.iterdir())


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the mode, the time of the last change and the content of each file in a folder.

    The time of the lock's file does not count: a startup may write a note into it and remove that.
    This must not be called while this process holds one of SQLite's locks on a file in the folder:
    when a process closes a file, it loses its locks on that file.
    """
    files = {}
    for file in folder.iterdir():
        status = file.lstat()
        content = file.read_bytes() if file.is_file() else b""
        changed = 0 if file.name.endswith("-lock") else status.st_mtime_ns
        files[file.name] = (status.st_mode, changed, content)
    return files


def open_files(folder: Path) -> list[str]:
    """Return the files in a folder that this process has open. Skip the test without /proc."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("only Linux lists the open files of a process")
    paths = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # It has been closed meanwhile.
            paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [path for path in paths if path.startswith(f"{folder}/")]


def lock_holders(db: Path) -> int:
    """Return how many processes hold the lock of the workers: 0 or 1. Skip without /proc."""
    return count_locks(db, is_waiting=False)


def lock_waiters(db: Path) -> int:
    """Return how many processes wait for the lock of the workers. Skip without /proc."""
    return count_locks(db, is_waiting=True)


def count_locks(db: Path, *, is_waiting: bool) -> int:
    """Count the lines for the lock of the workers in Linux's list of locks (proc(5))."""
    if not os.path.exists("/proc/locks"):
        pytest.skip("only Linux lists the locks of all processes")
    lock = Path(f"{db}-lock")
    if not lock.exists():
        return 0
    inode = f":{lock.stat().st_ino}"
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    locks = [line for line in lines if any(field.endswith(inode) for field in line)]
    return len([line for line in locks if ("->" in line) == is_waiting])


def wait_until(description: str, condition: Callable[[], object]) -> None:
    """Wait until the condition is true; fail with its description after 20 s."""
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"Waited 20 s in vain until {description}.")
        time.sleep(0.005)


def count_writer_threads() -> int:
    """Return how many writer threads the applications in this process have."""
    return [thread.name for thread in threading.enumerate()].count("writer")


def copy_application(folder: Path) -> Path:
    """Copy the application into a new folder, to be changed there, and return the folder."""
    folder.mkdir()
    shutil.copytree(ROOT / "sql", folder / "sql")
    shutil.copytree(ROOT / "migrations", folder / "migrations")
    shutil.copy(ROOT / "todo.py", folder)
    return folder


def run_yoyo(db: Path, *command: str) -> None:
    """Run yoyo by hand, as in README.md: `run_yoyo(db, "apply")`."""
    program = Path(sys.executable).with_name("yoyo")
    options = ["--batch", "--no-config-file", "--database", f"sqlite:///{db}"]
    words = [str(program), command[0], *options, *command[1:], "migrations"]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def applied_migrations(db: Path) -> list[str]:
    """Return the migrations that a file has had."""
    rows = execute(db, "SELECT migration_id FROM _yoyo_migration ORDER BY 1")
    return [migration for (migration,) in rows]


def assert_serves(server: Server) -> None:
    """Assert that a server's file has every migration, and that it writes and reads a task.

    The task is deleted again.
    """
    assert applied_migrations(server.db) == MIGRATIONS
    with server.client() as client:
        created = client.post("/tasks", json={"name": "milk", "done": True})
        assert_status(created, 200)
        path = created.headers["location"]
        task = {"name": "milk", "done": True, "id": int(path.removeprefix("/tasks/"))}
        assert_task(created, task, location=path)
        assert_task(client.get(path), task)
        assert_json(client.delete(path), 1)


def require_prefix(prefix: Sequence[str]) -> None:
    """Skip the test if no command can be run with this prefix."""
    if shutil.which(prefix[0]) is None:
        pytest.skip(f"{prefix[0]} is not installed")
    trial = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if trial.returncode != 0:
        pytest.skip(f"not permitted here: {trial.stderr.strip()}")


def mount_prefix(source: Path, target: Path) -> list[str]:
    """Return a prefix that runs a command for which `source` is mounted at `target`.

    Skip the test where that is not permitted.
    """
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    prefix = ["unshare", "-m", "sh", "-c", script, "sh", str(source), str(target)]
    require_prefix(prefix)
    return prefix
