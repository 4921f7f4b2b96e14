"""Requests to one task behave as if executed one at a time, whatever happens to the servers."""

import json
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

import pytest
from assertions import whole_task
from linearizability import (
    Answer,
    NotLinearizable,
    Operation,
    Request,
    Undecided,
    Value,
    check_history,
)
from server import Server

import todo

A = Value("a", False)
B = Value("a", True)
C = Value("b", False)
D = Value("b", True)
VALUES = [A, B, C, D]  # few, so that a task often has one again that it had before

REQUESTS = 100  # that each client sends in a round
DISTURBANCES = 4  # in a round


# The checker


def got(value, id=1):
    """Return the answer that carries a task."""
    return Answer(200, id, value, value)


CREATED = (0, 1, Request("POST", value=A), got(A))

# Each operation: when it began and ended, the request, and the answer (None: unknown).
LINEARIZABLE = {
    "one after the other": [
        CREATED,
        (2, 3, Request("PATCH", 1, Value(None, True)), got(B)),
        (4, 5, Request("PUT", 1, C, if_match=(B,)), got(C)),
        (6, 7, Request("GET", 1), got(C)),
        (8, 9, Request("DELETE", 1, if_match="*"), Answer(200)),
        (10, 11, Request("GET", 1), Answer(404)),
        (12, 13, Request("POST", value=D), got(D, id=2)),
        (14, 15, Request("GET", 1), Answer(404)),
    ],
    "a read beside a write sees the task before it": [
        CREATED,
        (2, 5, Request("PUT", 1, B), got(B)),
        (3, 4, Request("GET", 1), got(A)),
    ],
    "a read beside a write sees the task after it": [
        CREATED,
        (2, 5, Request("PUT", 1, B), got(B)),
        (3, 4, Request("GET", 1), got(B)),
    ],
    "a write that would change nothing at first takes effect later": [
        CREATED,
        (2, 5, Request("PUT", 1, A), got(A)),
        (3, 4, Request("PUT", 1, B), got(B)),
        (6, 7, Request("GET", 1), got(A)),
    ],
    "an unknown write takes effect later": [
        CREATED,
        (2, 3, Request("PUT", 1, B), None),
        (4, 5, Request("GET", 1), got(A)),
        (6, 7, Request("GET", 1), got(B)),
    ],
    "an unknown write never takes effect": [
        CREATED,
        (2, 3, Request("DELETE", 1), None),
        (4, 5, Request("GET", 1), got(A)),
    ],
    "an unknown create is seen by the next one": [
        (0, 1, Request("POST", value=A), None),
        (2, 3, Request("POST", value=B), Answer(422)),
        (4, 5, Request("POST", value=A), got(A)),
    ],
    "one of two updates with the same If-Match": [
        CREATED,
        (2, 5, Request("PUT", 1, B, if_match=(A,)), got(B)),
        (2, 5, Request("PUT", 1, C, if_match=(A,)), Answer(412, tag=B)),
    ],
    "412 for a moment only": [
        CREATED,
        (2, 9, Request("DELETE", 1, if_match=(A,)), Answer(412, tag=B)),
        (3, 4, Request("PUT", 1, B), got(B)),
        (5, 6, Request("PUT", 1, A), got(A)),
    ],
    "If-None-Match": [
        CREATED,
        (2, 3, Request("GET", 1, if_none_match=(A, B)), Answer(304, tag=A)),
        (4, 5, Request("GET", 1, if_none_match=(B,)), got(A)),
        (6, 7, Request("PUT", 1, B, if_none_match="*"), Answer(412, tag=A)),
        (8, 9, Request("GET", 1, if_match=(B,), if_none_match=(A,)), Answer(412, tag=A)),
    ],
    "the same key at once": [
        (0, 3, Request("POST", value=A), got(A)),
        (1, 4, Request("POST", value=A), got(A)),
        (2, 5, Request("POST", value=B), Answer(422)),
    ],
}

