"""A todo list over HTTP, kept in SQLite.

Run it with

    uvicorn todo:app

and it serves http://127.0.0.1:8000, where /docs shows every route. Three environment variables
configure it, and none is required:

    TODO_DB=todo.db                The database file. It is created if it is missing.
    TODO_TOKEN=...                 The token that requests must send (Authorization: Bearer ...).
    TODO_CORS_ORIGINS=https://...  The origins whose web pages may call, separated by commas, or *.

An operation validates a request, runs a statement of sql/, and responds with the JSON that SQLite
made. Reads are short and run on the event loop. Writes run in a thread of their own, which commits
all waiting writes together, in one transaction that is synced to disk before any is answered.

The sections, in this order: settings, operations, routes and the application, requests, responses,
database, documentation.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import glob
import hashlib
import json
import logging
import os
import queue
import re
import secrets
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import yoyo
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from yoyo import internalmigrations
from yoyo.backends.core.sqlite3 import SQLiteBackend

try:
    import fcntl
except ImportError:  # Windows has no flock: use one worker there.
    fcntl = None  # type: ignore[assignment]

# ------------------------------------------------------------------------------------------------
# Settings
# ------------------------------------------------------------------------------------------------

NAME_LIMIT = 1000  # characters; so the largest page, 1,000 tasks, has at most 6 MB
BODY_LIMIT = 2**20  # bytes; a task needs less than 13 kB, however it is escaped
DROP_LIMIT = 2**24  # bytes of a body to receive and ignore, so that its client reads the response
BODY_TIMEOUT = 30.0  # seconds for a whole body, so that a slow client cannot hold a connection
BODY_PAUSE = 10.0  # seconds that may pass between two parts of a body
WRITE_TIMEOUT = 5.0  # seconds; a write that has not begun by then fails
READ_TIMEOUT = 0.1  # seconds that a read waits for SQLite's locks, which hardly ever happens
CHECKPOINT_TIMEOUT = 0.1  # seconds that a checkpoint waits for readers; writes wait with it
START_TIMEOUT = 30.0  # seconds that a startup waits for locks; migrations of others do not count
STOP_TIMEOUT = 5.0  # seconds that a shutdown waits for the writer thread
LIST_PIECE = 300  # tasks that are read at a time, which takes 1 ms
WHOLE_LIST = 300  # the most tasks in a list that is not streamed and has an ETag
WAL_LIMIT = 2**23  # bytes of SQLite's write-ahead log (the -wal file) at which it is truncated

log = logging.getLogger("uvicorn.error")  # the logger of uvicorn's own messages


# ------------------------------------------------------------------------------------------------
# Operations: what the server does, in the order of the routes
# ------------------------------------------------------------------------------------------------


async def get_root(request: TodoRequest, database: Database) -> Response:
    """Return a greeting."""
    return JSONText('"Hello, world!"')


async def get_info(request: TodoRequest, database: Database) -> Response:
    """Return the name of the implementation."""
    return JSONText('"starlette"')


async def create_task(request: TodoRequest, database: Database) -> Response:
    """Create a task, or return the one that the same Idempotency-Key has created."""
    key = request.header(b"idempotency-key")
    body = await read_json(request)
    fields = validate_new_task(body, faults_of_key(key))
    digest = None if key is None else digest_fields(fields)
    result = await database.write("create_task", {**fields, "key": key, "digest": digest})
    if not result.row:
        raise Invalid([KEY_REUSED.entry(KEY_LOC, key)])
    new_id, task = result.row
    location = f"{base_path(request)}/tasks/{new_id}"
    return JSONText(task, *etag_headers(etag_of(task)), (b"location", location.encode()))


async def list_tasks(request: TodoRequest, database: Database) -> Response:
    """Return all tasks, or those that the query selects: a short list, a page or a stream."""
    parameters = parse_query(request)
    query = validate_list_query(dict(parameters))
    limit = WHOLE_LIST if query.limit is None else query.limit
    # One task more shows whether others remain.
    tasks = await find_tasks(request, database, query, limit + 1)
    if len(tasks) <= limit:
        return list_response(request, tasks)
    if query.limit is not None:
        page = tasks[:limit]
        others = [(name, value) for name, value in parameters if name != "after"]
        next_query = urlencode([*others, ("after", id_of(page[-1]))])
        link = f'<{base_path(request)}/tasks?{next_query}>; rel="next"'  # RFC 8288, section 3
        return list_response(request, page, link)
    check_preconditions(request, etag=None)  # A stream has no ETag: only `*` matches.
    stream = stream_tasks(request, database, query, tasks)
    return StreamingResponse(stream, media_type="application/json")


async def delete_tasks(request: TodoRequest, database: Database) -> Response:
    """Delete the tasks that are done, or those that are not, and return their number.

    Nothing else may be in the query, so that a misspelt or repeated parameter does not delete more
    than was meant.
    """
    parameters: dict[str, str] = {}
    entries = []
    for name, value in parse_query(request):
        if name == "done" and name not in parameters:
            parameters[name] = value
        else:
            entries.append(EXTRA_FORBIDDEN.entry(["query", name], value))
    values = validate("query", parameters, DELETE_PARAMETERS, entries)
    check_preconditions(request, etag=None)  # The tasks to delete have no ETag: only `*` matches.
    result = await database.write("delete_tasks", values)
    return JSONText(str(result.changed))


async def get_task(request: TodoRequest, database: Database) -> Response:
    """Return a task."""
    task = find_task(request, database)
    etag = etag_of(task)
    check_preconditions(request, etag)
    return JSONText(task, *etag_headers(etag))


async def replace_task(request: TodoRequest, database: Database) -> Response:
    """Replace all fields of a task."""
    fields = validate_new_task(await read_json(request))
    result = await change_task(request, database, "replace_task", fields)
    return task_response(result.row)


async def update_task(request: TodoRequest, database: Database) -> Response:
    """Update some fields of a task (JSON merge patch, RFC 7396)."""
    changes = validate_patch(await read_json(request))
    unchanged = dict.fromkeys(FIELDS)  # None leaves a field as it is.
    result = await change_task(request, database, "update_task", {**unchanged, **changes})
    return task_response(result.row)


async def delete_task(request: TodoRequest, database: Database) -> Response:
    """Delete a task and return 1, the number of deleted tasks."""
    result = await change_task(request, database, "delete_task", {})
    return JSONText(str(result.changed))


async def get_health(request: TodoRequest, database: Database) -> Response:
    """Check that tasks can be read, that the file is in place, and that the writer thread runs."""
    database.check_health()
    return JSONText('{"status":"ok"}', (b"cache-control", b"no-store"))


async def get_openapi(request: TodoRequest, database: Database) -> Response:
    """Return the OpenAPI document of this API."""
    app: Application = request.app
    return JSONText(openapi_document(base_path(request), app.token is not None))


async def get_docs(request: TodoRequest, database: Database) -> Response:
    """Return a page that shows the OpenAPI document, with a form for each operation."""
    return HTMLResponse(PAGE)


# What several operations share


def find_task(request: TodoRequest, database: Database) -> str:
    """Return the JSON of the task in the path; raise HTTPException (404)."""
    rows = database.read("get_task", {"id": task_id(request)})
    if not rows:
        raise HTTPException(404, "Task not found")
    [[task]] = rows
    return str(task)


async def change_task(
    request: TodoRequest, database: Database, statement: str, values: Parameters
) -> WriteResult:
    """Run a statement that changes the task in the path, if the request's preconditions hold.

    A request without preconditions is decided by the statement alone. With preconditions, the
    statement changes the task only if it is still as it was when they were checked. If it is not,
    they are checked again, until the task is changed, a precondition is false or the task is gone.

    Raises HTTPException: 404 if there is no such task, 412 if a precondition is false.
    """
    parameters = {**values, "id": task_id(request), "expected": None}
    has_preconditions = request.is_conditional()
    while True:
        if has_preconditions:
            task = find_task(request, database)
            check_preconditions(request, etag_of(task))
            parameters["expected"] = task
        result = await database.write(statement, parameters)
        if result.changed == 1:
            return result
        if not has_preconditions:
            raise HTTPException(404, "Task not found")


async def find_tasks(
    request: TodoRequest, database: Database, query: ListQuery, wanted: int
) -> list[str]:
    """Return the JSON of the first tasks that match a query.

    These are `wanted` tasks, or all that match if there are fewer; with `q` there can be more.
    Without `q` they come from one statement, so they are a consistent snapshot. Raises
    ClientDisconnect once the client of a search has left.
    """
    if query.q is None:
        return read_piece(database, query, wanted).tasks
    tasks: list[str] = []
    async with contextlib.aclosing(read_pieces(database, query)) as pieces:
        async for piece in pieces:
            tasks += piece
            if len(tasks) >= wanted:
                break
            if await request.is_disconnected():
                raise ClientDisconnect
    return tasks


async def stream_tasks(
    request: TodoRequest, database: Database, query: ListQuery, tasks: list[str]
) -> AsyncIterator[str]:
    """Yield the text of a JSON array: these first tasks, then the others that match the query.

    StreamingResponse notices when the client leaves. To ask for that here too would be a second
    call of `receive` at the same time, after which granian (2.8) cuts some responses off.
    """
    if request.method == "HEAD":
        return
    yield "[" + ",".join(tasks)
    remaining = query._replace(after=id_of(tasks[-1]))
    async with contextlib.aclosing(read_pieces(database, remaining)) as pieces:
        async for piece in pieces:
            if piece:
                yield "," + ",".join(piece)
    yield "]"


async def read_pieces(database: Database, query: ListQuery) -> AsyncGenerator[list[str], None]:
    """Yield the JSON of the tasks that match a query, in lists.

    Each list comes from a short read of the next LIST_PIECE tasks, whether they match or not. Other
    requests run between two reads.
    """
    while True:
        piece = read_piece(database, query, LIST_PIECE)
        yield piece.tasks
        if piece.is_last:
            return
        query = query._replace(after=piece.last_id)
        await database.let_others_run()


LIST_STATEMENTS = {  # by `sort`, and by whether `done` is given
    ("id", False): "list_tasks",
    ("id", True): "list_tasks_by_done",
    ("-id", False): "list_newest_tasks",
    ("-id", True): "list_newest_tasks_by_done",
}


class Piece(NamedTuple):
    """The JSON of the tasks that match, and the id of the last one that was looked at."""

    tasks: list[str]
    last_id: int | None
    is_last: bool


def read_piece(database: Database, query: ListQuery, size: int) -> Piece:
    """Look at the next `size` tasks of a query in one statement, whether they match `q` or not."""
    statement = LIST_STATEMENTS[query.sort, query.done is not None]
    parameters = {"done": query.done, "q": query.q, "after": query.after, "size": size}
    [(count, last_id, lines)] = database.read(statement, parameters)
    tasks = lines.split("\n") if lines else []
    return Piece(tasks, last_id, is_last=count < size)


def id_of(task: str) -> int:
    """Return the id in the JSON of a task."""
    return int(json.loads(task)["id"])


# ------------------------------------------------------------------------------------------------
# Routes and the application
# ------------------------------------------------------------------------------------------------

# Shortcuts
#
# Four things of Starlette's are replaced, because each of them takes more than 5 % of the CPU time
# of a short request. Without the shortcut, the CPU time of a `GET /tasks/1` grows by
#
#     its layers for errors, left out by `build_middleware_stack`     11 %
#     `Route`, replaced by `Resource`                                 21 %
#     the constructor of `Response`, replaced by `JSONText`           12 %
#     `request.headers`, replaced by `TodoRequest.header`             17 %
#
# These are medians of three runs of tests/bench/compare.py against this server without the
# shortcut. Against the same code, such a run shows 4 % more or less.

Operation = Callable[["TodoRequest", "Database"], Awaitable[Response]]

METHODS_WITH_BODY = ("POST", "PUT", "PATCH")
ID_SEGMENT = r"(?P<id>[^/\n]+)"  # A path that ends in a newline is no route.

NOT_RUNNING = (
    "The application is not running, because its lifespan is not: serve it without --lifespan off, "
    "enter its lifespan where it is mounted, or use TestClient in a `with` statement"
)
UPGRADE_WITH_BODY = (
    "A request with a body must not offer an upgrade: leave out the Upgrade header "
    "(in Java, set HttpClient.Version.HTTP_1_1)"
)


class Resource(BaseRoute):
    """A path with one operation for each method; HEAD, OPTIONS and 405 follow from them.

    In a path, `{id}` stands for one segment. The further paths are other names of the resource.
    Only the first one is in the documentation, where `tag` names its group.
    """

    def __init__(
        self, *paths: str, tag: str, needs_token: bool = True, **operations: Operation
    ) -> None:
        self.path = paths[0]
        patterns = [re.escape(path).replace(r"\{id\}", ID_SEGMENT) for path in paths]
        self.pattern = re.compile("|".join(patterns))
        self.tag = tag
        self.needs_token = needs_token
        self.operations = operations
        if "GET" in self.operations:
            self.operations["HEAD"] = self.operations["GET"]
        self.operations["OPTIONS"] = self.get_options
        self.allow = ", ".join(self.operations)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Tell Starlette's router whether this is the resource of a request."""
        if scope["type"] != "http":
            return Match.NONE, {}
        found = self.pattern.fullmatch(path_below_root(scope))
        if found is None:
            return Match.NONE, {}
        return Match.FULL, {"path_params": found.groupdict()}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response to a request (Starlette's router calls this).

        If the request is cancelled before its response begins, the response is a 503. The
        cancellation is raised again.
        """
        request = TodoRequest(scope, receive)
        try:
            response = await self.respond(request)
        except asyncio.CancelledError as error:
            with contextlib.suppress(Exception):
                await error_response(error)(scope, receive, send)
            raise
        try:
            await response(scope, receive, send)
        except ClientDisconnect:
            pass
        except RuntimeError as error:  # uvloop raises it when the connection is lost.
            log.error("A response broke off: %s", describe_error(error))
        except Exception as error:  # The response has begun, so there cannot be another one.
            log_error("A response broke off", error)

    async def respond(self, request: TodoRequest) -> Response:
        """Run the operation for a request; return its response, or the one to its exception.

        A body that the operation does not use is received and ignored before it runs.
        """
        app: Application = request.scope["app"]
        method = request.scope["method"]
        operation = self.operations.get(method, self.refuse_method)
        ignores_body = method in self.operations and method not in METHODS_WITH_BODY
        try:
            try:
                if app.database is None:
                    log.error(NOT_RUNNING)
                    raise Refusal(503, NOT_RUNNING)
                if self.needs_token and app.token is not None:
                    check_token(request, app.token)
                if ignores_body and request.announces_body():
                    await drop_unused_body(request)
                return await operation(request, app.database)
            except Refusal as refusal:
                return await refusal_response(request, refusal)
        except Exception as error:
            return error_response(error)

    async def get_options(self, request: TodoRequest, database: Database) -> Response:
        """Return the methods of this resource."""
        return Response(status_code=204, headers={"Allow": self.allow})

    async def refuse_method(self, request: TodoRequest, database: Database) -> Response:
        """Raise Refusal (405)."""
        raise Refusal(405, headers={"Allow": self.allow})


class UnknownPath(Resource):
    """The last route: it matches every path and has no operation, so the response is 404."""

    def __init__(self) -> None:
        super().__init__("", tag="")
        self.operations = {}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Tell Starlette's router that any path will do."""
        return (Match.FULL if scope["type"] == "http" else Match.NONE), {}

    async def refuse_method(self, request: TodoRequest, database: Database) -> Response:
        """Raise Refusal (404)."""
        raise Refusal(404)


ROUTES = [  # Starlette tries them in this order: the busiest come first.
    Resource(
        "/tasks/{id}",
        tag="tasks",
        GET=get_task,
        PUT=replace_task,
        PATCH=update_task,
        DELETE=delete_task,
    ),
    Resource(
        "/tasks",
        "/tasks/",
        tag="tasks",
        GET=list_tasks,
        POST=create_task,
        DELETE=delete_tasks,
    ),
    Resource("/", tag="server", GET=get_root),
    Resource("/info", tag="server", GET=get_info),
    Resource("/healthz", tag="server", needs_token=False, GET=get_health),
    Resource("/openapi.json", tag="server", needs_token=False, GET=get_openapi),
    Resource("/docs", tag="server", needs_token=False, GET=get_docs),
]


CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://"  # the scheme
    r"([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"  # the host
    r"(:[1-9][0-9]*)?"  # the port
)
DEFAULT_PORTS = {"http": 80, "https": 443}


