"""Idempotency-Key: the same POST, sent again, creates nothing."""

import contextlib
import sqlite3

import pytest
from assertions import assert_error, assert_json, assert_status, assert_task, assert_tasks, entry

import todo

MILK = {"name": "milk", "done": False}
BREAD = {"name": "bread", "done": True}
KEY = {"Idempotency-Key": "key"}
KEY_REUSED = [entry("idempotency_key_reused", ["header", "idempotency-key"], "key")]


def malformed(key):
    """Return the entry of a 422 for this malformed key."""
    location = ["header", "idempotency-key"]
    return entry("string_pattern_mismatch", location, key, pattern="^[!-~]{1,255}$")


def test_the_same_key_and_body_return_the_same_task_and_create_nothing(client):
    for _ in range(3):
        response = client.post("/tasks", json=MILK, headers=KEY)
        assert_task(response, {"name": "milk", "done": False, "id": 1}, location="/tasks/1")
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"done":false,"name":"milk"}', id="other order"),
        pytest.param(b'{"name":"m\\u0069lk","done":"OFF","more":1}', id="other notation"),
        pytest.param(b'\xef\xbb\xbf{ "name": "milk", "done": 0.0 }', id="other bytes"),
    ],
)
def test_bodies_are_the_same_if_they_mean_the_same(client, body):
    client.create_task("milk", done=False, headers=KEY)
    response = client.post("/tasks", content=body, headers=KEY)
    assert_task(response, {"name": "milk", "done": False, "id": 1}, location="/tasks/1")


@pytest.mark.parametrize(
    ("name", "done"),
    [
        ("bread", False),
        ("milk", True),
        ("Milk", False),
        ("milk\x00", False),
    ],
)
def test_the_same_key_with_another_body_is_422(client, name, done):
    task = client.create_task("milk", done=False, headers=KEY)
    response = client.post("/tasks", json={"name": name, "done": done}, headers=KEY)
    assert_error(response, 422, KEY_REUSED)
    assert client.list_tasks() == [task.json()]


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "1",
        "!",
        "~",
        '"',
        '"a"',
        "a,",
        "a,b;c=d",
        "8e03978e-40d5-43dd-bc93-6894a57f9324",
        pytest.param("a" * 255, id="255 characters"),
    ],
)
def test_a_key_is_any_visible_ascii(client, key):
    for _ in range(2):
        response = client.post("/tasks", json=MILK, headers={"Idempotency-Key": key})
        assert_task(response, {"name": "milk", "done": False, "id": 1}, location="/tasks/1")


@pytest.mark.parametrize("sent", [" key", "key ", "\tkey\t", " \tkey"])
def test_blanks_around_a_key_do_not_count(client, sent):
    client.create_task("milk", done=False, headers=KEY)
    response = client.post("/tasks", json=MILK, headers={"Idempotency-Key": sent})
    assert_task(response, {"name": "milk", "done": False, "id": 1}, location="/tasks/1")


@pytest.mark.parametrize("other", ["A", "aa", '"a"', "a,"])
def test_keys_are_compared_as_sent(client, other):
    client.create_task(headers={"Idempotency-Key": "a"})
    response = client.post("/tasks", json=MILK, headers={"Idempotency-Key": other})
    assert_task(response, {"name": "milk", "done": False, "id": 2}, location="/tasks/2")


@pytest.mark.parametrize(
    ("key", "repeated"),
    [
        pytest.param("", "", id="empty"),
        ("a b", "a b"),
        ("a\tb", "a\tb"),
        ("a\x7f", "a\x7f"),
        ("é", "Ã©"),  # The bytes of a header are read as Latin-1.
        pytest.param("x" * 256, "x" * 256, id="256 characters"),
    ],
)
def test_a_malformed_key_is_422(client, key, repeated):
    response = client.post("/tasks", json=MILK, headers={"Idempotency-Key": key})
    assert_error(response, 422, [malformed(repeated)])
    assert client.list_tasks() == []


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        (b"", [entry("missing", ["body"], None)]),
        (b"[]", [entry("model_attributes_type", ["body"], [])]),
        (
            b'{"done":"maybe","name":5}',
            [
                entry("string_type", ["body", "name"], 5),
                entry("bool_parsing", ["body", "done"], "maybe"),
            ],
        ),
    ],
)
def test_a_malformed_key_is_listed_before_the_faults_of_the_body(client, body, faults):
    response = client.post("/tasks", content=body, headers={"Idempotency-Key": "a b"})
    assert_error(response, 422, [malformed("a b"), *faults])


