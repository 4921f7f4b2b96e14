"""ETag, If-Match and If-None-Match, in the order of RFC 9110, section 13.2.2."""

import pytest
from assertions import (
    assert_empty,
    assert_error,
    assert_head,
    assert_json,
    assert_not_modified,
    assert_page,
    assert_status,
    assert_task,
    assert_tasks,
    etag_of,
    headers_of,
)
from database import insert_tasks, read_tasks

IF_MATCH_FAILED = "If-Match does not hold: the current ETag is not in it"
IF_NONE_MATCH_FAILED = "If-None-Match does not hold: it matches what is there now"
NO_ETAG_TO_MATCH = "If-Match does not hold: there is no ETag here, and only * matches that"

BREAD = {"name": "bread", "done": True}

with_every_write = pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
with_every_write_and_what_is_left = pytest.mark.parametrize(
    ("method", "after"),
    [
        ("PUT", [{"name": "bread", "done": True, "id": 1}]),
        ("PATCH", [{"name": "bread", "done": True, "id": 1}]),
        ("DELETE", []),
    ],
)
with_every_list = pytest.mark.parametrize(
    "target",
    [
        "/tasks",
        "/tasks/",
        "/tasks?limit=5",
        "/tasks?limit=1",
        "/tasks?sort=-id&limit=1",
        "/tasks?done=false",
        "/tasks?q=mil",
    ],
)


# ETag


def test_a_task_has_the_same_etag_from_every_route_and_worker(make_client):
    client = make_client()
    other_worker = make_client()
    task = {"name": "milk\x00", "done": False, "id": 1}
    etag = etag_of(client.create_task("milk\x00"))
    assert_task(client.get("/tasks/1"), task, etag=etag)
    assert_task(client.patch("/tasks/1", json={}), task, etag=etag)
    assert_task(client.put("/tasks/1", json=task), task, etag=etag)
    assert_task(other_worker.get("/tasks/1"), task, etag=etag)
    assert etag_of(client.head("/tasks/1")) == etag


@pytest.mark.parametrize(
    "change",
    [
        {"done": True},
        {"name": "bread"},
        {"name": "milk\x00"},
    ],
    ids=str,
)
def test_an_etag_changes_with_the_task_and_back(client, change):
    first = etag_of(client.create_task("milk", done=False))
    assert etag_of(client.patch("/tasks/1", json=change)) != first
    assert etag_of(client.patch("/tasks/1", json={"name": "milk", "done": False})) == first


def test_tasks_that_differ_only_in_their_id_have_different_etags(client):
    insert_tasks(client.db, [("milk", False)] * 100)
    etags = {etag_of(client.get(f"/tasks/{id}")) for id in range(1, 101)}
    assert len(etags) == 100


@with_every_list
def test_the_etag_of_a_list_changes_with_the_list(client, target):
    client.create_task("milk")
    old = client.get(target)
    client.patch("/tasks/1", json={"name": "milk and bread"})
    assert etag_of(client.get(target)) != etag_of(old)


@pytest.mark.parametrize(
    "target", ["/tasks?limit=2", "/tasks?limit=2&sort=id", "/tasks?limit=2&q=m"]
)
def test_the_etag_of_the_last_page_changes_when_another_page_follows(client, target):
    client.create_task("milk")
    client.create_task("more milk")
    last = client.get(target)
    client.create_task("milk again")
    page = client.get(target, headers={"If-None-Match": etag_of(last)})
    link = f'<{target}&after=2>; rel="next"'
    assert_page(page, last.json(), link=link)


def test_pages_with_the_same_tasks_and_different_links_have_different_etags(client):
    client.create_task()
    client.create_task()
    page = client.get("/tasks?limit=1")
    other_link = client.get("/tasks?limit=1&q=milk")
    assert page.json() == other_link.json()
    assert etag_of(page) != etag_of(other_link)


# If-Match on one task, which is compared strongly

