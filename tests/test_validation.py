"""422: every fault that a request can have, and how its entry describes it.

What cannot be read at all, and so is 400, is in test_errors.py; the faults of an Idempotency-Key
are in test_idempotency.py.
"""

import json

import pytest
from assertions import assert_error, assert_json, assert_tasks, entry
from client import on_every_route_with_a_body
from database import insert_tasks

with_and_without_slash = pytest.mark.parametrize("path", ["/tasks", "/tasks/"])


# The body as a whole


IN_QUOTES = "Expecting property name enclosed in double quotes"


@on_every_route_with_a_body
@pytest.mark.parametrize(
    ("body", "position", "error"),
    [
        (b" ", 1, "Expecting value"),
        (b"x", 0, "Expecting value"),
        (b"True", 0, "Expecting value"),
        (b"+1", 0, "Expecting value"),
        (b".5", 0, "Expecting value"),
        (b"1.", 1, "Extra data"),
        (b"01", 1, "Extra data"),
        (b"{}{}", 2, "Extra data"),
        (b"{", 1, IN_QUOTES),
        (b"{'a':1}", 1, IN_QUOTES),
        (b'{"a"}', 4, "Expecting ':' delimiter"),
        (b'{"a":}', 5, "Expecting value"),
        (b'{"a":1 "b":2}', 7, "Expecting ',' delimiter"),
        (b'{"name":"milk","done":tru}', 22, "Expecting value"),
        (b"[1,", 3, "Expecting value"),
        (b'"abc', 0, "Unterminated string starting at"),
        (b'"\\x"', 1, "Invalid \\escape"),
        (b'"\n"', 1, "Invalid control character at"),
        (b'"\x01"', 1, "Invalid control character at"),
        pytest.param(b"\xef\xbb\xbf", 0, "Expecting value", id="only a byte-order mark"),
        pytest.param(b"\xef\xbb\xbf{", 1, IN_QUOTES, id="a byte-order mark and a brace"),
        pytest.param("{}".encode("utf-16-le"), 1, IN_QUOTES, id="UTF-16 without a mark"),
        # Wherever they are, their position is 0: Python accepts them, and does not say where.
        (b"NaN", 0, "NaN is not JSON"),
        (b"Infinity", 0, "Infinity is not JSON"),
        (b'{"name":-Infinity}', 0, "-Infinity is not JSON"),
        (b'{"x":NaN,"name":"milk","done":false}', 0, "NaN is not JSON"),
    ],
)
def test_malformed_json_is_422(client, method, target, body, position, error):
    response = client.request(method, target, content=body)
    assert_error(response, 422, [entry("json_invalid", ["body", position], {}, error=error)])


@on_every_route_with_a_body
@pytest.mark.parametrize("body", [[], [{"name": "milk", "done": False}], 1, True, "x", ""], ids=str)
def test_a_body_that_is_not_an_object_is_422(client, method, target, body):
    response = client.request(method, target, content=json.dumps(body).encode())
    assert_error(response, 422, [entry("model_attributes_type", ["body"], body)])


@on_every_route_with_a_body
@pytest.mark.parametrize("body", [b"", b"null", b" null ", b"\xef\xbb\xbfnull"])
def test_a_body_that_is_empty_or_null_is_missing(client, method, target, body):
    response = client.request(method, target, content=body)
    assert_error(response, 422, [entry("missing", ["body"], None)])


# The members of the body


@pytest.mark.parametrize(("method", "path"), [("POST", "/tasks"), ("PUT", "/tasks/1")])
@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ({}, ["name", "done"]),
        ({"name": "milk"}, ["done"]),
        ({"done": True}, ["name"]),
        ({"Name": "milk", "done": True}, ["name"]),
    ],
    ids=str,
)
def test_each_missing_member_is_an_entry(client, method, path, body, missing):
    expected = [entry("missing", ["body", name], body) for name in missing]
    assert_error(client.request(method, path, json=body), 422, expected)


@on_every_route_with_a_body
@pytest.mark.parametrize(
    "name",
    [None, True, 0, -1.5, [], {}, ["milk"], pytest.param(10**4000, id="4001 digits")],
)
def test_a_name_that_is_not_a_string_is_422(client, method, target, name):
    response = client.request(method, target, json={"name": name, "done": True})
    assert_error(response, 422, [entry("string_type", ["body", "name"], name)])


@on_every_route_with_a_body
@pytest.mark.parametrize("character", ["x", "\x00", "é", "👍", "\\"])
def test_a_name_of_1001_characters_is_too_long(client, method, target, character):
    name = character * 1001
    response = client.request(method, target, json={"name": name, "done": True})
    expected = entry("string_too_long", ["body", "name"], name, max_length=1000)
    assert_error(response, 422, [expected])