def test_malformed_json_is_the_only_entry_even_with_a_malformed_key(client):
    response = client.post("/tasks", content=b"x", headers={"Idempotency-Key": "a b"})
    expected = entry("json_invalid", ["body", 0], {}, error="Expecting value")
    assert_error(response, 422, [expected])


def test_a_key_returns_the_task_as_it_is_now(client):
    client.create_task("milk", headers=KEY)
    client.put("/tasks/1", json=BREAD)
    response = client.post("/tasks", json=MILK, headers=KEY)
    assert_task(response, {"name": "bread", "done": True, "id": 1}, location="/tasks/1")
    assert_error(client.post("/tasks", json=BREAD, headers=KEY), 422, KEY_REUSED)


def test_a_key_is_known_after_a_restart(make_client):
    client = make_client()
    task = client.create_task("milk", headers=KEY)
    client.stop()
    client.start()
    assert_task(client.post("/tasks", json=MILK, headers=KEY), task.json(), location="/tasks/1")


def test_a_key_that_an_earlier_version_stored_is_known(client):
    # The last value is the digest of MILK. Existing files have it, so it can never be another one.
    with contextlib.closing(sqlite3.connect(client.db)) as connection, connection:
        connection.execute(
            "INSERT INTO task (name, done, key, request) "
            """VALUES ('milk', 0, 'key', '"4ef69dc96f247c457b8c28d6"')"""
        )
    response = client.post("/tasks", json=MILK, headers=KEY)
    assert_task(response, {"name": "milk", "done": False, "id": 1}, location="/tasks/1")


def test_a_key_stays_known_when_a_field_with_a_default_is_added(monkeypatch):
    digest = todo.digest_fields({"name": "milk", "done": 0})
    monkeypatch.setitem(todo.FIELDS, "note", {"type": "string", "default": ""})
    assert todo.digest_fields({"name": "milk", "done": 0, "note": ""}) == digest
    assert todo.digest_fields({"name": "milk", "done": 0, "note": "two"}) != digest


@pytest.mark.parametrize("target", ["/tasks/1", "/tasks?done=false"])
def test_a_key_lives_as_long_as_its_task(client, target):
    client.create_task("milk", done=False, headers=KEY)
    assert_json(client.delete(target), 1)
    assert client.create_task("bread", done=True, headers=KEY).json()["id"] == 2


@pytest.mark.parametrize(("body", "status"), [(b"{}", 422), (b"\xff", 400)])
def test_a_request_that_is_refused_does_not_use_up_its_key(client, body, status):
    assert_status(client.post("/tasks", content=body, headers=KEY), status)
    assert client.create_task(headers=KEY).json()["id"] == 1


@pytest.mark.parametrize("count", [1, 3], ids=["one worker", "three workers"])
def test_many_requests_with_one_key_at_once_create_one_task(make_client, count):
    workers = [make_client() for _ in range(count)]
    with workers[0].hold_writes():
        pending = [
            workers[number % count].begin("POST", "/tasks", json=MILK, headers=KEY)
            for number in range(30)
        ]
    for response in pending:
        task = {"name": "milk", "done": False, "id": 1}
        assert_task(response.result(30), task, location="/tasks/1")
    assert_tasks(workers[0].list_tasks(), [{"name": "milk", "done": False, "id": 1}])


@pytest.mark.parametrize("count", [1, 3], ids=["one worker", "three workers"])
def test_of_two_bodies_with_one_key_at_once_only_one_creates_a_task(make_client, count):
    workers = [make_client() for _ in range(count)]
    with workers[0].hold_writes():
        pending = [
            (body, worker.begin("POST", "/tasks", json=body, headers=KEY))
            for worker in workers * 5
            for body in (MILK, BREAD)
        ]
    responses = [(body, response.result(30)) for body, response in pending]
    (task,) = workers[0].list_tasks()
    for body, response in responses:
        if body["name"] == task["name"]:
            assert_task(response, task, location=f"/tasks/{task['id']}")
        else:
            assert_error(response, 422, KEY_REUSED)
