"""The application as an ASGI application: middleware, cancellation, lifespan, other servers."""

import asyncio
import contextlib
import shutil
import signal
import socket
import sys
import warnings

import pytest
from assertions import (
    assert_error,
    assert_head,
    assert_json,
    assert_not_modified,
    assert_page,
    assert_status,
    assert_task,
    etag_of,
    json_bytes,
)
from client import Client
from database import insert_tasks, read_tasks, write_lock
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import Mount
from starlette.websockets import WebSocketDisconnect

import todo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette warns that it would prefer httpx2 to httpx.
    from starlette.testclient import TestClient

MILK = {"name": "milk", "done": False}
JSON_TYPE = {"Content-Type": "application/json"}
NOT_JSON = "Send JSON with the header Content-Type: application/json (curl --json does)"
TOO_LARGE = "The body is larger than 1048576 bytes: send less"
UNAVAILABLE = "The server cannot do this now: try again"
NOT_RUNNING = (
    "The application is not running, because its lifespan is not: serve it without --lifespan off, "
    "enter its lifespan where it is mounted, or use TestClient in a `with` statement"
)


# Middleware


@pytest.fixture(params=["added", "wrapped around"])
def gzip_client(request, make_client):
    """A client of an application that compresses, has a token, and may be called cross-origin."""
    client = make_client(TODO_TOKEN="secret", TODO_CORS_ORIGINS="https://a.example")
    if request.param == "added":
        client.application.add_middleware(GZipMiddleware, minimum_size=10)
    else:
        client.app = GZipMiddleware(client.application, minimum_size=10)
    return client


def test_responses_pass_through_middleware(gzip_client):
    headers = {"Authorization": "Bearer secret", "Accept-Encoding": "gzip"}
    response = gzip_client.get("/info", headers=headers)
    assert_status(response, 200)
    assert response.headers["content-encoding"] == "gzip"
    assert response.json() == "starlette"


def test_the_token_is_required_behind_middleware(gzip_client):
    assert_error(gzip_client.get("/info"), 401, "Not authenticated", vary="Origin, Accept-Encoding")


def test_another_origin_may_call_behind_middleware(gzip_client):
    response = gzip_client.get("/info", headers={"Origin": "https://a.example"})
    assert response.headers["access-control-allow-origin"] == "https://a.example"


