"""ETag, If-None-Match, If-Match and Idempotency-Key, also when many clients come at once."""

from itertools import cycle

import pytest
from helpers import (
    BODY_ROUTES,
    BREAD,
    KEY,
    TASK,
    check,
    check_empty,
    check_error,
    check_tagged,
    entry,
    locked,
    tag,
)

CHANGES = pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
KNOWN = ["{tag}", "W/{tag}", "*", '"a", {tag}', '{tag},"a"', '"a",W/{tag} , "b"', 'W/"a",\t{tag}']
UNKNOWN = ["", '"a"', 'W/"a"', '"*"', "{bare}", '"a", "b"', '"{bare}x"', '"x{bare}"', "a"]
HOLDS = ["{tag}", "*", '"a", {tag}', '{tag},"a"', 'W/"a", {tag}', "{tag} , W/{tag}", "{tag}\t"]
FAILS = ["", "W/{tag}", "w/{tag}", "W/ {tag}", '"a"', 'W/"a", W/{tag}', '"*"', "{bare}", '"a"{tag}']
FAILS += ['"{bare}x"', '"x{bare}"', "a", '"a" {tag}', "{tag}x", "{tag};q=1", '"a", *']
KEYS = ["a", "A", '"a"', "1", "!", "~", '"', "a" * 255, "8e03978e-40d5-43dd-bc93", "a,b;c=d", "a,"]
REUSED = entry("idempotency_key_reused", KEY, "key")
SAME = [
    b'{"done":false,"name":"milk"}',
    b'\xef\xbb\xbf{"name":"m\\u0069lk", "done":"OFF","more":1}',
]
OTHERS = [BREAD, {**TASK, "done": 1}, {**TASK, "name": "Milk"}, {**TASK, "name": "milk\x00"}]


def at_once(clients, *requests, **headers):
    """The answers to requests of which none is answered before all have come.

    The n-th request goes to the n-th client, and round again: several stand for several workers.
    """
    with locked(clients[0].db):
        turns = zip(cycle(clients), requests, strict=False)
        answers = [client.begin(*request, **headers) for client, request in turns]
        for client in clients:
            client.get("/info")
    return [answer.result(30) for answer in answers]


@pytest.fixture(params=[1, 3], ids=["one worker", "three workers"])
def workers(request, start):
    return [start() for _ in range(request.param)]


# ETag


def test_a_task_has_one_tag_from_every_route_and_worker(start):
    client, other = start(), start()
    expected = tag(client.create("é\x00"))
    answers = [client.get("/tasks/1"), client.head("/tasks/1"), client.patch("/tasks/1", {})]
    answers += [client.put("/tasks/1", {"name": "é\x00", "done": 0}), other.get("/tasks/1")]
    assert {tag(answer) for answer in answers} == {expected}


def test_a_tag_changes_with_the_task_and_back(client):
    first = tag(client.create())
    changes = {"done": True}, {"name": "bread"}, {"name": "brea\x00d"}, {"done": False}
    tags = [tag(client.patch("/tasks/1", change)) for change in changes]
    tags.append(tag(client.create()))  # the same but for its id
    assert len({first, *tags}) == 6
    assert tag(client.patch("/tasks/1", {"name": "milk"})) == first


def test_the_tag_of_a_list_changes_with_it(client):
    tags = []
    for target in ("/tasks", "/tasks?limit=5", "/tasks?q=mil", "/tasks?done=no"):
        client.create()
        answer = client.get(target)
        tags.append(tag(answer))
        known = client.get(target, if_none_match=tag(answer))
        check_empty(known, 304, etag=tag(answer), cache_control="no-cache")
    assert len(set(tags)) == 4


# If-None-Match


@pytest.mark.parametrize("values", [*KNOWN, *UNKNOWN])
def test_304_if_the_client_has_it(client, values):
    task = client.create()
    sent = values.format(tag=tag(task), bare=tag(task).strip('"'))
    for method in ("GET", "HEAD"):
        answer = client.request(method, "/tasks/1", if_none_match=sent)
        if values in KNOWN:
            check_empty(answer, 304, etag=tag(task), cache_control="no-cache")
        else:
            assert (answer.status_code, tag(answer)) == (200, tag(task))


@pytest.mark.parametrize("lines", [['"a"', "{}"], ["{}", '"a"'], ['"a", "b"', '{}, "c"']])
def test_a_header_may_come_on_several_lines(client, lines):
    current = tag(client.create())
    for sent, read, written in [(current, 304, 200), ('"x"', 200, 412)]:
        values = [line.format(sent) for line in lines]
        assert client.get("/tasks/1", if_none_match=values).status_code == read
        assert client.patch("/tasks/1", {}, if_match=values).status_code == written


