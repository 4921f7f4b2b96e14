"""Random sequences of requests, each compared with a model of the server.

The model is a dictionary of tasks, in which a request does what the contract says.
"""

from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from assertions import (
    assert_error,
    assert_json,
    assert_not_modified,
    assert_page,
    assert_status,
    assert_task,
    entry,
    etag_of,
    json_bytes,
    whole_task,
)
from client import Client
from database import delete_all_tasks
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

IF_MATCH_FAILED = "If-Match does not hold: the current ETag is not in it"
IF_NONE_MATCH_FAILED = "If-None-Match does not hold: it matches what is there now"


class Condition(NamedTuple):
    """The value of If-Match or If-None-Match, and whether the current ETag matches it."""

    value: str
    matches_strongly: bool
    matches_weakly: bool


class ReceivedList(NamedTuple):
    """A list as it was received, for a request that asks whether it has changed."""

    query: dict[str, Any]
    tasks: list[dict[str, Any]]
    link: str | None
    etag: str


CONDITIONS = [
    Condition("{current}", True, True),
    Condition("W/{current}", False, True),
    Condition("{other}", False, False),
    Condition("W/{other}", False, False),
    Condition("*", True, True),
    Condition("{other}, W/{other}, {current}", True, True),
    Condition("{other},W/{current}", False, True),
]
DONE_WORDS = [(True, True), ("on", True), (1, True), (0.0, False), ("No", False)]

names = st.sampled_from(["", "milk", "Milk", "bread\x00", "é%_"]) | st.text(max_size=8)
any_task = st.integers(0, 6)  # counted back from the newest, whether it still exists or not
conditions = st.none() | st.sampled_from(CONDITIONS)
tasks = st.fixed_dictionaries({"name": names, "done": st.booleans()}, optional={"id": any_task})
patches = st.fixed_dictionaries({}, optional={"name": names, "done": st.booleans(), "id": any_task})
list_queries = st.fixed_dictionaries(
    {},
    optional={
        "done": st.booleans(),
        "q": st.sampled_from(["", "milk", "\x00", "é"]),
        "limit": st.integers(1, 4),
        "sort": st.sampled_from(["id", "-id"]),
        "after": st.integers(0, 12),
    },
)