def test_a_long_list_can_be_compressed(make_client):
    client = make_client()
    client.application.add_middleware(GZipMiddleware)
    insert_tasks(client.db, [("milk", False)] * 1000)
    response = client.get("/tasks", headers={"Accept-Encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert response.json() == read_tasks(client.db)


class NamedMiddleware:
    """Appends its name to a list for every request."""

    def __init__(self, app, name, names):
        self.app = app
        self.name = name
        self.names = names

    async def __call__(self, scope, receive, send):
        self.names.append(self.name)
        await self.app(scope, receive, send)


def test_the_middleware_that_is_added_last_is_the_first_to_see_a_request(make_client):
    client = make_client()
    names = []
    client.application.add_middleware(NamedMiddleware, name="added first", names=names)
    client.application.add_middleware(NamedMiddleware, name="added last", names=names)
    assert_json(client.get("/info"), "starlette")
    assert names == ["added last", "added first"]


# Cancellation


class TimeoutMiddleware:
    """Cancels a request after some time, and remembers how each request ended.

    It answers 504 if the application has not answered.
    """

    def __init__(self, app, seconds):
        self.app = app
        self.seconds = seconds
        self.ends = []

    async def __call__(self, scope, receive, send):
        sent = []

        async def recording_send(message):
            await send(message)
            sent.append(message)

        try:
            async with asyncio.timeout(self.seconds):
                await self.app(scope, receive, recording_send)
            self.ends.append(f"returned, cancelled {asyncio.current_task().cancelling()} times")
        except TimeoutError:
            self.ends.append("timed out")
        if not sent:
            await Response(status_code=504)(scope, receive, send)


async def stalling_body():
    """Yield the beginning of a body, and then nothing for 5 s."""
    yield b"{"
    await asyncio.sleep(5)


def test_a_cancelled_write_is_answered_and_ends(make_client, caplog):
    client = make_client()
    client.app = TimeoutMiddleware(client.application, 0.05)
    with write_lock(client.db):
        assert_error(client.post("/tasks", json=MILK), 503, UNAVAILABLE)
    assert client.app.ends == ["timed out"]
    assert [record.getMessage() for record in caplog.records] == [
        "The server cannot do this now: try again: CancelledError: ''"
    ]
    assert caplog.records[0].exc_info is None
    client.app = client.application
    client.create_task("bread")  # It is committed after the cancelled write would have been.
    assert [task["name"] for task in client.list_tasks()] == ["bread"]


def test_a_request_that_is_cancelled_while_its_body_arrives_is_answered_and_ends(make_client):
    client = make_client()
    client.app = TimeoutMiddleware(client.application, 0.05)
    assert_error(client.post("/tasks", content=stalling_body()), 503, UNAVAILABLE)
    assert client.app.ends == ["timed out"]


def test_a_request_that_is_cancelled_while_its_body_is_discarded_is_answered_and_ends(make_client):
    client = make_client()
    client.app = TimeoutMiddleware(client.application, 0.05)
    assert_error(client.post("/nothing", content=stalling_body()), 503, UNAVAILABLE)
    assert client.app.ends == ["timed out"]


def test_a_request_that_is_cancelled_while_its_response_is_sent_ends(make_client):
    client = make_client()
    middleware = TimeoutMiddleware(client.application, 0.05)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def stalling_send(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": "/info", "headers": []}
    client.portal.call(middleware, scope, receive, stalling_send)
    assert middleware.ends == ["timed out"]


def test_a_request_that_is_cancelled_ends_although_its_answer_cannot_be_sent(make_client):
    client = make_client()
    waits_for_body = asyncio.Event()
    messages = []

    async def stalling_receive():
        waits_for_body.set()
        await asyncio.Event().wait()

    async def broken_send(message):
        messages.append(message)
        raise OSError("the connection is lost")

    async def cancel_a_request():
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/tasks", "headers": headers}
        request = asyncio.create_task(client.app(scope, stalling_receive, broken_send))
        await waits_for_body.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    client.portal.call(cancel_a_request)
    assert [message["status"] for message in messages] == [503]


def test_after_a_408_the_asyncio_task_does_not_count_as_cancelled(make_client, monkeypatch):
    monkeypatch.setattr(todo, "BODY_PAUSE", 0.05)
    client = make_client()
    client.app = TimeoutMiddleware(client.application, 30)
    assert_status(client.post("/tasks", content=stalling_body()), 408)
    assert client.app.ends == ["returned, cancelled 0 times"]


def test_a_middleware_that_does_not_time_out_changes_nothing(make_client):
    client = make_client()
    client.app = TimeoutMiddleware(client.application, 30)
    assert_task(client.post("/tasks", json=MILK), {**MILK, "id": 1}, location="/tasks/1")
    assert client.app.ends == ["returned, cancelled 0 times"]


# Requests that uvicorn would refuse


def test_a_query_that_is_not_utf_8_finds_nothing(client):
    client.create_task("milk")
    messages = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        messages.append(message)

    scope = {"type": "http", "method": "GET", "path": "/tasks", "headers": []}
    client.portal.call(client.app, {**scope, "query_string": b"q=\xff"}, receive, send)
    head, body = messages
    assert head["status"] == 200
    assert body["body"] == b"[]"


# The lifespan


def assert_not_running(response):
    """Assert that the response says that the application is not running.

    It has no Retry-After, because to repeat the request would not help.
    """
    assert_error(response, 503, NOT_RUNNING, retry_after=None, cache_control=None)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/tasks"),
        ("POST", "/tasks"),
        ("DELETE", "/tasks/1"),
        ("GET", "/healthz"),
        ("GET", "/docs"),
        ("GET", "/nothing"),
    ],
)
def test_without_its_lifespan_the_application_answers_503_and_says_why(
    portal, tmp_path, caplog, method, path
):
    client = Client(portal, TODO_DB=str(tmp_path / "todo.db"))
    assert_not_running(client.request(method, path))
    assert [record.getMessage() for record in caplog.records] == [NOT_RUNNING]
    assert caplog.records[0].exc_info is None
    assert list(tmp_path.iterdir()) == []


def test_after_its_lifespan_the_application_answers_503(make_client):
    client = make_client()
    client.create_task()
    client.stop()
    assert_not_running(client.get("/tasks"))
    client.start()
    assert_page(client.get("/tasks"), [{**MILK, "id": 1}])


@pytest.mark.slow
def test_uvicorn_with_lifespan_off_answers_503(make_server):
    uvicorn = [sys.executable, "-m", "uvicorn", "todo:app", "--port", "0", "--lifespan", "off"]
    server = make_server(command=uvicorn)
    assert_not_running(server.request("GET", "/tasks"))
    server.stop()  # Afterwards the whole log has been read.
    assert "Traceback" not in server.log
    assert server.log.count("The application is not running") == 1


@pytest.fixture
def application(empty_db, tmp_path):
    """An application that has not started."""
    return todo.Application({"TODO_DB": str(shutil.copy(empty_db, tmp_path / "todo.db"))})


def test_starlettes_test_client_works_inside_with(application):
    with TestClient(application) as client:
        created = client.post("/tasks", json=MILK)
        assert_task(created, {**MILK, "id": 1}, location="/tasks/1")
        assert_page(client.get("/tasks"), [{**MILK, "id": 1}])


def test_one_test_client_may_be_inside_another(application):
    with TestClient(application) as outer:
        with TestClient(application) as inner:
            inner.post("/tasks", json=MILK)
        assert_page(outer.get("/tasks"), [{**MILK, "id": 1}])
    assert_not_running(outer.get("/tasks"))


def test_starlettes_test_client_is_answered_503_outside_with(application):
    assert_not_running(TestClient(application).get("/tasks"))


def test_starlettes_test_client_raises_what_stops_a_start(tmp_path):
    application = todo.Application({"TODO_DB": str(tmp_path)})
    with pytest.raises(todo.StartRefused), TestClient(application):
        pass


def test_a_mounted_application_without_its_lifespan_answers_503(application):
    parent = Starlette(routes=[Mount("/todo", app=application)])
    with TestClient(parent) as client:
        assert_not_running(client.get("/todo/tasks"))


def test_a_mounted_application_works_if_its_parent_enters_its_lifespan(application):
    @contextlib.asynccontextmanager
    async def lifespan(parent):
        async with application.router.lifespan_context(application):
            yield

    parent = Starlette(routes=[Mount("/todo", app=application)], lifespan=lifespan)
    with TestClient(parent) as client:
        created = client.post("/todo/tasks", json=MILK)
        assert_task(created, {**MILK, "id": 1}, location="/todo/tasks/1")
        assert_json(client.get("/todo/info"), "starlette")


@pytest.mark.parametrize("path", ["/", "/tasks", "/tasks/1", "/nothing"])
def test_websockets_are_refused(application, path):
    with TestClient(application) as client:
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(path):
            pass
        assert_json(client.get("/info"), "starlette")


# Other servers


def free_port():
    """Return a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(
    params=[
        (["hypercorn"], "hypercorn todo:app --bind 127.0.0.1:{port}"),
        (["granian"], "granian todo:app --interface asgi --port {port}"),
        (
            ["gunicorn", "uvicorn_worker"],
            "gunicorn todo:app --worker-class uvicorn_worker.UvicornWorker --bind 127.0.0.1:{port}",
        ),
        (["h11"], "uvicorn todo:app --http h11 --port {port}"),
        (["uvicorn"], "uvicorn todo:app --loop asyncio --port {port}"),
    ],
    ids=["hypercorn", "granian", "gunicorn", "uvicorn with h11", "uvicorn with asyncio"],
)
def other_server(request, make_server):
    """A server of another kind than the one that all other tests use."""
    modules, command = request.param
    for module in modules:
        pytest.importorskip(module)
    run = f"exec {sys.executable} -m {command.format(port=free_port())} 1>&2"
    return make_server(command=["sh", "-c", run])  # granian writes its log to stdout.


@pytest.mark.slow
def test_other_servers_serve_tasks(other_server):
    task = {**MILK, "id": 1}
    with other_server.client() as client:
        created = client.post("/tasks", json=MILK)
        assert_task(created, task, location="/tasks/1")
        etag = etag_of(created)
        unchanged = client.get("/tasks/1", headers={"If-None-Match": etag})
        assert_not_modified(unchanged, etag)
        assert_page(client.get("/tasks?q=MILK"), [task])
        assert_head(client.head("/tasks/1"), client.get("/tasks/1"))
        assert_json(client.delete("/tasks/1"), 1)


@pytest.mark.slow
def test_other_servers_serve_errors(other_server):
    large = json_bytes({"name": "x" * 2**20, "done": False})
    with other_server.client() as client:
        assert_error(client.get("/nothing"), 404, "Not Found")
        allow = "GET, POST, DELETE, HEAD, OPTIONS"
        assert_error(client.put("/tasks"), 405, "Method Not Allowed", allow=allow)
        assert_error(client.post("/tasks", content=b"x"), 415, NOT_JSON)
        response = client.post("/tasks", content=large, headers=JSON_TYPE)
        assert_error(response, 413, TOO_LARGE)


@pytest.mark.slow
def test_other_servers_serve_a_long_list_and_stop(other_server):
    insert_tasks(other_server.db, [("x" * 1000, False)] * 2000)
    tasks = read_tasks(other_server.db)
    with other_server.client() as client:
        assert client.get("/tasks").json() == tasks
        with client.stream("GET", "/tasks") as response:
            assert_status(response, 200)  # The client leaves before it has read the list.
        assert_json(client.delete("/tasks?done=false"), 2000)
    other_server.stop(signal.SIGTERM)
    assert "Traceback" not in other_server.log
    assert read_tasks(other_server.db) == []