@on_every_route_with_a_body
@pytest.mark.parametrize(
    ("name", "repeated"),
    [
        (rb"\ud800", "?"),
        (rb"\udfff", "?"),
        (rb"\ude00\ud83d", "??"),
        (rb"\ud83d!", "?!"),
    ],
)
def test_a_name_with_a_lone_surrogate_is_422(client, method, target, name, repeated):
    response = client.request(method, target, content=b'{"name":"%s","done":true}' % name)
    assert_error(response, 422, [entry("string_unicode", ["body", "name"], repeated)])


@on_every_route_with_a_body
@pytest.mark.parametrize(
    "done",
    [
        "maybe",
        "",
        "2",
        "01",
        "1.0",
        " true",
        "true ",
        "true\x00",
        pytest.param("o\uff4e", id="a wide n"),
        pytest.param("ye\u017f", id="a long s"),
        2,
        -1,
        2.0,
        1e10,
        2**63 - 1,
        -(2**63),
    ],
)
def test_a_done_that_is_no_boolean_word_or_number_is_422(client, method, target, done):
    response = client.request(method, target, json={"name": "milk", "done": done})
    assert_error(response, 422, [entry("bool_parsing", ["body", "done"], done)])


@on_every_route_with_a_body
@pytest.mark.parametrize("done", [None, [], {}, [True], 0.5, 1e-300, 1e19, 2**63, -(2**63) - 1])
def test_a_done_of_another_type_is_422(client, method, target, done):
    response = client.request(method, target, json={"name": "milk", "done": done})
    assert_error(response, 422, [entry("bool_type", ["body", "done"], done)])


@on_every_route_with_a_body
@pytest.mark.parametrize(
    "body", [{"name": 5, "done": "maybe"}, {"done": "maybe", "name": 5}], ids=str
)
def test_faults_are_listed_in_the_order_of_the_fields(client, method, target, body):
    expected = [
        entry("string_type", ["body", "name"], 5),
        entry("bool_parsing", ["body", "done"], "maybe"),
    ]
    assert_error(client.request(method, target, json=body), 422, expected)


@pytest.mark.parametrize(("name", "kind"), [("name", "string_type"), ("done", "bool_type")])
def test_a_patch_with_null_is_422(client, name, kind):
    client.create_task()
    response = client.patch("/tasks/1", json={name: None})
    assert_error(response, 422, [entry(kind, ["body", name], None)])


@on_every_route_with_a_body
def test_a_request_with_a_fault_changes_nothing(client, method, target):
    client.create_task("milk", done=False)
    response = client.request(method, target, json={"name": "bread", "done": "maybe"})
    assert_error(response, 422, [entry("bool_parsing", ["body", "done"], "maybe")])
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


# The parameters of the list


@with_and_without_slash
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("2", "2"),
        ("1.0", "1.0"),
        ("maybe", "maybe"),
        ("+true", " true"),
        ("true%00", "true\x00"),
    ],
)
def test_a_list_with_a_done_that_is_no_boolean_word_is_422(client, path, text, value):
    response = client.get(f"{path}?done={text}")
    assert_error(response, 422, [entry("bool_parsing", ["query", "done"], value)])


@pytest.mark.parametrize("name", ["limit", "after"])
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("x", "x"),
        ("1.5", "1.5"),
        ("1.0", "1.0"),
        ("-1", "-1"),
        ("%2B1", "+1"),
        ("+1", " 1"),
        ("1_0", "1_0"),
        ("1%00", "1\x00"),
        ("1%0A", "1\n"),
        ("%D9%A1", "\u0661"),
        ("%C2%B2", "²"),
        pytest.param("1" * 4301, "1" * 4301, id="4301 digits"),
    ],
)
def test_a_list_with_a_limit_or_after_that_is_not_in_digits_is_422(client, name, text, value):
    response = client.get(f"/tasks?{name}={text}")
    assert_error(response, 422, [entry("int_parsing", ["query", name], value)])


@pytest.mark.parametrize(
    ("query", "kind", "value", "ctx"),
    [
        ("limit=0", "greater_than_equal", "0", {"ge": 1}),
        ("limit=00", "greater_than_equal", "00", {"ge": 1}),
        ("limit=1001", "less_than_equal", "1001", {"le": 1000}),
        pytest.param(
            f"limit={'1' * 4300}", "less_than_equal", "1" * 4300, {"le": 1000}, id="4300 digits"
        ),
        (f"after={2**63}", "less_than_equal", str(2**63), {"le": 2**63 - 1}),
    ],
)
def test_a_list_with_a_number_out_of_range_is_422(client, query, kind, value, ctx):
    name, _, _ = query.partition("=")
    expected = entry(kind, ["query", name], value, **ctx)
    assert_error(client.get(f"/tasks?{query}"), 422, [expected])


