"""The checker of histories (linearizability.py) accepts those that it should, and no others."""

import pytest
from linearizability import (
    Answer,
    NotLinearizable,
    Operation,
    Request,
    Undecided,
    Value,
    check_history,
)

A = Value("a", False)
B = Value("a", True)
C = Value("b", False)
D = Value("b", True)


def got(value, id=1):
    """Return the answer that carries a task."""
    return Answer(200, id, value, value)


def history_of(operations):
    """Return a history, each of whose operations has a client of its own."""
    return [
        Operation(began, ended, client, request, answer)
        for client, (began, ended, request, answer) in enumerate(operations)
    ]


# An operation: when it began and ended, the request, and the answer (None: unknown).
CREATED = (0, 1, Request("POST", value=A), got(A))


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param(
            [
                CREATED,
                (2, 3, Request("PATCH", 1, Value(None, True)), got(B)),
                (4, 5, Request("PUT", 1, C, if_match=(B,)), got(C)),
                (6, 7, Request("GET", 1), got(C)),
                (8, 9, Request("DELETE", 1, if_match="*"), Answer(200)),
                (10, 11, Request("GET", 1), Answer(404)),
                (12, 13, Request("POST", value=D), got(D, id=2)),
                (14, 15, Request("GET", 1), Answer(404)),
            ],
            id="one after the other",
        ),
        pytest.param(
            [
                CREATED,
                (2, 5, Request("PUT", 1, B), got(B)),
                (3, 4, Request("GET", 1), got(A)),
            ],
            id="a read beside a write sees the task before it",
        ),
        pytest.param(
            [
                CREATED,
                (2, 5, Request("PUT", 1, B), got(B)),
                (3, 4, Request("GET", 1), got(B)),
            ],
            id="a read beside a write sees the task after it",
        ),
        pytest.param(
            [
                CREATED,
                (2, 5, Request("PUT", 1, A), got(A)),
                (3, 4, Request("PUT", 1, B), got(B)),
                (6, 7, Request("GET", 1), got(A)),
            ],
            id="a write that would change nothing at first takes effect later",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("PUT", 1, B), None),
                (4, 5, Request("GET", 1), got(A)),
                (6, 7, Request("GET", 1), got(B)),
            ],
            id="an unknown write takes effect later",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("DELETE", 1), None),
                (4, 5, Request("GET", 1), got(A)),
            ],
            id="an unknown write never takes effect",
        ),
        pytest.param(
            [
                (0, 1, Request("POST", value=A), None),
                (2, 3, Request("POST", value=B), Answer(422)),
                (4, 5, Request("POST", value=A), got(A)),
            ],
            id="an unknown create is seen by the next one",
        ),
        pytest.param(
            [
                CREATED,
                (2, 5, Request("PUT", 1, B, if_match=(A,)), got(B)),
                (2, 5, Request("PUT", 1, C, if_match=(A,)), Answer(412, tag=B)),
            ],
            id="one of two updates with the same If-Match",
        ),
        pytest.param(
            [
                CREATED,
                (2, 9, Request("DELETE", 1, if_match=(A,)), Answer(412, tag=B)),
                (3, 4, Request("PUT", 1, B), got(B)),
                (5, 6, Request("PUT", 1, A), got(A)),
            ],
            id="412 for a moment only",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("GET", 1, if_none_match=(A, B)), Answer(304, tag=A)),
                (4, 5, Request("GET", 1, if_none_match=(B,)), got(A)),
                (6, 7, Request("PUT", 1, B, if_none_match="*"), Answer(412, tag=A)),
                (8, 9, Request("GET", 1, if_match=(B,), if_none_match=(A,)), Answer(412, tag=A)),
            ],
            id="If-None-Match",
        ),
        pytest.param(
            [
                (0, 3, Request("POST", value=A), got(A)),
                (1, 4, Request("POST", value=A), got(A)),
                (2, 5, Request("POST", value=B), Answer(422)),
            ],
            id="the same key at once",
        ),
    ],
)
def test_a_linearizable_history_is_accepted(operations):
    check_history(history_of(operations))


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param(
            [
                CREATED,
                (2, 3, Request("PUT", 1, B), got(B)),
                (4, 5, Request("GET", 1), got(A)),
            ],
            id="a stale read",
        ),
        pytest.param(
            [
                CREATED,
                (2, 9, Request("PUT", 1, B), got(B)),
                (3, 4, Request("GET", 1), got(B)),
                (5, 6, Request("GET", 1), got(A)),
            ],
            id="a read goes back",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("PUT", 1, B), got(B)),
                (4, 5, Request("GET", 1, if_none_match=(A,)), Answer(304, tag=A)),
            ],
            id="a stale 304",
        ),
        pytest.param(
            [
                CREATED,
                (2, 5, Request("PUT", 1, B, if_match=(A,)), got(B)),
                (2, 5, Request("PUT", 1, C, if_match=(A,)), got(C)),
            ],
            id="a lost update",
        ),
        pytest.param(
            [
                CREATED,
                (2, 5, Request("PATCH", 1, Value("b", None)), got(C)),
                (2, 5, Request("PATCH", 1, Value(None, True)), got(B)),
            ],
            id="an update that is overwritten by an earlier PATCH",
        ),
        pytest.param(
            [
                CREATED,
                (2, 5, Request("PUT", 1, B), got(B)),
                (2, 5, Request("PUT", 1, C, if_match=(B,)), got(C)),
                (6, 7, Request("GET", 1), got(B)),
            ],
            id="a write takes effect twice",
        ),
        pytest.param(
            [
                CREATED,
                (2, 9, Request("DELETE", 1, if_match=(A,)), Answer(412, tag=A)),
                (3, 4, Request("PUT", 1, B), got(B)),
                (5, 6, Request("PUT", 1, A), got(A)),
            ],
            id="a 412 with a tag that is listed",
        ),
        pytest.param(
            [
                CREATED,
                (2, 9, Request("DELETE", 1, if_match=(A, B)), Answer(412, tag=B)),
                (3, 4, Request("PUT", 1, B), got(B)),
            ],
            id="a 412 although every tag that the task had is listed",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("PUT", 1, B), got(B)),
                (4, 5, Request("DELETE", 1, if_match=(B,)), Answer(412, tag=A)),
            ],
            id="a 412 that was true before the request",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("DELETE", 1, if_match=(B,)), Answer(412, tag='"x"')),
            ],
            id="a 412 with the tag of no value",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("PUT", 1, A), Answer(404)),
            ],
            id="a 404 for a task that exists",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("DELETE", 1), Answer(200)),
                (4, 5, Request("GET", 1), got(A)),
            ],
            id="a deleted task comes back",
        ),
        pytest.param(
            [
                CREATED,
                (2, 5, Request("DELETE", 1), Answer(200)),
                (2, 5, Request("DELETE", 1), Answer(200)),
            ],
            id="a task is deleted twice",
        ),
        pytest.param(
            [
                (0, 2, Request("POST", value=A), got(A, id=1)),
                (1, 3, Request("POST", value=A), got(A, id=2)),
            ],
            id="two tasks for one key",
        ),
        pytest.param(
            [
                (0, 2, Request("POST", value=A), got(A)),
                (1, 3, Request("POST", value=B), got(A)),
            ],
            id="another body with the same key",
        ),
        pytest.param(
            [
                (0, 2, Request("POST", value=A), got(A)),
                (1, 3, Request("POST", value=A), Answer(422)),
            ],
            id="a 422 for the same body",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("PUT", 1, B), got(B)),
                (4, 5, Request("GET", 1), None),
                (6, 7, Request("GET", 1), got(A)),
            ],
            id="an acknowledged write is lost",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("POST", value=A), got(A, id=2)),
            ],
            id="an acknowledged create is lost",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("PUT", 1, B), None),
                (4, 5, Request("GET", 1), got(B)),
                (6, 7, Request("PUT", 1, A), got(A)),
                (8, 9, Request("GET", 1), got(B)),
            ],
            id="an unknown write takes effect twice",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("GET", 1), got(B)),
                (4, 5, Request("PUT", 1, B), None),
            ],
            id="an unknown write takes effect before it began",
        ),
        pytest.param(
            [
                CREATED,
                (2, 3, Request("GET", 1), Answer(500)),
            ],
            id="a defect",
        ),
    ],
)
def test_any_other_history_is_not_accepted(operations):
    with pytest.raises(NotLinearizable):
        check_history(history_of(operations))


