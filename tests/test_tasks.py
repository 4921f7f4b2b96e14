"""The routes: what each answers, names and ids, and how a body may be written."""

import json

import pytest
from assertions import assert_error, assert_json, assert_page, assert_task, assert_tasks, etag_of
from database import insert_tasks

with_and_without_slash = pytest.mark.parametrize("path", ["/tasks", "/tasks/"])


# The routes


def test_the_root_greets(client):
    assert_json(client.get("/"), "Hello, world!")


def test_info_names_the_implementation(client):
    assert_json(client.get("/info"), "starlette")


def test_health_is_ok(client):
    assert_json(client.get("/healthz"), {"status": "ok"}, cache_control="no-store")


@with_and_without_slash
def test_post_creates_a_task_and_says_where(client, path):
    client.create_task()
    response = client.post(path, json={"done": True, "name": "bread"})
    assert_task(response, {"name": "bread", "done": True, "id": 2}, location="/tasks/2")
    assert_task(client.get("/tasks/2"), {"name": "bread", "done": True, "id": 2})


@with_and_without_slash
def test_get_lists_all_tasks_by_id(client, path):
    for name in ("milk", "bread", "apples"):
        client.create_task(name)
    expected = [
        {"name": "milk", "done": False, "id": 1},
        {"name": "bread", "done": False, "id": 2},
        {"name": "apples", "done": False, "id": 3},
    ]
    assert_page(client.get(path), expected)


def test_put_replaces_a_task(client):
    old = client.create_task()
    response = client.put("/tasks/1", json={"name": "bread", "done": True})
    assert_task(response, {"name": "bread", "done": True, "id": 1})
    assert etag_of(response) != etag_of(old)
    assert_task(client.get("/tasks/1"), {"name": "bread", "done": True, "id": 1})


@pytest.mark.parametrize(
    ("patch", "name", "done"),
    [
        ({"name": ""}, "", False),
        ({"name": "bread"}, "bread", False),
        ({"done": True}, "milk", True),
        ({"done": "on", "name": "bread"}, "bread", True),
        ({"done": True, "id": 9}, "milk", True),
    ],
    ids=str,
)
def test_patch_changes_what_it_names(client, patch, name, done):
    old = client.create_task("milk", done=False)
    response = client.patch("/tasks/1", json=patch)
    assert_task(response, {"name": name, "done": done, "id": 1})
    assert etag_of(response) != etag_of(old)
    assert_task(client.get("/tasks/1"), {"name": name, "done": done, "id": 1})


@pytest.mark.parametrize(
    "patch",
    [
        {},
        {"done": False},
        {"name": "milk", "done": 0},
        {"other": 1, "id": 9},
    ],
    ids=str,
)
def test_a_patch_that_changes_nothing_leaves_the_task_and_its_etag(client, patch):
    old = client.create_task("milk", done=False)
    response = client.patch("/tasks/1", json=patch)
    assert_task(response, {"name": "milk", "done": False, "id": 1}, etag=etag_of(old))


def test_delete_answers_1_and_the_task_is_gone(client):
    client.create_task("milk")
    client.create_task("bread")
    assert_json(client.delete("/tasks/1"), 1)
    assert_error(client.get("/tasks/1"), 404, "Task not found")
    assert_error(client.delete("/tasks/1"), 404, "Task not found")
    assert_page(client.get("/tasks"), [{"name": "bread", "done": False, "id": 2}])


def test_get_ignores_its_body(client):
    client.create_task("milk", done=False)
    response = client.get("/tasks/1", content=b'{"name":"bread","done":true}')
    assert_task(response, {"name": "milk", "done": False, "id": 1})
    assert_task(client.get("/tasks/1"), {"name": "milk", "done": False, "id": 1})


def test_delete_ignores_its_body(client):
    client.create_task()
    assert_json(client.delete("/tasks/1", content=b"{"), 1)


MILK = {"name": "milk", "done": True, "id": 1}
BREAD = {"name": "bread", "done": False, "id": 2}
APPLES = {"name": "apples", "done": True, "id": 3}


@with_and_without_slash
@pytest.mark.parametrize(
    ("done", "deleted", "left"),
    [
        ("true", 2, [BREAD]),
        ("1", 2, [BREAD]),
        ("false", 1, [MILK, APPLES]),
        ("NO", 1, [MILK, APPLES]),
    ],
)
def test_delete_by_done_answers_how_many(client, path, done, deleted, left):
    insert_tasks(client.db, [("milk", True), ("bread", False), ("apples", True)])
    assert_json(client.delete(f"{path}?done={done}"), deleted)
    assert_tasks(client.list_tasks(), left)
    assert_json(client.delete(f"{path}?done={done}"), 0)


# Ids


@pytest.mark.parametrize("target", ["/tasks/3", "/tasks?done=false"])
def test_an_id_is_never_given_twice(make_client, target):
    client = make_client()
    for _ in range(3):
        client.create_task()
    client.delete(target)
    assert client.create_task().json()["id"] == 4


def test_an_id_is_never_given_twice_after_a_restart_either(make_client):
    client = make_client()
    client.create_task()
    client.delete("/tasks/1")
    client.stop()
    client.start()
    assert client.create_task().json()["id"] == 2


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_id_in_the_body_does_not_choose_the_task(client, method):
    client.create_task()
    client.create_task()
    response = client.request(method, "/tasks/2", json={"name": "bread", "done": True, "id": 1})
    assert_task(response, {"name": "bread", "done": True, "id": 2})
    assert_task(client.get("/tasks/1"), {"name": "milk", "done": False, "id": 1})


def test_an_id_in_the_body_does_not_choose_the_id_of_a_new_task(client):
    response = client.post("/tasks", json={"name": "milk", "done": False, "id": 9})
    assert_task(response, {"name": "milk", "done": False, "id": 1}, location="/tasks/1")


