"""The routes: what each answers, names and ids, and how a body may be written."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest
from helpers import (
    BODY_ROUTES,
    BREAD,
    METHODS,
    TASK,
    Client,
    check,
    check_empty,
    check_error,
    check_tagged,
    compact,
    fields,
    insert,
    tag,
)
from processes import Server

# The routes


def test_the_short_answers(client: Client) -> None:
    check(client.get("/"), "Hello, world!")
    check(client.get("/info"), "starlette")
    check(client.get("/healthz"), {"status": "ok"}, cache_control="no-store")


def test_post_creates_a_task_and_says_where(client: Client) -> None:
    for id, path in enumerate(("/tasks", "/tasks/"), 1):
        answer = client.post(path, {"done": True, "name": "bread"})
        check_tagged(answer, {**BREAD, "id": id}, location=f"/tasks/{id}")
        check_tagged(client.get(f"/tasks/{id}"), answer.json())


def test_the_list_is_every_task_in_the_order_of_ids(client: Client) -> None:
    check_tagged(client.get("/tasks"), [])
    tasks = [client.create(name).json() for name in "cab"]
    check_tagged(client.get("/tasks"), tasks)
    check_tagged(client.get("/tasks/"), tasks)


def test_put_replaces_a_task(client: Client) -> None:
    old = client.create()
    answer = client.put("/tasks/1", BREAD)
    check_tagged(answer, {"name": "bread", "done": True, "id": 1})
    assert tag(answer) != tag(old)
    assert client.get("/tasks/1").content == answer.content


PATCHES = [({}, {}), ({"name": "bread"}, {"name": "bread"}), ({"name": ""}, {"name": ""})]
PATCHES += [({"done": True}, {"done": True}), ({"done": False}, {}), ({"other": 1, "id": 9}, {})]
PATCHES += [({"done": "on", "name": "x"}, {"done": True, "name": "x"})]


@pytest.mark.parametrize(("patch", "changed"), PATCHES)
def test_patch_changes_what_it_names(client: Client, patch: object, changed: dict) -> None:
    old = client.create()
    answer = client.patch("/tasks/1", patch, content_type="application/merge-patch+json")
    check_tagged(answer, {**old.json(), **changed})
    assert (tag(answer) != tag(old)) == bool(changed)
    assert client.get("/tasks/1").content == answer.content


def test_delete_answers_1_and_the_task_is_gone(client: Client) -> None:
    client.create()
    kept = client.create().json()
    check(client.delete("/tasks/1"), 1)
    check_error(client.get("/tasks/1"), 404, "Task not found")
    check_error(client.delete("/tasks/1"), 404, "Task not found")
    assert client.tasks() == [kept]


@pytest.mark.parametrize(("word", "deleted"), [("true", 3), ("NO", 2), ("1", 3), ("off", 2)])
def test_delete_by_done_answers_how_many(client: Client, word: str, deleted: int) -> None:
    for path in ("/tasks", "/tasks/"):
        insert(client.db, [("x", done) for done in (True, False, True, False, True)])
        check(client.delete(f"{path}?done={word}"), deleted)
        assert {task["done"] for task in client.tasks()} == {deleted == 2}
        check(client.delete(f"{path}?done={word}"), 0)


@pytest.mark.parametrize("path", [*METHODS, "/tasks?limit=1"])
def test_head_has_the_headers_of_get(client: Client, path: str) -> None:
    client.create()
    client.create()
    head = client.head(path)
    get = client.get(path)
    assert (head.status_code, fields(head)) == (get.status_code, fields(get))


@pytest.mark.parametrize(("path", "methods"), METHODS.items())
def test_options_names_every_method_of_a_path(client: Client, path: str, methods: str) -> None:
    answer = client.options(path)
    check_empty(answer, 204, allow=answer.headers["allow"])
    assert sorted(answer.headers["allow"].split(", ")) == sorted(methods.split())


def test_a_body_that_no_route_wants_is_ignored(client: Client) -> None:
    client.create()
    for path in ("/", "/info", "/tasks", "/tasks/1"):
        assert client.request("GET", path, b"\xff{").status_code == 200
    check(client.request("DELETE", "/tasks/1", b"{"), 1)


def test_every_route_over_a_real_server(server: Server) -> None:
    with server.client() as client:
        check(client.get("/"), "Hello, world!")
        check(client.get("/info"), "starlette")
        check(client.get("/healthz"), {"status": "ok"}, cache_control="no-store")
        created = client.post("/tasks", json=TASK, headers={"idempotency-key": "smoke"})
        task, path = created.json(), created.headers["location"]
        check_tagged(created, {**TASK, "id": task["id"]}, location=path)
        check_tagged(client.get(path), task)
        known = client.get(path, headers={"if-none-match": tag(created)})
        check_empty(known, 304, etag=tag(created), cache_control="no-cache")
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert fields(head) == fields(client.get(path))
        assert task in client.get("/tasks/").json()
        put = client.put(path, json=BREAD, headers={"if-match": tag(created)})
        check_tagged(put, {**BREAD, "id": task["id"]})
        stale = client.patch(path, json={}, headers={"if-match": tag(created)})
        check_error(stale, 412, etag=tag(put))
        check_tagged(client.patch(path, json={"done": False}), {**put.json(), "done": False})
        check(client.delete(path), 1)
        check_error(client.get(path), 404, "Task not found")
        assert client.delete("/tasks?done=true").status_code == 200
        options = client.options(path)
        check_empty(options, 204, allow=options.headers["allow"])
        check_error(client.post(path), 405, allow=options.headers["allow"])
        check_error(client.get("/nothing"), 404, "Not Found")
        check_error(client.post("/tasks", content=b"{}"), 415)
        assert client.get("/openapi.json").json()["openapi"].startswith("3.1")
        assert client.get("/docs").headers["content-type"] == "text/html; charset=utf-8"
    assert "Traceback" not in server.log


# Ids


def test_an_id_is_never_given_twice(start: Callable[..., Client]) -> None:
    client = start()
    ids = []
    for path in ("/tasks/3", "/tasks?done=false", "/tasks/7"):
        ids += [client.create().json()["id"] for _ in range(3)]
        client.delete(path)
    client.delete("/tasks?done=false")
    client.close()
    ids.append(client.open().create().json()["id"])
    assert ids == sorted(set(ids))


def test_the_largest_id_works_and_no_task_follows_it(client: Client) -> None:
    largest = 2**63 - 1
    with closing(sqlite3.connect(client.db)) as db, db:
        db.execute("INSERT INTO task (id, name, done) VALUES (?, 'last', 0)", [largest])
    last = {"name": "last", "done": False, "id": largest}
    check_tagged(client.get(f"/tasks/{largest}"), last)
    check_tagged(client.get(f"/tasks?after={largest - 1}"), [last])
    check_tagged(client.get(f"/tasks?after={largest}"), [])
    check_tagged(client.patch(f"/tasks/{largest}", {"done": 1}), {**last, "done": True})
    check_error(client.post("/tasks"), 507)
    check(client.delete(f"/tasks/{largest}"), 1)


def test_a_body_never_chooses_the_task(client: Client) -> None:
    first = client.create().json()
    client.create()
    for answer in (client.put("/tasks/2", {**BREAD, "id": 1}), client.patch("/tasks/2", first)):
        assert answer.json()["id"] == 2
    assert client.post("/tasks", first).json()["id"] == 3
    assert client.get("/tasks/1").json() == first


# Names

NAMES = ["", " ", "\x00", "a\x00b", "\x00" * 1000, "x" * 1000, "é" * 1000, "👍" * 1000, '"\\' * 500]
NAMES += [
    " padded ",
    "\r\n",
    "null",
    "1",
    "\\u0000",
    "</script>",
    "%_%",
    ":name ?1 '; DROP TABLE task",
]
NAMES += ["e\u0301 is not \u00e9", "\u202e\u2028\ufeff\U0010ffff \ud7ff\ue000\uffff"]
NAMES += ["".join(map(chr, range(1000)))]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_name_comes_back_exactly(client: Client, name: str) -> None:
    task = {"name": name, "done": True}
    for id, body in enumerate([compact(task), json.dumps(task).encode()], 1):  # escaped, too
        expected = compact({**task, "id": id})
        assert client.post("/tasks", body).content == expected
        assert client.put(f"/tasks/{id}", body).content == expected
        assert client.patch(f"/tasks/{id}", body).content == expected
        assert client.get(f"/tasks/{id}").content == expected
        assert client.get(f"/tasks?after={id - 1}").content == b"[%s]" % expected


# Bodies

WORDS = {True: ["true", "1", "1.0", "1e0", "10e-1", "1.00000000000000000000000001"]}
WORDS |= {False: ["false", "0", "-0", "0.0", "-0.0", "0e400", "1e-400"]}
STRINGS = {True: "true t yes y on 1 TRUE True tRuE T YES Y ON On"}
STRINGS |= {False: "false f no n off 0 FALSE False fAlSe F NO N OFF oFf"}


@pytest.mark.parametrize("done", [True, False])
def test_done_takes_booleans_numbers_and_words(client: Client, done: bool) -> None:
    client.create()
    for word in WORDS[done] + [f'"{word}"' for word in STRINGS[done].split()]:
        body = f'{{"name":"x","done":{word}}}'.encode()
        assert client.post("/tasks", body).json()["done"] is done
        for method in ("PUT", "PATCH"):
            client.put("/tasks/1", {"name": "x", "done": not done})
            assert client.request(method, "/tasks/1", body).json()["done"] is done


SAME_BODIES = [
    b'\xef\xbb\xbf{"name":"milk","done":false}',
    b' \r\n\t{ "name" : "milk" ,\n"done" : false } \n',
    b'{"done":false,"name":"milk"}',
    b'{"name":5,"done":[],"name":"milk","done":false}',
    b'{"n\\u0061me":"mil\\u006B","done":false}',
    b'{"name":"milk","done":false,"more":null,"":{},"Name":"x","nested":{"name":"x"}}',
    b'{"id":99,"name":"milk","done":false}',
    b'{"name":"milk","done":false,"big":1e400,"long":%s,"half":"\\ud800"}' % (b"1" * 4300),
    b'{"json":"x","key":"x","request":"x","expected":"x","name":"milk","done":false}',
]


@pytest.mark.parametrize("body", SAME_BODIES, ids=lambda body: repr(body)[:40])
def test_bodies_that_mean_the_same(client: Client, body: bytes) -> None:
    expected = {**TASK, "id": 1}
    check_tagged(client.post("/tasks", body), expected, location="/tasks/1")
    for method in ("PUT", "PATCH"):
        client.put("/tasks/1", BREAD)
        check_tagged(client.request(method, "/tasks/1", body), expected)


JSON_TYPES = ["application/json", "Application/JSON", "application/json; charset=utf-8"]
JSON_TYPES += ["application/json ;x=y", "application/merge-patch+json", "application/x.v1+JSON;q"]


@pytest.mark.parametrize("content_type", JSON_TYPES)
def test_content_types_of_json(client: Client, content_type: str) -> None:
    for method, path in BODY_ROUTES:
        assert client.request(method, path, content_type=content_type).status_code == 200
