"""Random sequences of all operations, compared with a model: a dictionary of tasks and one of keys."""

import sqlite3
import string
from collections.abc import Mapping
from contextlib import closing
from typing import Any, ClassVar
from urllib.parse import parse_qs

import httpx
import pytest
from conftest import Server
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from test_errors import JSON, check_error, compact, strict

Task = dict[str, Any]
LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

text = st.one_of(st.sampled_from(["", "milk", "Milk", "bread\x00", "é%_"]), st.text(max_size=8))
done = st.booleans()
which = st.integers(0, 9)  # which of the tasks that there were, from the last
conditions = st.sampled_from(["none", "none", "current", "weak", "old", "star", "list"])
key = st.sampled_from(["a", "b", "c"])
query = st.fixed_dictionaries(
    {},
    optional={
        "done": done,
        "q": st.sampled_from(["", "m", "MILK", "\x00", "%", "é", "z"]),
        "limit": st.integers(1, 4),
        "after": which,
    },
)


class Tasks(RuleBasedStateMachine):
    """The server and the model do the same; what a rule does not compare at once, `same_list` does after it."""

    server: ClassVar[Server]

    @initialize()
    def start(self) -> None:
        self.client = self.server.client()
        for word in ("true", "false"):
            self.client.delete("/tasks", params={"done": word})
        self.tasks: dict[int, Task] = {}
        self.keys: dict[str, tuple[str, bool, int]] = {}
        self.tags: dict[bytes, str] = {}
        self.ids: list[int] = [0]

    def teardown(self) -> None:
        self.client.close()

    def send(self, method: str, path: str, body: object = None, headers: Mapping[str, str] = {}) -> httpx.Response:
        content = None if body is None else compact(body)
        return self.client.request(method, path, content=content, headers={**JSON, **headers})

    def nth(self, which: int) -> int:
        return self.ids[-1 - which % len(self.ids)]

    def same_task(self, answer: httpx.Response, id: int) -> None:
        assert (answer.status_code, answer.content) == (200, compact(self.tasks[id]))
        assert self.tags.setdefault(answer.content, answer.headers["etag"]) == answer.headers["etag"]
        assert len(set(self.tags.values())) == len(self.tags)

    def forget(self, ids: list[int]) -> None:
        for id in ids:
            del self.tasks[id]
        self.keys = {key: made for key, made in self.keys.items() if made[2] in self.tasks}

    def if_match(self, name: str, id: int) -> tuple[dict[str, str], bool]:
        """The header for a condition, and whether it holds."""
        current = self.tags[compact(self.tasks[id])] if id in self.tasks else '"gone"'
        old = [tag for tag in self.tags.values() if tag != current] or ['"old"']
        value = {"current": current, "weak": f"W/{current}", "old": old[0], "star": "*"}.get(name)
        value = f"{old[0]}, W/{old[0]}, {current}" if name == "list" else value
        return {"if-match": value} if value else {}, name in ("none", "current", "star", "list")

    @rule(name=text, done=done)
    def create(self, name: str, done: bool) -> None:
        self.created(self.send("POST", "/tasks", {"name": name, "done": done}), name, done)

    def created(self, answer: httpx.Response, name: str, done: bool) -> int:
        id = int(answer.json()["id"])
        assert id > max(self.ids)
        assert answer.headers["location"] == f"/tasks/{id}"
        self.ids.append(id)
        self.tasks[id] = {"name": name, "done": done, "id": id}
        self.same_task(answer, id)
        return id

    @rule(key=key, name=st.sampled_from(["x", "y"]), done=done)
    def create_once(self, key: str, name: str, done: bool) -> None:
        answer = self.send("POST", "/tasks", {"name": name, "done": done}, {"idempotency-key": key})
        if key not in self.keys:
            self.keys[key] = name, done, self.created(answer, name, done)
        elif self.keys[key][:2] == (name, done):
            self.same_task(answer, self.keys[key][2])
        else:
            check_error(answer, 422)
            assert answer.json()["detail"][0]["type"] == "idempotency_key_reused"

    @rule(which=which)
    def read(self, which: int) -> None:
        id = self.nth(which)
        answer, head = self.client.get(f"/tasks/{id}"), self.client.head(f"/tasks/{id}")
        assert (head.status_code, head.headers.get("etag")) == (answer.status_code, answer.headers.get("etag"))
        if id not in self.tasks:
            return check_error(answer, 404, "Task not found")
        self.same_task(answer, id)
        again = self.client.get(f"/tasks/{id}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        return None

    @rule(which=which, name=text, done=done, condition=conditions)
    def replace(self, which: int, name: str, done: bool, condition: str) -> None:
        self.change("PUT", self.nth(which), {"name": name, "done": done}, condition)

    @rule(
        which=which,
        body=st.fixed_dictionaries({}, optional={"name": text, "done": done, "id": which}),
        condition=conditions,
    )
    def patch(self, which: int, body: dict[str, Any], condition: str) -> None:
        self.change("PATCH", self.nth(which), body, condition)

    @rule(which=which, condition=conditions)
    def delete(self, which: int, condition: str) -> None:
        self.change("DELETE", self.nth(which), None, condition)

    def change(self, method: str, id: int, body: dict[str, Any] | None, condition: str) -> None:
        headers, holds = self.if_match(condition, id)
        answer = self.send(method, f"/tasks/{id}", body, headers)
        if id not in self.tasks:
            check_error(answer, 404, "Task not found")
        elif not holds:
            check_error(answer, 412)
        elif body is None:
            assert (answer.status_code, answer.content) == (200, b"1")
            self.forget([id])
        else:
            self.tasks[id] = {**self.tasks[id], **body, "id": id}
            self.same_task(answer, id)

    @rule(done=done)
    def delete_many(self, done: bool) -> None:
        ids = [id for id, task in self.tasks.items() if task["done"] is done]
        answer = self.client.delete("/tasks", params={"done": str(done).lower()})
        assert (answer.status_code, answer.content) == (200, b"%d" % len(ids))
        self.forget(ids)

    @rule(query=query)
    def filter(self, query: dict[str, Any]) -> None:
        wanted, after = query.get("q", "").translate(LOWER), self.nth(query.get("after", 0)) if "after" in query else 0
        found = [task for id, task in self.tasks.items() if id > after and wanted in task["name"].translate(LOWER)]
        found = [task for task in found if task["done"] is query.get("done", task["done"])]
        page = found[: query.get("limit")]
        answer = self.client.get("/tasks", params={**query, "after": after})
        assert (answer.status_code, answer.content) == (200, compact(page))
        assert ("link" in answer.headers) == (len(page) < len(found))
        if page != found:
            link = parse_qs(answer.headers["link"].partition("?")[2].partition(">")[0], keep_blank_values=True)
            assert link["after"] == [str(page[-1]["id"])]

    @invariant()
    def same_list(self) -> None:
        if hasattr(self, "tasks"):
            assert strict(self.client.get("/tasks").content) == [*self.tasks.values()]


@pytest.fixture(scope="module")
def tasks(server: Server) -> type[Tasks]:
    return type("Tasks", (Tasks,), {"server": server})


def test_the_server_does_what_the_model_does(tasks: type[Tasks]) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        tasks,
        settings=settings(
            max_examples=20, stateful_step_count=40, deadline=None, database=None, suppress_health_check=checks
        ),
    )


def test_the_file_is_sound_afterwards(server: Server) -> None:
    with closing(sqlite3.connect(server.db)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