with_etags_that_match = pytest.mark.parametrize(
    "etags",
    [
        "{etag}",
        "*",
        '"a", {etag}',
        '{etag},"a"',
        'W/"a", {etag}',
        "W/{etag}, {etag}",
        ' "a" ,\t{etag}\t',
        ', {etag},, "a"',
    ],
)
with_etags_that_do_not_match = pytest.mark.parametrize(
    "etags",
    [
        pytest.param("", id="empty"),
        '"a"',
        '"a", "b"',
        "W/{etag}",
        'W/"a", W/{etag}',
        '"*"',
        '"a", *',
        pytest.param("{bare}", id="without quotes"),
        pytest.param('"{bare}x"', id="longer at the end"),
        pytest.param('"x{bare}"', id="longer at the start"),
        pytest.param("w/{etag}", id="w in lower case"),
        pytest.param("W/ {etag}", id="a blank after W"),
        pytest.param('"a"{etag}', id="no comma"),
        pytest.param('"a" {etag}', id="a blank for a comma"),
        pytest.param("{etag};q=1", id="a parameter"),
    ],
)


def fill_in(etags, etag):
    """Return a header value of a table with this ETag in place of `{etag}` or `{bare}`."""
    return etags.format(etag=etag, bare=etag.strip('"'))


@with_every_write_and_what_is_left
@with_etags_that_match
def test_a_write_is_carried_out_if_if_match_has_the_etag(client, method, after, etags):
    task = client.create_task("milk")
    headers = {"If-Match": fill_in(etags, etag_of(task))}
    assert_status(client.request(method, "/tasks/1", json=BREAD, headers=headers), 200)
    assert_tasks(client.list_tasks(), after)


@with_every_write
@with_etags_that_do_not_match
def test_a_write_is_412_if_if_match_lacks_the_etag(client, method, etags):
    task = client.create_task("milk")
    headers = {"If-Match": fill_in(etags, etag_of(task))}
    response = client.request(method, "/tasks/1", json=BREAD, headers=headers)
    assert_error(response, 412, IF_MATCH_FAILED, etag=etag_of(task))
    assert client.list_tasks() == [task.json()]


@with_etags_that_match
def test_a_read_is_answered_if_if_match_has_the_etag(client, etags):
    etag = etag_of(client.create_task("milk"))
    headers = {"If-Match": fill_in(etags, etag)}
    response = client.get("/tasks/1", headers=headers)
    assert_task(response, {"name": "milk", "done": False, "id": 1}, etag=etag)
    assert_head(client.head("/tasks/1", headers=headers), response)


@with_etags_that_do_not_match
def test_a_read_is_412_if_if_match_lacks_the_etag(client, etags):
    task = client.create_task()
    headers = {"If-Match": fill_in(etags, etag_of(task))}
    response = client.get("/tasks/1", headers=headers)
    assert_error(response, 412, IF_MATCH_FAILED, etag=etag_of(task))


def test_a_head_with_a_false_if_match_has_the_headers_of_the_get(client):
    client.create_task()
    headers = {"If-Match": '"a"'}
    response = client.get("/tasks/1", headers=headers)
    assert_status(response, 412)
    assert_head(client.head("/tasks/1", headers=headers), response)


# If-None-Match on one task, which is compared weakly

with_known_etags = pytest.mark.parametrize(
    "etags",
    [
        "{etag}",
        "*",
        "W/{etag}",
        '"a", {etag}',
        '{etag},"a"',
        '"a",W/{etag} , "b"',
        'W/"a",\t{etag}',
    ],
)
with_unknown_etags = pytest.mark.parametrize(
    "etags",
    [
        pytest.param("", id="empty"),
        '"a"',
        'W/"a"',
        '"a", "b"',
        '"*"',
        pytest.param("{bare}", id="without quotes"),
        pytest.param('"{bare}x"', id="longer at the end"),
        pytest.param('"x{bare}"', id="longer at the start"),
    ],
)


@with_known_etags
def test_a_read_is_304_if_if_none_match_has_the_etag(client, etags):
    etag = etag_of(client.create_task())
    headers = {"If-None-Match": fill_in(etags, etag)}
    assert_not_modified(client.get("/tasks/1", headers=headers), etag)
    assert_not_modified(client.head("/tasks/1", headers=headers), etag)


