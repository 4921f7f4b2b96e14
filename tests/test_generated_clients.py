"""Programs that read the OpenAPI document, and clients that they generate.

Each test is skipped where its program is not installed. `.ci/run` says how to install them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from assertions import json_bytes, whole_task
from server import ROOT

import todo

pytestmark = pytest.mark.slow

CLIENTS = ROOT / "tests/clients"
MILK = whole_task({"name": "Buy milk", "done": False, "id": 1})

# Programs that pip has installed are found whether the virtual environment is active or not.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def find(program):
    """Return the path of a program; skip the test if it is not installed."""
    path = shutil.which(program, path=PATH)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run(program, *arguments, folder, **environment):
    """Run a program in a folder and return what it prints; skip if it is not installed."""
    completed = subprocess.run(
        [find(program), *arguments],
        cwd=folder,
        env={**os.environ, "PATH": PATH, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    if completed.returncode != 0:
        pytest.fail(f"{program} ended with {completed.returncode}:\n{completed.stdout}")
    return completed.stdout


@pytest.fixture(params=[False, True], ids=["open", "with a token"])
def folder(request, tmp_path):
    """A folder with the document as openapi.json."""
    document = todo.openapi_document("/api", request.param)
    (tmp_path / "openapi.json").write_text(document, encoding="utf-8")
    return tmp_path


# Validators


def test_openapi_spec_validator_finds_nothing(folder):
    validator = pytest.importorskip("openapi_spec_validator")
    readers = pytest.importorskip("openapi_spec_validator.readers")
    document, _ = readers.read_from_filename(str(folder / "openapi.json"))
    validator.validate(document)


def test_redocly_finds_nothing(folder):
    report = run(
        "redocly",
        "lint",
        "openapi.json",
        "--skip-rule=info-license",  # The project has none.
        "--skip-rule=operation-4xx-response",  # Nothing in a request for /healthz can be wrong.
        folder=folder,
    )
    assert "Your API description is valid" in report
    assert "You have" not in report


def test_schemathesis_finds_nothing(make_server, tmp_path):
    run(
        "schemathesis",
        "run",
        f"{make_server().url}/openapi.json",
        "--max-examples=10",
        "--generation-deterministic",
        # A precondition may be false (412), and `done` takes more than it is documented to take.
        "--exclude-checks=positive_data_acceptance,negative_data_rejection",
        folder=tmp_path,
    )


# Generators


def test_datamodel_code_generator_makes_the_models(folder):
    run(
        "datamodel-codegen",
        "--input=openapi.json",
        "--input-file-type=openapi",
        "--output=models.py",
        "--formatters=builtin",
        folder=folder,
    )
    classes = re.findall(r"^class (\w+)", (folder / "models.py").read_text(), re.MULTILINE)
    assert set(classes) == todo.SCHEMAS.keys()


def test_openapi_typescript_makes_types_that_the_compiler_enforces(folder):
    run("openapi-typescript", "openapi.json", "-o", "api.d.ts", folder=folder)
    milk = json_bytes(MILK).decode()
    program = """
        import type { components, operations } from "./api"
        type Query = NonNullable<operations["list_tasks"]["parameters"]["query"]>
        export const query: Query = { done: true, q: "milk", limit: 100, sort: "-id", after: 7 }
        export const task: components["schemas"]["Task"] = MILK
        export const patch: components["schemas"]["TaskPatch"] = { done: !task.done }
        // @ts-expect-error: a task needs a name
        export const nameless: components["schemas"]["TaskInput"] = { done: false }
        // @ts-expect-error: there is no such order
        export const sorted: Query = { sort: "name" }
    """
    (folder / "use.ts").write_text(program.replace("MILK", milk))
    run("tsc", "--strict", "--noEmit", "use.ts", folder=folder)


def test_openapi_python_client_takes_a_task_through_its_life(make_server, tmp_path, monkeypatch):
    server = make_server()
    (tmp_path / "openapi.json").write_text(server.request("GET", "/openapi.json").text)
    run(
        "openapi-python-client",
        "generate",
        "--path=openapi.json",
        "--output-path=todo_client",
        "--meta=none",
        "--fail-on-warning",
        folder=tmp_path,
    )
    monkeypatch.syspath_prepend(tmp_path)
    from todo_client import Client, models
    from todo_client.api.tasks import create_task, delete_task, get_task, list_tasks, update_task

    with Client(base_url=server.url) as client:
        milk = create_task.sync(client=client, body=models.TaskInput("Buy milk", False))
        assert milk == models.Task(**MILK)
        assert list_tasks.sync(client=client, q="milk", done=False, limit=10) == [milk]

        done = models.TaskPatch(done=True)
        updated = update_task.sync(1, client=client, body=done)
        assert updated == models.Task(**{**MILK, "done": True})
        refused = update_task.sync(1, client=client, body=done, if_match='"old"')
        assert isinstance(refused, models.ErrorDetail)

        invalid = create_task.sync(client=client, body=models.TaskInput("x" * 1001, False))
        assert invalid.detail[0].type_ == "string_too_long"
        assert invalid.detail[0].ctx.to_dict() == {"max_length": 1000}

        assert delete_task.sync(1, client=client) == 1
        assert get_task.sync(1, client=client).detail == "Task not found"


def test_the_go_client_of_openapi_generator_takes_a_task_through_its_life(make_server, tmp_path):
    find("java")  # runs the generator
    find("go")
    server = make_server()
    (tmp_path / "openapi.json").write_text(server.request("GET", "/openapi.json").text)
    run(
        "openapi-generator-cli",
        "generate",
        "--input-spec=openapi.json",
        "--generator-name=go",
        "--output=openapi",
        "--additional-properties=withGoMod=false",
        folder=tmp_path,
    )
    shutil.rmtree(tmp_path / "openapi/test")  # needs a test framework
    shutil.copytree(CLIENTS / "go", tmp_path, dirs_exist_ok=True)

    output = run("go", "run", ".", server.url, folder=tmp_path, GOPROXY="off", GOFLAGS="-mod=mod")

    assert output.splitlines() == [
        "create: 200 {Name:Buy milk Done:false Id:1}",
        "create with a used key: 422 idempotency_key_reused in header, idempotency-key map[]",
        "get: 200 {Name:Buy milk Done:false Id:1}",
        "get what is known: 304",
        "update: 200 {Name:Buy milk Done:true Id:1}",
        "update with the old ETag: 412 If-Match does not hold: the current ETag is not in it",
        "list: 422 greater_than_equal in query, limit map[ge:1]",
        "list: 200 [{Name:Buy milk Done:true Id:1}]",
        "delete: 200 1",
        "get: 404 Task not found",
    ]


# A client that is not generated


def test_the_client_in_java_s_library_is_told_to_use_http_1_1(make_server, tmp_path):
    source = str(CLIENTS / "DefaultClient.java")
    output = run("java", source, make_server().url, folder=tmp_path)
    get, post, post_with_http1, get_with_http1 = output.splitlines()
    assert get == "GET: 200 []"
    assert post.startswith("POST: 400 ")
    assert "HttpClient.Version.HTTP_1_1" in post
    milk = json_bytes(MILK).decode()
    assert post_with_http1 == f"POST with HTTP_1_1: 200 {milk}"
    assert get_with_http1 == f"GET with HTTP_1_1: 200 [{milk}]"


# The page


def test_prettier_would_format_the_page_as_it_is(tmp_path):
    (tmp_path / "page.html").write_text(todo.PAGE, encoding="utf-8")
    run("prettier", "--print-width=100", "--check", "page.html", folder=tmp_path)


def test_eslint_finds_nothing_in_the_script_of_the_page(tmp_path):
    [script] = re.findall(r'<script type="module">\n(.*)</script>', todo.PAGE, re.DOTALL)
    (tmp_path / "page.mjs").write_text(script, encoding="utf-8")
    (tmp_path / "eslint.config.cjs").write_text("""
        const js = require("@eslint/js")
        const names = [
            "document", "fetch", "Headers", "location", "Option", "TextEncoder", "URL",
            "URLSearchParams",
        ]
        const globals = Object.fromEntries(names.map(name => [name, "readonly"]))
        module.exports = [js.configs.recommended, { languageOptions: { globals } }]
    """)
    node_modules = Path(find("eslint")).resolve().parents[2]
    run("eslint", "page.mjs", folder=tmp_path, NODE_PATH=str(node_modules))