NOT_LINEARIZABLE = {
    "a stale read": [
        CREATED,
        (2, 3, Request("PUT", 1, B), got(B)),
        (4, 5, Request("GET", 1), got(A)),
    ],
    "a read goes back": [
        CREATED,
        (2, 9, Request("PUT", 1, B), got(B)),
        (3, 4, Request("GET", 1), got(B)),
        (5, 6, Request("GET", 1), got(A)),
    ],
    "a stale 304": [
        CREATED,
        (2, 3, Request("PUT", 1, B), got(B)),
        (4, 5, Request("GET", 1, if_none_match=(A,)), Answer(304, tag=A)),
    ],
    "a lost update": [
        CREATED,
        (2, 5, Request("PUT", 1, B, if_match=(A,)), got(B)),
        (2, 5, Request("PUT", 1, C, if_match=(A,)), got(C)),
    ],
    "an update that is overwritten by an earlier PATCH": [
        CREATED,
        (2, 5, Request("PATCH", 1, Value("b", None)), got(C)),
        (2, 5, Request("PATCH", 1, Value(None, True)), got(B)),
    ],
    "a write takes effect twice": [
        CREATED,
        (2, 5, Request("PUT", 1, B), got(B)),
        (2, 5, Request("PUT", 1, C, if_match=(B,)), got(C)),
        (6, 7, Request("GET", 1), got(B)),
    ],
    "a 412 with a tag that is listed": [
        CREATED,
        (2, 9, Request("DELETE", 1, if_match=(A,)), Answer(412, tag=A)),
        (3, 4, Request("PUT", 1, B), got(B)),
        (5, 6, Request("PUT", 1, A), got(A)),
    ],
    "a 412 although every tag that the task had is listed": [
        CREATED,
        (2, 9, Request("DELETE", 1, if_match=(A, B)), Answer(412, tag=B)),
        (3, 4, Request("PUT", 1, B), got(B)),
    ],
    "a 412 that was true before the request": [
        CREATED,
        (2, 3, Request("PUT", 1, B), got(B)),
        (4, 5, Request("DELETE", 1, if_match=(B,)), Answer(412, tag=A)),
    ],
    "a 412 with the tag of no value": [
        CREATED,
        (2, 3, Request("DELETE", 1, if_match=(B,)), Answer(412, tag='"x"')),
    ],
    "a 404 for a task that exists": [
        CREATED,
        (2, 3, Request("PUT", 1, A), Answer(404)),
    ],
    "a deleted task comes back": [
        CREATED,
        (2, 3, Request("DELETE", 1), Answer(200)),
        (4, 5, Request("GET", 1), got(A)),
    ],
    "a task is deleted twice": [
        CREATED,
        (2, 5, Request("DELETE", 1), Answer(200)),
        (2, 5, Request("DELETE", 1), Answer(200)),
    ],
    "two tasks for one key": [
        (0, 2, Request("POST", value=A), got(A, id=1)),
        (1, 3, Request("POST", value=A), got(A, id=2)),
    ],
    "another body with the same key": [
        (0, 2, Request("POST", value=A), got(A)),
        (1, 3, Request("POST", value=B), got(A)),
    ],
    "a 422 for the same body": [
        (0, 2, Request("POST", value=A), got(A)),
        (1, 3, Request("POST", value=A), Answer(422)),
    ],
    "an acknowledged write is lost": [
        CREATED,
        (2, 3, Request("PUT", 1, B), got(B)),
        (4, 5, Request("GET", 1), None),
        (6, 7, Request("GET", 1), got(A)),
    ],
    "an acknowledged create is lost": [
        CREATED,
        (2, 3, Request("POST", value=A), got(A, id=2)),
    ],
    "an unknown write takes effect twice": [
        CREATED,
        (2, 3, Request("PUT", 1, B), None),
        (4, 5, Request("GET", 1), got(B)),
        (6, 7, Request("PUT", 1, A), got(A)),
        (8, 9, Request("GET", 1), got(B)),
    ],
    "an unknown write takes effect before it began": [
        CREATED,
        (2, 3, Request("GET", 1), got(B)),
        (4, 5, Request("PUT", 1, B), None),
    ],
    "a defect": [
        CREATED,
        (2, 3, Request("GET", 1), Answer(500)),
    ],
}


