"""A checker for histories: could the requests have been executed one at a time?

A history holds all requests with one Idempotency-Key, and all requests to the tasks that the key
created. Each request takes effect at one moment between its beginning and its end. A request
whose outcome is unknown (the connection broke, or a 503) may take effect at any later moment, or
never.

The search is Wing and Gong's ("Testing and Verifying Concurrent Objects", 1993): try every order,
and go back where an answer does not fit. No situation is looked at twice (Lowe, "Testing for
Linearizability", 2017).
"""

from dataclasses import dataclass
from typing import NamedTuple

SITUATIONS_LIMIT = 200_000  # A history that fits needs some thousands.
LINES_BEFORE = 8  # How many operations before the one that does not fit are shown.


class Value(NamedTuple):
    """The writable fields of a task. None stands for a field that a PATCH leaves out."""

    name: str | None
    done: bool | None

    def __str__(self):
        fields = ["-" if field is None else str(field) for field in self]
        return "/".join(fields)


class Request(NamedTuple):
    """A request. Its preconditions are "*" or a tuple of the values whose ETags are listed."""

    method: str
    id: int | None = None  # None for a POST, which has the key instead
    value: Value | None = None  # the body
    if_match: tuple[Value, ...] | str | None = None
    if_none_match: tuple[Value, ...] | str | None = None

    def __str__(self):
        words = [self.method]
        if self.id is not None:
            words.append(f"/tasks/{self.id}")
        if self.value is not None:
            words.append(str(self.value))
        if self.if_match is not None:
            words.append(f"If-Match: {', '.join(map(str, self.if_match))}")
        if self.if_none_match is not None:
            words.append(f"If-None-Match: {', '.join(map(str, self.if_none_match))}")
        return " ".join(words)


class Answer(NamedTuple):
    """An answer. Its tag is the value that the ETag belongs to; a string if there is none."""

    status: int
    id: int | None = None
    value: Value | None = None
    tag: Value | str | None = None

    def __str__(self):
        words = [str(self.status)]
        if self.value is not None:
            words.append(f"task {self.id} {self.value}")
        if self.tag is not None:
            words.append(f"ETag: {self.tag}")
        return " ".join(words)


@dataclass(eq=False)  # Two operations with the same content are not the same operation.
class Operation:
    """A request with the seconds when it began and ended, and its answer (None if unknown)."""

    began: float
    ended: float
    client: int
    request: Request
    answer: Answer | None

    def __str__(self):
        times = f"{self.began * 1000:8.1f} {self.ended * 1000:8.1f}"
        return f"{times}  client {self.client:2}  {self.request} -> {self.answer or 'unknown'}"


class TaskState(NamedTuple):
    """The task that the key stands for. Its value is None before it is created and once deleted."""

    id: int | None = None  # None until an answer tells it
    created_as: Value | None = None
    value: Value | None = None

    def __str__(self):
        return "no task" if self.value is None else f"task {self.id or '?'} {self.value}"


class NotLinearizable(AssertionError):
    """No order of the operations explains their answers."""


class Undecided(Exception):
    """The history is too large for the search."""


def check_history(history):
    """Raise NotLinearizable if no order of the operations explains their answers, or Undecided."""
    unknown = [operation for operation in history if operation.answer is None]
    answered = [operation for operation in history if operation.answer is not None]
    answered.sort(key=lambda operation: operation.ended)
    in_flight = [
        operations_in_flight(position, answered, unknown) for position in range(len(answered))
    ]
    seen = set()
    # A situation: how many answers have been explained in the order in which they came, which of
    # the operations in flight have taken effect, and the task then. The last one is explored next.
    unexplored = [(0, frozenset(), TaskState())]
    while unexplored and len(seen) < SITUATIONS_LIMIT:
        situation = unexplored.pop()
        if situation in seen:
            continue
        seen.add(situation)
        explained, effective, task = situation
        if explained == len(answered):
            return
        next_answered = answered[explained]
        if next_answered in effective:
            unexplored.append((explained + 1, effective - {next_answered}, task))
            continue
        for operation in in_flight[explained]:
            following = None if operation in effective else task_after(operation, task)
            if following is not None:
                unexplored.append((explained, effective | {operation}, following))
                if never_writes(operation):
                    break  # It fits in here, and no order is lost: it changes nothing.
    explained = max(explained for explained, _, _ in seen)
    tasks = {str(task) for count, _, task in seen if count == explained}
    text = describe_failure(answered, explained, in_flight[explained], tasks)
    if unexplored:
        raise Undecided(f"More than {SITUATIONS_LIMIT} situations: check a shorter history. {text}")
    raise NotLinearizable(text)


