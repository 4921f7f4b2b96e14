"""Clients that write all the time and remember what the server has acknowledged."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from assertions import Task, whole_task
from database import read_tasks
from server import Server, paused


@dataclass(frozen=True)
class Write:
    """A request that writes a task.

    `id` is None if the task is to be created, `name` if it is to be deleted.
    """

    id: int | None
    name: str | None


class LoadClient(threading.Thread):
    """A client that creates, replaces and deletes tasks of its own.

    It ends when the load stops, when the server has ended, and after a status other than 200.
    No two writes of a load have the same name.
    """

    def __init__(self, load: Load, server: Server, number: int) -> None:
        super().__init__(daemon=True)
        self.load = load
        self.number = number
        self.connection = HTTPConnection(*server.address, timeout=30)
        self.acknowledged: dict[int, Task] = {}  # the tasks as the responses have promised them
        self.unanswered: Write | None = None  # the last write, if it has no response (yet)
        self.statuses: Counter[int] = Counter()
        self.send("GET", "/info")  # From now on it is settled which worker serves this client.

    def run(self) -> None:
        """Write until there is a reason to end."""
        try:
            while not self.load.is_stopping and set(self.statuses) <= {200}:
                self.perform(self.choose())
        except (OSError, HTTPException):  # The server has ended.
            pass
        finally:
            self.connection.close()

    def choose(self) -> Write:
        """Return a write, chosen at random."""
        padding = "🦆" * random.randrange(self.load.name_length)  # 4 bytes a character
        name = f"{self.number} {self.statuses.total()} {padding}"
        if not self.acknowledged or random.random() < self.load.creates:
            return Write(None, name)
        id = random.choice(list(self.acknowledged))
        return random.choice([Write(id, name), Write(id, None)])

    def perform(self, write: Write) -> None:
        """Send a write, and remember its outcome."""
        self.unanswered = write
        status, value = self.send(*request_of(write))
        self.statuses[status] += 1
        if status != 200:  # Some of these writes may have happened: leave them unanswered.
            return
        if write.name is not None:
            self.acknowledged[value["id"]] = value
        elif write.id is not None:
            del self.acknowledged[write.id]
        self.unanswered = None

    def send(self, method: str, path: str, task: Task | None = None) -> tuple[int, Any]:
        """Send a request and return its status and the value in its body."""
        body = None if task is None else json.dumps(task)
        self.connection.request(method, path, body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def expected(self, stored: dict[int, Task]) -> dict[int, Task]:
        """Return what must be stored: what was acknowledged, and perhaps the unanswered write.

        That one may have happened or not: `stored` tells, and must not show only a part of it.
        """
        write = self.unanswered
        if write is None:
            return self.acknowledged
        if write.name is None:
            has_happened = write.id not in stored
            return without(self.acknowledged, write.id) if has_happened else self.acknowledged
        for task in stored.values():
            if task["name"] == write.name and write.id in (None, task["id"]):
                written = whole_task({"name": write.name, "done": False, "id": task["id"]})
                return self.acknowledged | {task["id"]: written}
        return self.acknowledged


class Load:
    """Many clients that write at once.

    A name is two numbers and less than `name_length` characters more; `creates` is the share of the
    writes that create a task.
    """

    def __init__(self, name_length: int = 50, creates: float = 0.6) -> None:
        self.name_length = name_length
        self.creates = creates
        self.is_stopping = False
        self.writers: list[LoadClient] = []

    def start(self, server: Server, count: int) -> None:
        """Start this many clients."""
        self.is_stopping = False
        for writer in [self.add_writer(server) for _ in range(count)]:
            writer.start()

    def start_on_each_worker(self, server: Server, count: int) -> None:
        """Start this many clients on each worker.

        The kernel may give all connections to the same worker, so the others are frozen meanwhile.
        """
        pids = server.worker_pids()
        writers = []
        for pid in pids:
            with paused(*[other for other in pids if other != pid]):
                writers += [self.add_writer(server) for _ in range(count)]
        for writer in writers:  # Not before: a worker that holds the lock must not be frozen.
            writer.start()

    def add_writer(self, server: Server) -> LoadClient:
        """Return a new client that is connected and not started."""
        writer = LoadClient(self, server, len(self.writers))
        self.writers.append(writer)
        return writer

    def wait_for_responses(self, count: int) -> None:
        """Wait until each client has had this many responses more, or has ended.

        One of them at least must not have ended before.
        """
        assert any(writer.is_alive() for writer in self.writers), f"all ended: {self.statuses}"
        goals = {writer: writer.statuses.total() + count for writer in self.writers}
        for writer, goal in goals.items():
            while writer.is_alive() and writer.statuses.total() < goal:
                writer.join(0.005)

    def stop(self) -> None:
        """Let every client finish its request and end."""
        self.is_stopping = True
        for writer in self.writers:
            writer.join(60)

    @property
    def statuses(self) -> Counter[int]:
        """How often each status was answered."""
        return sum((writer.statuses for writer in self.writers), Counter())

    @property
    def acknowledged(self) -> dict[int, Task]:
        """The tasks as the responses have promised them, by id.

        These are all that must be stored, unless the last write of a client has had no response.
        """
        tasks: dict[int, Task] = {}
        for writer in self.writers:
            tasks |= writer.acknowledged
        return tasks

    def assert_kept(self, server: Server) -> None:
        """Assert that the server has every acknowledged write, and no write only in part."""
        stored = by_id(server.list_tasks())
        assert stored == by_id(read_tasks(server.db)), "The server does not list what it stores."
        expected: dict[int, Task] = {}
        for writer in self.writers:
            expected |= writer.expected(stored)
        differing = [id for id in expected.keys() & stored if expected[id] != stored[id]]
        assert without(expected, *stored) == {}, "These tasks were acknowledged and are missing."
        assert without(stored, *expected) == {}, "These tasks were deleted, or never created."
        assert {id: stored[id] for id in differing} == {id: expected[id] for id in differing}


def request_of(write: Write) -> tuple[str, str, Task | None]:
    """Return the method, the path and the task of the request for a write."""
    if write.name is None:
        return "DELETE", f"/tasks/{write.id}", None
    task = {"name": write.name, "done": False}
    if write.id is None:
        return "POST", "/tasks", task
    return "PUT", f"/tasks/{write.id}", task


def by_id(tasks: list[Task]) -> dict[int, Task]:
    """Return a list of tasks as a dictionary."""
    return {task["id"]: task for task in tasks}


def without(tasks: dict[int, Task], *ids: int | None) -> dict[int, Task]:
    """Return these tasks without those with one of these ids."""
    return {id: tasks[id] for id in tasks.keys() - set(ids)}