def history_of(operations):
    return [
        Operation(began, ended, client, request, answer)
        for client, (began, ended, request, answer) in enumerate(operations)
    ]


@pytest.mark.parametrize("operations", LINEARIZABLE.values(), ids=LINEARIZABLE)
def test_the_checker_accepts_a_linearizable_history(operations):
    check_history(history_of(operations))


@pytest.mark.parametrize("operations", NOT_LINEARIZABLE.values(), ids=NOT_LINEARIZABLE)
def test_the_checker_refuses_any_other_history(operations):
    with pytest.raises(NotLinearizable):
        check_history(history_of(operations))


def test_the_checker_does_not_accept_what_it_cannot_decide(monkeypatch):
    monkeypatch.setattr("linearizability.SITUATIONS_LIMIT", 1000)
    writes = [(2, 3, Request("PUT", 1, value), got(value)) for value in VALUES * 3]
    with pytest.raises(Undecided):
        check_history(history_of([CREATED, *writes, (4, 5, Request("GET", 1), Answer(404))]))


def test_the_checker_shows_the_answer_that_does_not_fit_and_what_happened_around_it():
    operations = [
        CREATED,
        (2, 9, Request("DELETE", 1, if_match=(A, C)), Answer(412, tag=A)),
        (3, 4, Request("PATCH", 1, Value(None, True)), got(B)),
        (5, 6, Request("PUT", 1, A), None),
        (10, 11, Request("GET", 1), got(A)),
    ]
    with pytest.raises(NotLinearizable) as refusal:
        check_history(history_of(operations))
    culprit = "DELETE /tasks/1 If-Match: a/False, b/False -> 412 ETag: a/False"
    assert str(refusal.value).splitlines() == [
        "The first 2 answers can be explained, but not this one too:",
        f"    2000.0   9000.0  client  1  {culprit}",
        "Before it ended, this was possible: task 1 a/False, task 1 a/True.",
        "The operations around it, in the order in which they began (ms; tasks as name/done):",
        "       0.0   1000.0  client  0  POST a/False -> 200 task 1 a/False ETag: a/False",
        f">   2000.0   9000.0  client  1  {culprit}",
        "    3000.0   4000.0  client  2  PATCH /tasks/1 -/True -> 200 task 1 a/True ETag: a/True",
        "    5000.0   6000.0  client  3  PUT /tasks/1 a/False -> unknown",
    ]


# The servers


class Key:
    """An Idempotency-Key, the id of the task that it stands for, and the history."""

    def __init__(self, name):
        self.name = name
        self.id = None
        self.history = []


class Client:
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
    return ", ".join(etag_of(id, value) for value in condition)


def etag_of(id, value):
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
        if tag == etag_of(id, tagged):
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


def disturb(servers, number):
    """Freeze one of the servers for a moment, or replace it; what it is depends on the number."""
    index = number % len(servers)
    server = servers[index]
    kind = ["freeze", "kill", "freeze and kill", "stop"][number % 4]
    if kind in ("freeze", "freeze and kill"):
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
    if kind == "freeze":
        server.process.send_signal(signal.SIGCONT)
        return
    if kind == "stop":
        server.stop()
    else:
        assert server.kill() == -signal.SIGKILL
    servers[index] = Server(server.db)


def record_histories(servers, seed):
    """Return the histories of two keys that twelve clients use while servers are disturbed."""
    keys = [Key(f"{seed}-a"), Key(f"{seed}-b")]
    started = time.monotonic()
    clients = [Client(number, servers, keys, seed, started) for number in range(12)]
    with ThreadPoolExecutor(12) as threads:
        runs = [threads.submit(client.run, REQUESTS) for client in clients]
        for number in range(DISTURBANCES):
            wait_for_operations(keys, runs, 12 * REQUESTS * (number + 1) // (DISTURBANCES + 1))
            disturb(servers, number)
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
