"""The OpenAPI document: what it says, and that the server answers as it says."""

import json
import subprocess
import sys

import pytest
from assertions import TASK_DEFAULTS, assert_json, assert_status, headers_of
from database import insert_tasks
from server import ROOT

import todo


def read_document(needs_token=False):
    """Return the document of a server without a root path."""
    return json.loads(todo.openapi_document("", needs_token))


def read_operations(needs_token=False):
    """Return the operations of the document by their ids, each with its method and path."""
    return {
        operation["operationId"]: {**operation, "method": method.upper(), "path": path}
        for path, methods in read_document(needs_token)["paths"].items()
        for method, operation in methods.items()
    }


def read_parameters(operation_id):
    """Return the parameters of an operation by their names."""
    parameters = read_operations()[operation_id].get("parameters", [])
    return {parameter["name"]: parameter for parameter in parameters}


# What it says


def test_the_server_sends_the_document(client):
    assert_json(client.get("/openapi.json"), read_document())


@pytest.mark.parametrize(
    ("root_path", "server"),
    [
        ("", "/"),
        ("/api", "/api"),
        ("/api/", "/api"),
    ],
)
def test_the_document_names_the_root_path(client, root_path, server):
    response = client.get("/openapi.json", root_path=root_path)
    assert response.json()["servers"] == [{"url": server}]


@pytest.mark.parametrize(
    ("operation_id", "method", "path", "tag"),
    [
        ("list_tasks", "GET", "/tasks", "tasks"),
        ("create_task", "POST", "/tasks", "tasks"),
        ("delete_tasks", "DELETE", "/tasks", "tasks"),
        ("get_task", "GET", "/tasks/{id}", "tasks"),
        ("replace_task", "PUT", "/tasks/{id}", "tasks"),
        ("update_task", "PATCH", "/tasks/{id}", "tasks"),
        ("delete_task", "DELETE", "/tasks/{id}", "tasks"),
        ("get_root", "GET", "/", "server"),
        ("get_info", "GET", "/info", "server"),
        ("get_health", "GET", "/healthz", "server"),
        ("get_openapi", "GET", "/openapi.json", "server"),
        ("get_docs", "GET", "/docs", "server"),
    ],
)
def test_every_operation_is_described(operation_id, method, path, tag):
    operation = read_operations()[operation_id]
    assert (operation["method"], operation["path"]) == (method, path)
    assert operation["tags"] == [tag]
    assert operation["summary"]


def test_nothing_else_is_described():
    assert len(read_operations()) == 12


def test_every_tag_is_described():
    assert [tag["name"] for tag in read_document()["tags"]] == ["tasks", "server"]
    assert all(tag["description"] for tag in read_document()["tags"])


@pytest.mark.parametrize(
    ("operation_id", "names"),
    [
        ("list_tasks", ["done", "q", "limit", "sort", "after", "If-Match", "If-None-Match"]),
        ("create_task", ["Idempotency-Key"]),
        ("delete_tasks", ["done", "If-Match", "If-None-Match"]),
        ("get_task", ["id", "If-Match", "If-None-Match"]),
        ("replace_task", ["id", "If-Match", "If-None-Match"]),
        ("update_task", ["id", "If-Match", "If-None-Match"]),
        ("delete_task", ["id", "If-Match", "If-None-Match"]),
        ("get_root", []),
        ("get_info", []),
        ("get_health", []),
        ("get_openapi", []),
        ("get_docs", []),
    ],
)
def test_an_operation_has_these_parameters(operation_id, names):
    assert list(read_parameters(operation_id)) == names