@with_and_without_slash
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("ID", "ID"),
        ("-ID", "-ID"),
        ("%2Bid", "+id"),
        ("--id", "--id"),
        ("id%20", "id "),
        ("id,-id", "id,-id"),
        ("name", "name"),
        ("desc", "desc"),
    ],
)
def test_a_list_in_an_unknown_order_is_422(client, path, text, value):
    expected = entry("literal_error", ["query", "sort"], value, expected="'id' or '-id'")
    assert_error(client.get(f"{path}?sort={text}"), 422, [expected])


def test_the_faults_of_a_list_are_in_the_order_of_its_parameters(client):
    expected = [
        entry("bool_parsing", ["query", "done"], "z"),
        entry("greater_than_equal", ["query", "limit"], "0", ge=1),
        entry("literal_error", ["query", "sort"], "x", expected="'id' or '-id'"),
        entry("int_parsing", ["query", "after"], "y"),
    ]
    assert_error(client.get("/tasks?after=y&sort=x&q=fine&limit=0&done=z"), 422, expected)


def test_of_a_repeated_parameter_of_a_list_the_last_one_is_checked(client):
    response = client.get("/tasks?limit=1&limit=x")
    assert_error(response, 422, [entry("int_parsing", ["query", "limit"], "x")])


# The parameter of DELETE /tasks


MISSING = entry("missing", ["query", "done"], None)


@with_and_without_slash
@pytest.mark.parametrize(
    ("query", "faults"),
    [
        ("", [MISSING]),
        ("?", [MISSING]),
        ("?&&", [MISSING]),
        ("?Done=true", [entry("extra_forbidden", ["query", "Done"], "true"), MISSING]),
        ("?done[]=true", [entry("extra_forbidden", ["query", "done[]"], "true"), MISSING]),
        ("?is_done=true", [entry("extra_forbidden", ["query", "is_done"], "true"), MISSING]),
        ("?+done=true", [entry("extra_forbidden", ["query", " done"], "true"), MISSING]),
        ("?done=", [entry("bool_parsing", ["query", "done"], "")]),
        ("?done", [entry("bool_parsing", ["query", "done"], "")]),
        ("?done=all", [entry("bool_parsing", ["query", "done"], "all")]),
        ("?done=true;q=x", [entry("bool_parsing", ["query", "done"], "true;q=x")]),
        ("?foo=1&done=true", [entry("extra_forbidden", ["query", "foo"], "1")]),
        ("?done=true&foo=1", [entry("extra_forbidden", ["query", "foo"], "1")]),
        ("?done=true&foo", [entry("extra_forbidden", ["query", "foo"], "")]),
        ("?done=true&=", [entry("extra_forbidden", ["query", ""], "")]),
        ("?limit=1&done=true", [entry("extra_forbidden", ["query", "limit"], "1")]),
        ("?done=true&q=milk", [entry("extra_forbidden", ["query", "q"], "milk")]),
        ("?done=true&sort=id", [entry("extra_forbidden", ["query", "sort"], "id")]),
        ("?done=false&done=true", [entry("extra_forbidden", ["query", "done"], "true")]),
        ("?done=true&done=true", [entry("extra_forbidden", ["query", "done"], "true")]),
        ("?done=true&d%6Fne=", [entry("extra_forbidden", ["query", "done"], "")]),
        (
            "?done=all&q=",
            [
                entry("extra_forbidden", ["query", "q"], ""),
                entry("bool_parsing", ["query", "done"], "all"),
            ],
        ),
        (
            "?b=1&done=true&done=no&a=2",
            [
                entry("extra_forbidden", ["query", "b"], "1"),
                entry("extra_forbidden", ["query", "done"], "no"),
                entry("extra_forbidden", ["query", "a"], "2"),
            ],
        ),
        (
            "?b=1&a=2",
            [
                entry("extra_forbidden", ["query", "b"], "1"),
                entry("extra_forbidden", ["query", "a"], "2"),
                MISSING,
            ],
        ),
    ],
)
def test_delete_by_done_accepts_one_done_and_nothing_else(client, path, query, faults):
    insert_tasks(client.db, [("milk", True), ("bread", False)])
    assert_error(client.delete(path + query), 422, faults)
    milk = {"name": "milk", "done": True, "id": 1}
    assert_tasks(client.list_tasks(), [milk, {"name": "bread", "done": False, "id": 2}])


@pytest.mark.parametrize("query", ["d%6Fne=true", "done=%74rue", "done=true&", "&done=true"])
def test_delete_by_done_accepts_every_encoding_of_its_query(client, query):
    client.create_task("milk", done=True)
    assert_json(client.delete(f"/tasks?{query}"), 1)
