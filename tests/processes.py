"""Real servers, load for them, and strace to look at their system calls or to spoil them."""

import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent


class Server:
    """uvicorn in a process group of its own, started on `db`; `url` is where it listens."""

    def __init__(self, db, *options, prefix=(), **env):
        self.db, self.url, self.lines = db, "", []
        workers = int(options[options.index("--workers") + 1]) if "--workers" in options else 1
        uvicorn = ["uvicorn", "todo:app", "--port", "0", "--no-access-log", *options]
        command = [*prefix, sys.executable, "-m", *uvicorn]
        env = {**os.environ, "TODO_DB": str(db), **env}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **pipes)
        for line in self.process.stderr:  # until it serves, or ends
            self.lines.append(line)
            if found := re.search(r"running on (http://(.+):(\d+))", line):
                self.url, self.address = found[1], (found[2], int(found[3]))
            if self.url and self.log.count("startup complete") >= workers:
                break
        self.rest = ThreadPoolExecutor(1).submit(self.lines.extend, self.process.stderr)
        while workers > 1 and self.url and self.process.poll() is None:
            with socket.socket() as connection:  # a worker listens a moment after it has started
                if connection.connect_ex(self.address) == 0:
                    break

    @property
    def log(self):
        return "".join(self.lines)

    def client(self):
        return httpx.Client(base_url=self.url, timeout=30, verify=False)

    def children(self):
        """The processes of the workers."""
        pid = self.process.pid
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
        return [int(pid) for pid in pids if b"spawn_main" in commands[pid]]

    def stop(self, sig=signal.SIGTERM):
        """Send the signal to the server and return its exit code once it has ended."""
        self.process.send_signal(sig)
        return self.wait()

    def kill(self):
        """kill -9 the whole tree at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        return self.wait()

    def wait(self):
        code = self.process.wait(30)
        self.rest.result(30)
        self.process.stderr.close()
        return code


# Load: clients that keep a ledger of what the answers promised

Task = tuple[str, bool]
Tasks = dict[int, Task]


class Writer(threading.Thread):
    """Creates, replaces and deletes tasks of its own until `enough`, an error, or the server's end.

    `ledger` is what the answers promised, `doubt` what a request without an answer would do.
    """

    def __init__(self, load, server):
        super().__init__(daemon=True)
        self.load, self.number = load, len(load.writers)
        self.connection = HTTPConnection(*server.address, timeout=30)
        self.ledger: Tasks = {}
        self.doubt: tuple[int, Task | None] = 0, None
        self.statuses, self.slowest = Counter(), 0.0
        self.send("GET", "/info")  # which worker this client talks to is settled now
        load.writers.append(self)

    def send(self, method, path, task=None):
        body = task and json.dumps({"name": task[0], "done": task[1]})
        self.connection.request(method, path, body, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())

    def run(self):
        with closing(self.connection), suppress(OSError, HTTPException):
            while not self.load.is_enough and self.statuses.keys() <= {200}:
                self.write()

    def write(self):
        """Send one write, and note what became of it."""
        filling = "🦆" * random.randrange(self.load.size)  # 4 bytes each: pages fill soon
        task = f"{self.number} {self.statuses.total()} {filling}", False
        id, method, path = 0, "POST", "/tasks"
        if self.ledger and random.random() > self.load.creates:
            id = random.choice(list(self.ledger))
            method, task = random.choice((("PUT", task), ("DELETE", None)))
            path = f"/tasks/{id}"
        self.doubt = id, task
        started = time.monotonic()
        status, answer = self.send(method, path, task)
        self.slowest = max(self.slowest, time.monotonic() - started)
        if status == 200:
            self.ledger, self.doubt = self.after(id or answer["id"], task), (0, None)
        self.statuses[status] += 1

    def after(self, id, task):
        """The ledger once the task with this id has become `task`, or is deleted (None)."""
        return {key: value for key, value in {**self.ledger, id: task}.items() if value}

    def expected(self, tasks):
        """The ledger, with what was in doubt if these tasks show that it has happened."""
        id, task = self.doubt
        id = id or next((id for id in tasks if tasks[id] == task), 0)
        return self.after(id, task) if tasks.get(id) == task else self.ledger


class Load:
    """Many writers at once; their names have up to `size` characters and a few."""

    def __init__(self, size=50, creates=0.6):
        self.size, self.creates, self.is_enough = size, creates, False
        self.writers: list[Writer] = []

    def start(self, server, count):
        self.is_enough = False
        for writer in [Writer(self, server) for _ in range(count)]:
            writer.start()

    def spread(self, server, each):
        """Start so many writers on each worker: the kernel would give most of them to the same."""
        workers = server.children()
        for worker in workers:
            others = [other for other in workers if other != worker]
            for other in others:
                os.kill(other, signal.SIGSTOP)
            for _ in range(each):
                Writer(self, server)
            for other in others:
                os.kill(other, signal.SIGCONT)
        for writer in self.writers:  # not before: a worker may be stopped in its turn to write
            writer.start()

    def wait(self, answers):
        """Wait until each writer that still runs, if any, has had so many more answers."""
        assert any(writer.is_alive() for writer in self.writers), self.statuses
        goals = [(writer, writer.statuses.total() + answers) for writer in self.writers]
        for writer, goal in goals:
            while writer.is_alive() and writer.statuses.total() < goal:
                writer.join(0.005)

    def stop(self):
        self.is_enough = True
        for writer in self.writers:
            writer.join(60)

    @property
    def statuses(self):
        return sum((writer.statuses for writer in self.writers), Counter())

    @property
    def ledger(self):
        return {id: task for writer in self.writers for id, task in writer.ledger.items()}

    def check(self, server):
        """All that was acknowledged is there; what is in doubt is there whole or not at all."""
        tasks = tasks_of(server)
        expected = [writer.expected(tasks).items() for writer in self.writers]
        assert tasks == dict(item for items in expected for item in items)
        assert tasks == tasks_in(server.db)


def tasks_of(server):
    with server.client() as http:
        return {task["id"]: (task["name"], task["done"]) for task in http.get("/tasks").json()}


def tasks_in(db):
    """The tasks in a file, which is sound."""
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT id, name, done FROM task")
        return {id: (name, bool(done)) for id, name, done in rows}


# strace


def strace():
    """Skips the test where it is missing or may not trace."""
    if subprocess.run("strace -o /dev/null true", shell=True, capture_output=True).returncode:
        pytest.skip("strace is not installed, or may not trace here")
    return "strace"


def traced(trace, calls, *options):
    """What to start a server with (`prefix`), so that its system calls go to this file."""
    fixed = f"-D -f --seccomp-bpf -y -xx -e signal=none -e trace={calls} -o"
    return (strace(), *options, *fixed.split(), str(trace))


@contextmanager
def tampered(server, injection):
    """Make some system calls of a running server slow, or fail."""
    pids = ",".join(str(pid) for pid in [server.process.pid, *server.children()])
    command = [strace(), "-f", "-o", os.devnull, "-e", f"inject={injection}", "-p", pids]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        if "attached" not in line:
            pytest.skip(f"strace may not attach here: {line}")
        try:
            yield
        finally:
            process.terminate()
            process.stderr.read()


Call = namedtuple("Call", "thread name path offset data")  # a system call on a file or a socket


def read_trace(trace):
    """The calls of a trace in their order: a write when it begins, a sync when it has ended."""
    begun = {}  # by each thread
    for line in trace.read_text().splitlines():
        thread, text = line.split(maxsplit=1)
        is_cut, is_rest = text.endswith("<unfinished ...>"), " resumed>" in text
        text = begun[thread] = begun[thread] if is_rest else text
        call = re.match(r"(\w+)\(\d+<([^>]+)>", text)
        if call and not (is_cut if "sync" in call[1] else is_rest):
            offset = re.search(r'"(?:\.\.\.)?, \d+, (\d+)', text)
            data = b"".join(unhex(piece) for piece in re.findall(r'"(\\x[^"]*)"', text))
            path = unhex(call[2]).decode()
            yield Call(thread, call[1], path, int(offset[1]) if offset else 0, data)


def unhex(text):
    return bytes.fromhex(text.replace("\\x", ""))
