"""System calls of a server: recorded, delayed or made to fail by strace.

A test that needs strace is skipped where it is missing or may not attach to a process.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from server import Server


def require_strace() -> None:
    """Skip the test if strace is missing or may not trace."""
    try:
        trial = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("strace is not installed")
    if trial.returncode != 0:
        pytest.skip(f"strace may not trace here: {trial.stderr.strip()}")


def recording_prefix(file: Path, calls: str, *options: str) -> list[str]:
    """Return a prefix that starts a server and records these system calls in a file.

    `read_trace` reads the file. `-D` makes the server, not strace, the process that was started.
    """
    require_strace()
    record = ["-f", "--seccomp-bpf", "-y", "-xx", "-e", "signal=none", "-e", f"trace={calls}"]
    return ["strace", "-D", *options, *record, "-o", str(file)]


def killing_prefix(call: str, when: int) -> list[str]:
    """Return a prefix that starts a server and kills it at a system call.

    That is the call of this name with the number `when`: each thread counts its own, from 1.
    """
    require_strace()
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"]
    return ["strace", "-D", "-f", *inject, "-o", os.devnull]


@contextlib.contextmanager
def injected(server: Server, fault: str) -> Iterator[None]:
    """Inject a fault into a running server during the block: `fdatasync:error=EIO`.

    It delays system calls or makes them fail, and is written as for strace's `inject=`.
    """
    require_strace()
    pids = ",".join(str(pid) for pid in [server.process.pid, *server.worker_pids()])
    command = ["strace", "-f", "-o", os.devnull, "-e", f"inject={fault}", "-p", pids]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        line = strace.stderr.readline()
        if "attached" not in line:
            pytest.skip(f"strace may not attach to a process here: {line.strip()}")
        try:
            yield
        finally:
            strace.terminate()
            strace.stderr.read()


class Call(NamedTuple):
    """A system call on a file or a socket."""

    thread: str
    name: str
    path: str
    offset: int  # where in the file it writes
    data: bytes  # what it writes


def read_trace(file: Path) -> Iterator[Call]:
    """Yield the recorded calls in their order: a write when it began, a sync when it had ended.

    strace splits a call that another thread interrupts into two lines, which end in
    `<unfinished ...>` and begin with `<... fsync resumed>`.
    """
    begun: dict[str, str] = {}  # the first line of each thread's last call
    for line in file.read_text().splitlines():
        thread, text = line.split(maxsplit=1)
        is_resumed = " resumed>" in text
        is_unfinished = text.endswith("<unfinished ...>")
        if not is_resumed:
            begun[thread] = text
        call = parse_call(thread, begun[thread])
        if call is None:
            continue
        is_sync = "sync" in call.name
        if (is_sync and not is_unfinished) or (not is_sync and not is_resumed):
            yield call


def parse_call(thread: str, text: str) -> Call | None:
    """Return the call in a line of strace's, or None if it is not one on a descriptor."""
    start = re.match(r"(\w+)\(\d+<([^>]+)>", text)
    if start is None:
        return None
    offset = re.search(r'"(?:\.\.\.)?, \d+, (\d+)', text)
    data = b"".join(decode_hex(piece) for piece in re.findall(r'"(\\x[^"]*)"', text))
    path = decode_hex(start[2]).decode()
    return Call(thread, start[1], path, int(offset[1]) if offset else 0, data)


def decode_hex(text: str) -> bytes:
    r"""Return the bytes that strace prints as `\x74\x6f`."""
    return bytes.fromhex(text.replace("\\x", ""))