def operations_in_flight(position, answered, unknown):
    """Return the operations that have begun, but have had no answer yet when one of them has.

    They are in the order that the search needs: those that never write are first, and of the others
    those with the next answers are last, because the search tries the last one first.
    """
    ended = answered[position].ended
    waiting = [*unknown, *reversed(answered[position:])]
    in_flight = [operation for operation in waiting if operation.began <= ended]
    return sorted(in_flight, key=never_writes, reverse=True)


def task_after(operation, task):
    """Return the task after an operation, or None if the operation is out of the question now.

    It is if it would have had another answer. One with an unknown outcome is out of the question
    if it would change nothing.
    """
    if operation.answer is None:
        following, _ = take_effect(operation.request, task, new_id=None)
        return None if following == task else following
    following, expected = take_effect(operation.request, task, operation.answer.id)
    return following if operation.answer == expected else None


def never_writes(operation):
    """Return whether an operation leaves the task as it is, whenever it takes effect."""
    if operation.answer is None:
        return False
    return operation.request.method == "GET" or operation.answer.status != 200


def take_effect(request, task, new_id):
    """Return the task after a request takes effect, and the answer, according to the contract.

    A task that the request creates, or whose id is not known yet, gets `new_id`.
    """
    method, id, value, if_match, if_none_match = request
    if method == "POST":
        if task.value is None:
            task = TaskState(new_id, value, value)
        if task.created_as != value:
            return task, Answer(422)
        if task.id is None:
            task = task._replace(id=new_id)
        return task, Answer(200, task.id, task.value, task.value)
    if task.value is None or task.id != id:
        return task, Answer(404)
    if if_match is not None and not lists(if_match, task.value):
        return task, Answer(412, tag=task.value)
    if if_none_match is not None and lists(if_none_match, task.value):
        return task, Answer(304 if method == "GET" else 412, tag=task.value)
    if method == "DELETE":
        return task._replace(value=None), Answer(200)
    if method == "PUT":
        task = task._replace(value=value)
    if method == "PATCH":
        name = task.value.name if value.name is None else value.name
        done = task.value.done if value.done is None else value.done
        task = task._replace(value=Value(name, done))
    return task, Answer(200, id, task.value, task.value)


def lists(condition, value):
    """Return whether a precondition lists the ETag of a value."""
    return condition == "*" or value in condition


def describe_failure(answered, explained, in_flight, tasks):
    """Return the part of a history around the first answer that could not be explained."""
    culprit = answered[explained]
    before = answered[:explained]
    beside = [operation for operation in before if operation.ended >= culprit.began]
    shown = {*before[-LINES_BEFORE:], *beside, *in_flight}
    lines = [
        f"The first {explained} answers can be explained, but not this one too:",
        f"  {culprit}",
        f"Before it ended, this was possible: {', '.join(sorted(tasks))}.",
        "The operations around it, in the order in which they began (ms; tasks as name/done):",
    ]
    for operation in sorted(shown, key=lambda operation: operation.began):
        mark = ">" if operation is culprit else " "
        lines.append(f"{mark} {operation}")
    return "\n".join(lines)