# Names


@pytest.mark.parametrize("escaped", [False, True], ids=["UTF-8", "escaped"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param(" a ", id="blanks"),
        pytest.param("a\x00b", id="NUL"),
        pytest.param("\x00" * 1000, id="1000 NULs"),
        pytest.param("é" * 1000, id="1000 characters of 2 bytes"),
        pytest.param("👍" * 1000, id="1000 characters of 4 bytes"),
        pytest.param('"\\' * 500, id="quotes and backslashes"),
        pytest.param("\\u0000", id="a backslash, not an escape"),
        pytest.param("\r\n", id="line break"),
        pytest.param("null", id="null"),
        pytest.param("%_%", id="LIKE pattern"),
        pytest.param(":name ?1 '; DROP TABLE task", id="SQL"),
        pytest.param("</script>", id="HTML"),
        pytest.param("e\u0301 is not \u00e9", id="not normalized"),
        pytest.param("\u202e\u2028\ufeff\U0010ffff \ud7ff\ue000\uffff", id="odd characters"),
        pytest.param("".join(map(chr, range(1000))), id="the first 1000 characters"),
    ],
)
def test_a_name_is_returned_exactly(client, name, escaped):
    body = json.dumps({"name": name, "done": True}, ensure_ascii=escaped).encode()
    expected = [{"name": name, "done": True, "id": id} for id in (1, 2, 3)]
    assert_task(client.post("/tasks", content=body), expected[0], location="/tasks/1")
    client.create_task("milk", done=True)
    assert_task(client.put("/tasks/2", content=body), expected[1])
    client.create_task("milk", done=True)
    assert_task(client.patch("/tasks/3", content=body), expected[2])
    assert_task(client.get("/tasks/1"), expected[0])
    assert_page(client.get("/tasks"), expected)


# How a body may be written

# A body is sent to each route that reads one: `id` is that of the task that the response has.
with_every_body = pytest.mark.parametrize(
    ("method", "target", "id", "headers"),
    [
        ("POST", "/tasks", 2, {"location": "/tasks/2"}),
        ("PUT", "/tasks/1", 1, {}),
        ("PATCH", "/tasks/1", 1, {}),
    ],
    ids=["POST", "PUT", "PATCH"],
)


@with_every_body
@pytest.mark.parametrize(
    "done",
    [
        "true",
        "1",
        "1.0",
        "1e0",
        "10e-1",
        "1.00000000000000000000000001",
        '"true"',
        '"t"',
        '"yes"',
        '"y"',
        '"on"',
        '"1"',
        '"TRUE"',
        '"True"',
        '"tRuE"',
        '"T"',
        '"YES"',
        '"Y"',
        '"ON"',
        '"oN"',
    ],
)
def test_true_can_be_written_in_many_ways(client, method, target, id, headers, done):
    client.create_task("milk", done=False)
    body = f'{{"name": "bread", "done": {done}}}'.encode()
    response = client.request(method, target, content=body)
    assert_task(response, {"name": "bread", "done": True, "id": id}, **headers)


@with_every_body
@pytest.mark.parametrize(
    "done",
    [
        "false",
        "0",
        "-0",
        "0.0",
        "-0.0",
        "0e400",
        "1e-400",
        '"false"',
        '"f"',
        '"no"',
        '"n"',
        '"off"',
        '"0"',
        '"FALSE"',
        '"False"',
        '"fAlSe"',
        '"F"',
        '"NO"',
        '"N"',
        '"OFF"',
        '"oFf"',
    ],
)
def test_false_can_be_written_in_many_ways(client, method, target, id, headers, done):
    client.create_task("milk", done=True)
    body = f'{{"name": "bread", "done": {done}}}'.encode()
    response = client.request(method, target, content=body)
    assert_task(response, {"name": "bread", "done": False, "id": id}, **headers)


@with_every_body
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b' \r\n\t{ "name" : "milk" ,\n"done" : false } \n', id="white space"),
        pytest.param(b'\xef\xbb\xbf{"name":"milk","done":false}', id="byte-order mark"),
        pytest.param(b'{"n\\u0061me":"mil\\u006B","done":false}', id="escapes"),
        pytest.param(b'{"done":[],"name":5,"name":"milk","done":false}', id="the last one counts"),
        pytest.param(b'{"id":9,"":{},"Name":1,"name":"milk","done":false}', id="unknown members"),
        pytest.param(b'{"x":{"name":"y"},"name":"milk","done":false}', id="nested unknown member"),
        pytest.param(b'{"x":1e400,"name":"milk","done":false}', id="unknown infinite number"),
        pytest.param(b'{"x":%s,"name":"milk","done":false}' % (b"1" * 4300), id="4300 digits"),
        pytest.param(b'{"x":"\\ud800","name":"milk","done":false}', id="unknown lone surrogate"),
        pytest.param(b'{"key":"x","expected":"x","name":"milk","done":false}', id="SQL parameters"),
    ],
)
def test_a_body_may_have_many_forms(client, method, target, id, headers, body):
    client.create_task("bread", done=True)
    response = client.request(method, target, content=body)
    assert_task(response, {"name": "milk", "done": False, "id": id}, **headers)


@with_every_body
@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json ;x=y",
        "application/merge-patch+json",
        "application/x.v1+JSON;q",
    ],
)
def test_every_json_content_type_is_accepted(client, method, target, id, headers, content_type):
    client.create_task("milk", done=False)
    body = {"name": "bread", "done": True}
    response = client.request(method, target, json=body, headers={"Content-Type": content_type})
    assert_task(response, {"name": "bread", "done": True, "id": id}, **headers)