@with_unknown_etags
def test_a_read_is_answered_if_if_none_match_lacks_the_etag(client, etags):
    etag = etag_of(client.create_task("milk"))
    headers = {"If-None-Match": fill_in(etags, etag)}
    response = client.get("/tasks/1", headers=headers)
    assert_task(response, {"name": "milk", "done": False, "id": 1}, etag=etag)
    assert_head(client.head("/tasks/1", headers=headers), response)


@with_every_write
@with_known_etags
def test_a_write_is_412_if_if_none_match_has_the_etag(client, method, etags):
    task = client.create_task("milk")
    headers = {"If-None-Match": fill_in(etags, etag_of(task))}
    response = client.request(method, "/tasks/1", json=BREAD, headers=headers)
    assert_error(response, 412, IF_NONE_MATCH_FAILED, etag=etag_of(task))
    assert client.list_tasks() == [task.json()]


@with_every_write_and_what_is_left
@with_unknown_etags
def test_a_write_is_carried_out_if_if_none_match_lacks_the_etag(client, method, after, etags):
    task = client.create_task("milk")
    headers = {"If-None-Match": fill_in(etags, etag_of(task))}
    assert_status(client.request(method, "/tasks/1", json=BREAD, headers=headers), 200)
    assert_tasks(client.list_tasks(), after)


# Both headers, and headers on several lines


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("if_none_match", ["{etag}", '"a"'])
def test_a_false_if_match_is_named_whatever_if_none_match_is(client, method, if_none_match):
    etag = etag_of(client.create_task())
    headers = {"If-Match": '"a"', "If-None-Match": fill_in(if_none_match, etag)}
    response = client.request(method, "/tasks/1", json=BREAD, headers=headers)
    assert_error(response, 412, IF_MATCH_FAILED, etag=etag)


def test_if_none_match_is_checked_after_an_if_match_that_holds(client):
    etag = etag_of(client.create_task())
    headers = {"If-Match": etag, "If-None-Match": etag}
    assert_not_modified(client.get("/tasks/1", headers=headers), etag)
    response = client.put("/tasks/1", json=BREAD, headers=headers)
    assert_error(response, 412, IF_NONE_MATCH_FAILED, etag=etag)


def test_a_request_is_carried_out_if_both_headers_hold(client):
    etag = etag_of(client.create_task("milk"))
    headers = {"If-Match": etag, "If-None-Match": '"a"'}
    response = client.get("/tasks/1", headers=headers)
    assert_task(response, {"name": "milk", "done": False, "id": 1})
    response = client.put("/tasks/1", json=BREAD, headers=headers)
    assert_task(response, {"name": "bread", "done": True, "id": 1})


@pytest.mark.parametrize(
    "lines", [['"a"', "{etag}"], ["{etag}", '"a"'], ['"a", "b"', '{etag}, "c"']]
)
def test_the_lines_of_a_header_are_one_list(client, lines):
    etag = etag_of(client.create_task("milk"))
    if_match = [("If-Match", fill_in(line, etag)) for line in lines]
    response = client.patch("/tasks/1", json={}, headers=if_match)
    assert_task(response, {"name": "milk", "done": False, "id": 1}, etag=etag)
    if_none_match = [("If-None-Match", fill_in(line, etag)) for line in lines]
    assert_not_modified(client.get("/tasks/1", headers=if_none_match), etag)


# Where there is no task


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize("etags", ["*", '"a"'])
def test_a_missing_task_is_404_whatever_the_precondition(client, method, name, etags):
    response = client.request(method, "/tasks/1", json=BREAD, headers={name: etags})
    assert_error(response, 404, "Task not found")


@with_every_write
@pytest.mark.parametrize("etags", ["*", '"a"'])
def test_a_conditional_write_is_404_though_its_task_is_created_meanwhile(
    make_client, method, etags
):
    client = make_client()
    with client.hold_writes():
        creating = client.begin("POST", "/tasks", json={"name": "milk", "done": False})
        writing = client.begin(method, "/tasks/1", json=BREAD, headers={"If-Match": etags})
    assert_error(writing.result(10), 404, "Task not found")
    task = creating.result(10).json()
    assert client.list_tasks() == [task]


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize("etags", ["*", '"a"'])
def test_post_ignores_preconditions(client, name, etags):
    response = client.post("/tasks", json=BREAD, headers={name: etags})
    assert_task(response, {"name": "bread", "done": True, "id": 1}, location="/tasks/1")