class StartRefused(Exception):
    """The server cannot start. The text is one sentence that names the setting or the file."""


class Application(Starlette):
    """The server with the settings in `environ`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(routes=[*ROUTES, UnknownPath()], lifespan=lifespan)
        self.database_path = environ.get("TODO_DB") or "todo.db"
        token = environ.get("TODO_TOKEN")
        self.token = None if token is None else token.strip(" \t\r\n")
        origins = environ.get("TODO_CORS_ORIGINS", "").split(",")
        self.origins = [origin.strip() for origin in origins if origin.strip()]
        self.database: Database | None = None  # None unless the lifespan is running
        self.start_error: StartRefused | None = None
        if self.origins:
            self.add_middleware(
                CORSMiddleware,
                allow_origins=self.origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["ETag", "Link", "Location", "Retry-After"],
            )

    def build_middleware_stack(self) -> ASGIApp:
        """Return the router inside the middleware that was added.

        Starlette's two layers for errors are left out, because `Resource` handles every error. See
        "Shortcuts" above.
        """
        app: ASGIApp = self.router.app
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or the lifespan, as ASGI defines it."""
        if scope["type"] == "lifespan":
            send = partial(self.send_start_error, send)
        elif scope["type"] == "http":
            has_upgrade = b"upgrade" in header_names(scope)
            if has_upgrade or scope["method"] == "CONNECT":
                send = partial(send_and_close, send)
                if has_upgrade and TodoRequest(scope, receive).announces_body():
                    await detail_response(400, UPGRADE_WITH_BODY)(scope, receive, send)
                    return
        scope["app"] = self
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        await self.middleware_stack(scope, receive, send)

    async def send_start_error(self, send: Send, message: Message) -> None:
        """Send a message of the lifespan, with the text of StartRefused instead of a traceback."""
        if message["type"] == "lifespan.startup.failed" and self.start_error is not None:
            message = {**message, "message": str(self.start_error)}
        await send(message)

    def check_settings(self) -> None:
        """Raise StartRefused for an invalid setting."""
        if re.match(r":memory:|(file|sqlite[\w+]*):", self.database_path, re.IGNORECASE):
            raise StartRefused(
                f"TODO_DB: {self.database_path!r} is not a path: use the path of a file"
            )
        if CONTROL_CHARACTER.search(self.database_path):
            raise StartRefused(f"TODO_DB: {self.database_path!r} has a control character in it")
        if self.token is not None and (not self.token or CONTROL_CHARACTER.search(self.token)):
            raise StartRefused("TODO_TOKEN is empty or has a control character in it")
        for origin in self.origins:
            if origin != "*" and not is_origin(origin):
                raise StartRefused(
                    f"TODO_CORS_ORIGINS: {origin!r} is not an origin as browsers send it, "
                    "such as https://example.com or http://localhost:3000"
                )


def is_origin(text: str) -> bool:
    """Return whether this is an origin as browsers send it (RFC 6454, section 6.2).

    That is in lower case, without a path, and without a port that is the scheme's default.
    """
    if not ORIGIN.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # There is no such port, or no such address.
        return False
    return port is None or port != DEFAULT_PORTS.get(parts.scheme)


@contextlib.asynccontextmanager
async def lifespan(app: Application) -> AsyncIterator[None]:
    """Keep the database open while the application runs; raise StartRefused.

    One lifespan may be inside another, as those of two test clients can be. Then only the inner one
    may be used until it ends.
    """
    outer = app.database
    app.start_error = None
    try:
        app.check_settings()
        database = app.database = await Database.open(app.database_path)
    except StartRefused as error:
        app.start_error = error
        raise
    log.info("Serving the tasks in %s", database.path)
    gc.collect()
    gc.freeze()  # Not scanning what exists now makes a list of 100 tasks 5 to 20 % faster.
    try:
        yield
    finally:
        app.database = outer
        await database.close()


app = Application(os.environ)


# ------------------------------------------------------------------------------------------------
# Requests: reading and validating input
# ------------------------------------------------------------------------------------------------

JSON_TYPE = re.compile(r"application/([^\s;/]+\+)?json[ \t]*(;.*)?", re.IGNORECASE)
ID_PATTERN = re.compile("[1-9][0-9]{0,18}")
KEY_PATTERN = "^[!-~]{1,255}$"
KEY_LOC = ["header", "idempotency-key"]
TRUE_WORDS = ("true", "t", "yes", "y", "on", "1")
FALSE_WORDS = ("false", "f", "no", "n", "off", "0")

NOT_JSON = "Send JSON with the header Content-Type: application/json (curl --json does)"
UNREADABLE = "There was an error parsing the body"
TOO_LARGE = f"The body is larger than {BODY_LIMIT} bytes: send less"
UNUSED_AND_TOO_LARGE = f"The body is larger than {DROP_LIMIT} bytes, and not needed: send none"
TOO_SLOW = "The body did not arrive in time: send it again, faster and without a pause"

Schema = dict[str, Any]  # a JSON Schema; the checks below read its keywords
Values = dict[str, Any]  # checked values by their names
Entry = dict[str, object]  # an entry in the detail of a 422

# The fields of a task that clients write. A new field also needs a migration, and a place in three
# statements of sql/: .github/CONTRIBUTING.md has an example. It should have a "default", so that it
# may be left out: clients that do not know it go on working.
FIELDS: dict[str, Schema] = {
    "name": {
        "type": "string",
        "maxLength": NAME_LIMIT,
        "description": "What is to be done",
        "examples": ["Buy milk"],
    },
    "done": {
        "type": "boolean",
        "description": "Whether it is done",
        "examples": [False],
    },
}
LIST_PARAMETERS: dict[str, Schema] = {
    "done": {
        "type": "boolean",
        "description": "Only tasks that are done (true), or those that are not (false)",
    },
    "q": {
        "type": "string",
        "description": "Only tasks whose name contains this text, "
        "where ASCII letters match in either case",
    },
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "description": "At most this many tasks; while more remain, Link has the next page",
    },
    "sort": {
        "type": "string",
        "enum": ["id", "-id"],
        "default": "id",
        "description": "The order: oldest first (id) or newest first (-id)",
    },
    "after": {
        "type": "integer",
        "minimum": 0,
        "format": "int64",
        "description": "Only tasks that come after the one with this id, in the order of sort",
    },
}
DELETE_PARAMETERS: dict[str, Schema] = {
    "done": {
        "type": "boolean",
        "description": "Delete the tasks that are done (true), or those that are not (false)",
    },
}


def header_names(scope: Scope) -> set[bytes]:
    """Return the names of the headers of a request, in lower case."""
    return {name for name, _ in scope["headers"]}


