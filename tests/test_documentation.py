"""The OpenAPI document, the page that is made from it, and the server say the same."""

import contextlib
import json
import re
import shlex
import sqlite3
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from conftest import ROOT, Server

import todo

CONTRACT = {200, 304, 400, 401, 404, 408, 412, 413, 415, 422, 500, 503, 507}
TYPES = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool}
TASK = {"name": "Buy milk", "done": False}

Document = dict[str, Any]


def operations(document: Document) -> dict[tuple[str, str], Any]:
    return {(method.upper(), path): op for path, item in document["paths"].items() for method, op in item.items()}


def fits(value: Any, schema: Document, document: Document) -> bool:
    """Say whether a value is what a schema describes, as far as this document goes."""
    if "$ref" in schema:
        return fits(value, lookup(schema["$ref"], document), document)
    if "anyOf" in schema:
        return any(fits(value, choice, document) for choice in schema["anyOf"])
    if "type" in schema and (
        not isinstance(value, TYPES[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean")
    ):
        return False
    checks = [
        value == schema.get("const", value),
        value in schema.get("enum", [value]),
        "minimum" not in schema or value >= schema["minimum"],
        "maximum" not in schema or value <= schema["maximum"],
        "pattern" not in schema or re.search(schema["pattern"].replace("$", r"\Z"), value),
        "minItems" not in schema or len(value) >= schema["minItems"],
        all(name in value for name in schema.get("required", [])),
        all(fits(value[name], part, document) for name, part in schema.get("properties", {}).items() if name in value),
        "items" not in schema or all(fits(item, schema["items"], document) for item in value),
    ]
    return all(checks)


def lookup(ref: str, document: Document) -> Any:
    for key in ref.removeprefix("#/").split("/"):
        document = document[key]
    return document


def read(text: str) -> Any:
    """Return a header or parameter as the value it stands for."""
    return int(text) if re.fullmatch("-?[0-9]+", text) else text


@pytest.fixture(scope="module")
def document(server: Server) -> Document:
    return httpx.get(f"{server.url}/openapi.json").json()


@pytest.fixture(scope="module")
def page(server: Server) -> str:
    return httpx.get(f"{server.url}/docs").text


# The document and the code


@pytest.mark.usefixtures("pauses", "held")
def test_the_document_has_every_route_and_method(document: Document) -> None:
    served = {(method, route.path.removesuffix("/?")) for route in todo.routes for method in route.operations}
    assert set(operations(document)) == {(method, path) for method, path in served if method not in ("HEAD", "OPTIONS")}


def test_every_operation_has_its_own_id_and_a_summary(document: Document) -> None:
    found = operations(document).values()
    assert len({operation["operationId"] for operation in found}) == len(found)
    assert all(operation["summary"] for operation in found)


def test_the_statement_of_an_operation_has_its_id_as_a_name(document: Document) -> None:
    ids = {operation["operationId"] for operation in operations(document).values()}
    assert ids - {"replace_task"} == set(todo.SQL) - {"list_migrations"}  # update_task can replace one


@pytest.mark.parametrize("name", sorted(todo.SQL))
def test_every_statement_is_used(name: str) -> None:
    assert f'"{name}"' in (ROOT / "todo.py").read_text()


def test_the_document_has_the_version_of_the_package(document: Document) -> None:
    assert document["info"]["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_every_declared_status_is_in_the_contract(document: Document) -> None:
    assert {int(status) for operation in operations(document).values() for status in operation["responses"]} <= CONTRACT


def test_every_reference_leads_somewhere(document: Document) -> None:
    for ref in re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)):
        assert lookup(ref, document)


def test_every_path_parameter_is_declared(document: Document) -> None:
    for (_, path), operation in operations(document).items():
        names = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert names == re.findall(r"{(\w+)}", path)


def test_every_example_fits_its_schema(document: Document) -> None:
    for schema in document["components"]["schemas"].values():
        assert all(fits(example, schema, document) for example in schema.get("examples", []))
    for operation in operations(document).values():
        assert all(fits(each["example"], each["schema"], document) for each in operation["parameters"])
        for answer in operation["responses"].values():
            for content in answer.get("content", {}).values():
                assert "example" not in content or fits(content["example"], content["schema"], document)


def test_without_a_token_the_document_knows_of_none(document: Document) -> None:
    assert "securitySchemes" not in document["components"]
    for operation in operations(document).values():
        assert "security" not in operation
        assert "401" not in operation["responses"]


def test_with_a_token_the_document_names_the_operations_that_want_it(serve: Callable[..., Server]) -> None:
    with serve(TODO_TOKEN="secret").client() as client:
        document = client.get("/openapi.json").json()
        assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
        for (method, path), operation in operations(document).items():
            refused = client.request(method, path.replace("{id}", "1")).status_code == 401
            assert refused == (operation.get("security") == [{"bearer": []}]) == ("401" in operation["responses"])


# The document and the answers

PUT = "PUT", "/tasks/{id}"
PATCH = "PATCH", "/tasks/{id}"
MERGE_PATCH = {"content-type": "application/merge-patch+json"}
HEADERS = "ETag", "Cache-Control", "Location", "Link", "WWW-Authenticate", "Retry-After"
REQUESTS: list[tuple[int, str, str, dict[str, Any]]] = [
    (200, "GET", "/", {}),
    (200, "GET", "/info", {}),
    (200, "GET", "/healthz", {}),
    (200, "GET", "/openapi.json", {}),
    (200, "GET", "/docs", {}),
    (200, "GET", "/tasks", {}),
    (200, "GET", "/tasks", {"params": {"limit": 1, "done": "no"}}),
    (304, "GET", "/tasks", {"headers": {"if-none-match": "*"}}),
    (422, "GET", "/tasks", {"params": {"limit": 0, "done": "maybe"}}),
    (200, "POST", "/tasks", {"json": TASK}),
    (400, "POST", "/tasks", {"content": b"\xff", "headers": {"content-type": "application/json"}}),
    (413, "POST", "/tasks", {"json": {**TASK, "name": "x" * 2**20}}),
    (415, "POST", "/tasks", {"data": {"name": "milk"}}),
    (422, "POST", "/tasks", {"json": {"name": 5}}),
    (422, "POST", "/tasks", {"json": []}),
    (422, "POST", "/tasks", {"json": TASK, "headers": {"idempotency-key": "a b"}}),
    (200, "DELETE", "/tasks", {"params": {"done": "true"}}),
    (422, "DELETE", "/tasks", {}),
    (422, "DELETE", "/tasks", {"params": {"done": "true", "q": "milk"}}),
    (200, "GET", "/tasks/{id}", {}),
    (304, "GET", "/tasks/{id}", {"headers": {"if-none-match": "*"}}),
    (404, "GET", "/tasks/0", {}),
    (200, *PUT, {"json": TASK, "headers": {"if-match": "*"}}),
    (412, *PUT, {"json": TASK, "headers": {"if-match": '"old"'}}),
    (415, *PUT, {"content": b"{}"}),
    (422, *PUT, {"json": {}}),
    (200, *PATCH, {"json": {"done": True}}),
    (200, *PATCH, {"content": b'{"done":1}', "headers": MERGE_PATCH}),
    (404, "PATCH", "/tasks/0", {"json": {}}),
    (412, *PATCH, {"json": {}, "headers": {"if-match": 'W/"old"'}}),
    (422, *PATCH, {"json": {"name": None}}),
    (200, "DELETE", "/tasks/{id}", {}),
    (404, "DELETE", "/tasks/0", {}),
    (412, "DELETE", "/tasks/{id}", {"headers": {"if-match": '"old"'}}),
]


@pytest.mark.parametrize(("status", "method", "path", "request_"), REQUESTS)
def test_an_answer_is_as_documented(
    client: httpx.Client, document: Document, status: int, method: str, path: str, request_: dict[str, Any]
) -> None:
    client.post("/tasks", json=TASK)
    id = client.post("/tasks", json=TASK).json()["id"]
    answer = client.request(method, path.replace("{id}", str(id)), **request_)
    assert answer.status_code == status
    declared = operations(document)[method, re.sub("/tasks/.+", "/tasks/{id}", path)]["responses"][str(status)]
    for name, header in declared["headers"].items():
        if header["required"] or name in answer.headers:
            assert fits(read(answer.headers[name]), header["schema"], document)
    assert all(name in declared["headers"] for name in HEADERS if name in answer.headers)
    if "content" not in declared:
        assert answer.content == b""
        return
    ((media, content),) = declared["content"].items()
    assert answer.headers["content-type"].split(";")[0] == media
    assert fits(answer.json() if media == "application/json" else answer.text, content["schema"], document)
    if status in (400, 404, 412, 413, 415):
        assert answer.json() == content["example"]


WORDS = ["true", "t", "yes", "y", "on", "1", "false", "f", "no", "n", "off", "0", "TRUE", "oN", "False", "OFF"]
NO_WORDS = ["", "2", "tru", " yes", "yes ", "yes\n", "1.0", "on off"]
KEYS = ["a", '"a"', '"', '""', 'a"', '"a', "a b", '"a b"', "a" * 255, "a" * 256, f'"{"a" * 255}"', f'"{"a" * 256}"']


@pytest.mark.parametrize("done", [True, False, 0, 1, 1.0, 2, -1, 0.5, None, [], {}, *WORDS, *NO_WORDS], ids=repr)
@pytest.mark.parametrize(("method", "schema"), [("POST", "NewTask"), ("PATCH", "TaskPatch")])
def test_a_done_is_accepted_exactly_if_its_schema_says_so(
    client: httpx.Client, document: Document, method: str, schema: str, done: object
) -> None:
    body = {"name": "milk", "done": done}
    path = "/tasks" if method == "POST" else f"/tasks/{client.post('/tasks', json=TASK).json()['id']}"
    expected = fits(body, document["components"]["schemas"][schema], document)
    assert client.request(method, path, json=body).is_success == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("done", word) for word in [*WORDS, *NO_WORDS]],
        *[("limit", limit) for limit in ("0", "1", "1000", "1001", "-1", "x", "1.5", "")],
        *[("after", after) for after in ("0", str(2**63 - 1), str(2**63), "-1", "x", "")],
        *[("q", q) for q in ("", "milk", "%", "\0")],
    ],
)
def test_a_list_parameter_is_accepted_exactly_if_its_schema_says_so(
    client: httpx.Client, document: Document, name: str, value: str
) -> None:
    (parameter,) = [each for each in document["paths"]["/tasks"]["get"]["parameters"] if each["name"] == name]
    expected = fits(value if name in ("done", "q") else read(value), parameter["schema"], document)
    assert client.get("/tasks", params={name: value}).is_success == expected