@pytest.mark.parametrize(
    ("operation_id", "name", "place", "schema"),
    [
        ("get_task", "id", "path", {"type": "integer", "format": "int64", "minimum": 1}),
        ("list_tasks", "done", "query", {"type": "boolean"}),
        ("list_tasks", "q", "query", {"type": "string"}),
        ("list_tasks", "limit", "query", {"type": "integer", "minimum": 1, "maximum": 1000}),
        (
            "list_tasks",
            "sort",
            "query",
            {"type": "string", "enum": ["id", "-id"], "default": "id"},
        ),
        ("list_tasks", "after", "query", {"type": "integer", "format": "int64", "minimum": 0}),
        ("delete_tasks", "done", "query", {"type": "boolean"}),
        ("get_task", "If-Match", "header", {"type": "string"}),
        ("get_task", "If-None-Match", "header", {"type": "string"}),
        (
            "create_task",
            "Idempotency-Key",
            "header",
            {"type": "string", "pattern": "^[!-~]{1,255}$"},
        ),
    ],
)
def test_a_parameter_has_its_place_and_its_limits(operation_id, name, place, schema):
    parameter = read_parameters(operation_id)[name]
    assert parameter["in"] == place
    assert parameter["schema"] == schema
    assert parameter["description"]


def test_only_these_parameters_are_required_and_they_have_examples():
    examples = {
        (operation_id, name): parameter.get("example")
        for operation_id in read_operations()
        for name, parameter in read_parameters(operation_id).items()
        if parameter.get("required")
    }
    assert examples == {
        ("delete_tasks", "done"): True,
        ("get_task", "id"): 1,
        ("replace_task", "id"): 1,
        ("update_task", "id"): 1,
        ("delete_task", "id"): 1,
    }


@pytest.mark.parametrize(
    ("operation_id", "schema", "example"),
    [
        ("create_task", "TaskInput", {"name": "Buy milk", "done": False}),
        ("replace_task", "TaskInput", {"name": "Buy milk", "done": False}),
        ("update_task", "TaskPatch", {"done": True}),
    ],
)
def test_a_body_is_required_and_has_an_example(operation_id, schema, example):
    body = read_operations()[operation_id]["requestBody"]
    assert body["required"] is True
    assert body["content"]["application/json"] == {
        "schema": {"$ref": f"#/components/schemas/{schema}"},
        "example": example,
    }


@pytest.mark.parametrize(
    ("operation_id", "statuses"),
    [
        ("list_tasks", ["200", "304", "401", "412", "422", "default"]),
        ("create_task", ["200", "401", "422", "default"]),
        ("delete_tasks", ["200", "401", "412", "422", "default"]),
        ("get_task", ["200", "304", "401", "404", "412", "default"]),
        ("replace_task", ["200", "401", "404", "412", "422", "default"]),
        ("update_task", ["200", "401", "404", "412", "422", "default"]),
        ("delete_task", ["200", "401", "404", "412", "default"]),
        ("get_root", ["200", "401", "default"]),
        ("get_info", ["200", "401", "default"]),
        ("get_health", ["200", "default"]),
        ("get_openapi", ["200", "default"]),
        ("get_docs", ["200", "default"]),
    ],
)
def test_an_operation_has_the_responses_that_a_client_acts_on(operation_id, statuses):
    assert sorted(read_operations()[operation_id]["responses"]) == statuses


@pytest.mark.parametrize(
    ("operation_id", "status", "names"),
    [
        ("list_tasks", "200", ["ETag", "Cache-Control", "Link"]),
        ("list_tasks", "304", ["ETag", "Cache-Control"]),
        ("create_task", "200", ["ETag", "Cache-Control", "Location"]),
        ("get_task", "200", ["ETag", "Cache-Control"]),
        ("get_task", "304", ["ETag", "Cache-Control"]),
        ("get_task", "401", ["WWW-Authenticate"]),
        ("update_task", "412", ["ETag", "Cache-Control"]),
        ("delete_task", "200", []),
        ("delete_task", "default", ["Retry-After", "Cache-Control", "Allow"]),
        ("delete_tasks", "412", ["Cache-Control"]),
        ("get_health", "200", ["Cache-Control"]),
    ],
)
def test_a_response_names_its_headers(operation_id, status, names):
    headers = read_operations()[operation_id]["responses"][status]["headers"]
    assert list(headers) == names
    for header in headers.values():
        assert header["description"]
        assert header["example"]


def test_the_schemas_are_these():
    """Their names are none that a generator reserves or makes up, as Error or NewTask would be."""
    assert list(read_document()["components"]["schemas"]) == [
        "Task",
        "TaskInput",
        "TaskPatch",
        "ErrorDetail",
        "HTTPValidationError",
        "ValidationError",
    ]


