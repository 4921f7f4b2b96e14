"""The routes: what each answers, names and ids, and how a body may be written."""

import json

import pytest
from helpers import BODY_ROUTES, BREAD, TASK, check, check_error, check_tagged, compact, insert, tag

PATCHES = [({}, {}), ({"name": ""}, {"name": ""}), ({"done": True}, {"done": True})]
PATCHES += [({"done": False}, {}), ({"other": 1, "id": 9}, {})]
PATCHES += [({"done": "on", "name": "x"}, {"done": True, "name": "x"})]
NAMES = ["", " a\x00b ", "\x00" * 1000, "é" * 1000, "👍" * 1000, '"\\' * 500, "\r\n", "null", "%_%"]
NAMES += ["\\u0000", "</script>", ":name ?1 '; DROP TABLE task", "e\u0301 is not \u00e9"]
NAMES += ["\u202e\u2028\ufeff\U0010ffff \ud7ff\ue000\uffff", "".join(map(chr, range(1000)))]
DONES = "true 1 1.0 1e0 10e-1 1.00000000000000000000000001"
NOT_DONES = "false 0 -0 0.0 -0.0 0e400 1e-400"
WORDS = "true t yes y on 1 TRUE True tRuE T YES Y ON On"
NOT_WORDS = "false f no n off 0 FALSE False fAlSe F NO N OFF oFf"
SAME_BODIES = [
    b' \r\n\t{ "name" : "milk" ,\n"done" : false } \n',
    b'\xef\xbb\xbf{"done":[],"name":5,"name":"milk","done":false}',
    b'{"n\\u0061me":"mil\\u006B","done":false,"id":99,"":{},"Name":"x","nested":{"name":"x"}}',
    b'{"name":"milk","done":false,"big":1e400,"long":%s,"half":"\\ud800"}' % (b"1" * 4300),
    b'{"key":"x","request":"x","expected":"x","name":"milk","done":false}',
]
JSON_TYPES = ["application/json", "Application/JSON", "application/json; charset=utf-8"]
JSON_TYPES += ["application/json ;x=y", "application/merge-patch+json", "application/x.v1+JSON;q"]


def test_the_short_answers(client):
    check(client.get("/"), "Hello, world!")
    check(client.get("/info"), "starlette")
    check(client.get("/healthz"), {"status": "ok"}, cache_control="no-store")


def test_post_creates_a_task_and_says_where(client):
    for id, path in enumerate(("/tasks", "/tasks/"), 1):
        answer = client.post(path, {"done": True, "name": "bread"})
        check_tagged(answer, {**BREAD, "id": id}, location=f"/tasks/{id}")
        check_tagged(client.get(f"/tasks/{id}"), answer.json())


def test_put_replaces_a_task(client):
    old = client.create()
    answer = client.put("/tasks/1", BREAD)
    check_tagged(answer, {**BREAD, "id": 1})
    assert tag(answer) != tag(old)
    assert client.get("/tasks/1").content == answer.content


@pytest.mark.parametrize(("patch", "changed"), PATCHES)
def test_patch_changes_what_it_names(client, patch, changed):
    old = client.create()
    answer = client.patch("/tasks/1", patch, content_type="application/merge-patch+json")
    check_tagged(answer, {**old.json(), **changed})
    assert (tag(answer) != tag(old)) == bool(changed)
    assert client.get("/tasks/1").content == answer.content


def test_delete_answers_1_and_the_task_is_gone(client):
    client.create()
    kept = client.create().json()
    check(client.request("DELETE", "/tasks/1", b"{"), 1)  # a body that it does not want
    for method in ("GET", "DELETE"):
        check_error(client.request(method, "/tasks/1"), 404, "Task not found")
    assert client.tasks() == [kept]


@pytest.mark.parametrize(("word", "deleted"), [("true", 3), ("NO", 2), ("1", 3), ("off", 2)])
def test_delete_by_done_answers_how_many(client, word, deleted):
    for path in ("/tasks", "/tasks/"):
        insert(client.db, [("x", done) for done in (True, False, True, False, True)])
        check(client.delete(f"{path}?done={word}"), deleted)
        assert {task["done"] for task in client.tasks()} == {deleted == 2}
        check(client.delete(f"{path}?done={word}"), 0)


def test_an_id_is_never_given_twice(start):
    client = start()
    ids = []
    for path in ("/tasks/3", "/tasks?done=false", "/tasks/7"):
        ids += [client.create().json()["id"] for _ in range(3)]
        client.delete(path)
    client.delete("/tasks?done=false")
    client.close()
    ids.append(client.open().create().json()["id"])
    assert ids == sorted(set(ids))


def test_a_body_never_chooses_the_task(client):
    first = client.create().json()
    client.create()
    for answer in (client.put("/tasks/2", {**BREAD, "id": 1}), client.patch("/tasks/2", first)):
        assert answer.json()["id"] == 2
    assert client.post("/tasks", first).json()["id"] == 3
    assert client.get("/tasks/1").json() == first


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_name_comes_back_exactly(client, name):
    task = {"name": name, "done": True}
    for id, body in enumerate([compact(task), json.dumps(task).encode()], 1):  # escaped, too
        path, expected = f"/tasks/{id}", compact({**task, "id": id})
        for method, target in [("POST", "/tasks"), ("PUT", path), ("PATCH", path), ("GET", path)]:
            assert client.request(method, target, body).content == expected
        assert client.get(f"/tasks?after={id - 1}").content == b"[%s]" % expected


@pytest.mark.parametrize(
    ("done", "values", "words"), [(True, DONES, WORDS), (False, NOT_DONES, NOT_WORDS)]
)
def test_done_takes_booleans_numbers_and_words(client, done, values, words):
    client.create()
    for value in values.split() + [f'"{word}"' for word in words.split()]:
        body = f'{{"name":"x","done":{value}}}'.encode()
        for method, path in BODY_ROUTES:
            client.put("/tasks/1", {"name": "x", "done": not done})
            assert client.request(method, path, body).json()["done"] is done


@pytest.mark.parametrize("body", SAME_BODIES, ids=lambda body: repr(body)[:40])
def test_bodies_that_mean_the_same(client, body):
    expected = {**TASK, "id": 1}
    check_tagged(client.post("/tasks", body), expected, location="/tasks/1")
    for method in ("PUT", "PATCH"):
        client.put("/tasks/1", BREAD)
        check_tagged(client.request(method, "/tasks/1", body), expected)


@pytest.mark.parametrize("content_type", JSON_TYPES)
def test_content_types_of_json(client, content_type):
    for method, path in BODY_ROUTES:
        assert client.request(method, path, content_type=content_type).status_code == 200