def test_if_none_match_is_for_a_read_of_what_exists(client):
    for method, path in [*BODY_ROUTES, ("DELETE", "/tasks/1")]:
        assert client.request(method, path, if_none_match="*").status_code == 200
    check_error(client.get("/tasks/1", if_none_match="*"), 404, "Task not found")


# If-Match


@CHANGES
def test_412_with_the_current_tag_if_the_task_has_another(client, method):
    for values in HOLDS + FAILS:
        task = client.create()
        path = task.headers["location"]
        sent = values.format(tag=tag(task), bare=tag(task).strip('"'))
        answer = client.request(method, path, if_match=sent)
        if values in HOLDS:
            assert answer.status_code == 200
            assert task.json() not in client.tasks()
        else:
            check_error(answer, 412, etag=tag(task))
            assert task.json() in client.tasks()


@CHANGES
def test_404_for_a_missing_task_that_is_created_meanwhile(start, method):
    client = start()
    with locked(client.db):
        created = client.begin("POST", "/tasks")
        answers = [client.begin(method, "/tasks/1")]
        answers += [client.begin(method, "/tasks/1", if_match=it) for it in ("*", '"a"')]
        client.get("/info")
    assert created.result(10).headers["location"] == "/tasks/1"
    for answer in answers:
        check_error(answer.result(10), 404, "Task not found")
    assert client.tasks() == [{**TASK, "id": 1}]


@CHANGES
def test_of_many_changes_with_one_tag_exactly_one_wins(workers, method):
    task = workers[0].create()
    names = [f"name {number}" for number in range(10)]
    requests = [(method, "/tasks/1", {"name": name, "done": True}) for name in names]
    requests += [(other, "/tasks/1") for other in ("DELETE", "PATCH", "PUT")] * 3
    answers = at_once(workers, *requests, if_match=tag(task))
    (won,) = [answer for answer in answers if answer.status_code == 200]
    left = workers[0].tasks()
    assert left == [won.json()] or (won.json(), left) == (1, [])
    answers.remove(won)
    for answer in answers:
        if left:
            check_error(answer, 412, etag=tag(won))
        else:
            check_error(answer, 404, "Task not found")


# Idempotency-Key


def test_a_key_is_compared_as_it_is_sent_and_creates_one_task(client):
    for key in KEYS:
        task = client.create(idempotency_key=key).json()
        again = client.post("/tasks", idempotency_key=f" {key}\t")  # blanks are no part of it
        check_tagged(again, task, location=f"/tasks/{task['id']}")
    assert len(client.tasks()) == len(KEYS)


def test_a_key_creates_once_and_only_from_bodies_that_mean_the_same(client):
    first = client.create(idempotency_key="key")
    for body in SAME:
        assert client.post("/tasks", body, idempotency_key="key").content == first.content
    for body in OTHERS:
        check_error(client.post("/tasks", body, idempotency_key="key"), 422, [REUSED])
    assert client.tasks() == [first.json()]


def test_a_key_gives_the_task_as_it_is_now_after_a_restart_too(start):
    client = start()
    client.create(idempotency_key="key")
    changed = client.put("/tasks/1", BREAD).json()
    client.close()
    again = start()
    check_tagged(again.post("/tasks", idempotency_key="key"), changed, location="/tasks/1")
    check_error(again.post("/tasks", BREAD, idempotency_key="key"), 422, [REUSED])


def test_a_key_lives_as_long_as_its_task(client):
    for body, status in [(b"{}", 422), (b"\xff", 400)]:  # these create none
        assert client.post("/tasks", body, idempotency_key="key").status_code == status
    for id, path in enumerate(("/tasks/1", "/tasks?done=true", "/tasks/3"), 1):
        assert client.create(done=id == 2, idempotency_key="key").json()["id"] == id
        check(client.delete(path), 1)


def test_many_clients_with_one_key_and_two_bodies_create_one_task(workers):
    requests = [("POST", "/tasks", TASK), ("POST", "/tasks", BREAD)] * 15
    answers = at_once(workers, *requests, idempotency_key="key")
    (task,) = workers[0].tasks()
    for (_, _, body), answer in zip(requests, answers, strict=True):
        if answer.status_code == 200:
            assert answer.json() == task == {**body, "id": task["id"]}
        else:
            check_error(answer, 422, [REUSED])
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [422] * 15