class ServerMachine(RuleBasedStateMachine):
    """Requests to a server and to the model, which must not differ."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client
        self.tasks: dict[int, dict[str, Any]] = {}
        self.keys: dict[str, tuple[int, dict[str, Any]]] = {}  # by Idempotency-Key: id and body
        self.ids: list[int] = []  # of all tasks that were ever created
        self.etags: dict[bytes, str] = {}  # of all representations of tasks
        self.lists: list[ReceivedList] = []

    @initialize()
    def begin_without_tasks(self) -> None:
        delete_all_tasks(self.client.db)
        self.client.create_task()
        self.client.delete("/tasks/1")
        self.ids.append(1)

    @rule(name=names, done=st.sampled_from(DONE_WORDS))
    def create(self, name, done):
        sent, stored = done
        response = self.client.post("/tasks", json={"name": name, "done": sent})
        self.add_created(response, name, stored)

    @rule(key=st.sampled_from("abc"), name=st.sampled_from("xy"), done=st.booleans())
    def create_with_key(self, key, name, done):
        body = {"name": name, "done": done}
        response = self.client.post("/tasks", json=body, headers={"Idempotency-Key": key})
        if key not in self.keys:
            id = self.add_created(response, name, done)
            self.keys[key] = (id, body)
            return
        id, first_body = self.keys[key]
        if body == first_body:
            self.assert_same_task(response, id, location=f"/tasks/{id}")
        else:
            reused = entry("idempotency_key_reused", ["header", "idempotency-key"], key)
            assert_error(response, 422, [reused])

    @rule(number=any_task, if_match=conditions, if_none_match=conditions)
    def get(self, number, if_match, if_none_match):
        id = self.id_of(number)
        headers = self.precondition_headers(id, if_match, if_none_match)
        response = self.client.get(f"/tasks/{id}", headers=headers)
        if self.is_refused(response, id, if_match):
            return
        if if_none_match is not None and if_none_match.matches_weakly:
            assert_not_modified(response, self.etag_of_task(id))
        else:
            self.assert_same_task(response, id)

    @rule(number=any_task, body=tasks, if_match=conditions, if_none_match=conditions)
    def put(self, number, body, if_match, if_none_match):
        id = self.id_of(number)
        headers = self.precondition_headers(id, if_match, if_none_match)
        response = self.client.put(f"/tasks/{id}", json=body, headers=headers)
        if not self.is_refused(response, id, if_match, if_none_match):
            self.tasks[id] = whole_task({**body, "id": id})
            self.assert_same_task(response, id)

    @rule(number=any_task, body=patches, if_match=conditions, if_none_match=conditions)
    def patch(self, number, body, if_match, if_none_match):
        id = self.id_of(number)
        headers = self.precondition_headers(id, if_match, if_none_match)
        response = self.client.patch(f"/tasks/{id}", json=body, headers=headers)
        if not self.is_refused(response, id, if_match, if_none_match):
            self.tasks[id] = {**self.tasks[id], **body, "id": id}
            self.assert_same_task(response, id)

    @rule(number=any_task, if_match=conditions, if_none_match=conditions)
    def delete(self, number, if_match, if_none_match):
        id = self.id_of(number)
        headers = self.precondition_headers(id, if_match, if_none_match)
        response = self.client.delete(f"/tasks/{id}", headers=headers)
        if not self.is_refused(response, id, if_match, if_none_match):
            assert_json(response, 1)
            self.remove(id)

    @rule(done=st.booleans())
    def delete_by_done(self, done):
        ids = [id for id, task in self.tasks.items() if task["done"] is done]
        assert_json(self.client.delete(f"/tasks?done={done}"), len(ids))
        self.remove(*ids)

    @rule(query=list_queries)
    def get_list(self, query):
        tasks, link = self.expected_page(query)
        response = self.client.get(f"/tasks?{urlencode(query)}")
        assert_page(response, tasks, **link_header(link))
        self.lists.append(ReceivedList(query, tasks, link, etag_of(response)))

    @precondition(lambda self: self.lists)
    @rule(number=st.integers(0, 4))
    def get_a_list_again_if_it_has_changed(self, number):
        last = self.lists[-1 - number % len(self.lists)]
        tasks, link = self.expected_page(last.query)
        headers = {"If-None-Match": last.etag}
        response = self.client.get(f"/tasks?{urlencode(last.query)}", headers=headers)
        if (tasks, link) == (last.tasks, last.link):
            assert_not_modified(response, last.etag)
        else:
            assert_page(response, tasks, **link_header(link))

    @invariant()
    def all_tasks_are_the_same(self):
        assert self.client.list_tasks() == list(self.tasks.values())

    # The model

    def id_of(self, number):
        """Return the id of a task that exists or existed, counted back from the newest."""
        return self.ids[-1 - number % len(self.ids)]

    def etag_of_task(self, id):
        """Return the ETag that this task must have."""
        return self.etags[json_bytes(self.tasks[id])]

    def remove(self, *ids):
        """Delete tasks, and with them their keys."""
        for id in ids:
            del self.tasks[id]
        self.keys = {key: used for key, used in self.keys.items() if used[0] in self.tasks}

    def precondition_headers(self, id, if_match, if_none_match):
        """Return the headers for these conditions, with ETags filled in."""
        current = self.etag_of_task(id) if id in self.tasks else '"gone"'
        others = [etag for etag in self.etags.values() if etag != current]
        other = others[0] if others else '"other"'
        sent = {"If-Match": if_match, "If-None-Match": if_none_match}
        return {
            name: condition.value.format(current=current, other=other)
            for name, condition in sent.items()
            if condition is not None
        }

    def expected_page(self, query):
        """Return the tasks that a list must have, and its Link or None."""
        found = list(self.tasks.values())
        if query.get("sort") == "-id":
            found.reverse()
            found = [task for task in found if task["id"] < query.get("after", 2**63)]
        else:
            found = [task for task in found if task["id"] > query.get("after", 0)]
        if "done" in query:
            found = [task for task in found if task["done"] is query["done"]]
        if "q" in query:
            found = [task for task in found if query["q"] in ascii_lower(task["name"])]
        page = found[: query.get("limit")]
        if len(page) == len(found):
            return page, None
        others = {name: value for name, value in query.items() if name != "after"}
        rest = urlencode({**others, "after": page[-1]["id"]})
        return page, f'</tasks?{rest}>; rel="next"'

    # The comparison of a response with it

    def add_created(self, response, name, done):
        """Add the task that this response has created, and return its id, which must be new."""
        assert_status(response, 200)
        id = response.json()["id"]
        assert id > max(self.ids)
        self.ids.append(id)
        self.tasks[id] = whole_task({"name": name, "done": done, "id": id})
        self.assert_same_task(response, id, location=f"/tasks/{id}")
        return id

    def assert_same_task(self, response, id, **headers):
        """Assert that the response is the task, with an ETag that it always has, and no other."""
        assert_task(response, self.tasks[id], **headers)
        self.etags.setdefault(response.content, etag_of(response))
        assert self.etags[response.content] == etag_of(response)
        assert len(set(self.etags.values())) == len(self.etags)

    def is_refused(self, response, id, if_match, if_none_match=None):
        """Return whether a request must be 404 or 412, and assert that it is then."""
        if id not in self.tasks:
            assert_error(response, 404, "Task not found")
            return True
        if if_match is not None and not if_match.matches_strongly:
            assert_error(response, 412, IF_MATCH_FAILED, etag=self.etag_of_task(id))
            return True
        if if_none_match is not None and if_none_match.matches_weakly:
            assert_error(response, 412, IF_NONE_MATCH_FAILED, etag=self.etag_of_task(id))
            return True
        return False


def link_header(link):
    """Return the Link that a page must have as an argument of assert_page."""
    return {} if link is None else {"link": link}


def ascii_lower(text):
    """Return a text with its ASCII letters in lower case."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


@pytest.mark.parametrize("examples", [5, pytest.param(150, marks=pytest.mark.slow)])
def test_the_server_does_what_the_model_does(client, examples):
    run_state_machine_as_test(
        lambda: ServerMachine(client),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
