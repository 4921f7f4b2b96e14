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
    assert_json,
    assert_page,
    assert_status,
    assert_task,
    json_bytes,
    whole_task,
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
UNAVAILABLE = "The server cannot do this now: try again"
NOT_RUNNING = (
    "The application is not running, because its lifespan is not: serve it without --lifespan off, "
    "enter its lifespan where it is mounted, or use TestClient in a `with` statement"
)


# Middleware


@pytest.fixture
def cors_client(make_client):
    """A client of an application with a token, which another origin may call."""
    return make_client(TODO_TOKEN="secret", TODO_CORS_ORIGINS="https://a.example")


def assert_compressed(client):
    """Assert that responses pass through GZipMiddleware, and that the token is still required."""
    headers = {"Origin": "https://a.example", "Accept-Encoding": "gzip"}
    response = client.get("/info", headers={"Authorization": "Bearer secret", **headers})
    assert_status(response, 200)
    assert response.json() == "starlette"
    assert response.headers.get("content-encoding") == "gzip"
    assert response.headers.get("access-control-allow-origin") == "https://a.example"
    assert_status(client.get("/info", headers=headers), 401)


def test_middleware_can_be_added(cors_client):
    cors_client.application.add_middleware(GZipMiddleware, minimum_size=10)
    assert_compressed(cors_client)


def test_middleware_can_be_wrapped_around(cors_client):
    cors_client.app = GZipMiddleware(cors_client.application, minimum_size=10)
    assert_compressed(cors_client)


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
            await asyncio.sleep(5)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/tasks",
        "raw_path": b"/tasks",
        "query_string": b"",
        "headers": [],
    }
    client.portal.call(middleware, scope, receive, stalling_send)
    assert middleware.ends == ["timed out"]


def test_a_request_that_is_cancelled_ends_although_its_answer_cannot_be_sent(make_client):
    client = make_client()

    async def stalling_receive():
        await asyncio.Event().wait()

    async def broken_send(message):
        raise OSError("the connection is lost")

    async def cancel_a_request():
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/tasks", "headers": headers}
        request = asyncio.create_task(client.app(scope, stalling_receive, broken_send))
        await asyncio.wait([request], timeout=0.05)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    client.portal.call(cancel_a_request)


def test_after_a_408_the_task_does_not_count_as_cancelled(make_client, monkeypatch):
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

    query = b"q=\xff"
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/tasks",
        "query_string": query,
        "headers": [],
    }
    client.portal.call(client.app, scope, receive, send)
    assert [message.get("status") for message in messages] == [200, None]
    assert messages[1]["body"] == b"[]"


# The lifespan


def assert_not_running(response):
    """Assert that the response says that the application is not running."""
    assert_status(response, 503)
    assert response.json() == {"detail": NOT_RUNNING}
    assert "retry-after" not in response.headers  # To repeat the request would not help.


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "command"),
    [
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
def test_other_servers_serve_it(make_server, modules, command):
    for module in modules:
        pytest.importorskip(module)
    run = f"exec {sys.executable} -m {command.format(port=free_port())} 1>&2"
    server = make_server(command=["sh", "-c", run])  # granian writes its log to stdout.
    insert_tasks(server.db, [("x" * 1000, False)] * 2000)
    with server.client() as client:
        created = client.post("/tasks", json=MILK)
        assert_status(created, 200)
        assert created.json() == whole_task({**MILK, "id": 2001})
        assert created.headers["location"] == "/tasks/2001"
        unchanged = client.get("/tasks/2001", headers={"If-None-Match": created.headers["etag"]})
        assert_status(unchanged, 304)
        assert client.get("/tasks").json() == read_tasks(server.db)
        assert client.get("/tasks?q=MILK").json() == [created.json()]
        assert_status(client.head("/tasks"), 200)
        assert_status(client.post("/tasks", content=b"x"), 415)
        large = json_bytes({"name": "x" * 2**20, "done": False})
        json_type = {"Content-Type": "application/json"}
        assert_status(client.post("/tasks", content=large, headers=json_type), 413)
        assert_status(client.get("/nothing"), 404)
        assert_status(client.put("/tasks"), 405)
        with client.stream("GET", "/tasks") as response:
            assert_status(response, 200)  # The client leaves before it has read the list.
        assert client.delete("/tasks?done=false").json() == 2001
        assert client.get("/tasks").json() == []
    server.stop(signal.SIGTERM)
    assert "Traceback" not in server.log
    assert read_tasks(server.db) == []
