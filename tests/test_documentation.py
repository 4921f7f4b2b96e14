"""The OpenAPI document says what the server does; the page lets a person do it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import todo

Json = dict[str, Any]

NAMED = {"Task", "NewTask", "TaskPatch", "Error", "HTTPValidationError", "ValidationError"}
OPEN = {"get_health", "get_openapi", "get_docs"}
DOCUMENTS = {"open": todo.openapi("", False), "with a token": todo.openapi("/api", True)}
DOCUMENT = json.loads(DOCUMENTS["open"])
CASES = [  # operations in the order in which they make sense, with a header, and their status
    *[("list_tasks", "If-None-Match", 304), ("create_task", "Idempotency-Key", 200)],
    *[("list_tasks", "", 200), ("get_task", "", 200), ("get_task", "If-None-Match", 304)],
    *[("replace_task", "", 200), ("update_task", "", 200), ("update_task", "If-Match", 412)],
    *[("delete_task", "", 200), ("delete_task", "", 404), ("delete_tasks", "", 422)],
    *[(name, "", 200) for name in ("get_root", "get_info", "get_health", "get_openapi")],
]
VALUES = {"": "", "If-None-Match": "*", "If-Match": '"old"', "Idempotency-Key": "key"}
CHROMIUM = "/usr/bin/chromium"
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NASTY = 'it\'s "5" $HOME `ls` \\ \n!!  ünï€ 🥛'


def operations(document):
    """Return every operation of a document by its name, with its path and method."""
    return {
        operation["operationId"]: {**operation, "path": path, "method": method.upper()}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def check(schema, value):
    """Hold a value against a schema of the document."""
    jsonschema = pytest.importorskip("jsonschema")
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


@pytest.fixture
def web(serve):
    """A client of a real server without tasks."""
    with serve().client() as client:
        yield client


# The document


@pytest.mark.slow
def test_the_document_is_openapi_below_any_root_path():
    document = json.loads(DOCUMENTS["with a token"])
    assert (DOCUMENT["servers"], document["servers"]) == ([{"url": "/"}], [{"url": "/api"}])
    pytest.importorskip("openapi_spec_validator").validate(document)


def test_every_route_is_described_by_its_function():
    described = {
        (operation["path"], operation["method"]): (name, operation["summary"])
        for name, operation in operations(DOCUMENT).items()
    }
    routed = {}
    for route in todo.routes:
        for method, function in route.operations.items():
            if method not in ("HEAD", "OPTIONS"):
                summary = str(function.__doc__).rstrip(".")
                routed[route.path.removesuffix("/?") or "/", method] = function.__name__, summary
    assert described == routed


def test_values_have_their_limits_and_done_is_a_plain_boolean():
    limits = {}
    for parameter in operations(DOCUMENT)["list_tasks"]["parameters"]:
        described = {"description": parameter["description"]}
        limits[parameter["name"]] = dict(parameter["schema"].items() - described.items())
    assert limits == {
        "done": {"type": "boolean"},
        "q": {"type": "string"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
        "after": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        "If-None-Match": {"type": "string"},
    }
    required = [it for op in operations(DOCUMENT).values() for it in op["parameters"]]
    assert {it["name"] for it in required if it["required"]} == {"id", "done"}
    assert set(DOCUMENT["components"]["schemas"]) == NAMED
    for name in ("Task", "NewTask", "TaskPatch"):
        members = DOCUMENT["components"]["schemas"][name]["properties"]
        assert (members["done"]["type"], members["name"]["maxLength"]) == ("boolean", 1000)


def test_a_token_is_asked_for_where_it_is_needed():
    document = json.loads(DOCUMENTS["with a token"])
    assert (DOCUMENT["security"], document["security"]) == ([], [{"bearer": []}])
    for name, operation in operations(document).items():
        assert operation.get("security") == ([] if name in OPEN else None)
        assert ("401" in operation["responses"]) == (name not in OPEN)


@pytest.mark.slow
def test_the_server_answers_as_described_and_examples_fit(web):
    for name, header, status in CASES:
        operation = operations(DOCUMENT)[name]
        sent = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        if sent:
            check(sent["schema"], sent["example"])
        path = operation["path"].replace("{id}", "1")
        headers = {header: VALUES[header]} if header else {}
        answer = web.request(operation["method"], path, json=sent.get("example"), headers=headers)
        assert answer.status_code == status, name
        described = operation["responses"][str(status)]
        told = {"etag", "location", "link", "cache-control"} & set(answer.headers)
        assert status == 304 or told <= {name.lower() for name in described["headers"]}
        if "content" in described:
            content = described["content"]["application/json"]
            check(content["schema"], answer.json())
            check(content["schema"], content["example"])


# Programs that read the document


def run(*command, cwd):
    """Return what a tool prints, or skip the test where the tool is not installed."""
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    path = os.pathsep.join(folders)
    tool = shutil.which(command[0], path=path)
    if tool is None:
        pytest.skip(f"{command[0]} is not installed")
    environment = {**os.environ, "PATH": path}
    done = subprocess.run([tool, *command[1:]], cwd=cwd, env=environment, capture_output=True)
    printed = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, printed
    return printed


@pytest.fixture(params=DOCUMENTS)
def folder(request, tmp_path):
    """A folder with the document in it, once open and once with a token."""
    (tmp_path / "openapi.json").write_bytes(DOCUMENTS[request.param])
    return tmp_path


@pytest.mark.slow
def test_the_linter_finds_nothing(folder):
    # The project has no licence, and nothing in a request for the greeting can be wrong.
    skipped = ("--skip-rule=info-license", "--skip-rule=operation-4xx-response")
    report = run("redocly", "lint", "openapi.json", *skipped, cwd=folder)
    assert "You have" not in report, report


@pytest.mark.slow
def test_datamodel_code_generator_makes_the_named_models(folder):
    options = ("--input", "openapi.json", "--input-file-type", "openapi", "--formatters", "builtin")
    run("datamodel-codegen", *options, "--output", "models.py", cwd=folder)
    classes = re.findall(r"^class (\w+)", (folder / "models.py").read_text(), re.MULTILINE)
    assert sorted(classes) == sorted(NAMED)


@pytest.mark.slow
def test_openapi_typescript_makes_types_that_hold(folder):
    run("openapi-typescript", "openapi.json", "-o", "api.d.ts", cwd=folder)
    (folder / "use.ts").write_text("""
        import type { components, operations } from "./api"
        type Query = NonNullable<operations["list_tasks"]["parameters"]["query"]>
        export const query: Query = { done: true, q: "milk", limit: 100, after: 7 }
        export const task: components["schemas"]["Task"] = { name: "Buy milk", done: false, id: 1 }
        export const patch: components["schemas"]["TaskPatch"] = { done: !task.done }
        // @ts-expect-error: a task has a name
        export const nameless: components["schemas"]["NewTask"] = { done: false }
    """)
    run("tsc", "--strict", "--noEmit", "use.ts", cwd=folder)


@pytest.mark.slow
def test_a_generated_client_takes_a_task_through_its_life(web, tmp_path, monkeypatch):
    (tmp_path / "openapi.json").write_text(web.get("/openapi.json").text)
    options = ("--path", "openapi.json", "--output-path", "todo_client", "--meta", "none")
    run("openapi-python-client", "generate", *options, cwd=tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from todo_client import Client, models  # type: ignore[import-not-found]
    from todo_client.api.tasks import create_task, delete_task, get_task, list_tasks, update_task

    assert set(models.__all__) == NAMED
    milk, done = models.NewTask("Buy milk", False), models.TaskPatch(done=True)
    with Client(base_url=str(web.base_url)) as server:
        task = create_task.sync(client=server, body=milk)
        assert list_tasks.sync(client=server, q="milk", done=False, limit=10) == [task]
        assert update_task.sync(1, client=server, body=done) == models.Task("Buy milk", True, 1)
        refused = update_task.sync(1, client=server, body=done, if_match='"old"')
        assert refused.detail.startswith("The task has changed")
        invalid = create_task.sync(client=server, body=models.NewTask("x" * 1001, False))
        assert invalid.detail[0].type_ == "string_too_long"
        assert delete_task.sync(1, client=server) == 1
        assert get_task.sync(1, client=server).detail == "Task not found"


# The page


def test_the_page_is_html_and_loads_nothing_but_the_document(client):
    answer = client.get("/docs")
    assert (answer.status_code, answer.text) == (200, todo.PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert set(re.findall(r'(?:src|href)="([^"]*)"', todo.PAGE)) == {"data:,", "openapi.json"}
    assert "innerHTML" not in todo.PAGE


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


def send(page, operation, **fields):
    """Fill in the form of an operation, send it, and return what is shown of the answer."""
    element = page.locator(f"#{operation}")
    for name, value in fields.items():
        element.get_by_label(name.replace("_", "-"), exact=True).fill(value)
    element.get_by_role("button", name="Send", exact=True).click()
    element.locator("output strong").wait_for()
    return element.locator("output").inner_text()


def curl(page, operation, **env):
    """Return the answer that the curl line of an operation gets in a shell."""
    command = ["bash", "-c", page.locator(f"#{operation} code").inner_text()]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_task_is_created_refused_found_and_deleted_by_forms(web, page):
    page.goto(str(web.base_url.join("/docs")))
    created = send(page, "create_task", body='{"name": "Buy milk", "done": false}')
    assert created.startswith("200 OK")
    assert "location: /tasks/1" in created
    assert '"name": "Buy milk"' in created
    assert "string_type" in send(page, "create_task", body='{"name": 5, "done": false}')
    assert page.locator("#create_task output.bad").is_visible()
    for width in (360, 900, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert '"id": 1' in send(page, "list_tasks", q="MILK", done="no", after="0")
    assert '"id": 1' not in send(page, "list_tasks", after=str(2**63 - 1))
    assert send(page, "get_task", id="a/b?").startswith("404")
    assert send(page, "delete_task", id="1").startswith("200 OK")
    assert web.get("/tasks").json() == []


@pytest.mark.slow
def test_the_curl_line_does_what_the_form_says(web, page):
    page.goto(str(web.base_url.join("/docs")))
    body = json.dumps({"name": NASTY, "done": False}, ensure_ascii=False, indent=1)
    send(page, "create_task", body=body, Idempotency_Key="it's-$1")
    task = {"name": NASTY, "done": False, "id": 1}
    assert curl(page, "create_task") == task
    send(page, "list_tasks", q=NASTY.split("\n")[0], limit="1")
    assert curl(page, "list_tasks") == [task]
    assert curl(page, "update_task") == task | {"done": True}
    assert curl(page, "delete_task") == 1
    form = page.locator("#create_task")
    form.get_by_role("button", name="Copy").click()
    assert form.get_by_text("Copied").is_visible()


@pytest.mark.slow
@pytest.mark.parametrize("token", ["secret", "voilà €'s"])
def test_the_token_is_sent_from_its_field(serve, page, token):
    page.goto(f"{serve(TODO_TOKEN=token).url}/docs")
    assert send(page, "get_info").startswith("401")
    assert curl(page, "get_info", TODO_TOKEN=token) == "starlette"
    page.get_by_label("Token", exact=True).fill(token)
    assert "starlette" in send(page, "get_info")
    assert curl(page, "get_info") == "starlette"
    assert "Bearer" not in page.locator("#get_health code").inner_text()


@pytest.mark.slow
def test_the_page_works_below_a_root_path_and_loads_nothing_else(serve, page):
    url = serve("--root-path", "/api").url
    loaded = []

    def proxy(route):
        loaded.append(route.request.url.removeprefix(url))
        route.fulfill(response=route.fetch(url=route.request.url.replace("/api/", "/")))

    page.route("**/*", proxy)
    page.goto(f"{url}/api/docs#get_info")
    assert "starlette" in send(page, "get_info")
    assert loaded == ["/api/docs", "/api/openapi.json", "/api/info"]
    assert page.get_by_label("Token").count() == 0