class TodoRequest(Request):
    """A request whose headers are looked up as they were received.

    `request.headers` would decode all of them first: see "Shortcuts" above.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self.header_names = header_names(scope)

    def header(self, name: bytes) -> str | None:
        """Return the value of a header, decoded as Latin-1, or None if it was not sent.

        Several lines of one header are joined by commas (RFC 9110, section 5.3).
        """
        if name not in self.header_names:
            return None
        values: list[bytes] = [value for key, value in self.scope["headers"] if key == name]
        return b", ".join(values).decode("latin-1").strip(" \t")

    def is_conditional(self) -> bool:
        """Return whether the request has a precondition."""
        return b"if-match" in self.header_names or b"if-none-match" in self.header_names

    def announces_body(self) -> bool:
        """Return whether a body follows the headers (RFC 9112, section 6.3)."""
        return b"transfer-encoding" in self.header_names or self.declared_size() > 0

    def declared_size(self) -> int:
        """Return the Content-Length in bytes, or 0. The server has refused a malformed one."""
        return int(self.header(b"content-length") or 0)


class ListQuery(NamedTuple):
    """The validated query parameters of `GET /tasks`."""

    done: int | None = None
    q: str | None = None
    limit: int | None = None
    sort: str = LIST_PARAMETERS["sort"]["default"]
    after: int | None = None


@dataclass(frozen=True)
class Fault:
    """What is wrong with a value: type, text and context, as pydantic writes them."""

    type: str
    msg: str
    ctx: dict[str, object] | None = None

    def entry(self, loc: Sequence[str | int], value: object) -> Entry:
        """Return the entry for this fault in a 422: `loc` is where in the request the value was."""
        entry: Entry = {"type": self.type, "loc": loc, "msg": self.msg, "input": value}
        if self.ctx is not None:
            entry["ctx"] = self.ctx
        return entry


MISSING = Fault("missing", "Field required")
NOT_AN_OBJECT = Fault(
    "model_attributes_type",
    "Input should be a valid dictionary or object to extract fields from",
)
EXTRA_FORBIDDEN = Fault("extra_forbidden", "Extra inputs are not permitted")
NOT_A_BOOLEAN = Fault("bool_type", "Input should be a valid boolean")
UNKNOWN_BOOLEAN = Fault(  # pydantic's fault for words and whole numbers of 64 bits
    "bool_parsing", "Input should be a valid boolean, unable to interpret input"
)
KEY_MALFORMED = Fault(
    "string_pattern_mismatch",
    f"String should match pattern '{KEY_PATTERN}'",
    {"pattern": KEY_PATTERN},
)
KEY_REUSED = Fault("idempotency_key_reused", "Idempotency-Key was used with another body")


class Invalid(Exception):
    """A request with faults: `entries` are the detail of its 422."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries


class Refusal(HTTPException):
    """An error that is raised before the body is read; `Resource` drops the body first."""


def validate_new_task(body: object, entries: Sequence[Entry] = ()) -> Values:
    """Return every field of the task that a body describes; raise Invalid.

    `entries` are those for faults elsewhere in the request.
    """
    members = require_object(body, entries)
    return validate("body", members, FIELDS, entries)


def validate_patch(body: object) -> Values:
    """Return the fields that a body sets; raise Invalid."""
    members = require_object(body)
    present = {name: FIELDS[name] for name in FIELDS if name in members}
    return validate("body", members, present)


def validate_list_query(parameters: Mapping[str, str]) -> ListQuery:
    """Return the query of a list; raise Invalid. Unknown parameters are ignored."""
    present = {name: LIST_PARAMETERS[name] for name in LIST_PARAMETERS if name in parameters}
    return ListQuery(**validate("query", parameters, present))


def faults_of_key(key: str | None) -> list[Entry]:
    """Return an entry for the fault in an Idempotency-Key, if one is sent and has a fault."""
    if key is None or re.fullmatch(KEY_PATTERN, key):
        return []
    return [KEY_MALFORMED.entry(KEY_LOC, key)]


def require_object(body: object, entries: Sequence[Entry] = ()) -> dict[str, object]:
    """Return the body if it is a JSON object; raise Invalid."""
    if isinstance(body, dict):
        return body
    fault = MISSING if body is None else NOT_AN_OBJECT
    raise Invalid([*entries, fault.entry(["body"], body)])


def validate(
    place: str,
    members: Mapping[str, object],
    schemas: Mapping[str, Schema],
    entries: Sequence[Entry] = (),
) -> Values:
    """Return the value of each member that has a schema, or the schema's default.

    `place` is the part of the request that the members are from: "body" or "query". Raises
    Invalid with the given entries and one for each member that is missing or wrong.
    """
    values: Values = {}
    found: list[Entry] = []
    for name, schema in schemas.items():
        if name in members:
            value = parse_value(members[name], schema)
            if isinstance(value, Fault):
                found.append(value.entry([place, name], members[name]))
            else:
                values[name] = value
        elif "default" in schema:
            values[name] = schema["default"]
        else:
            sent = members if place == "body" else None
            found.append(MISSING.entry([place, name], sent))
    if entries or found:
        raise Invalid([*entries, *found])
    return values


def parse_value(value: object, schema: Schema) -> str | int | Fault:
    """Return a value as it is stored, or the fault in it."""
    match schema["type"]:
        case "string":
            return parse_string(value, schema)
        case "boolean":
            return parse_boolean(value)
        case "integer":
            return parse_integer(str(value), schema)
    raise NotImplementedError(schema["type"])


def parse_string(value: object, schema: Schema) -> str | Fault:
    """Return a string that the schema allows, or the fault in it."""
    if not isinstance(value, str):
        return Fault("string_type", "Input should be a valid string")
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, such as "\ud800"
        return Fault(
            "string_unicode",
            "Input should be a valid string, unable to parse raw data as a unicode string",
        )
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        limit = schema["maxLength"]
        msg = f"String should have at most {limit} characters"
        return Fault("string_too_long", msg, {"max_length": limit})
    if "enum" in schema and value not in schema["enum"]:
        expected = " or ".join(repr(choice) for choice in schema["enum"])
        return Fault("literal_error", f"Input should be {expected}", {"expected": expected})
    return value


def parse_boolean(value: object) -> int | Fault:
    """Return 1 or 0 for what pydantic takes for a boolean, or the fault in it."""
    if isinstance(value, str):
        word = value.lower()
        if word in TRUE_WORDS:
            return 1
        if word in FALSE_WORDS:
            return 0
        return UNKNOWN_BOOLEAN
    if isinstance(value, int | float):  # In Python, True is 1 and False is 0.
        if value == 1:
            return 1
        if value == 0:
            return 0
        if value % 1 == 0 and -(2**63) <= value < 2**63:
            return UNKNOWN_BOOLEAN
    return NOT_A_BOOLEAN


def parse_integer(text: str, schema: Schema) -> int | Fault:
    """Return a number in ASCII digits that is within its bounds, or the fault in it."""
    if not re.fullmatch("[0-9]{1,4300}", text):  # int() reads 4,300 digits at most.
        msg = "Input should be a valid integer, unable to parse string as an integer"
        return Fault("int_parsing", msg)
    number = int(text)
    least = schema["minimum"]
    most = schema.get("maximum", 2**63 - 1)  # the largest integer in SQLite
    if number < least:
        msg = f"Input should be greater than or equal to {least}"
        return Fault("greater_than_equal", msg, {"ge": least})
    if number > most:
        msg = f"Input should be less than or equal to {most}"
        return Fault("less_than_equal", msg, {"le": most})
    return number


def digest_fields(fields: Values) -> str:
    """Return a digest of what a client asked for with an Idempotency-Key.

    Two bodies with one digest are the same request. Fields that have their default are left out,
    so that the digests in a database stay valid when a field with a default is added. The form is
    that of an ETag, because existing databases have it.
    """
    given = {name: value for name, value in fields.items() if value != FIELDS[name].get("default")}
    return etag_of(json.dumps(given))


def check_token(request: TodoRequest, token: str) -> None:
    """Raise Refusal (401) if a request lacks the token (RFC 6750, section 2.1)."""
    authorization = request.header(b"authorization") or ""
    scheme, _, sent = authorization.partition(" ")
    is_same = secrets.compare_digest(sent.strip(" \t").encode("latin-1"), os.fsencode(token))
    if scheme.lower() != "bearer" or not is_same:
        raise Refusal(401, "Not authenticated", {"WWW-Authenticate": "Bearer"})


def path_below_root(scope: Scope) -> str:
    """Return the path of a request without the root path.

    The root path may end in a slash: then the path is "/api//tasks", if the server has joined the
    two, or "/api/tasks". A path that does not begin with it has lost it to a proxy.
    """
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    if not root_path:
        return path
    for root in (root_path, root_path.rstrip("/")):
        if path.startswith(f"{root}/"):
            return path[len(root) :]
    return path


def base_path(request: TodoRequest) -> str:
    """Return what comes before the path of a route in a URL; it is empty without a root path."""
    return quote(request.scope.get("root_path", "").rstrip("/"))


def task_id(request: TodoRequest) -> int:
    """Return the id in the path; raise HTTPException (404) if it can't be an id."""
    text = request.path_params["id"]
    if not ID_PATTERN.fullmatch(text) or int(text) >= 2**63:
        raise HTTPException(404, "Task not found")
    return int(text)


def parse_query(request: TodoRequest) -> list[tuple[str, str]]:
    """Return the parameters of the query string in their order, also those without a value."""
    text = request.scope["query_string"].decode(errors="replace")
    return parse_qsl(text, keep_blank_values=True)


async def read_json(request: TodoRequest) -> object:
    """Return the JSON value in the body, or None if the body is empty.

    Raises HTTPException (415, 413, 408, 400), ClientDisconnect, or Invalid for malformed JSON.
    """
    if not JSON_TYPE.fullmatch(request.header(b"content-type") or ""):
        raise Refusal(415, NOT_JSON)
    if request.declared_size() > BODY_LIMIT:
        raise Refusal(413, TOO_LARGE, {"Connection": "close"})
    body = await receive_body(request)
    if body.size > BODY_LIMIT:
        raise HTTPException(413, TOO_LARGE, {"Connection": "close"})
    if not body.is_complete:
        raise HTTPException(408, TOO_SLOW, {"Connection": "close"})
    if body.size == 0:
        return None
    return parse_json(body.content)


