"""Requests to one task behave as if executed one at a time, whatever happens to the servers."""

import json
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

import pytest
from assertions import whole_task
from linearizability import Answer, Operation, Request, Value, check_history
from server import Server, paused

import todo

A = Value("a", False)
B = Value("a", True)
C = Value("b", False)
D = Value("b", True)
VALUES = [A, B, C, D]  # few, so that a task often has one again that it had before

REQUESTS = 70  # that each client sends in a round


class Key:
    """An Idempotency-Key, the id of the task that it stands for, and the history."""

    def __init__(self, name):
        self.name = name
        self.id = None
        self.history = []


class RandomClient:
    """A client that sends random requests over one connection and records what came of them."""

    def __init__(self, number, servers, keys, seed, started):
        self.number = number
        self.servers = servers
        self.keys = keys
        self.random = random.Random(f"{seed} {number}")
        self.started = started
        self.connection = None

    def run(self, count):
        """Send so many requests."""
        for _ in range(count):
            key = self.random.choice(self.keys)
            self.send(key, self.choose_request(key.id))
        self.connection.close()

    def choose_request(self, id):
        """Return a random request to a task, or a POST."""
        name, done = self.random.choice(VALUES)
        if id is None or self.random.random() < 0.1:
            # Mostly the same body: another one is refused while the key has its task.
            return Request("POST", value=self.random.choice([A, A, A, Value(name, done)]))
        method = self.random.choices(["GET", "PUT", "PATCH", "DELETE"], [8, 8, 8, 1])[0]
        value = None
        if method == "PUT":
            value = Value(name, done)
        if method == "PATCH":
            value = Value(self.random.choice([name, None]), self.random.choice([done, None]))
        if_match = self.choose_condition(probability=0.6)
        if_none_match = self.choose_condition(probability=0.2)
        return Request(method, id, value, if_match, if_none_match)

    def choose_condition(self, probability):
        """Return the values whose ETags a precondition lists, "*", or None for no precondition."""
        if self.random.random() > probability:
            return None
        count = self.random.randint(0, 3)
        return tuple(self.random.sample(VALUES, count)) or "*"

    def send(self, key, request):
        """Send a request, and record when it began and ended and what its answer was."""
        arguments = arguments_of(request, key.name)
        self.connect()
        began = time.monotonic() - self.started
        try:
            self.connection.request(*arguments)
            answer = read_answer(self.connection.getresponse(), request.id)
        except (OSError, HTTPException):  # The server was killed.
            self.connection.close()
            answer = None
        ended = time.monotonic() - self.started
        key.history.append(Operation(began, ended, self.number, request, answer))
        if answer is not None and answer.status == 404:
            key.id = None
        elif answer is not None and request.method == "POST" and answer.status == 200:
            key.id = answer.id

    def connect(self):
        """Connect to one of the servers, unless there is a connection."""
        deadline = time.monotonic() + 30
        while self.connection is None or self.connection.sock is None:
            server = self.random.choice(self.servers)
            self.connection = HTTPConnection(*server.address, timeout=30)
            try:
                self.connection.connect()
            except OSError:  # The server was killed, and the next one has not started.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def arguments_of(request, key):
    """Return the method, target, body and headers of a request."""
    headers = {"Content-Type": "application/json"}
    if request.if_match is not None:
        headers["If-Match"] = format_condition(request.id, request.if_match)
    if request.if_none_match is not None:
        headers["If-None-Match"] = format_condition(request.id, request.if_none_match)
    target = f"/tasks/{request.id}"
    if request.method == "POST":
        target = "/tasks"
        headers["Idempotency-Key"] = key
    body = None
    if request.value is not None:
        fields = request.value._asdict().items()
        body = json.dumps({name: field for name, field in fields if field is not None})
    return request.method, target, body, headers


def format_condition(id, condition):
    """Return the text of an If-Match or If-None-Match header."""
    if condition == "*":
        return "*"
    return ", ".join(etag_of_value(id, value) for value in condition)


def etag_of_value(id, value):
    """Return the ETag of a task with this id and value."""
    task = whole_task({"name": value.name, "done": value.done, "id": id})
    return todo.etag_of(json.dumps(task, separators=(",", ":")))


def read_answer(response, id):
    """Return the answer to a request to the task with this id; None if it decides nothing."""
    body = response.read()
    if response.status in (503, 507):
        return None
    value = None
    if response.status == 200 and body != b"1":
        task = json.loads(body)
        id = task["id"]
        value = Value(task["name"], task["done"])
    tag = response.headers["ETag"]
    for tagged in VALUES:
        if tag == etag_of_value(id, tagged):
            tag = tagged
    return Answer(response.status, None if value is None else id, value, tag)


@pytest.fixture
def servers(tmp_path):
    """Three servers on one file, killed at the end."""
    with ThreadPoolExecutor() as threads:
        servers = list(threads.map(Server, [tmp_path / "todo.db"] * 3))
    yield servers
    for server in servers:
        if server.is_running():
            server.kill()


def freeze(server):
    """Freeze a server for a moment, and return it."""
    with paused(server.process.pid):
        time.sleep(0.05)  # It may hold the lock; then nothing happens that could be waited for.
    return server


def kill(server):
    """Kill a server, and return another one."""
    assert server.kill() == -signal.SIGKILL
    return Server(server.db)


def freeze_and_kill(server):
    """Kill a server that has been frozen for a moment, and return another one."""
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(0.05)
    return kill(server)


def stop(server):
    """Stop a server, and return another one."""
    server.stop()
    return Server(server.db)


DISTURBANCES = [(0, freeze), (1, kill), (2, freeze_and_kill), (0, stop)]  # to which server


def record_histories(servers, seed):
    """Return the histories of two keys that twelve clients use while servers are disturbed."""
    keys = [Key(f"{seed}-a"), Key(f"{seed}-b")]
    started = time.monotonic()
    clients = [RandomClient(number, servers, keys, seed, started) for number in range(12)]
    with ThreadPoolExecutor(12) as threads:
        runs = [threads.submit(client.run, REQUESTS) for client in clients]
        for number, (index, disturb) in enumerate(DISTURBANCES, start=1):
            wait_for_operations(keys, runs, 12 * REQUESTS * number // (len(DISTURBANCES) + 1))
            servers[index] = disturb(servers[index])
        for run in runs:
            run.result()
    return [key.history for key in keys]


def wait_for_operations(keys, runs, count):
    """Wait until the histories have so many operations together, or all clients have ended."""
    while sum(len(key.history) for key in keys) < count and not all(run.done() for run in runs):
        time.sleep(0.002)


@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_requests_to_a_task_behave_as_if_executed_one_at_a_time(servers, rounds):
    for seed in range(rounds):
        statuses = set()
        for history in record_histories(servers, seed):
            check_history(history)
            statuses.update(operation.answer.status for operation in history if operation.answer)
        assert statuses == {200, 304, 404, 412, 422}