@pytest.mark.parametrize(
    ("name", "required"),
    [
        ("Task", ["name", "done", *TASK_DEFAULTS, "id"]),
        ("TaskInput", ["name", "done"]),
        ("TaskPatch", []),
        ("ErrorDetail", ["detail"]),
        ("HTTPValidationError", ["detail"]),
        ("ValidationError", ["type", "loc", "msg", "input"]),
    ],
)
def test_a_schema_has_these_required_members(name, required):
    schema = read_document()["components"]["schemas"][name]
    assert schema.get("required", []) == required


@pytest.mark.parametrize("schema", ["Task", "TaskInput", "TaskPatch"])
def test_the_fields_of_a_task_have_their_limits(schema):
    properties = read_document()["components"]["schemas"][schema]["properties"]
    assert (properties["name"]["type"], properties["name"]["maxLength"]) == ("string", 1000)
    assert properties["done"]["type"] == "boolean"


@pytest.mark.parametrize(
    ("schema", "required", "note"),
    [
        ("Task", ["name", "note", "id"], {"type": "string"}),
        ("TaskInput", ["name"], {"type": "string", "default": ""}),
        # A client that fills in defaults would empty the note with every patch.
        ("TaskPatch", [], {"type": "string"}),
    ],
)
def test_a_field_with_a_default_may_be_left_out_and_a_patch_has_no_default(schema, required, note):
    fields = {"name": {"type": "string"}, "note": {"type": "string", "default": ""}}
    described = todo.describe_task(fields)[schema]
    assert described.get("required", []) == required
    assert described["properties"]["note"] == note


def test_a_validation_error_may_have_a_context():
    properties = read_document()["components"]["schemas"]["ValidationError"]["properties"]
    assert list(properties) == ["type", "loc", "msg", "input", "ctx"]
    assert properties["loc"]["items"] == {"oneOf": [{"type": "string"}, {"type": "integer"}]}


@pytest.mark.parametrize("operation_id", ["delete_task", "delete_tasks"])
def test_a_count_of_tasks_has_64_bits(operation_id):
    response = read_operations()[operation_id]["responses"]["200"]
    schema = response["content"]["application/json"]["schema"]
    assert schema == {"type": "integer", "format": "int64"}


def test_an_id_has_64_bits():
    schema = read_document()["components"]["schemas"]["Task"]["properties"]["id"]
    assert (schema["type"], schema["format"]) == ("integer", "int64")


def test_no_number_is_too_large_for_generated_code():
    """Some generators write a number of the document as a literal of 32 bits."""
    numbers = []
    document = todo.openapi_document("", False)
    json.loads(document, parse_int=lambda text: numbers.append(int(text)))
    assert 1000 in numbers
    assert max(numbers) < 2**31


def test_an_open_server_asks_for_no_token():
    document = read_document(needs_token=False)
    assert document["security"] == []
    assert document["components"]["securitySchemes"] == {}


def test_a_server_with_a_token_asks_for_it(make_client):
    client = make_client(TODO_TOKEN="secret")
    document = client.get("/openapi.json").json()
    assert document["security"] == [{"bearer": []}]
    assert document["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer"}
    }


def test_a_token_is_needed_except_for_what_a_monitor_or_a_visitor_reads():
    securities = {
        operation_id: operation["security"]
        for operation_id, operation in read_operations(needs_token=True).items()
        if "security" in operation
    }
    assert securities == {"get_health": [], "get_openapi": [], "get_docs": []}


def test_the_document_stays_whole_without_docstrings():
    code = "import sys, todo; sys.stdout.write(todo.openapi_document('', False))"
    command = [sys.executable, "-OO", "-X", "utf8", "-c", code]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    assert json.loads(output) == read_document()


# The server does what it says