# Lists


@with_every_list
@pytest.mark.parametrize("etags", ["{etag}", "*", "W/{etag}", '"a", {etag}'])
def test_a_list_is_304_if_if_none_match_has_its_etag(client, target, etags):
    client.create_task("milk")
    client.create_task("milk")
    etag = etag_of(client.get(target))
    headers = {"If-None-Match": fill_in(etags, etag)}
    assert_not_modified(client.get(target, headers=headers), etag)
    assert_not_modified(client.head(target, headers=headers), etag)


@with_every_list
def test_a_list_is_answered_if_if_match_has_its_etag(client, target):
    client.create_task("milk")
    response = client.get(target)
    assert_page(client.get(target, headers={"If-Match": etag_of(response)}), response.json())


@with_every_list
@pytest.mark.parametrize("etags", ['"a"', "W/{etag}"])
def test_a_list_is_412_if_if_match_lacks_its_etag(client, target, etags):
    client.create_task("milk")
    etag = etag_of(client.get(target))
    response = client.get(target, headers={"If-Match": fill_in(etags, etag)})
    assert_error(response, 412, IF_MATCH_FAILED, etag=etag)


@pytest.mark.parametrize("headers", [{"If-Match": "*"}, {"If-None-Match": '"a"'}], ids=str)
def test_a_streamed_list_is_answered_if_its_precondition_holds(client, headers):
    insert_tasks(client.db, [("milk", False)] * 301)
    response = client.get("/tasks", headers=headers)
    assert_status(response, 200)
    assert response.json() == read_tasks(client.db)
    assert headers_of(response) == {"content-type": "application/json"}


def test_a_streamed_list_has_no_etag_that_if_match_could_have(client):
    insert_tasks(client.db, [("milk", False)] * 301)
    response = client.get("/tasks", headers={"If-Match": '"a"'})
    assert_error(response, 412, NO_ETAG_TO_MATCH)


def test_a_streamed_list_is_304_if_if_none_match_is_a_star(client):
    insert_tasks(client.db, [("milk", False)] * 301)
    response = client.get("/tasks", headers={"If-None-Match": "*"})
    assert_empty(response, 304, cache_control="no-cache")


# DELETE /tasks


def test_delete_by_done_is_carried_out_if_if_match_is_a_star(client):
    client.create_task("milk", done=True)
    assert_json(client.delete("/tasks?done=true", headers={"If-Match": "*"}), 1)
    assert client.list_tasks() == []


@pytest.mark.parametrize("etags", ['"a"', "{etag}", "W/{etag}", '"a", {etag}'])
def test_delete_by_done_is_412_for_any_other_if_match(client, etags):
    task = client.create_task("milk", done=True)
    etag = etag_of(client.get("/tasks?done=true"))
    headers = {"If-Match": fill_in(etags, etag)}
    response = client.delete("/tasks?done=true", headers=headers)
    assert_error(response, 412, NO_ETAG_TO_MATCH)
    assert client.list_tasks() == [task.json()]


def test_delete_by_done_is_412_if_if_none_match_is_a_star(client):
    task = client.create_task("milk", done=True)
    response = client.delete("/tasks?done=true", headers={"If-None-Match": "*"})
    assert_error(response, 412, IF_NONE_MATCH_FAILED)
    assert client.list_tasks() == [task.json()]


def test_delete_by_done_is_carried_out_for_any_other_if_none_match(client):
    client.create_task("milk", done=True)
    etag = etag_of(client.get("/tasks?done=true"))
    assert_json(client.delete("/tasks?done=true", headers={"If-None-Match": etag}), 1)
    assert client.list_tasks() == []


# Races


@pytest.fixture(params=[1, 3], ids=["one worker", "three workers"])
def workers(request, make_client):
    """Clients of applications that share a file."""
    return [make_client() for _ in range(request.param)]