def parse_json(content: bytearray) -> object:
    """Return a JSON value; raise Invalid if it is malformed, or HTTPException (400)."""
    try:
        value: object = JSON_DECODER.decode(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        fault = Fault("json_invalid", "JSON decode error", {"error": error.msg})
        raise Invalid([fault.entry(["body", error.pos], {})]) from None
    except (ValueError, RecursionError):  # not UTF-8, an endless number, nested too deeply
        raise HTTPException(400, UNREADABLE) from None
    return value


def reject_constant(name: str) -> None:
    """Raise JSONDecodeError for NaN, Infinity and -Infinity, which Python's decoder accepts."""
    raise json.JSONDecodeError(f"{name} is not JSON", "", 0)


JSON_DECODER = json.JSONDecoder(parse_constant=reject_constant)


class Body(NamedTuple):
    """What arrived of a body. The content is cut off if the size exceeds BODY_LIMIT."""

    content: bytearray
    size: int
    is_complete: bool


async def receive_body(request: TodoRequest) -> Body:
    """Receive a body until it ends, is larger than DROP_LIMIT bytes, or misses its time limits.

    A body that is too large is received to its end, because many clients send all of it before
    they read the response. Raises ClientDisconnect.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BODY_TIMEOUT
    content = bytearray()
    size = 0
    more_to_come = True
    try:
        async with asyncio.timeout(BODY_PAUSE) as timeout:
            while more_to_come:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                size += len(message.get("body", b""))
                if size <= BODY_LIMIT:
                    content += message.get("body", b"")
                if size > DROP_LIMIT:
                    break
                more_to_come = message.get("more_body", False)
                if more_to_come:
                    timeout.reschedule(min(loop.time() + BODY_PAUSE, deadline))
    except TimeoutError:
        pass
    return Body(content, size, is_complete=not more_to_come)


async def drop_unused_body(request: TodoRequest) -> None:
    """Receive and ignore a body that the operation does not use.

    Raises HTTPException (413, 408) or ClientDisconnect.
    """
    if request.declared_size() > DROP_LIMIT:
        raise Refusal(413, UNUSED_AND_TOO_LARGE, {"Connection": "close"})
    body = await receive_body(request)
    if body.size > DROP_LIMIT:
        raise HTTPException(413, UNUSED_AND_TOO_LARGE, {"Connection": "close"})
    if not body.is_complete:
        raise HTTPException(408, TOO_SLOW, {"Connection": "close"})


async def drop_refused_body(request: TodoRequest) -> dict[str, str]:
    """Receive the body of a refused request to its end, so that its client reads the response.

    Returns the header `Connection: close` for the response if that was not possible.
    A client that waits for `100 Continue` is not asked for its body (RFC 9110, section 10.1.1).
    """
    if not request.announces_body():
        return {}
    if b"expect" not in request.header_names:
        body = await receive_body(request)
        if body.is_complete:
            return {}
    return {"Connection": "close"}


# ------------------------------------------------------------------------------------------------
# Responses: JSON, preconditions and errors
# ------------------------------------------------------------------------------------------------

Header = tuple[bytes, bytes]


class JSONText(Response):
    """A 200 whose body is JSON already, with headers that are sent as they are.

    It replaces Starlette's constructor: see "Shortcuts" above.
    """

    def __init__(self, text: str, *headers: Header) -> None:
        self.status_code = 200
        self.background = None
        self.body = text.encode()
        self.raw_headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
            *headers,
        ]


def task_response(row: Row) -> Response:
    """Return the response with a task, of which a statement has returned the JSON."""
    [task] = row
    return JSONText(task, *etag_headers(etag_of(task)))


def list_response(request: TodoRequest, tasks: list[str], link: str | None = None) -> Response:
    """Return the response with these tasks; raise HTTPException (304, 412).

    The ETag covers the Link, because that tells a client whether there is another page.
    """
    text = f"[{','.join(tasks)}]"
    if link is None:
        etag = etag_of(text)
        headers = etag_headers(etag)
    else:
        etag = etag_of(text + link)
        headers = (*etag_headers(etag), (b"link", link.encode()))
    check_preconditions(request, etag)
    return JSONText(text, *headers)


def etag_of(text: str) -> str:
    """Return the strong entity tag of a representation (RFC 9110, section 8.8.3)."""
    return f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'


def etag_headers(etag: str) -> tuple[Header, ...]:
    """Return the headers for an entity tag; a cache asks again before it reuses the response."""
    return (b"etag", etag.encode()), (b"cache-control", b"no-cache")


IF_MATCH_IS_FALSE = "If-Match does not hold: the current ETag is not in it"
IF_NONE_MATCH_IS_FALSE = "If-None-Match does not hold: it matches what is there now"
NO_ETAG_TO_MATCH = "If-Match does not hold: there is no ETag here, and only * matches that"


def check_preconditions(request: TodoRequest, etag: str | None) -> None:
    """Evaluate If-Match and If-None-Match against the current entity tag.

    A representation without an entity tag (None) matches only `*`. The order is that of RFC 9110,
    section 13.2.2. Raises HTTPException: 412 if a precondition is false, but 304 for a GET or HEAD
    whose If-None-Match is false.
    """
    if not request.is_conditional():
        return
    headers = {"Cache-Control": "no-cache"}
    if etag is not None:
        headers["ETag"] = etag
    if_match = request.header(b"if-match")
    if if_match is not None and not lists_etag(if_match, etag, weakly=False):
        detail = NO_ETAG_TO_MATCH if etag is None else IF_MATCH_IS_FALSE
        raise HTTPException(412, detail, headers)
    if_none_match = request.header(b"if-none-match")
    if if_none_match is not None and lists_etag(if_none_match, etag, weakly=True):
        if request.method in ("GET", "HEAD"):
            raise HTTPException(304, headers=headers)
        raise HTTPException(412, IF_NONE_MATCH_IS_FALSE, headers)


def lists_etag(condition: str, etag: str | None, *, weakly: bool) -> bool:
    """Return whether an entity tag is in the value of If-Match or If-None-Match.

    A weak comparison ignores `W/` before a tag (RFC 9110, section 8.8.3.2).
    """
    if condition == "*":
        return True
    listed = [item.strip(" \t") for item in condition.split(",")]
    if weakly:
        listed = [item.removeprefix("W/") for item in listed]
    return etag in listed


# SQLite's primary result codes for errors that can pass by themselves: sqlite.org/rescode.html
TRANSIENT_CODES = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_FULL,
)
UNAVAILABLE = "The server cannot do this now: try again"
DISK_FULL = "The disk is full: try again when there is room"
LATER = {"Retry-After": "1", "Cache-Control": "no-store"}


def error_response(error: BaseException) -> Response:
    """Return the response to an exception, and log it if the server has failed."""
    match error:
        case HTTPException(status_code=304):
            return Response(status_code=304, headers=error.headers)
        case HTTPException():
            return detail_response(error.status_code, error.detail, error.headers or {})
        case Invalid():
            return detail_response(422, error.entries)
        case ClientDisconnect():  # Nobody will read this.
            return detail_response(400, UNREADABLE)
    if not is_transient(error):
        log_error("Internal Server Error", error)
        return detail_response(500, "Internal Server Error")
    if primary_code(error) == sqlite3.SQLITE_FULL:
        log_error(DISK_FULL, error)
        return detail_response(507, DISK_FULL, LATER)
    log_error(UNAVAILABLE, error)
    return detail_response(503, UNAVAILABLE, LATER)


def is_transient(error: BaseException) -> bool:
    """Return whether the response to an error is a 503 or 507: it can pass, or be removed.

    Everything else is a defect, or a damaged file.
    """
    if isinstance(error, sqlite3.Error):
        return primary_code(error) in TRANSIENT_CODES
    return isinstance(error, OSError | MemoryError | asyncio.CancelledError)


def primary_code(error: BaseException) -> int:
    """Return SQLite's primary result code, or 0 for an error that is not from SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def log_error(text: str, error: BaseException) -> None:
    """Log an error: in one line if it is transient, otherwise with its traceback."""
    if is_transient(error):
        log.error("%s: %s", text, describe_error(error))
    else:
        log.error("%s", text, exc_info=error)


def describe_error(error: BaseException) -> str:
    """Return the type and text of an exception in one line."""
    return f"{type(error).__name__}: {str(error)[:300]!r}"


async def refusal_response(request: TodoRequest, refusal: Refusal) -> Response:
    """Return the response to a request that is refused, after its body has been dropped.

    Raises ClientDisconnect.
    """
    headers = {**(refusal.headers or {}), **await drop_refused_body(request)}
    return detail_response(refusal.status_code, refusal.detail, headers)


def detail_response(status: int, detail: object, headers: Mapping[str, str] = {}) -> Response:
    """Return a response whose only member is `detail`. A lone surrogate in it is sent as `?`.

    If the detail cannot be repeated as JSON (1e999, deep nesting), the response is a 400.
    """
    content = {"detail": detail}
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return detail_response(400, UNREADABLE)
    return Response(text.encode(errors="replace"), status, headers, "application/json")


CONNECTION_CLOSE = (b"connection", b"close")


async def send_and_close(send: Send, message: Message) -> None:
    """Send a message of a response, after which the connection is closed.

    This is for CONNECT and requests that offer an upgrade. uvicorn takes what follows their head
    for another request (its issue 2722), but runs none after a response that closes the connection.
    """
    if message["type"] == "http.response.start" and CONNECTION_CLOSE not in message["headers"]:
        message = {**message, "headers": [*message["headers"], CONNECTION_CLOSE]}
    await send(message)


# ------------------------------------------------------------------------------------------------
# Database
#
# Theory of operation
#
# The table is task (id, name, done, key, request, json): `json` is a generated column, the task as
# clients receive it, and `request` is the digest of the request that came with `key`.
#
# A worker is one process of this server; `uvicorn --workers` starts several on one file. In each,
# two threads use the file, through three connections:
#
#   The event loop owns `reader`. Every statement that it runs is short (1 ms; 20 ms for the worst
#   page). In WAL mode a read does not wait for writers. The loop must not write, and must not leave
#   a statement unfinished: an open read keeps SQLite from truncating its write-ahead log, the WAL.
#
#   The writer thread owns `writer`, and `checkpointer`, which truncates the WAL. They are two
#   connections because their time-outs differ: a checkpoint waits 0.1 s for readers, a transaction
#   5 s for other programs. The thread alone waits for locks. It also opens, migrates and closes the
#   file.
#
# The life of a write:
#
#   queued     `Database.write` queues it, and the request waits for its future.
#   begun      The thread acquires the workers' lock, and SQLite's with BEGIN IMMEDIATE. Then it
#              removes all writes from the queue. They are a group.
#   executed   Their statements run in one transaction. If one of them fails, or COMMIT does, the
#              transaction is rolled back. If there are several writes, each is then executed in a
#              transaction of its own, so that a bad write fails alone.
#   committed  COMMIT returns when the WAL is synced to disk.
#   delivered  The event loop sets the futures of the whole group in one call.
#
#   Time-out   After 5 s, a write that has not begun fails and is never executed. One that has begun
#              gets its real result, however long that takes.
#   Cancelled  The future of a cancelled request is done, so its write does not begin. If it has
#              begun already, it is executed, and nobody receives the result.
#   Full disk  A statement or COMMIT fails; the transaction is rolled back and the write fails. The
#              next write is tried afresh, as after every other failure.
#   Shutdown   `None` in the queue makes the thread close the file, after the writes before it.
#
# The life of a startup, in the writer thread:
#
#   checked    `check_file` looks at the path. Nothing is created before it has passed.
#   read       `is_up_to_date` reads which migrations the file has. Usually it has all of them, and
#              no lock is needed: the connections are opened, and the startup is done.
#   locked     Otherwise the thread waits for the workers' lock. After 30 s the event loop gives up
#              the startup, but not while a note in the lock's file says that a migration runs.
#   migrated   All migrations are applied in one transaction. If that fails, or the process is
#              killed, the tasks are as they were. A startup that fails removes the files that it
#              has created; the next startup uses those that a killed one has left.
#
# The workers' lock is acquired before SQLite's, for every write, migration and checkpoint. (One
# exception: the first connection of a startup may checkpoint what a killed process has left, when
# it is closed and no other process has the file open.) It exists because SQLite's lock has no
# queue, so that a worker could starve, and because SQLite before 3.51.3 can corrupt a file if one
# process commits while another one checkpoints (sqlite.org/wal.html#walresetbug). The kernel
# releases it when a process ends.
# ------------------------------------------------------------------------------------------------

FOLDER = Path(__file__).parent


def is_visible(file: Path) -> bool:
    """Return whether this is not a hidden file, such as `._name` (macOS) or `.#name` (Emacs)."""
    return not file.name.startswith(".")


SQL = {
    file.stem: file.read_text(encoding="utf-8")
    for file in FOLDER.glob("sql/*.sql")
    if is_visible(file)
}

Parameters = dict[str, Any]  # the parameters of a statement by their names
Row = tuple[Any, ...]  # a row as sqlite3 returns it


class WriteResult(NamedTuple):
    """What a statement did.

    `row` is the first row that it returned, or empty; `changed` is how many rows of the table it
    inserted, updated or deleted.
    """

    row: Row
    changed: int


# The event loop's side


class Database:
    """The database as the operations use it, on the event loop."""

    def __init__(self, file: DatabaseFile, thread: WriterThread) -> None:
        self.path = file.path
        self.file = file
        self.reader = file.reader
        self.thread = thread
        self.resuming = asyncio.Lock()

    @classmethod
    async def open(cls, path: str) -> Database:
        """Open a database file, which is created and migrated if necessary.

        Raises StartRefused, also if a migration is necessary and other processes hold its locks for
        START_TIMEOUT. The time of a migration, its own or another's, does not count.
        """
        try:
            path = os.path.abspath(path)
        except FileNotFoundError:
            reason = "the working directory does not exist any more"
            raise StartRefused(f"Cannot serve {path}: {reason}") from None
        real_path = os.path.realpath(path)
        thread = WriterThread(path)
        thread.start()
        try:
            deadline = thread.loop.time() + START_TIMEOUT
            while not thread.opened.done():
                await asyncio.wait([thread.opened], timeout=START_TIMEOUT / 10)
                if is_migration_noted(real_path):
                    deadline = thread.loop.time() + START_TIMEOUT
                elif thread.loop.time() > deadline and thread.try_to_give_up():
                    lock = f"{real_path}-lock"
                    raise OSError(f"another process holds {lock}, or has locked the file")
            file = await thread.opened
        except BaseException as error:
            thread.queue.put(None)  # Should the file be opened after all, it is closed again.
            thread.opened.cancel()
            if not isinstance(error, Exception):
                raise
            raise StartRefused(f"Cannot serve {real_path}: {reason_of(error)}") from error
        return cls(file, thread)

    def read(self, statement: str, parameters: Parameters) -> list[Row]:
        """Return the rows that a statement of sql/ finds. Raises sqlite3.Error."""
        return self.reader.execute(SQL[statement], parameters).fetchall()

    async def let_others_run(self) -> None:
        """Let other requests run before the next piece of a list is read.

        The lock lets only one list resume in each turn of the event loop. Without it, 300 searches
        at once make a short read wait 59 ms; with it, 0.3 ms.
        """
        async with self.resuming:
            await asyncio.sleep(0)

    async def write(self, statement: str, parameters: Parameters) -> WriteResult:
        """Run a statement of sql/ in a transaction; return its result once that is on disk.

        Raises sqlite3.Error or OSError, or TimeoutError if the write has not begun within
        WRITE_TIMEOUT. After a TimeoutError it is never executed.
        """
        loop = asyncio.get_running_loop()
        write = Write(SQL[statement], parameters, loop.create_future())
        timer = loop.call_later(WRITE_TIMEOUT, self.thread.expire, write)
        self.thread.queue.put(write)
        try:
            return await write.future
        finally:
            timer.cancel()

    def check_health(self) -> None:
        """Raise OSError if the file was moved, its tasks cannot be read, or the thread has ended.

        Nothing is written, and a thread that waits for a lock is healthy. Every error is an
        OSError, so that the response is a 503.
        """
        self.file.check_identity()
        if not self.thread.is_alive():
            raise OSError("the writer thread has ended: restart the server")
        try:
            self.read("get_health", {})
        except sqlite3.Error as error:
            raise OSError(f"the task table cannot be read: {error}") from error

    async def close(self) -> None:
        """Finish the writes that are queued, and close the file.

        This waits STOP_TIMEOUT at most; after that the file is left open. The time for which the
        thread has been waiting for the workers' lock counts: the server has waited for the writes
        behind it already.
        """
        self.reader.close()
        self.thread.queue.put(None)
        timeout = STOP_TIMEOUT - self.file.lock.seconds_waited()
        await asyncio.to_thread(self.thread.join, max(0.0, timeout))
        if self.thread.is_alive():
            log.error(
                "%s was not closed in time: its lock is held, or a write takes long", self.path
            )


def reason_of(error: Exception) -> str:
    """Return why a file cannot be served, as a part of a sentence."""
    if primary_code(error) == sqlite3.SQLITE_BUSY:
        return "another program has locked it"
    return str(error) or describe_error(error)


# The writer thread's side


@dataclass(eq=False, slots=True)
class Write:
    """A statement to execute, and the future of its result."""

    sql: str
    parameters: Parameters
    future: asyncio.Future[WriteResult]
    has_begun: bool = False


class Delivery(NamedTuple):
    """A future, and the result or the exception to set."""

    future: asyncio.Future[Any]
    outcome: object


class WriterThread(threading.Thread):
    """The thread that opens the file, executes all writes, and closes the file.

    The event loop puts writes into `queue`, and None at the end. It also calls `try_to_give_up`
    and `expire`. All other methods run in the thread.
    """

    def __init__(self, path: str) -> None:
        super().__init__(name="writer", daemon=True)
        self.given_path = path
        self.loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[DatabaseFile] = self.loop.create_future()
        self.queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self.is_stopping = False
        self.mutex = threading.Lock()  # guards the flags below, and `has_begun` of writes
        self.is_migrating = False
        self.has_given_up = False

    def try_to_give_up(self) -> bool:
        """Give up the startup, unless it is migrating or done; return whether it was given up.

        The thread goes on, but will not begin a migration.
        """
        with self.mutex:
            if self.is_migrating or self.opened.done():
                return False
            self.has_given_up = True
            return True

    def expire(self, write: Write) -> None:
        """Fail a write that has waited too long, unless it has begun."""
        with self.mutex:
            if not write.has_begun and not write.future.done():
                error = TimeoutError("other writes or another program hold the lock")
                write.future.set_exception(error)

    def run(self) -> None:
        """Open the file, execute writes until the shutdown, and close the file."""
        try:
            file = self.open_file()
        except Exception as error:
            self.deliver([Delivery(self.opened, error)])
            return
        self.deliver([Delivery(self.opened, file)])
        try:
            self.execute_writes(file)
            file.close()
        except Exception as error:
            log_error(f"{self.given_path} was not closed properly", error)

    def open_file(self) -> DatabaseFile:
        """Open the file, created and migrated if necessary; raise OSError or sqlite3.Error.

        What was created is removed again if that fails.
        """
        path = os.path.realpath(self.given_path)
        check_file(path)
        if is_up_to_date(path):
            return DatabaseFile(path, self.given_path)
        with startup_lock(path) as lock:
            is_new = not os.path.exists(path)
            try:
                self.prepare_file(path, lock)
                file = DatabaseFile(path, self.given_path)
            except BaseException:
                # A -shm shows that another process, which found the file up to date and needed no
                # lock, has opened it by now: leave it.
                if not os.path.exists(f"{path}-shm"):
                    if is_new:
                        remove_files(path, f"{path}-journal", f"{path}-wal")
                    if lock.is_new:
                        remove_files(lock.path)
                raise
            # A migration can leave a long WAL. If this fails, writes will try it again.
            with contextlib.suppress(sqlite3.Error):
                file.checkpoint()
            return file

    def prepare_file(self, path: str, lock: WorkersLock) -> None:
        """Create or migrate a file, and set it to WAL mode. Raises OSError or sqlite3.Error."""
        check_wal_support(path)
        # SQLite usually gives up before the startup does, so that there is time to clean up.
        with Migrator(path, timeout=0.9 * START_TIMEOUT) as migrator:
            with migrator.transaction():
                if not migrator.is_complete():
                    self.rule_out_giving_up()
                    lock.write_note(MIGRATION_NOTE)
                    migrator.apply_missing()
                # The tasks must be readable, or nothing is changed.
                migrator.execute(SQL["get_health"])
            use_wal(migrator.connection)

    def rule_out_giving_up(self) -> None:
        """Let the startup take as long as the migration; raise TimeoutError if it is too late."""
        with self.mutex:
            if self.has_given_up:
                raise TimeoutError("the startup has timed out")
            self.is_migrating = True

    def execute_writes(self, file: DatabaseFile) -> None:
        """Execute what is queued, until None is."""
        while not self.is_stopping:
            write = self.queue.get()
            if write is None:
                return
            self.execute_group(file, write)

    def execute_group(self, file: DatabaseFile, first: Write) -> None:
        """Execute a write and all that are queued by the time it begins, and deliver the results.

        No failure ends the thread: the next write is tried afresh.
        """
        if first.future.done():
            return
        try:
            with file.lock.held():
                self.deliver(self.commit_group(file, first))
                file.truncate_wal()
        except Exception as error:
            self.deliver([Delivery(first.future, error)])

    def commit_group(self, file: DatabaseFile, first: Write) -> list[Delivery]:
        """Commit a write and all that are queued in one transaction, and return their outcomes.

        If that fails, each of them is committed alone, so that a bad write fails alone. Raises
        sqlite3.Error or OSError if no transaction can begin; then the others remain queued.
        """
        group: list[Write] = []
        try:
            with file.transaction():
                group = self.take_group(first)
                results = [file.execute(write) for write in group]
        except Exception as error:
            if not group:  # No transaction could begin, or there was nothing to execute.
                raise
            if len(group) == 1:  # It was alone already.
                return [Delivery(group[0].future, error)]
            return self.commit_each(file, group)
        return [
            Delivery(write.future, result) for write, result in zip(group, results, strict=True)
        ]

    def commit_each(self, file: DatabaseFile, group: list[Write]) -> list[Delivery]:
        """Commit each write in a transaction of its own, and return their outcomes.

        If another program has the lock, the remaining writes fail with that error at once.
        """
        deliveries: list[Delivery] = []
        busy: Exception | None = None
        for write in group:
            if busy is not None:
                deliveries.append(Delivery(write.future, busy))
                continue
            outcome: object
            try:
                with file.transaction():
                    outcome = file.execute(write)
            except Exception as error:
                outcome = error
                if primary_code(error) == sqlite3.SQLITE_BUSY:
                    busy = error
            deliveries.append(Delivery(write.future, outcome))
        return deliveries

    def take_group(self, first: Write) -> list[Write]:
        """Return the writes that begin now: the first one and all that are queued.

        Those that have timed out or whose request was cancelled are left out.
        """
        waiting = [first]
        while not self.queue.empty():
            write = self.queue.get()
            if write is None:
                self.is_stopping = True
            else:
                waiting.append(write)
        with self.mutex:
            group = [write for write in waiting if not write.future.done()]
            for write in group:
                write.has_begun = True
        return group

    def deliver(self, deliveries: list[Delivery]) -> None:
        """Have the event loop set results or exceptions."""
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody is waiting.
            self.loop.call_soon_threadsafe(set_outcomes, deliveries)


def set_outcomes(deliveries: list[Delivery]) -> None:
    """Set the results or exceptions of futures, except of those that were cancelled."""
    for future, outcome in deliveries:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


# The file


class DatabaseFile:
    """The open database file: its three connections, and the workers' lock."""

    def __init__(self, path: str, given_path: str) -> None:
        """Open a file that is up to date. Raises OSError or sqlite3.Error.

        `path` is its real path, `given_path` that of the setting, which may contain links.
        """
        self.path = path
        self.given_path = given_path
        self.next_truncation = WAL_LIMIT  # the size of the WAL, in bytes, at which to truncate it
        with contextlib.ExitStack() as opened:  # It closes everything again if a step fails.
            self.writer = opened.enter_context(closing(connect(path, WRITE_TIMEOUT)))
            self.writer.execute("PRAGMA synchronous = FULL")
            self.writer.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
            self.checkpointer = opened.enter_context(closing(connect(path, CHECKPOINT_TIMEOUT)))
            self.reader = opened.enter_context(closing(connect(path, READ_TIMEOUT)))
            self.reader.execute("PRAGMA query_only = ON")
            for connection in (self.writer, self.checkpointer, self.reader):
                # Open the WAL now: should the file be renamed, it would not be found any more.
                connection.execute(SQL["get_health"]).fetchall()
            self.lock = opened.enter_context(WorkersLock(path))
            self.identity = self.read_identity()
            opened.pop_all()  # Every step has succeeded: leave all open, until `close`.

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Begin a transaction that writes; COMMIT at the end, or ROLLBACK after an exception.

        Raises sqlite3.Error, or OSError if the file is not where it was.
        """
        if self.writer.in_transaction:  # An earlier ROLLBACK failed: try it again.
            self.writer.rollback()
        self.writer.execute("BEGIN IMMEDIATE")
        with self.writer:  # This commits, or rolls back.
            self.check_identity()  # now, because BEGIN may have waited for other programs
            yield

    def execute(self, write: Write) -> WriteResult:
        """Execute the statement of a write in the current transaction. Raises sqlite3.Error."""
        cursor = self.writer.execute(write.sql, write.parameters)
        # Fetch every row: only then is `rowcount` final, and COMMIT fails while RETURNING has more.
        rows = cursor.fetchall()
        return WriteResult(rows[0] if rows else (), cursor.rowcount)

    def read_identity(self) -> list[tuple[int, int]]:
        """Return the device and inode of the file and of those beside it; raise OSError."""
        paths = [self.path, f"{self.path}-wal", f"{self.path}-shm", self.lock.path]
        statuses = [os.stat(self.given_path), *map(os.lstat, paths)]
        return [(status.st_dev, status.st_ino) for status in statuses]

    def check_identity(self) -> None:
        """Raise OSError if one of the files is not where it was: nobody would find the writes."""
        try:
            is_same = self.read_identity() == self.identity
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise OSError(
                f"{self.path}, its -wal, its -shm or its -lock was moved, removed or replaced "
                "while the server is running: put it back, or restart the server"
            )

    def truncate_wal(self) -> None:
        """Truncate the WAL if it is long.

        COMMIT itself copies the WAL into the file now and then, but starts the WAL over only if
        no read is in the way. If one is in the way now, too, or an error occurs, the next try is
        when the WAL has grown by WAL_LIMIT.
        """
        try:
            size = os.path.getsize(f"{self.path}-wal")
            if size < WAL_LIMIT:
                self.next_truncation = WAL_LIMIT
            elif size >= self.next_truncation:
                self.next_truncation = size + WAL_LIMIT
                self.checkpoint()
        except (sqlite3.Error, OSError) as error:
            log_error(f"{self.path}-wal was not truncated", error)

    def checkpoint(self) -> bool:
        """Move the content of the WAL into the file and truncate it; return whether it worked."""
        [is_busy, _, _] = self.checkpointer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not is_busy

    def close(self) -> None:
        """Leave the whole database in one file, and close it. Raises OSError or sqlite3.Error.

        This checkpoints, because SQLite does not when it closes a file that was renamed.
        """
        with self.lock, self.lock.held():
            try:
                if not self.checkpoint():
                    log.warning("%s-wal remains: another program is using the file", self.path)
            finally:  # Under the lock, because closing the last connection checkpoints.
                for connection in (self.reader, self.checkpointer, self.writer):
                    connection.close()


class WorkersLock:
    """The lock that the workers take turns at: flock(2) on a file beside the database.

    Where there is no flock, it does nothing. Raises OSError.
    """

    def __init__(self, database_path: str) -> None:
        self.path = f"{database_path}-lock"
        self.waiting_since: float | None = None
        try:
            self.file = open(self.path, "x")  # noqa: SIM115  # `__exit__` closes it.
            self.is_new = True
            self.share(database_path)
        except FileExistsError:
            self.file = open(self.path, "a")  # noqa: SIM115
            self.is_new = False

    def __enter__(self) -> WorkersLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def share(self, database_path: str) -> None:
        """Give the lock's file the mode and owner of the database, as SQLite does with the WAL.

        Everybody who may write the one can then lock the other. Only root can change an owner. If
        there is no database yet, the lock's file keeps what it has.
        """
        if fcntl is None:
            return
        with contextlib.suppress(OSError):
            status = os.stat(database_path)
            os.fchmod(self.file.fileno(), stat.S_IMODE(status.st_mode))
            os.fchown(self.file.fileno(), status.st_uid, status.st_gid)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock; wait for it as long as necessary."""
        if fcntl is None:
            yield
            return
        self.waiting_since = time.monotonic()
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX)
        finally:
            self.waiting_since = None
        try:
            yield
        finally:
            fcntl.flock(self.file, fcntl.LOCK_UN)

    def seconds_waited(self) -> float:
        """Return for how long the lock has been waited for, or 0 if nobody is waiting."""
        since = self.waiting_since
        return 0.0 if since is None else time.monotonic() - since

    def write_note(self, text: str) -> None:
        """Write what the lock is held for into its file."""
        self.file.truncate(0)
        self.file.write(text)
        self.file.flush()

    def is_in_place(self) -> bool:
        """Return whether the file of the lock is still at its path."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False


MIGRATION_NOTE = "A startup is migrating the database."


def remove_files(*paths: str) -> None:
    """Remove files, as far as they exist and can be removed."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def is_migration_noted(database_path: str) -> bool:
    """Return whether the lock of a file is held for a migration, as the note in it says."""
    try:
        return Path(f"{database_path}-lock").read_text() == MIGRATION_NOTE
    except OSError:
        return False