def assert_valid(schema, value):
    """Assert that a value fits a schema of the document."""
    jsonschema = pytest.importorskip("jsonschema")
    whole = {**schema, "components": read_document()["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def assert_described(response, operation):
    """Assert that a response has exactly the headers that are described, and such a body."""
    described = operation["responses"][str(response.status_code)]
    names = headers_of(response).keys() - {"content-type", "content-length"}
    assert names == {name.lower() for name in described["headers"]}
    for content_type, content in described.get("content", {}).items():
        assert response.headers["content-type"].partition(";")[0] == content_type
        value = response.json() if content_type == "application/json" else response.text
        assert_valid(content["schema"], value)


def example_body(operation):
    """Return the body that an operation has as its example, or None if it takes no body."""
    if "requestBody" not in operation:
        return None
    return operation["requestBody"]["content"]["application/json"]["example"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation_id", "target", "headers", "status"),
    [
        ("list_tasks", "/tasks?limit=1", {}, 200),
        ("list_tasks", "/tasks", {"If-None-Match": "*"}, 304),
        ("list_tasks", "/tasks", {"If-Match": '"old"'}, 412),
        ("create_task", "/tasks", {}, 200),
        ("create_task", "/tasks", {"Idempotency-Key": "key"}, 200),
        ("create_task", "/tasks", {"Idempotency-Key": "a b"}, 422),
        ("delete_tasks", "/tasks?done=true", {}, 200),
        ("delete_tasks", "/tasks?done=true", {"If-Match": '"old"'}, 412),
        ("get_task", "/tasks/1", {}, 200),
        ("get_task", "/tasks/1", {"If-None-Match": "*"}, 304),
        ("get_task", "/tasks/1", {"If-Match": '"old"'}, 412),
        ("get_task", "/tasks/9", {}, 404),
        ("replace_task", "/tasks/1", {}, 200),
        ("replace_task", "/tasks/1", {"If-None-Match": "*"}, 412),
        ("replace_task", "/tasks/9", {}, 404),
        ("update_task", "/tasks/1", {}, 200),
        ("update_task", "/tasks/1", {"If-Match": '"old"'}, 412),
        ("update_task", "/tasks/9", {}, 404),
        ("delete_task", "/tasks/1", {}, 200),
        ("delete_task", "/tasks/1", {"If-None-Match": "*"}, 412),
        ("delete_task", "/tasks/9", {}, 404),
        ("get_root", "/", {}, 200),
        ("get_info", "/info", {}, 200),
        ("get_health", "/healthz", {}, 200),
        ("get_openapi", "/openapi.json", {}, 200),
        ("get_docs", "/docs", {}, 200),
    ],
)
def test_a_request_made_of_the_examples_is_answered_as_described(
    client, operation_id, target, headers, status
):
    insert_tasks(client.db, [("milk", False)] * 2)
    operation = read_operations()[operation_id]
    body = example_body(operation)
    response = client.request(operation["method"], target, json=body, headers=headers)
    assert_status(response, status)
    assert_described(response, operation)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation_id", "target", "body"),
    [
        ("create_task", "/tasks", {"name": "x" * 1001, "done": 5}),
        ("replace_task", "/tasks/1", {"done": None}),
        ("update_task", "/tasks/1", {"name": 5}),
        ("list_tasks", "/tasks?limit=0&after=x", None),
        ("delete_tasks", "/tasks?more=1", None),
    ],
)
def test_invalid_input_is_answered_as_described(client, operation_id, target, body):
    operation = read_operations()[operation_id]
    response = client.request(operation["method"], target, json=body)
    assert_status(response, 422)
    assert_described(response, operation)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation_id", "target"),
    [("list_tasks", "/tasks"), ("get_task", "/tasks/1"), ("get_root", "/"), ("get_info", "/info")],
)
def test_a_missing_token_is_answered_as_described(make_client, operation_id, target):
    response = make_client(TODO_TOKEN="secret").get(target)
    assert_status(response, 401)
    assert_described(response, read_operations()[operation_id])


@pytest.mark.slow
def test_any_other_error_is_answered_as_described(client):
    response = client.post("/tasks", content=b"\xff")
    assert_status(response, 400)
    described = read_operations()["create_task"]["responses"]["default"]
    assert_valid(described["content"]["application/json"]["schema"], response.json())


@pytest.mark.slow
def test_every_example_fits_its_schema():
    contents = [
        content
        for operation in read_operations().values()
        for described in (operation.get("requestBody", {}), *operation["responses"].values())
        for content in described.get("content", {}).values()
    ]
    for content in contents:
        assert_valid(content["schema"], content["example"])