def send_together(workers, method, etag):
    """Send 12 writes with this If-Match; return the responses, those with the status 200 first."""
    with workers[0].hold_writes():
        pending = [
            workers[number % len(workers)].begin(
                method,
                "/tasks/1",
                json={"name": f"name {number}", "done": True},
                headers={"If-Match": etag},
            )
            for number in range(12)
        ]
    responses = [response.result(30) for response in pending]
    return sorted(responses, key=lambda response: response.status_code)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_of_many_changes_with_one_etag_exactly_one_is_made(workers, method):
    etag = etag_of(workers[0].create_task("milk"))
    winner, *losers = send_together(workers, method, etag)
    [task] = workers[0].list_tasks()
    assert_task(winner, task)
    for response in losers:
        assert_error(response, 412, IF_MATCH_FAILED, etag=etag_of(winner))


def test_of_many_deletions_with_one_etag_exactly_one_is_made(workers):
    etag = etag_of(workers[0].create_task("milk"))
    winner, *losers = send_together(workers, "DELETE", etag)
    assert_json(winner, 1)
    for response in losers:
        assert_error(response, 404, "Task not found")


@with_every_write
def test_if_match_is_compared_with_the_task_at_the_time_of_the_write(client, method):
    etag = etag_of(client.create_task("milk"))
    with client.hold_writes():
        first = client.begin("PATCH", "/tasks/1", json={"name": "bread"})
        second = client.begin(method, "/tasks/1", json=BREAD, headers={"If-Match": etag})
    assert_error(second.result(10), 412, IF_MATCH_FAILED, etag=etag_of(first.result(10)))
    assert client.list_tasks() == [first.result(10).json()]


@with_every_write
def test_if_none_match_is_compared_with_the_task_at_the_time_of_the_write(client, method):
    client.create_task("milk")
    etag = etag_of(client.patch("/tasks/1", json={"name": "bread"}))
    client.patch("/tasks/1", json={"name": "milk"})
    with client.hold_writes():
        first = client.begin("PATCH", "/tasks/1", json={"name": "bread"})
        second = client.begin(method, "/tasks/1", json=BREAD, headers={"If-None-Match": etag})
    assert_error(second.result(10), 412, IF_NONE_MATCH_FAILED, etag=etag)
    assert client.list_tasks() == [first.result(10).json()]


@with_every_write
def test_a_task_that_is_deleted_meanwhile_is_404(client, method):
    etag = etag_of(client.create_task("milk"))
    with client.hold_writes():
        first = client.begin("DELETE", "/tasks/1")
        second = client.begin(method, "/tasks/1", json=BREAD, headers={"If-Match": etag})
    assert_json(first.result(10), 1)
    assert_error(second.result(10), 404, "Task not found")


@with_every_write_and_what_is_left
def test_a_task_that_changes_and_changes_back_meanwhile_still_matches(client, method, after):
    etag = etag_of(client.create_task("milk"))
    with client.hold_writes():
        there = client.begin("PATCH", "/tasks/1", json={"name": "bread"})
        conditional = client.begin(method, "/tasks/1", json=BREAD, headers={"If-Match": etag})
        back = client.begin("PATCH", "/tasks/1", json={"name": "milk"})
    assert_task(there.result(10), {"name": "bread", "done": False, "id": 1})
    assert_task(back.result(10), {"name": "milk", "done": False, "id": 1})
    assert_status(conditional.result(10), 200)
    assert_tasks(client.list_tasks(), after)


def test_a_task_that_always_has_one_of_the_listed_etags_always_matches(workers):
    milk = workers[0].create_task("milk")
    bread = workers[0].patch("/tasks/1", json={"name": "bread"})
    headers = {"If-Match": f"{etag_of(milk)}, {etag_of(bread)}"}
    pending = []
    with workers[0].hold_writes():
        for number in range(12):
            worker = workers[number % len(workers)]
            name = ["milk", "bread"][number % 2]
            pending.append(worker.begin("PATCH", "/tasks/1", json={"name": name}))
            pending.append(worker.begin("PATCH", "/tasks/1", json={}, headers=headers))
    for response in pending:
        assert_status(response.result(30), 200)
        assert response.result().json() in (milk.json(), bread.json())