@contextlib.contextmanager
def startup_lock(database_path: str) -> Iterator[WorkersLock]:
    """Open the workers' lock and hold it during a part of the startup.

    A startup that fails removes the lock's file if it has created it. Another one that was waiting
    for it opens the new file and waits again.
    """
    while True:
        with WorkersLock(database_path) as lock, lock.held():
            if lock.is_in_place():
                lock.write_note("")  # There may be one of a process that was killed.
                try:
                    yield lock
                finally:
                    lock.write_note("")
                return


def connect(path: str, timeout: float) -> sqlite3.Connection:
    """Return a connection that waits `timeout` seconds for SQLite's locks.

    It begins no transaction by itself, and may be used in another thread.
    """
    connection = sqlite3.connect(
        path, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    # On macOS, fsync() leaves data in the drive's cache.
    connection.execute("PRAGMA fullfsync = ON")
    return connection


# bytes: SQLite takes some smaller files for empty ones, and would overwrite them.
SMALLEST_DATABASE = 512


def check_file(path: str) -> None:
    """Raise OSError if no database can be kept at this path. Nothing is created or changed."""
    if sqlite3.sqlite_version_info < (3, 37):
        raise OSError(f"SQLite 3.37 or newer is required, but this is {sqlite3.sqlite_version}")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise OSError(f"the folder {folder} does not exist")
    if not is_accessible(folder, os.W_OK | os.X_OK):
        raise OSError("its folder cannot be written, but SQLite keeps its WAL there")
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    if status.st_nlink > 1:
        raise OSError("it has several hard links, and each would have a WAL and a lock of its own")
    if is_mount_point(path):
        raise OSError("it is a mount point of its own: mount its folder instead of the file")
    for file in (path, f"{path}-lock", f"{path}-wal", f"{path}-shm"):
        if os.path.exists(file) and not is_accessible(file, os.R_OK | os.W_OK):
            raise OSError(f"{file} cannot be written")
    if 0 < status.st_size < SMALLEST_DATABASE:
        raise OSError("file is not a database")


def is_accessible(path: str, mode: int) -> bool:
    """Return whether this process may access a file; `mode` is that of os.access().

    The effective user and its capabilities count, where the system can tell.
    """
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def is_mount_point(path: str) -> bool:
    """Return whether a file is a mount point, as a bind-mounted file in a container is.

    This reads Linux's list of mounts. Other systems are not checked.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    mount_points = [line.split()[4] for line in lines]  # proc(5); \040 stands for a space
    decoded = [
        re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), point)
        for point in mount_points
    ]
    return os.fsencode(path) in decoded


def is_up_to_date(path: str) -> bool:
    """Return whether a file is in WAL mode and has had every migration.

    It is only read, which needs no write lock. Raises OSError or sqlite3.Error for a file that
    cannot be served.
    """
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return False
    try:
        with Migrator(path, timeout=READ_TIMEOUT) as migrator:
            [mode] = migrator.connection.execute("PRAGMA journal_mode").fetchone()
            return bool(mode == "wal") and migrator.is_complete()
    except sqlite3.OperationalError as error:
        if primary_code(error) == sqlite3.SQLITE_BUSY:  # Perhaps it is being migrated.
            return False
        raise


def check_wal_support(path: str) -> None:
    """Raise OSError if the file system of a path does not support WAL, tried with another file."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        try:
            with closing(connect(os.path.join(folder, "trial.db"), timeout=0)) as connection:
                use_wal(connection)
                connection.execute("PRAGMA user_version").fetchone()  # This opens the WAL.
        except sqlite3.OperationalError as error:
            raise OSError(f"its file system does not support SQLite's WAL mode: {error}") from error


def use_wal(connection: sqlite3.Connection) -> None:
    """Set a file to WAL mode. Raises OSError if its file system does not support that."""
    [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise OSError("its file system does not support SQLite's WAL mode")


class Migrator(SQLiteBackend):  # type: ignore[misc]  # yoyo has no type annotations
    """yoyo's SQLite backend, but all migrations and their marks are in one transaction.

    By itself, yoyo takes a lock by a row in a table, which remains when its process is killed, and
    applies and marks a migration in two transactions. A `with` statement closes the connection.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self.timeout = timeout  # seconds to wait for SQLite's locks
        found = yoyo.read_migrations(glob.escape(str(FOLDER / "migrations")))
        visible = [migration for migration in found if is_visible(Path(migration.path))]
        self.migrations = yoyo.migrations.MigrationList(visible)
        uri = yoyo.connections.parse_uri("sqlite://")._replace(database=path)
        super().__init__(uri, migration_table="_yoyo_migration")

    def connect(self, dburi: object) -> sqlite3.Connection:
        """Return a new connection (yoyo calls this)."""
        return connect(self.path, self.timeout)

    def begin(self) -> None:
        """Begin a transaction that writes (yoyo calls this)."""
        self._in_transaction = True
        self.execute("BEGIN IMMEDIATE")

    def is_complete(self) -> bool:
        """Return whether all migrations are applied; raise OSError if unknown ones are, too."""
        if internalmigrations.needs_upgrading(self):  # The tables of yoyo are missing.
            return False
        applied = set(self.get_applied_migration_hashes())
        known = {migration.hash for migration in self.migrations}
        if not applied <= known:
            raise OSError("it is newer than this server, which lacks one of its migrations")
        return applied == known

    def apply_missing(self) -> None:
        """Apply the migrations that the file lacks, in the current transaction."""
        if internalmigrations.needs_upgrading(self):
            internalmigrations.upgrade(self)
        for migration in self.to_apply(self.migrations):
            log.info("Migrating the database: %s", migration.id)
            migration.process_steps(self, "apply")
            self.mark_one(migration, log=False)


# ------------------------------------------------------------------------------------------------
# Documentation
# ------------------------------------------------------------------------------------------------

# The OpenAPI document comes first, as data: schemas, parameters, responses, operations. It shares
# the schemas of fields and parameters with the checks of requests. What follows from a resource
# (method, path, tag, security) is added by openapi_document(). The page for people comes last; a
# script in it builds it from the document.

STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "format": "int64"}
ID: Schema = {
    "type": "integer",
    "format": "int64",
    "minimum": 1,
    "description": "The id, assigned by the server and never reused",
}


def without(schema: Schema, keyword: str) -> Schema:
    """Return a schema without one of its keywords."""
    return {key: value for key, value in schema.items() if key != keyword}


def reference(name: str) -> Schema:
    """Return a reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def describe_task(fields: dict[str, Schema]) -> dict[str, Schema]:
    """Return the schemas of a task with these fields, as it is received, created and updated.

    Only TaskInput has the defaults: a client that fills in the defaults of a patch would overwrite
    fields that its user did not mention.
    """
    fields_without_default = {name: without(schema, "default") for name, schema in fields.items()}
    return {
        "Task": {
            "type": "object",
            "description": "A task",
            "properties": {**fields_without_default, "id": ID},
            "required": [*fields, "id"],
        },
        "TaskInput": {
            "type": "object",
            "description": "The fields of a new task, or of one that is replaced",
            "properties": fields,
            "required": [name for name, schema in fields.items() if "default" not in schema],
        },
        "TaskPatch": {
            "type": "object",
            "description": "The fields to update; the others keep their values",
            "properties": fields_without_default,
        },
    }


# The names must not collide with those that generators make up or reserve: in Go `NewTask` is the
# constructor of `Task`, and in TypeScript `Error` is taken.
SCHEMAS: dict[str, Schema] = {
    **describe_task(FIELDS),
    "ErrorDetail": {
        "type": "object",
        "description": "An error",
        "properties": {"detail": {"type": "string", "description": "What went wrong"}},
        "required": ["detail"],
    },
    "HTTPValidationError": {
        "type": "object",
        "description": "Everything that is invalid in a request",
        "properties": {"detail": {"type": "array", "items": reference("ValidationError")}},
        "required": ["detail"],
    },
    "ValidationError": {
        "type": "object",
        "description": "One invalid value",
        "properties": {
            "type": {"type": "string", "description": "The kind of error, as pydantic names it"},
            "loc": {
                "type": "array",
                "description": "Where the value is, like body and name",
                "items": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
            },
            "msg": {"type": "string", "description": "What is wrong, in a sentence"},
            "input": {"description": "The value that was sent"},
            "ctx": {"type": "object", "description": "The limits that the value violates"},
        },
        "required": ["type", "loc", "msg", "input"],
    },
}

EXAMPLE_INPUT = {name: schema["examples"][0] for name, schema in FIELDS.items()}
EXAMPLE_TASK = {**EXAMPLE_INPUT, "id": 1}


# Parameters


def describe_parameter(place: str, name: str, schema: Schema) -> Schema:
    """Return a parameter that may be left out; `place` is "path", "query" or "header"."""
    return {
        "name": name,
        "in": place,
        "description": schema["description"],
        "schema": without(schema, "description"),
    }


def describe_required_parameter(place: str, name: str, schema: Schema, example: object) -> Schema:
    """Return a parameter that must be sent."""
    return {**describe_parameter(place, name, schema), "required": True, "example": example}


IDEMPOTENCY_KEY: Schema = {
    "type": "string",
    "pattern": KEY_PATTERN,
    "description": "A new name for this request. It makes the request safe to repeat: with the "
    "same key and the same body, no second task is created as long as the first one exists",
}
IF_MATCH: Schema = {
    "type": "string",
    "description": "ETags, or *. Unless one of them is current, the response is 412",
}
IF_NONE_MATCH: Schema = {
    "type": "string",
    "description": "ETags, or *. If one of them is current, the response is 304 (GET) or 412",
}

ID_PARAMETER = describe_required_parameter("path", "id", ID, 1)
DELETE_DONE = describe_required_parameter("query", "done", DELETE_PARAMETERS["done"], True)
LIST_QUERY = [describe_parameter("query", name, schema) for name, schema in LIST_PARAMETERS.items()]
KEY_PARAMETER = describe_parameter("header", "Idempotency-Key", IDEMPOTENCY_KEY)
PRECONDITIONS = [
    describe_parameter("header", "If-Match", IF_MATCH),
    describe_parameter("header", "If-None-Match", IF_NONE_MATCH),
]


# Bodies, headers and responses


def describe_json(schema: Schema, example: object) -> Schema:
    """Return the content of a request or a response in JSON."""
    return {"application/json": {"schema": schema, "example": example}}


def describe_body(schema: Schema, example: object) -> Schema:
    """Return a request body."""
    return {"required": True, "content": describe_json(schema, example)}


def describe_header(description: str, example: str) -> Schema:
    """Return a response header."""
    return {"description": description, "schema": STRING, "example": example}


def describe_response(description: str, content: Schema, headers: Schema | None = None) -> Schema:
    """Return a response."""
    return {"description": description, "headers": headers or {}, "content": content}


ETAG_HEADERS = {
    "ETag": describe_header("Identifies the current version", '"9f86d081884c7d659a2feaa0"'),
    "Cache-Control": describe_header("Caches ask the server before they reuse it", "no-cache"),
}
LINK_HEADER = {
    "Link": describe_header(
        "The next page, if there is one", '</tasks?limit=1&after=1>; rel="next"'
    )
}
LOCATION_HEADER = {"Location": describe_header("The path of the task", "/tasks/1")}
NO_STORE_HEADER = {"Cache-Control": describe_header("Caches do not keep it", "no-store")}
RETRY_AFTER_HEADER = {
    "Retry-After": describe_header("Seconds until a retry can succeed (503, 507)", "1")
}
ALLOW_HEADER = {"Allow": describe_header("The methods of the path (405)", "GET, HEAD, OPTIONS")}
AUTHENTICATE_HEADER = {"WWW-Authenticate": describe_header("How to authenticate", "Bearer")}

TASK_RESPONSE = describe_response(
    "The task", describe_json(reference("Task"), EXAMPLE_TASK), ETAG_HEADERS
)
NOT_MODIFIED = {
    "description": "The client has the current version (If-None-Match)",
    "headers": ETAG_HEADERS,
}
UNAUTHORIZED = describe_response(
    "The token is missing or wrong",
    describe_json(reference("ErrorDetail"), {"detail": "Not authenticated"}),
    AUTHENTICATE_HEADER,
)
NOT_FOUND = describe_response(
    "There is no task with this id",
    describe_json(reference("ErrorDetail"), {"detail": "Task not found"}),
)
PRECONDITION_FAILED = describe_response(
    "If-Match or If-None-Match is false; the ETag is the current one",
    describe_json(reference("ErrorDetail"), {"detail": IF_MATCH_IS_FALSE}),
    ETAG_HEADERS,
)
INVALID = describe_response(
    "The request is invalid",
    describe_json(
        reference("HTTPValidationError"),
        {
            "detail": [
                {
                    "type": "string_too_long",
                    "loc": ["body", "name"],
                    "msg": f"String should have at most {NAME_LIMIT} characters",
                    "input": "Buy milk, and …",
                    "ctx": {"max_length": NAME_LIMIT},
                }
            ]
        },
    ),
)
NO_ETAG_MATCHES = describe_response(
    "If-Match is not *, or If-None-Match is *",
    describe_json(reference("ErrorDetail"), {"detail": NO_ETAG_TO_MATCH}),
    {"Cache-Control": ETAG_HEADERS["Cache-Control"]},
)
OTHER_ERROR = describe_response(
    "Any other error. After a 5xx a write may have happened or not: repeat it with the same "
    "Idempotency-Key or If-Match",
    describe_json(reference("ErrorDetail"), {"detail": "Internal Server Error"}),
    {**RETRY_AFTER_HEADER, **NO_STORE_HEADER, **ALLOW_HEADER},
)


# Operations

TAGS = [
    {"name": "tasks", "description": "Create, find, change and delete tasks"},
    {"name": "server", "description": "The server itself"},
]

OPERATIONS: dict[str, Schema] = {
    "list_tasks": {
        "summary": "List the tasks: all of them, or those that the parameters select",
        "parameters": [*LIST_QUERY, *PRECONDITIONS],
        "responses": {
            "200": describe_response(
                "The tasks. A page (limit) and a short list have an ETag",
                describe_json({"type": "array", "items": reference("Task")}, [EXAMPLE_TASK]),
                {**ETAG_HEADERS, **LINK_HEADER},
            ),
            "304": NOT_MODIFIED,
            "412": PRECONDITION_FAILED,
            "422": INVALID,
        },
    },
    "create_task": {
        "summary": "Create a task",
        "parameters": [KEY_PARAMETER],
        "requestBody": describe_body(reference("TaskInput"), EXAMPLE_INPUT),
        "responses": {
            "200": describe_response(
                "The new task, or the one that the same Idempotency-Key created before",
                describe_json(reference("Task"), EXAMPLE_TASK),
                {**ETAG_HEADERS, **LOCATION_HEADER},
            ),
            "422": INVALID,
        },
    },
    "delete_tasks": {
        "summary": "Delete all tasks that are done, or all that are not",
        "parameters": [DELETE_DONE, *PRECONDITIONS],
        "responses": {
            "200": describe_response("The number of deleted tasks", describe_json(COUNT, 3)),
            "412": NO_ETAG_MATCHES,
            "422": INVALID,
        },
    },
    "get_task": {
        "summary": "Get a task",
        "parameters": [ID_PARAMETER, *PRECONDITIONS],
        "responses": {
            "200": TASK_RESPONSE,
            "304": NOT_MODIFIED,
            "404": NOT_FOUND,
            "412": PRECONDITION_FAILED,
        },
    },
    "replace_task": {
        "summary": "Replace all fields of a task",
        "parameters": [ID_PARAMETER, *PRECONDITIONS],
        "requestBody": describe_body(reference("TaskInput"), EXAMPLE_INPUT),
        "responses": {
            "200": TASK_RESPONSE,
            "404": NOT_FOUND,
            "412": PRECONDITION_FAILED,
            "422": INVALID,
        },
    },
    "update_task": {
        "summary": "Update some fields of a task (JSON merge patch, RFC 7396)",
        "parameters": [ID_PARAMETER, *PRECONDITIONS],
        "requestBody": describe_body(reference("TaskPatch"), {"done": True}),
        "responses": {
            "200": TASK_RESPONSE,
            "404": NOT_FOUND,
            "412": PRECONDITION_FAILED,
            "422": INVALID,
        },
    },
    "delete_task": {
        "summary": "Delete a task",
        "parameters": [ID_PARAMETER, *PRECONDITIONS],
        "responses": {
            "200": describe_response("The number of deleted tasks", describe_json(COUNT, 1)),
            "404": NOT_FOUND,
            "412": PRECONDITION_FAILED,
        },
    },
    "get_root": {
        "summary": "Get a greeting",
        "responses": {
            "200": describe_response("The greeting", describe_json(STRING, "Hello, world!")),
        },
    },
    "get_info": {
        "summary": "Get the name of the implementation",
        "responses": {"200": describe_response("The name", describe_json(STRING, "starlette"))},
    },
    "get_health": {
        "summary": "Check that tasks can be read and that the writer runs",
        "responses": {
            "200": describe_response(
                "The server is healthy", describe_json({}, {"status": "ok"}), NO_STORE_HEADER
            ),
        },
    },
    "get_openapi": {
        "summary": "Get this description for programs (OpenAPI)",
        "responses": {
            "200": describe_response("The document", describe_json({}, {"openapi": "3.1.0"})),
        },
    },
    "get_docs": {
        "summary": "Get this description for people (HTML)",
        "responses": {
            "200": describe_response(
                "The page", {"text/html": {"schema": STRING, "example": "<!doctype html>…"}}
            ),
        },
    },
}


# The document


@lru_cache
def openapi_document(base_path: str, needs_token: bool) -> str:
    """Return the OpenAPI document, in JSON, of a server at this base path."""
    bearer = {"type": "http", "scheme": "bearer"}
    resources = sorted(ROUTES, key=lambda resource: resource.path)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "todo", "version": "1.0.0", "description": "A todo list over HTTP"},
        "servers": [{"url": base_path or "/"}],
        "tags": TAGS,
        "security": [{"bearer": []}] if needs_token else [],
        "paths": {resource.path: describe_resource(resource) for resource in resources},
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"bearer": bearer} if needs_token else {},
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def describe_resource(resource: Resource) -> Schema:
    """Return the operations of a resource by method, without HEAD and OPTIONS."""
    return {
        method.lower(): describe_operation(function.__name__, resource)
        for method, function in resource.operations.items()
        if method not in ("HEAD", "OPTIONS")
    }