def test_what_cannot_be_decided_is_not_accepted(monkeypatch):
    monkeypatch.setattr("linearizability.SITUATIONS_LIMIT", 1000)
    writes = [(2, 3, Request("PUT", 1, value), got(value)) for value in [A, B, C, D] * 3]
    with pytest.raises(Undecided):
        check_history(history_of([CREATED, *writes, (4, 5, Request("GET", 1), Answer(404))]))


def test_the_answer_that_does_not_fit_is_shown_with_what_happened_around_it():
    operations = [
        CREATED,
        (2, 9, Request("DELETE", 1, if_match=(A, C)), Answer(412, tag=A)),
        (3, 4, Request("PATCH", 1, Value(None, True)), got(B)),
        (5, 6, Request("PUT", 1, A), None),
        (10, 11, Request("GET", 1), got(A)),
    ]
    with pytest.raises(NotLinearizable) as error:
        check_history(history_of(operations))
    culprit = "DELETE /tasks/1 If-Match: a/False, b/False -> 412 ETag: a/False"
    assert str(error.value).splitlines() == [
        "The first 2 answers can be explained, but not this one too:",
        f"    2000.0   9000.0  client  1  {culprit}",
        "Before it ended, this was possible: task 1 a/False, task 1 a/True.",
        "The operations around it, in the order in which they began (ms; tasks as name/done):",
        "       0.0   1000.0  client  0  POST a/False -> 200 task 1 a/False ETag: a/False",
        f">   2000.0   9000.0  client  1  {culprit}",
        "    3000.0   4000.0  client  2  PATCH /tasks/1 -/True -> 200 task 1 a/True ETag: a/True",
        "    5000.0   6000.0  client  3  PUT /tasks/1 a/False -> unknown",
    ]
