"""Random sequences of requests to tasks that exist, or nearly, compared with a model."""

import string
from typing import Any, ClassVar

import pytest
from helpers import Client, check, check_error, check_tagged, compact, entry, tag
from hypothesis import HealthCheck, settings, stateful
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

names = st.sampled_from(["", "milk", "Milk", "bread\x00", "é%_"]) | st.text(max_size=8)
dones = st.booleans()
written = st.sampled_from([(True, True), ("on", True), (1, True), (0.0, False), ("No", False)])
which = st.integers(0, 6)  # which of all tasks that there were, from the last
bodies = st.fixed_dictionaries({"name": names, "done": dones}, optional={"id": which})
patches = st.fixed_dictionaries({}, optional={"name": names, "done": dones, "id": which})
requests = st.tuples(st.just("PUT"), bodies) | st.tuples(st.just("PATCH"), patches)
requests |= st.sampled_from([("DELETE", b""), ("GET", {})])
conditions = st.sampled_from(["none", "none", "current", "weak", "old", "star", "list"])


class Tasks(RuleBasedStateMachine):
    """The server and the model do the same: a dictionary of tasks, and one of keys."""

    client: ClassVar[Client]

    @initialize()
    def start(self):
        for word in ("true", "false"):
            self.client.delete(f"/tasks?done={word}")
        self.tasks: dict[int, dict[str, Any]] = {}
        self.keys: dict[str, tuple[object, object, int]] = {}
        self.tags: dict[bytes, str] = {}
        self.ids = [self.client.create().json()["id"]]
        self.client.delete(f"/tasks/{self.ids[0]}")

    def same_task(self, answer, id, **headers):
        """The answer is the task; a tag belongs to one representation, and it to the tag."""
        check_tagged(answer, self.tasks[id], **headers)
        assert self.tags.setdefault(answer.content, tag(answer)) == tag(answer)
        assert len(set(self.tags.values())) == len(self.tags)

    def created(self, answer, name, done):
        id = int(answer.json()["id"])
        assert id > max(self.ids)
        self.ids.append(id)
        self.tasks[id] = {"name": name, "done": done, "id": id}
        self.same_task(answer, id, location=f"/tasks/{id}")
        return id

    def nth(self, which):
        return self.ids[-1 - which % len(self.ids)]

    def forget(self, *ids):
        for id in ids:
            del self.tasks[id]
        self.keys = {key: made for key, made in self.keys.items() if made[2] in self.tasks}

    def if_match(self, condition, id):
        current = self.tags[compact(self.tasks[id])] if id in self.tasks else '"gone"'
        old = next((tag for tag in self.tags.values() if tag != current), '"old"')
        values = {"current": current, "weak": f"W/{current}", "old": old, "star": "*"}
        values["list"] = f"{old}, W/{old}, {current}"
        return {} if condition == "none" else {"if_match": values[condition]}

    @rule(name=names, done=written)
    def create(self, name, done):
        answer = self.client.post("/tasks", {"name": name, "done": done[0]})
        self.created(answer, name, done[1])

    @rule(key=st.sampled_from("abc"), name=st.sampled_from("xy"), done=dones)
    def create_once(self, key, name, done):
        answer = self.client.post("/tasks", {"name": name, "done": done}, idempotency_key=key)
        if key not in self.keys:
            self.keys[key] = name, done, self.created(answer, name, done)
        elif self.keys[key][:2] == (name, done):
            self.same_task(answer, self.keys[key][2], location=f"/tasks/{self.keys[key][2]}")
        else:
            error = entry("idempotency_key_reused", "header idempotency-key", key)
            check_error(answer, 422, [error])

    @rule(which=which, request=requests, condition=conditions)
    def read_or_change(self, which, request, condition):
        id, (method, body) = self.nth(which), request
        headers = self.if_match(condition, id)
        answer = self.client.request(method, f"/tasks/{id}", body, **headers)
        if id not in self.tasks:
            check_error(answer, 404, "Task not found")
        elif condition in ("weak", "old") and method != "GET":
            check_error(answer, 412, etag=self.tags[compact(self.tasks[id])])
        elif method == "DELETE":
            check(answer, 1)
            self.forget(id)
        else:
            self.tasks[id] |= {**body, "id": id}
            self.same_task(answer, id)

    @rule(done=dones)
    def delete_by_done(self, done):
        ids = [id for id, task in self.tasks.items() if task["done"] is done]
        check(self.client.delete(f"/tasks?done={done}"), len(ids))
        self.forget(*ids)

    @invariant()
    def same_list(self):
        if hasattr(self, "tasks"):
            assert self.client.tasks() == [*self.tasks.values()]


@pytest.mark.parametrize("examples", [10, pytest.param(150, marks=pytest.mark.slow)])
def test_the_server_does_what_the_model_does(client, examples):
    machine = type("Machine", (Tasks,), {"client": client})
    given = {"stateful_step_count": 40, "deadline": None, "suppress_health_check": HealthCheck}
    chosen = settings(max_examples=examples, database=None, **given)
    stateful.run_state_machine_as_test(machine, settings=chosen)