def describe_operation(name: str, resource: Resource) -> Schema:
    """Return an operation with its responses in order, and with the tag and security of its path.

    The 401 is described even if this server needs no token: a client that was generated from its
    document then works with a server that needs one.
    """
    responses = {**OPERATIONS[name]["responses"], "default": OTHER_ERROR}
    if resource.needs_token:
        responses["401"] = UNAUTHORIZED
    operation = {
        "operationId": name,
        "tags": [resource.tag],
        **OPERATIONS[name],
        "responses": dict(sorted(responses.items())),
    }
    if not resource.needs_token:
        operation["security"] = []
    return operation


# The page

PAGE = r"""<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>todo</title>
    <link rel="icon" href="data:," />
    <style>
      :root {
        color-scheme: light dark;
        --muted: light-dark(#585858, #b4b4b4);
        --accent: light-dark(#1765a8, #74b9f5);
        --error: light-dark(#b92b2b, #ff9388);
        --line: light-dark(#ccc, #555);
        --shade: light-dark(#f1f1f1, #262626);
        font-family: system-ui, sans-serif;
        line-height: 1.5;
      }

      * {
        box-sizing: border-box;
        min-width: 0;
        margin: 0;
        overflow-wrap: anywhere;
      }

      body {
        max-width: 76rem;
        margin: auto;
        padding: 1rem;
      }

      h2 {
        margin-top: 2rem;
      }

      h3,
      li,
      dt,
      pre,
      input,
      select,
      textarea {
        font-family: ui-monospace, monospace;
        font-size: 0.875rem;
      }

      small {
        color: var(--muted);
        white-space: pre-line;
      }

      a {
        color: var(--accent);
      }

      nav ul {
        columns: 17rem;
        margin: 1rem 0;
        padding: 0;
        list-style: none;
      }

      .method {
        display: inline-block;
        width: 4.5rem;
      }

      section {
        margin-top: 1rem;
        padding: 1rem;
        border: 1px solid var(--line);
        border-radius: 0.25rem;
      }

      section:target {
        border-color: var(--accent);
      }

      .columns {
        display: grid;
        grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
        gap: 1.5rem 2.5rem;
        margin-top: 1rem;
      }

      form,
      output {
        display: grid;
        gap: 0.75rem;
        align-content: start;
      }

      label {
        font-weight: bold;
      }

      input,
      select,
      textarea,
      pre {
        display: block;
        width: 100%;
        padding: 0.4rem 0.6rem;
        border: 1px solid var(--line);
        border-radius: 0.25rem;
      }

      pre {
        max-height: 26rem;
        overflow: auto;
        border: none;
        background: var(--shade);
        white-space: pre-wrap;
      }

      code {
        user-select: all;
      }

      button {
        justify-self: start;
        padding: 0.35rem 1.25rem;
        border: none;
        border-radius: 0.25rem;
        background: var(--accent);
        color: Canvas;
        font: inherit;
        cursor: pointer;
      }

      output:empty {
        display: none;
      }

      output {
        padding-left: 0.75rem;
        border-left: 0.25rem solid var(--accent);
      }

      output.error {
        border-color: var(--error);
      }

      #token {
        max-width: 28rem;
      }

      dl {
        display: grid;
        grid-template-columns: 4.5rem 1fr;
        row-gap: 0.75rem;
        margin-top: 0.75rem;
      }

      dd small {
        display: block;
      }
    </style>
  </head>
  <body>
    <header>
      <h1>todo</h1>
      <p>A todo list over HTTP. For programs: <a href="openapi.json">openapi.json</a></p>
      <nav><ul></ul></nav>
    </header>
    <main>
      <p>A script builds this page from openapi.json. It has not run, or has not finished.</p>
    </main>
    <script type="module">
      const MAX_SHOWN = 100_000; // characters of a response; the list of all tasks can be huge
      const tokenField = element("input", { id: "token", type: "password", autocomplete: "off" });

      function element(name, attributes, ...children) {
        const created = document.createElement(name);
        for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
        created.append(...children);
        return created;
      }

      // The request that a form describes as it is filled in now.
      function readRequest(form, operation) {
        let path = operation.path;
        let body;
        const query = new URLSearchParams();
        const headers = {};
        for (const { name, value, dataset } of form.querySelectorAll("[data-in]")) {
          if (dataset.in === "path") path = path.replace(`{${name}}`, encodeURIComponent(value));
          if (dataset.in === "query" && value) query.set(name, value);
          if (dataset.in === "header" && value) headers[name] = value;
          if (dataset.in === "body") body = value;
        }
        if (operation.needsToken && tokenField.value) {
          headers["Authorization"] = `Bearer ${tokenField.value}`;
        }
        const url = new URL(`.${path}`, location.href); // below the same root path as this page
        url.search = query;
        return { method: operation.method, url, headers, body };
      }

      function quoteForShell(text) {
        const isPlain = /^[\w:/.-]+$/.test(text);
        return isPlain ? text : `'${text.replaceAll("'", "'\\''")}'`;
      }

      function curlCommand({ method, url, headers, body }, operation) {
        const words = ["curl"];
        const defaultMethod = body === undefined ? "GET" : "POST";
        if (method !== defaultMethod) words.push("-X", method);
        if (operation.needsToken && !tokenField.value) {
          words.push("-H", '"Authorization: Bearer $TODO_TOKEN"');
        }
        for (const [name, value] of Object.entries(headers)) {
          words.push("-H", quoteForShell(`${name}: ${value}`));
        }
        // curl takes what begins with @ for the name of a file.
        if (body !== undefined) words.push("--json", quoteForShell(body.replace(/^@/, " @")));
        words.push(quoteForShell(url.href));
        return words.join(" ");
      }

      // fetch() sends every character of a header as one byte: make them the bytes of UTF-8.
      function toByteString(text) {
        return String.fromCharCode(...new TextEncoder().encode(text));
      }

      async function sendRequest({ method, url, headers, body }, output) {
        const sentHeaders = new Headers();
        for (const [name, value] of Object.entries(headers)) {
          sentHeaders.set(name, toByteString(value));
        }
        if (body !== undefined) sentHeaders.set("Content-Type", "application/json");
        output.replaceChildren("Waiting for the response");
        try {
          const response = await fetch(url, { method, headers: sentHeaders, body });
          showResponse(response, await response.text(), output);
        } catch (error) {
          output.className = "error";
          output.replaceChildren(element("strong", {}, `No response: ${error.message}`));
        }
      }

      function showResponse(response, text, output) {
        const status = element("strong", {}, `${response.status} ${response.statusText}`);
        const headers = [...response.headers].map(([name, value]) => `${name}: ${value}`);
        output.className = response.status < 400 ? "" : "error";
        output.replaceChildren(status, block(headers.join("\n")));
        if (text) output.append(block(formatJson(text)));
      }

      function formatJson(text) {
        if (text.length > MAX_SHOWN) return `${text.slice(0, MAX_SHOWN)}…`;
        try {
          return JSON.stringify(JSON.parse(text), null, 2);
        } catch {
          return text;
        }
      }

      function block(text) {
        return element("pre", { tabindex: 0 }, text);
      }

      function describeSchema({ type, minimum, maximum, maxLength, pattern }) {
        const words = [type];
        if (minimum !== undefined) words.push(`at least ${minimum}`);
        if (maximum !== undefined) words.push(`at most ${maximum}`);
        if (maxLength !== undefined) words.push(`at most ${maxLength} characters`);
        if (pattern !== undefined) words.push(`pattern ${pattern}`);
        return words.join(", ");
      }

      // The body as one more parameter.
      function bodyParameter({ content }, schemas) {
        const { schema, example } = content["application/json"];
        const { type, description, properties } = schemas[schema.$ref.split("/").at(-1)];
        const members = Object.entries(properties).map(
          ([name, member]) => `${name}: ${describeSchema(member)}. ${member.description}`,
        );
        return {
          name: "body",
          in: "body",
          required: true,
          description: [description, ...members].join("\n"),
          schema: { type },
          example: JSON.stringify(example),
        };
      }

      function inputFor(parameter, attributes) {
        if (parameter.in === "body") return element("textarea", attributes);
        if (!parameter.schema.enum) return element("input", attributes);
        const options = ["", ...parameter.schema.enum];
        return element("select", attributes, ...options.map((option) => new Option(option)));
      }

      function fieldFor(parameter, operation) {
        const id = `${operation.operationId}-${parameter.name}`;
        const input = inputFor(parameter, {
          id,
          name: parameter.name,
          "data-in": parameter.in,
          "aria-describedby": `${id}-description`,
          autocomplete: "off",
        });
        input.required = parameter.in === "path";
        if (parameter.required) input.value = parameter.example;
        const kind = parameter.required ? parameter.in : `${parameter.in}, optional`;
        return element(
          "div",
          {},
          element("label", { for: id }, parameter.name),
          element("small", {}, ` ${kind}, ${describeSchema(parameter.schema)}`),
          input,
          element("small", { id: `${id}-description` }, parameter.description),
        );
      }

      function requestForm(operation) {
        const fields = operation.parameters.map((parameter) => fieldFor(parameter, operation));
        const code = element("code", {});
        const output = element("output", {});
        const form = element(
          "form",
          {},
          ...fields,
          element("pre", {}, code),
          element("button", {}, "Send"),
          output,
        );
        const updateCommand = () => {
          code.textContent = curlCommand(readRequest(form, operation), operation);
        };
        updateCommand();
        form.addEventListener("input", updateCommand);
        tokenField.addEventListener("input", updateCommand);
        form.addEventListener("submit", (event) => {
          event.preventDefault();
          sendRequest(readRequest(form, operation), output);
        });
        return form;
      }

      function responseList(responses) {
        const list = element("dl", {});
        for (const [status, { description, headers, content }] of Object.entries(responses)) {
          const headerNames = Object.keys(headers).join(", ");
          const details = element("dd", {}, description, element("small", {}, headerNames));
          if (status === "200") {
            const [{ example }] = Object.values(content);
            details.append(block(JSON.stringify(example, null, 2)));
          }
          list.append(element("dt", {}, status), details);
        }
        return element("div", {}, element("h4", {}, "Responses"), list);
      }

      function operationLink({ operationId, method, path }) {
        const shownMethod = element("span", { class: "method" }, method);
        return element("a", { href: `#${operationId}` }, shownMethod, path);
      }

      function operationSection(operation) {
        return element(
          "section",
          { id: operation.operationId },
          element("h3", {}, operationLink(operation)),
          element("p", {}, operation.summary),
          element(
            "div",
            { class: "columns" },
            requestForm(operation),
            responseList(operation.responses),
          ),
        );
      }

      // Every operation of the document, with its path, method and all that its form asks for.
      function listOperations({ paths, security, components }) {
        const operations = [];
        for (const [path, methods] of Object.entries(paths)) {
          for (const [method, described] of Object.entries(methods)) {
            const parameters = [...(described.parameters ?? [])];
            if (described.requestBody) {
              parameters.push(bodyParameter(described.requestBody, components.schemas));
            }
            operations.push({
              ...described,
              path,
              method: method.toUpperCase(),
              parameters,
              needsToken: (described.security ?? security).length > 0,
            });
          }
        }
        return operations;
      }

      function showDocument(api) {
        const main = document.querySelector("main");
        const index = document.querySelector("nav ul");
        const operations = listOperations(api);
        if (api.security.length > 0) {
          const label = element("label", { for: "token" }, "Token");
          const hint = element("small", {}, " sent as Authorization: Bearer, never stored");
          document.querySelector("header").append(label, hint, tokenField);
        }
        main.replaceChildren();
        for (const { name, description } of api.tags) {
          main.append(element("h2", {}, name), element("p", {}, description));
          for (const operation of operations.filter(({ tags }) => tags.includes(name))) {
            index.append(element("li", {}, operationLink(operation)));
            main.append(operationSection(operation));
          }
        }
        if (location.hash) location.replace(location.hash); // its target did not exist before
      }

      const response = await fetch("openapi.json");
      showDocument(await response.json());
    </script>
  </body>
</html>
"""