@pytest.mark.parametrize("key", KEYS)
def test_an_idempotency_key_is_accepted_exactly_if_its_schema_says_so(
    client: httpx.Client, document: Document, key: str
) -> None:
    (parameter,) = document["paths"]["/tasks"]["post"]["parameters"]
    answer = client.post("/tasks", json=TASK, headers={"idempotency-key": key})
    assert answer.is_success == fits(key, parameter["schema"], document)


# The page


class Page(HTMLParser):
    """The routes that a page has forms for, its curl lines, and whatever it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[tuple[str, str]] = []
        self.curl: list[str] = []
        self.links: list[str] = []
        self.tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tag = "pre" if self.tag == "pre" and tag == "code" else tag
        found = {name: value or "" for name, value in attrs}
        self.links += [value for name, value in found.items() if name in ("src", "href", "action")]
        if tag == "form":
            self.forms.append((found["data-method"], found["data-path"]))
        if tag == "pre":
            self.curl.append("")

    def handle_endtag(self, tag: str) -> None:
        self.tag = ""

    def handle_data(self, data: str) -> None:
        if self.tag == "pre":
            self.curl[-1] += data


def test_the_page_has_a_form_for_every_operation(page: str, document: Document) -> None:
    assert sorted(Page(page).forms) == sorted(operations(document))


def test_the_page_says_what_every_parameter_answer_and_operation_is(page: str, document: Document) -> None:
    for operation in operations(document).values():
        assert operation["summary"] in page
        assert all(each["description"] in page for each in [*operation["parameters"], *operation["responses"].values()])


def test_the_page_has_a_curl_line_for_every_operation(page: str, client: httpx.Client, document: Document) -> None:
    found = Page(page)
    for (method, path), line in zip(found.forms, found.curl, strict=True):
        command, *options, url = shlex.split(line)
        assert command == "curl"
        assert (options[options.index("-X") + 1] if "-X" in options else "GET") == method
        assert httpx.URL(url).path == path.replace("{id}", "1")
        body = options[options.index("--json") + 1] if "--json" in options else None
        headers = {"content-type": "application/json"} if body else {}
        answer = client.request(method, url.removeprefix("http://127.0.0.1:8000"), content=body, headers=headers)
        assert answer.status_code == (404 if "{id}" in path else 200)


def test_with_a_token_the_curl_lines_send_it(serve: Callable[..., Server]) -> None:
    with serve(TODO_TOKEN="secret").client() as client:
        found, document = Page(client.get("/docs").text), client.get("/openapi.json").json()
    for operation, line in zip(found.forms, found.curl, strict=True):
        assert ("Authorization: Bearer" in line) == ("security" in operations(document)[operation])


def test_the_page_loads_nothing_and_leads_nowhere_else(page: str) -> None:
    assert set(Page(page).links) == {"data:,", "openapi.json"}
    assert set(re.findall(r"\w+://[^/\s]+", page)) == {"http://127.0.0.1:8000"}
    assert not re.search(r"@import|\burl\(", page)


def test_the_page_escapes_what_it_takes_from_the_document() -> None:
    hostile = '"><script>alert(1)</script>&amp;\\'
    operation = {
        "summary": hostile,
        "parameters": [{"name": hostile, "in": "query", "description": hostile, "required": True, "example": hostile}],
        "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}}},
        "responses": {"200": {"description": hostile, "headers": {hostile: {}}}},
    }
    document = {
        "info": {"title": hostile, "version": hostile, "description": hostile},
        "paths": {f"/{hostile}": {"get": operation}},
        "components": {"schemas": {"Body": {"examples": [{"name": hostile}]}}},
    }
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        (page,) = db.execute(todo.SQL["get_docs"], {"openapi": json.dumps(document)}).fetchone()
    assert page.count("<script>") == 1
    assert Page(page).forms == [("GET", f"/{hostile}")]
    assert json.dumps({"name": hostile}, separators=(",", ":")).replace("\\\\", "\\u005c") in Page(page).curl[0]
