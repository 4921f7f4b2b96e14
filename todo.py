"""A todo list over HTTP, kept in SQLite.

    uvicorn todo:app

serves it on http://127.0.0.1:8000, and /docs there shows every route. The settings are environment
variables, and none is needed:

    TODO_DB=todo.db                the database file, created if it is missing
    TODO_TOKEN=...                 what every request must send: `Authorization: Bearer ...`
    TODO_CORS_ORIGINS=https://...  the origins, separated by commas, whose pages may call; * for all

An operation checks what came in, runs a statement from sql/ and sends the JSON that it returns.
Reads are short, and run on the event loop. All writes go to one thread, which commits those that
wait together in one transaction, synced to disk, and then answers them.
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
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import yoyo
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

try:
    import fcntl
except ImportError:  # Windows: SQLite's own lock has to do there
    fcntl = None  # type: ignore[assignment]

# Settings

NAME_LIMIT = 1000  # characters
BODY_LIMIT = 2**20  # bytes
DISCARD_LIMIT = 2**24  # bytes to read and throw away of a body that is too long
BODY_TIMEOUT = 10.0  # seconds that a body may pause
WRITE_TIMEOUT = 5.0  # seconds that a write may take, and wait for SQLite's lock
START_TIMEOUT = 30.0  # seconds that a start may wait for the file
STOP_TIMEOUT = 5.0  # seconds that a stop may wait for the last writes
WHOLE_LIST = 300  # tasks to read at once, and to send whole, with an ETag
WAL_LIMIT = 2**23  # bytes of SQLite's log (the -wal file) from which on it is emptied

ORIGIN = re.compile(
    r"\*|(?!http://.*:80$|https://.*:443$)"  # browsers leave these ports out
    r"[a-z][a-z0-9+.-]*://"
    r"([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"
    # No port 0, and none above 65535.
    r"(:(?!0|6553[6-9]|655[4-9].|65[6-9]..|6[6-9]...|[7-9]....)[0-9]{1,5})?"
)

log = logging.getLogger("uvicorn.error")  # so that a line of ours looks like one of its


class StartRefused(Exception):
    """The server can't start; the text is one sentence that names the setting or the file."""


# Input

JSON_TYPE = re.compile(r"application/([^\s;/]+\+)?json[ \t]*(;.*)?", re.IGNORECASE)
KEY_PATTERN = "^[!-~]{1,255}$"
KEY_LOC = ("header", "idempotency-key")
UNREADABLE = "There was an error parsing the body"
STALLED = "The rest of the body has not come in time: send it again, without a pause"
TRUE = ("true", "t", "yes", "y", "on", "1")
FALSE = ("false", "f", "no", "n", "off", "0")

Object = dict[str, Any]  # a JSON object, and the parameters of a statement

# What may come in. The checks read their limits here, and the OpenAPI document shows the same.
NAME = {"type": "string", "maxLength": NAME_LIMIT, "description": "What is to do"}
DONE = {"type": "boolean", "description": "Whether it is done"}
NEW_TASK: Object = {"name": NAME, "done": DONE}
LIST_QUERY: Object = {
    "done": DONE,
    "q": {
        "type": "string",
        "description": "Only the tasks whose name contains this, "
        "where ASCII letters match in either case",
    },
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "description": "At most this many tasks; while more remain, Link names the next page",
    },
    "after": {
        "type": "integer",
        "minimum": 0,
        "maximum": 2**63 - 1,
        "description": "Only the tasks with a greater id",
    },
}


class Fault(Exception):
    """What is wrong with a value: its type, text and context, as FastAPI's clients know them.

    The checks raise it; those that need no value to be found have names.
    """

    def entry(self, loc: object, input: object) -> Object:
        """Return the entry of a 422 for this fault, with where it is and what was sent."""
        type, msg, *context = self.args
        entry = {"type": type, "loc": loc, "msg": msg, "input": input}
        if context:
            entry["ctx"] = context[0]
        return entry


class Invalid(Exception):
    """A request with faults; the argument is the list of their entries."""


MISSING = Fault("missing", "Field required")
NO_OBJECT = Fault(
    "model_attributes_type",
    "Input should be a valid dictionary or object to extract fields from",
)
EXTRA = Fault("extra_forbidden", "Extra inputs are not permitted")
KEY_REUSED = Fault("idempotency_key_reused", "Idempotency-Key was used with another body")


def validate(
    place: str, source: Any, schemas: Object, all_required: bool, *earlier: Object
) -> Object:
    """Return the checked values in a part of a request, its body or its query, by name.

    Raises Invalid with `earlier`, the entries of faults in other parts, and those of its own.
    """
    values = {}
    entries = list(earlier)
    if not isinstance(source, dict):
        fault = MISSING if source is None else NO_OBJECT
        raise Invalid([*entries, fault.entry([place], source)])
    for name, schema in schemas.items():
        if name in source:
            try:
                values[name] = CHECKS[schema["type"]](source[name], schema)
            except Fault as fault:
                entries.append(fault.entry([place, name], source[name]))
        elif all_required:
            entries.append(MISSING.entry([place, name], source if place == "body" else None))
    if entries:
        raise Invalid(entries)
    return values


def check_string(value: Any, schema: Object) -> Any:
    """Return the value if it is a string as the schema allows; raise Fault."""
    if not isinstance(value, str):
        raise Fault("string_type", "Input should be a valid string")
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character, as "\ud800" is
        raise Fault(
            "string_unicode",
            "Input should be a valid string, unable to parse raw data as a unicode string",
        ) from None
    most = schema.get("maxLength")
    if most and len(value) > most:
        msg = f"String should have at most {most} characters"
        raise Fault("string_too_long", msg, {"max_length": most})
    return value


def check_boolean(value: Any, schema: Object) -> Any:
    """Return 1 or 0 for what pydantic takes for a boolean; raise Fault."""
    word = value.lower() if isinstance(value, str) else value
    if word in TRUE or word == 1:  # True and 1.0 are equal to 1
        return 1
    if word in FALSE or word == 0:
        return 0
    # pydantic's difference: a word or a whole number of 64 bits might have been a boolean.
    is_number = isinstance(word, int | float) and word % 1 == 0 and abs(word) < 2**63
    if is_number or isinstance(word, str):
        msg = "Input should be a valid boolean, unable to interpret input"
        raise Fault("bool_parsing", msg)
    raise Fault("bool_type", "Input should be a valid boolean")


def check_integer(value: Any, schema: Object) -> Any:
    """Return a whole number in ASCII digits that is within its bounds; raise Fault."""
    if not re.fullmatch("[0-9]{1,4300}", value):  # int() takes no more
        msg = "Input should be a valid integer, unable to parse string as an integer"
        raise Fault("int_parsing", msg)
    number = int(value)
    least, most = schema["minimum"], schema["maximum"]
    if number < least:
        msg = f"Input should be greater than or equal to {least}"
        raise Fault("greater_than_equal", msg, {"ge": least})
    if number > most:
        msg = f"Input should be less than or equal to {most}"
        raise Fault("less_than_equal", msg, {"le": most})
    return number


CHECKS = {"string": check_string, "boolean": check_boolean, "integer": check_integer}


def check_key(key: str | None) -> list[Object]:
    """Return the entries of what is wrong with an Idempotency-Key, if one is sent."""
    if key is None or re.fullmatch(KEY_PATTERN, key):
        return []
    msg = f"String should match pattern '{KEY_PATTERN}'"
    fault = Fault("string_pattern_mismatch", msg, {"pattern": KEY_PATTERN})
    return [fault.entry(KEY_LOC, key)]


def header(request: Request, name: bytes) -> str | None:
    """Return a header, its lines joined by commas (RFC 9110, section 5.3), or None.

    Starlette's `request.headers` does the same, but takes much longer for the first one.
    """
    lines = [value for key, value in request.scope["headers"] if key == name]
    return b", ".join(lines).decode("latin-1").strip(" \t") if lines else None


def query_pairs(request: Request) -> list[tuple[str, str]]:
    """Return the parameters of the query string in their order, those without a value too."""
    return parse_qsl(request.scope["query_string"].decode(errors="replace"), keep_blank_values=True)


async def read_json(request: Request) -> Any:
    """Return the JSON value in the body, or None if it is empty.

    Raises HTTPException (415, 413, 408, 400), ClientDisconnect, or Invalid for malformed JSON.
    """
    if not JSON_TYPE.fullmatch(header(request, b"content-type") or ""):
        detail = "Send JSON with Content-Type: application/json (curl --json does)"
        raise HTTPException(415, detail, await discard_body(request))
    body = await read_body(request)
    if not body:
        return None
    try:
        return JSON_DECODER.decode(body.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        fault = Fault("json_invalid", "JSON decode error", {"error": error.msg})
        raise Invalid([fault.entry(["body", error.pos], {})]) from None
    except (ValueError, RecursionError):  # not UTF-8, a number of 5,000 digits, nested too deeply
        raise HTTPException(400, UNREADABLE) from None


def refuse_constant(name: str) -> None:
    """Raise JSONDecodeError for NaN, Infinity and -Infinity, which Python would take.

    Where it is, Python does not say.
    """
    raise json.JSONDecodeError(f"{name} is not JSON", "", 0)


JSON_DECODER = json.JSONDecoder(parse_constant=refuse_constant)


async def read_body(request: Request) -> bytearray:
    """Return the body; raise HTTPException (413, 408) or ClientDisconnect.

    The rest of a body that is too long is read and dropped: many clients send all of it before they
    read the answer.
    """
    declared = int(header(request, b"content-length") or 0)
    body = bytearray()
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= BODY_LIMIT:
                body += chunk
            elif size > DISCARD_LIMIT:
                break
    finally:
        if max(size, declared) > BODY_LIMIT:  # in place of a 408 or a disconnect
            detail = f"The body is larger than {BODY_LIMIT} bytes: send less"
            raise HTTPException(413, detail, {"Connection": "close"})
    return body


async def discard_body(request: Request) -> dict[str, str]:
    """Read the body of a request that is refused, so that its client hears that.

    Returns headers for the refusal: after a body that was not read to its end, or is too long, the
    connection is closed.
    """
    try:
        await read_body(request)
    except (HTTPException, ClientDisconnect):
        return {"Connection": "close"}
    return {}


async def next_message(receive: Receive) -> Message:
    """Return the next message of a client; raise HTTPException (408) if none comes in time."""
    caller: Any = asyncio.current_task()
    # asyncio.timeout() would do the same, in much more time.
    timer = caller.get_loop().call_later(BODY_TIMEOUT, caller.cancel, STALLED)
    try:
        return await receive()
    except asyncio.CancelledError as error:
        if STALLED not in error.args:
            raise
        raise HTTPException(408, STALLED, {"Connection": "close"}) from None
    finally:
        timer.cancel()


# Operations


async def get_root(request: Request, database: Database) -> Answer:
    """Greet."""
    return Answer(b'"Hello, world!"')


async def get_info(request: Request, database: Database) -> Answer:
    """Name the implementation."""
    return Answer(b'"starlette"')


async def create_task(request: Request, database: Database) -> ASGIApp:
    """Create a task."""
    key = header(request, b"idempotency-key")
    task = validate("body", await read_json(request), NEW_TASK, True, *check_key(key))
    digest = None if key is None else etag(json.dumps(task))
    row = await database.write("create_task", {**task, "key": key, "request": digest})
    if not row:  # the key was used, and for another request
        raise Invalid([KEY_REUSED.entry(KEY_LOC, key)])
    id, text = row
    location = f"{root_path(request)}/tasks/{id}".encode()
    return represent(request, text, (b"location", location))


async def list_tasks(request: Request, database: Database) -> ASGIApp:
    """List the tasks in the order of their ids: all, or those that the query asks for."""
    sent = dict(query_pairs(request))
    query = validate("query", sent, LIST_QUERY, False)
    limit = query.get("limit", WHOLE_LIST)
    size = WHOLE_LIST if "q" in query else min(limit, WHOLE_LIST)  # few may match
    listing = {"q": None, "after": 0, **query, "size": size + 1}  # one more shows if others remain
    tasks = await find_tasks(request, database, listing, limit + 1)
    if len(tasks) <= limit:
        return represent(request, f"[{','.join(tasks)}]")
    if "limit" not in query:
        body = stream_tasks(request, database, listing, tasks)
        return StreamingResponse(body, media_type="application/json")
    page = tasks[:limit]
    rest = urlencode({**sent, "after": json.loads(page[-1])["id"]})
    link = f'<{root_path(request)}/tasks?{rest}>; rel="next"'  # RFC 8288, section 3
    return represent(request, f"[{','.join(page)}]", (b"link", link.encode()))


async def delete_tasks(request: Request, database: Database) -> Answer:
    """Delete the tasks that are done, or those that are not."""
    pairs = query_pairs(request)
    # Nothing beside one `done`: what is misspelt or said twice must not delete more than was meant.
    extra = [EXTRA.entry(["query", name], value) for name, value in pairs[1:]]
    query = validate("query", dict(pairs), {"done": DONE}, True, *extra)
    count = await database.write("delete_tasks", query)
    return Answer(b"%d" % count)


async def get_task(request: Request, database: Database) -> ASGIApp:
    """Get a task."""
    return represent(request, find_task(request, database))


async def replace_task(request: Request, database: Database) -> ASGIApp:
    """Replace a task."""
    task = validate("body", await read_json(request), NEW_TASK, True)
    row = await change_task("replace_task", task, request, database)
    return represent(request, row[0])


async def update_task(request: Request, database: Database) -> ASGIApp:
    """Change what is said of a task (a merge patch, RFC 7396)."""
    changes = validate("body", await read_json(request), NEW_TASK, False)
    values = {"name": None, "done": None, **changes}
    row = await change_task("update_task", values, request, database)
    return represent(request, row[0])


async def delete_task(request: Request, database: Database) -> Answer:
    """Delete a task."""
    await change_task("delete_task", {}, request, database)
    return Answer(b"1")


async def get_health(request: Request, database: Database) -> Answer:
    """Check that tasks can be read, and that their file is where it was."""
    database.check_file()
    database.read("get_health", {})
    return Answer(b'{"status":"ok"}', (b"cache-control", b"no-store"))


async def get_openapi(request: Request, database: Database) -> Answer:
    """Describe the API to programs, in OpenAPI 3.1."""
    return Answer(openapi(root_path(request), request.app.token is not None))


async def get_docs(request: Request, database: Database) -> HTMLResponse:
    """Describe the API to people, as a page with forms to try it."""
    return HTMLResponse(PAGE)


def root_path(request: Request) -> Any:
    """Return the path below which a proxy serves this application; mostly empty."""
    return request.scope.get("root_path", "")


def find_task(request: Request, database: Database) -> Any:
    """Return the JSON of the task in the path; raise 404."""
    rows = database.read("get_task", request.path_params)
    if not rows:
        raise HTTPException(404, "Task not found")
    return rows[0][0]


async def change_task(statement: str, values: Object, request: Request, database: Database) -> Any:
    """Change the task in the path, if If-Match allows it; return its row, or 1 if it was deleted.

    Raises HTTPException: 404, or 412 (RFC 9110, section 13.1.1).
    """
    text = find_task(request, database)
    condition = header(request, b"if-match")
    expected = None
    if condition is not None and condition != "*":
        if etag(text) not in re.split(r"[ \t]*,[ \t]*", condition):
            raise task_has_changed(text)
        expected = text
    parameters = {**values, "id": request.path_params["id"], "expected": expected}
    outcome = await database.write(statement, parameters)
    if not outcome:  # it was deleted or changed in the meantime
        raise task_has_changed(find_task(request, database))
    return outcome


def task_has_changed(text: str) -> HTTPException:
    """Return the 412 for a task whose JSON is this now."""
    detail = "The task has changed: its ETag is not in If-Match"
    return HTTPException(412, detail, {"ETag": etag(text), "Cache-Control": "no-cache"})


def read_next_tasks(database: Database, listing: Object) -> list[str]:
    """Return the JSON of the next tasks that match.

    Moves listing["after"] past all that it looked at, and sets listing["more"] if others remain.
    """
    statement = "list_tasks_by_done" if "done" in listing else "list_tasks"
    [(count, listing["after"], lines)] = database.read(statement, listing)
    listing["more"] = count == listing["size"]
    return lines.split("\n") if lines else []


async def find_tasks(
    request: Request, database: Database, listing: Object, count: int
) -> list[str]:
    """Return the next tasks that match, this many or more unless there are fewer.

    Raises ClientDisconnect if the client leaves while a search goes on.
    """
    tasks = read_next_tasks(database, listing)
    while listing["more"] and len(tasks) < count:
        await database.pause()
        if await request.is_disconnected():
            raise ClientDisconnect
        tasks += read_next_tasks(database, listing)
    return tasks


async def stream_tasks(
    request: Request, database: Database, listing: Object, tasks: list[str]
) -> AsyncIterator[str]:
    """Yield the JSON of a list that begins with these tasks, reading the others."""
    if request.method == "HEAD":  # all tasks would be read for nothing
        return
    yield "[" + ",".join(tasks)
    while listing["more"]:
        await database.pause()
        tasks = read_next_tasks(database, listing)
        if tasks:
            yield "," + ",".join(tasks)
    yield "]"


# Answers and errors

Header = tuple[bytes, bytes]


class Answer:
    """A 200 in JSON. Starlette's Response, which makes the others, takes much longer."""

    def __init__(self, body: bytes, *headers: Header) -> None:
        self.body = body
        self.headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


def etag(text: str) -> str:
    """Return the entity tag of a representation (RFC 9110, section 8.8.3)."""
    return f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'


def represent(request: Request, text: str, *more: Header) -> ASGIApp:
    """Answer with a representation, or 304 if the client has it (RFC 9110, section 13.1.2)."""
    tag = etag(text)
    known = header(request, b"if-none-match") or ""
    is_known = known == "*" or tag in known  # W/ before a tag makes no difference here
    if is_known and request.method in ("GET", "HEAD"):
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-cache"})
    return Answer(text.encode(), (b"etag", tag.encode()), (b"cache-control", b"no-cache"), *more)


def answer_error(error: BaseException) -> Response:
    """Return the answer to what was raised: the one list of exceptions and their statuses."""
    match error:
        case HTTPException():
            return refusal(error.status_code, error.detail, error.headers or {})
        case Invalid():
            return refusal(422, error.args[0])
        case ClientDisconnect():  # nobody is there to read it
            return refusal(400, UNREADABLE)
        case sqlite3.Error(sqlite_errorcode=sqlite3.SQLITE_FULL):
            return failure(507, "The disk is full: try again when there is room", error)
        # The log says what it was.
        case sqlite3.Error() | OSError() | MemoryError() | asyncio.CancelledError():
            return failure(503, "The server can't do this now: try again", error)
        case _:
            log.error("A defect of the server", exc_info=error)
            return refusal(500, "Internal Server Error")


def failure(status: int, detail: str, error: BaseException) -> Response:
    """Log a failure that passes, and return its answer."""
    log.error("%s: %s: %.300r", detail, error.__class__.__name__, str(error))
    return refusal(status, detail, {"Retry-After": "1", "Cache-Control": "no-store"})


def refusal(status: int, detail: object, headers: Mapping[str, str] = {}) -> Response:
    """Return an error's answer; a lone surrogate in its detail becomes `?`.

    What JSON can't repeat (1e999, what is nested too deeply) makes it a 400.
    """
    answer = {"detail": detail}
    try:
        text = json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return refusal(400, UNREADABLE)
    return Response(text.encode(errors="replace"), status, headers, "application/json")


# Routes and the application

Operation = Callable[[Request, "Database"], Awaitable[ASGIApp]]


class Resource(BaseRoute):
    """A path with an operation for each method; HEAD, OPTIONS and 405 follow from them.

    In the path `{id}` is one segment, `/?` a slash that may be missing; "" is any path.
    """

    def __init__(self, path: str, **operations: Operation) -> None:
        pattern = re.escape(path)
        # An id does not end in a newline: /tasks/%0A is no path.
        pattern = pattern.replace(r"\{id\}", r"(?P<id>[^/]*[^/\n])")
        self.pattern = re.compile(pattern.replace(r"/\?", "/?") or r"(?s:.*)")
        self.path = path
        self.operations = operations
        if "GET" in operations:
            operations["HEAD"] = operations["GET"]
        if operations:
            operations["OPTIONS"] = self.get_options
        self.allow = ", ".join(operations)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        found = self.pattern.fullmatch(path)
        if found is None or scope["type"] != "http":
            return Match.NONE, {}
        return Match.FULL, {"path_params": found.groupdict()}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, partial(next_message, receive))
        operation = self.operations.get(scope["method"], self.refuse_method)
        try:
            if scope["app"].token is not None and self.path not in OPEN_PATHS:
                await check_token(request)
            answer = await operation(request, scope["state"]["database"])
        except (Exception, asyncio.CancelledError) as error:  # uvicorn cancels when it must stop
            answer = answer_error(error)
        try:
            await answer(scope, receive, send)
        except (Exception, asyncio.CancelledError) as error:  # too late for another answer
            log.error("An answer broke off: %.300r", error)

    async def get_options(self, request: Request, database: Database) -> Response:
        """Name the methods of the path."""
        return Response(status_code=204, headers={"Allow": self.allow})

    async def refuse_method(self, request: Request, database: Database) -> Response:
        """Raise 405, or 404 for a path that has no methods at all."""
        headers = await discard_body(request)
        if not self.operations:
            raise HTTPException(404, headers=headers)
        raise HTTPException(405, headers={"Allow": self.allow, **headers})


routes = [  # the busiest first: Starlette tries them in turn
    Resource("/tasks/{id}", GET=get_task, PUT=replace_task, PATCH=update_task, DELETE=delete_task),
    Resource("/tasks/?", GET=list_tasks, POST=create_task, DELETE=delete_tasks),
    Resource("/", GET=get_root),
    Resource("/info", GET=get_info),
    Resource("/healthz", GET=get_health),
    Resource("/openapi.json", GET=get_openapi),
    Resource("/docs", GET=get_docs),
    Resource(""),
]
OPEN_PATHS = ("/healthz", "/openapi.json", "/docs")  # need no token


async def check_token(request: Request) -> None:
    """Raise 401 if a request lacks the token (RFC 6750, section 2.1)."""
    scheme, _, sent = (header(request, b"authorization") or "").partition(" ")
    expected = os.fsencode(request.app.token).strip()
    same = secrets.compare_digest(sent.strip(" \t").encode("latin-1"), expected)
    if scheme.lower() != "bearer" or not same:
        headers = {"WWW-Authenticate": "Bearer", **await discard_body(request)}
        raise HTTPException(401, "Not authenticated", headers)


class Application(Starlette):
    """The server with the settings in `environ`.

    Starlette's own layers for errors would have nothing to do (`Resource` answers all of them) but
    would take a fifth of the time of a short request, so they are left out.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(routes=routes, lifespan=lifespan)
        self.database_path = environ.get("TODO_DB") or "todo.db"
        self.token = environ.get("TODO_TOKEN")
        self.origins = environ.get("TODO_CORS_ORIGINS", "").replace(",", " ").split()
        if self.origins:
            self.add_middleware(
                CORSMiddleware,
                allow_origins=self.origins,
                allow_methods=["*"],
                allow_headers=["Authorization", "Idempotency-Key", "If-Match", "If-None-Match"],
                expose_headers=["ETag", "Link", "Location", "Retry-After"],
            )

    def check_settings(self) -> None:
        """Raise StartRefused for what can't be meant; an origin is as in RFC 6454, section 6.2."""
        if self.token is not None and not re.fullmatch(r"[^\x00-\x1f\x7f]+", self.token.strip()):
            raise StartRefused("TODO_TOKEN is empty, or has characters that no header can carry")
        for origin in self.origins:
            if not ORIGIN.fullmatch(origin):
                raise StartRefused(
                    f"TODO_CORS_ORIGINS: {origin!r} is no origin as browsers send it, "
                    "like https://example.com or http://localhost:3000"
                )

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.serve
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            send = partial(send_without_traceback, send)
        await self.router.app(scope, receive, send)


@contextlib.asynccontextmanager
async def lifespan(app: Application) -> AsyncIterator[Object]:
    """Open the database, and close it at the end; raise StartRefused."""
    app.check_settings()
    database = Database(app.database_path)
    await database.open()
    log.info("Serving the tasks in %s", database.path)
    gc.freeze()  # what is here stays: to look through it again and again would slow lists down
    try:
        yield {"database": database}
    finally:
        await database.close()


async def send_without_traceback(send: Send, message: Message) -> None:
    """Send a message of the lifespan; of the traceback of StartRefused just the sentence."""
    if message["type"] == "lifespan.startup.failed":
        message["message"] = message["message"].rpartition("StartRefused: ")[2].strip()
    await send(message)


app = Application(os.environ)


# Database

FOLDER = Path(__file__).parent
SQL = {file.stem: file.read_text(encoding="utf-8") for file in FOLDER.glob("sql/*.sql")}

Future = asyncio.Future[Any]
Outcomes = list[tuple[Future, Any]]


class Write(NamedTuple):
    """A statement that waits for its turn, and the future that its outcome is for."""

    statement: str
    parameters: Object
    future: Future


class Database:
    """The file, with a connection that reads on the event loop, and others for a thread.

    The thread alone waits for locks. It writes, shortens the log, and opens and closes the file.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self.loop = asyncio.get_running_loop()
        self.opened = self.loop.create_future()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.queue = queue.SimpleQueue[Any]()  # None ends the thread
        self.closing = False
        self.turn = asyncio.Lock()
        self.next_wal_limit = WAL_LIMIT

    # What the event loop calls

    async def open(self) -> None:
        """Open the file, which is created if it is missing; raise StartRefused."""
        self.thread.start()
        try:
            await asyncio.wait_for(self.opened, START_TIMEOUT)
        except Exception as error:  # that of wait_for() has no text
            reason = str(error) or f"it is damaged, or another process holds {self.path}-lock"
            raise StartRefused(f"Can't serve {self.path}: {reason}") from error

    def read(self, statement: str, parameters: Object) -> Any:
        """Return the rows that a statement finds; raise sqlite3.Error."""
        return self.reader.execute(SQL[statement], parameters).fetchall()

    async def pause(self) -> None:
        """Let others run before a list is read on. Lists take turns: many hold up like one."""
        async with self.turn:
            await asyncio.sleep(0)

    async def write(self, statement: str, parameters: Object) -> Any:
        """Return the first row that a statement returns, or how many it changed, once on disk.

        Raises sqlite3.Error or OSError. After WRITE_TIMEOUT a TimeoutError settles the future, and
        the thread passes over the write.
        """
        future = self.loop.create_future()
        timer = self.loop.call_later(
            WRITE_TIMEOUT, settle, [(future, TimeoutError("it was not written in time"))]
        )
        self.queue.put(Write(SQL[statement], parameters, future))
        try:
            return await future
        finally:
            timer.cancel()

    def check_file(self) -> None:
        """Raise OSError if the file is not where it was: nobody would find what is written."""
        if self.identity() != self.identity_at_start:
            raise OSError(f"{self.path} was replaced under the server, which must be restarted")

    def identity(self) -> Any:
        """Return st_ino and st_dev of the file, and of the two that SQLite has beside it."""
        return [os.lstat(self.path + end)[1:3] for end in ("", "-wal", "-shm")]

    async def close(self) -> None:
        """Finish the writes and close the file, or leave it after STOP_TIMEOUT."""
        self.queue.put(None)
        await asyncio.to_thread(self.thread.join, STOP_TIMEOUT)

    # What the thread does

    def work(self) -> None:
        """Open the file, carry out the writes that come, and close it."""
        try:
            self.check_kind()
            with open(f"{self.path}-lock", "a") as self.lock_file:
                with self.exclusive():
                    self.open_file()
                self.tell([(self.opened, None)])
                while not self.closing:
                    with contextlib.suppress(Exception):  # a fault that passes ends no thread
                        self.carry_out(self.next_group())
                with self.exclusive():
                    self.close_file()
        except Exception as error:
            self.tell([(self.opened, error)])

    def check_kind(self) -> None:
        """Raise OSError for an SQLite that is too old, and for a file that can't be served."""
        if sqlite3.sqlite_version_info < (3, 37):
            raise OSError("it takes SQLite 3.37, and this Python has an older one")
        if os.path.exists(self.path) and not (
            os.path.isfile(self.path) and os.stat(self.path).st_nlink == 1
        ):
            raise OSError("it must be a regular file with one name, without hard links")

    def open_file(self) -> None:
        """Connect to the file, have every commit synced to disk, and apply the migrations.

        Raises sqlite3.Error or OSError, or ValueError for a path that SQLite can't take.
        """
        if self.opened.done():
            raise TimeoutError  # the start was given up, and nobody hears this
        self.writer = self.connect(timeout=WRITE_TIMEOUT)
        [mode] = self.writer.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise OSError("its file system can't hold SQLite's write-ahead log (WAL)")
        self.writer.executescript(f"""
            PRAGMA synchronous = FULL;
            PRAGMA fullfsync = ON;  -- macOS: without it a sync is none
            PRAGMA journal_size_limit = {WAL_LIMIT};
        """)
        self.migrate()
        self.checkpointer = self.connect(timeout=0.1)
        # To read anything opens the log, which can't be opened any more once the file was moved.
        self.checkpointer.executescript("PRAGMA fullfsync = ON; PRAGMA user_version")
        self.reader = self.connect(timeout=0.1)  # a longer wait would hold up the event loop
        self.reader.execute("PRAGMA query_only = ON")
        self.read("get_health", {})
        self.identity_at_start = self.identity()

    def connect(self, timeout: float) -> sqlite3.Connection:
        """Return a connection that waits so many seconds for locks and begins no transactions."""
        return sqlite3.connect(
            self.path, timeout=timeout, isolation_level=None, check_same_thread=False
        )

    def migrate(self) -> None:
        """Apply the migrations that the file lacks, all or none; raise OSError if it has others."""
        migrations = yoyo.read_migrations(glob.escape(str(FOLDER / "migrations")))
        known = {migration.hash for migration in migrations}
        # yoyo's form of file:///…, which like that quotes what is special in a path.
        uri = Path(self.path).as_uri().replace("file://", "sqlite:///", 1)
        with yoyo.get_backend(uri) as backend:
            backend.break_lock()  # left by a start that was killed: the lock that counts is ours
            if not known.issuperset(backend.get_applied_migration_hashes()):
                raise OSError("it is newer than this server, which lacks a migration of it")
            with backend.transaction():
                for migration in backend.to_apply(migrations):
                    migration.process_steps(backend, "apply")
                    backend.mark_one(migration, log=False)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock of all workers: SQLite's own has no queue, and one of them might starve."""
        if fcntl:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if fcntl:
                fcntl.flock(self.lock_file, fcntl.LOCK_UN)

    def next_group(self) -> list[Write]:
        """Wait for a write, and return it with all that wait behind it."""
        waiting = [self.queue.get()]
        while not self.queue.empty():
            waiting.append(self.queue.get())
        self.closing = None in waiting
        return [write for write in waiting if write is not None]

    def carry_out(self, group: list[Write]) -> None:
        """Commit these writes, except those that were given up, and tell the outcomes."""
        try:
            with self.exclusive():
                group = [write for write in group if not write.future.done()]
                if group:
                    self.tell(self.commit(group))
                self.shorten_wal()
        except Exception as error:
            self.tell([(write.future, error) for write in group])

    def commit(self, group: list[Write]) -> Outcomes:
        """Commit these writes at once; if that fails, each alone.

        Raises OSError or sqlite3.Error if the file can't be written now; some that were tried alone
        may have been committed then.
        """
        self.check_file()
        self.writer.execute("BEGIN IMMEDIATE")
        try:
            with self.writer:  # commits at the end, or rolls back
                return [(write.future, self.execute(write)) for write in group]
        except Exception as error:
            if len(group) == 1:
                return [(group[0].future, error)]
            return [outcome for write in group for outcome in self.commit([write])]

    def execute(self, write: Write) -> Any:
        """Return the first row of a statement, or how many it changed; None if it was given up."""
        if write.future.done():
            return None
        cursor = self.writer.execute(write.statement, write.parameters)
        rows = cursor.fetchall()  # all of them: one that is left makes COMMIT fail
        return rows[0] if rows else cursor.rowcount

    def shorten_wal(self) -> None:
        """Move what a long log holds into the file.

        If that fails, or readers are in the way, it is tried again when the log is longer.
        """
        with contextlib.suppress(sqlite3.Error, OSError):
            size = os.path.getsize(f"{self.path}-wal")
            if size < WAL_LIMIT:
                self.next_wal_limit = WAL_LIMIT
            elif size >= self.next_wal_limit:
                self.next_wal_limit = size + WAL_LIMIT
                self.checkpointer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close_file(self) -> None:
        """Close the connections, and leave no log: SQLite would, if the file was moved."""
        self.checkpointer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for connection in (self.reader, self.checkpointer, self.writer):
            connection.close()

    def tell(self, outcomes: Outcomes) -> None:
        """Hand outcomes to the event loop."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(settle, outcomes)


def settle(outcomes: Outcomes) -> None:
    """Set the results of those futures that are not done; a TimeoutError gives a write up."""
    for future, outcome in outcomes:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


# Documentation

TEXT = {"type": "string"}
# A parameter with an example is one that must be sent: see describe().
BY_ID = {
    "id": {
        "type": "integer",
        "minimum": 1,
        "description": "The id of the task, given by the server and never reused",
        "example": 1,
    }
}
DONE_REQUIRED = {"done": {**DONE, "example": True}}
KEY = {
    "Idempotency-Key": {
        "type": "string",
        "pattern": KEY_PATTERN,
        "description": "A name for this request: while its task is there, it creates no other",
    }
}
IF_MATCH = {"If-Match": {"type": "string", "description": "ETags, one of them current, or *"}}
IF_NONE_MATCH = {
    "If-None-Match": {"type": "string", "description": "ETags that the client has, or *"}
}

NEW_TASK_EXAMPLE = {"name": "Buy milk", "done": False}
TASK_EXAMPLE = {**NEW_TASK_EXAMPLE, "id": 1}


def reference(name: str) -> Object:
    """Return a reference to a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_schema(meaning: str, required: str, properties: Object) -> Object:
    """Return the schema of an object."""
    return {
        "type": "object",
        "description": meaning,
        "required": required.split(),
        "properties": properties,
    }


TASK = reference("Task")
ERROR = reference("Error")
FAULT = {
    "type": TEXT,
    "loc": {"type": "array", "items": {"anyOf": [TEXT, {"type": "integer"}]}},
    "msg": TEXT,
    "input": {},
}
SCHEMAS = {
    "Task": object_schema("A task", "name done id", NEW_TASK | BY_ID),
    "NewTask": object_schema("A task as it is created or replaced", "name done", NEW_TASK),
    "TaskPatch": object_schema("What to change of a task; the rest stays as it is", "", NEW_TASK),
    "Error": object_schema("Why there is no other answer", "detail", {"detail": TEXT}),
    "HTTPValidationError": object_schema(
        "Every fault in what was sent",
        "detail",
        {"detail": {"type": "array", "items": reference("ValidationError")}},
    ),
    "ValidationError": object_schema("A fault, in pydantic's words", "type loc msg input", FAULT),
}


def response(meaning: str, schema: Object, example: object, headers: str = "") -> Object:
    """Return a response in JSON."""
    return {
        "description": meaning,
        "headers": {name: {"schema": TEXT} for name in headers.split()},
        "content": {"application/json": {"schema": schema, "example": example}},
    }


ERRORS = {
    "304": {"description": "The client has the current ETag"},
    "401": response(
        "The token is missing or wrong", ERROR, {"detail": "Not authenticated"}, "WWW-Authenticate"
    ),
    "404": response("There is no such task", ERROR, {"detail": "Task not found"}),
    "412": response(
        "If-Match lacks the current ETag",
        ERROR,
        {"detail": "The task has changed: its ETag is not in If-Match"},
        "ETag Cache-Control",
    ),
    "422": response(
        "Something was not sent as it is described here",
        reference("HTTPValidationError"),
        {"detail": [MISSING.entry(["body", "name"], {"done": False})]},
    ),
    "default": response(
        "Any other error; after a 5xx a write may have happened or not: repeat it as it was",
        ERROR,
        {"detail": "Internal Server Error"},
        "Retry-After Cache-Control",
    ),
}


def request_body(name: str, example: Object) -> Object:
    """Return a body; application/merge-patch+json and the like are taken too."""
    content = {"application/json": {"schema": reference(name), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def describe(
    answer: Object, errors: str = "", body: Mapping[str, Any] = {}, **parts: Object
) -> Object:
    """Return an operation, with the parameters by the part of a request that they are in.

    Those with an example must be sent.
    """
    responses = {status: ERRORS[status] for status in [*errors.split(), "default"]}
    parameters = [
        {
            "name": name,
            "in": part,
            "required": "example" in schema,
            "description": schema["description"],
            "schema": schema,
        }
        for part, schemas in parts.items()
        for name, schema in schemas.items()
    ]
    return {"parameters": parameters, **body, "responses": {"200": answer, **responses}}


TASK_ANSWER = response("The task as it is now", TASK, TASK_EXAMPLE, "ETag Cache-Control")

DESCRIPTIONS = {
    get_root: describe(response("The greeting", TEXT, "Hello, world!"), "401"),
    get_info: describe(response("Its name", TEXT, "starlette"), "401"),
    list_tasks: describe(
        response(
            "The tasks; a page and a short list have an ETag, a page with more behind it a Link",
            {"type": "array", "items": TASK},
            [TASK_EXAMPLE],
            "ETag Cache-Control Link",
        ),
        "304 401 422",
        query=LIST_QUERY,
        header=IF_NONE_MATCH,
    ),
    create_task: describe(
        response(
            "The task, or the one that the key's first use created",
            TASK,
            TASK_EXAMPLE,
            "ETag Cache-Control Location",
        ),
        "401 422",
        request_body("NewTask", NEW_TASK_EXAMPLE),
        header=KEY,
    ),
    delete_tasks: describe(
        response("How many were deleted", {"type": "integer"}, 3), "401 422", query=DONE_REQUIRED
    ),
    get_task: describe(TASK_ANSWER, "304 401 404", path=BY_ID, header=IF_NONE_MATCH),
    replace_task: describe(
        TASK_ANSWER,
        "401 404 412 422",
        request_body("NewTask", NEW_TASK_EXAMPLE),
        path=BY_ID,
        header=IF_MATCH,
    ),
    update_task: describe(
        TASK_ANSWER,
        "401 404 412 422",
        request_body("TaskPatch", {"done": True}),
        path=BY_ID,
        header=IF_MATCH,
    ),
    delete_task: describe(
        response("One was deleted", {"type": "integer"}, 1),
        "401 404 412",
        path=BY_ID,
        header=IF_MATCH,
    ),
    get_health: describe(response("The tasks can be read", {}, {"status": "ok"}, "Cache-Control")),
    get_openapi: describe(response("This document", {}, {"openapi": "3.1.0"})),
    get_docs: describe(
        {
            "description": "The page",
            "content": {"text/html": {"schema": TEXT, "example": "<!doctype html>…"}},
        }
    ),
}


@cache
def openapi(root_path: str, token_required: bool) -> bytes:
    """Return the OpenAPI document of a server below this path, which wants a token or none."""
    schemes = {"bearer": {"type": "http", "scheme": "bearer"}} if token_required else {}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "todo", "version": "1.0.0", "description": "A todo list over HTTP"},
        "servers": [{"url": root_path or "/"}],
        "security": [{"bearer": []}] if token_required else [],
        "paths": {
            resource.path.removesuffix("/?"): describe_path(resource) for resource in routes[:-1]
        },
        "components": {"schemas": SCHEMAS, "securitySchemes": schemes},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def describe_path(resource: Resource) -> Object:
    """Return the described operations of a path by method; HEAD and OPTIONS go without saying."""
    described = {}
    for method, function in resource.operations.items():
        if function in DESCRIPTIONS and method != "HEAD":
            operation = described[method.lower()] = {
                "operationId": function.__name__,
                "summary": str(function.__doc__).rstrip("."),
                "tags": ["tasks" if "tasks" in resource.path else "server"],
                **DESCRIPTIONS[function],
            }
            if resource.path in OPEN_PATHS:
                operation["security"] = []
    return described


PAGE = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>todo</title>
<style>
:root { color-scheme: light dark; --quiet: #585858; --good: #1765a8; --bad: #b92b2b }
@media (prefers-color-scheme: dark) { :root { --quiet: #b4b4b4; --good: #74b9f5; --bad: #ff9388 } }
* { box-sizing: border-box; min-width: 0; margin: 0; overflow-wrap: anywhere }
html { background: Canvas; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 76rem; margin: auto; padding: 1rem }
header, form, output { display: grid; gap: .75rem; align-content: start }
h2 { margin-top: 2rem; font-size: 1.25rem }
h3, h4, label { font-size: 1rem; font-weight: 600 }
li, dl, pre, input, textarea, small { font-size: .875rem }
h3, li, dt, pre, input, textarea { font-family: ui-monospace, monospace }
small { color: var(--quiet); white-space: pre-line }
label + small { margin-left: .5rem }
header input { max-width: 28rem }
a, b, button { color: var(--good) }
b { display: inline-block; width: 4.5rem }
ul { columns: 17rem; padding: 0; list-style: none }
section { margin-top: 1rem; padding: 1rem 1.25rem; border: 1px solid #8885; border-radius: .25rem }
section:target { border-color: var(--good) }
section > div { display: grid; gap: 1.5rem 2.5rem; margin-top: 1rem }
section > div { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)) }
input, textarea { display: block; width: 100%; border: 1px solid #888 }
input, textarea, pre { padding: .4rem .6rem; border-radius: .25rem }
pre { max-height: 26rem; overflow: auto; background: #8882; white-space: pre-wrap }
dl { display: grid; grid-template-columns: 4.5rem 1fr; row-gap: .75rem }
dd small { display: block }
button { margin-right: .5rem; padding: .35rem 1.25rem; border: 1px solid; border-radius: .25rem }
button { background: none; font: inherit; cursor: pointer }
[type=submit] { background: var(--good); color: Canvas }
output { padding-left: .75rem; border-left: .25rem solid var(--good) }
output:empty { display: none }
.bad { border-color: var(--bad) }
.bad strong, .DELETE b { color: var(--bad) }
:focus-visible { outline: 2px solid var(--good); outline-offset: 2px }
</style>
<header></header>
<main></main>
<noscript>
<p>A script makes this page, and scripts are off here. The same is in
<a href="openapi.json">openapi.json</a>, and curl can send every request:
<pre>curl --json '{"name": "Buy milk", "done": false}' http://127.0.0.1:8000/tasks</pre>
</noscript>
<script type="module">
const SHOWN = 100_000  // characters of an answer: a list may be too long to be shown
const [header, main] = document.querySelectorAll("header, main")
const token = make("input", { id: "token", type: "password", autocomplete: "off" })

function make(name, attributes, ...children) {
    const element = document.createElement(name)
    for (const key in attributes) element.setAttribute(key, attributes[key])
    element.append(...children)
    return element
}

// JSON.parse() rounds large numbers, like 2^63 - 1, where it can't keep their text.
function parse(text) {
    return JSON.parse(text, (key, value, context) =>
        typeof value == "number" && JSON.rawJSON ? JSON.rawJSON(context.source) : value)
}

function block(text) {
    return make("pre", { tabindex: 0, "aria-live": "off" }, text)
}

function show(value) {
    return typeof value == "string" ? value : JSON.stringify(value)
}

function pretty(text) {
    const rest = text.length - SHOWN
    if (rest > 0) return `${text.slice(0, SHOWN)}\n… and ${rest} more characters, not shown here`
    try { return JSON.stringify(parse(text), null, 2) } catch { return text }
}

// What the form asks for, as it is filled in now.
function read(form, { method, path, secured }) {
    const query = new URLSearchParams()
    const headers = []
    let body
    for (const { name, value, dataset } of form.querySelectorAll("[data-in]")) {
        if (dataset.in == "path") path = path.replace(`{${name}}`, encodeURIComponent(value))
        else if (dataset.in == "body") body = value
        else if (value && dataset.in == "query") query.append(name, value)
        else if (value) headers.push([name, value])
    }
    if (secured && token.value) headers.push(["Authorization", `Bearer ${token.value}`])
    const url = new URL(`.${path}`, location)
    url.search = query
    return { method, url, headers, body }
}

function quote(text) {
    return /^[\w:/.-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}

function curl({ method, url, headers, body }, lacksToken) {
    const words = ["curl"]
    if (method != (body === undefined ? "GET" : "POST")) words.push("-X", method)
    if (lacksToken) words.push('-H "Authorization: Bearer $TODO_TOKEN"')
    for (const field of headers) words.push("-H", quote(field.join(": ")))
    if (body !== undefined) words.push("--json", quote(body.replace(/^@/, " @")))  // @ is for files
    return [...words, quote(url.href)].join(" ")
}

// fetch() takes each character of a header for a byte.
function bytes(text) {
    return String.fromCharCode(...new TextEncoder().encode(text))
}

async function send({ method, url, headers, body }, output) {
    const start = performance.now()
    output.replaceChildren()
    try {
        const fields = headers.map(([name, value]) => [name, bytes(value)])
        if (body !== undefined) fields.push(["Content-Type", "application/json"])
        const answer = await fetch(url, { method, headers: fields, body, cache: "no-store" })
        const text = await answer.text()
        const time = Math.round(performance.now() - start)
        const status = make("strong", {}, `${answer.status} ${answer.statusText}`)
        const lines = [...answer.headers].map(field => field.join(": ")).join("\n")
        output.className = answer.status < 400 ? "good" : "bad"
        output.replaceChildren(make("p", {}, status, ` in ${time} ms`), block(lines))
        if (text) output.append(block(pretty(text)))
    } catch (error) {
        output.className = "bad"
        output.replaceChildren(make("strong", {}, `No answer: ${error.message}`))
    }
}

function limits({ type, description, example, ...keywords }) {
    const words = Object.entries(keywords).map(([keyword, value]) => `${keyword} ${show(value)}`)
    return [type, ...words].join(", ")
}

// The body, described as if it were a parameter.
function bodyParameter({ content }, schemas) {
    const { schema: { $ref }, example } = content["application/json"]
    const { type, description, properties } = schemas[$ref.split("/").pop()]
    const members = Object.entries(properties).map(([name, member]) =>
        `\n${name}: ${member.description} (${limits(member)})`)
    const meaning = description + members.join("")
    const schema = { type, example }
    return { name: "body", in: "body", description: meaning, required: true, schema }
}

function field(id, { name, in: place, description, required, schema }) {
    const input = make(place == "body" ? "textarea" : "input", { id, name, "data-in": place })
    input.setAttribute("aria-describedby", `${id}-kind ${id}-meaning`)
    input.autocomplete = "off"
    input.required = place == "path"
    if (required) input.value = show(schema.example)
    const kind = `${place}, ${required ? "" : "optional, "}${limits(schema)}`
    return make("div", {}, make("label", { for: id }, name),
        make("small", { id: `${id}-kind` }, kind), input,
        make("small", { id: `${id}-meaning` }, description))
}

function answers(responses) {
    const list = make("dl", {})
    for (const [status, { description, headers = {}, content = {} }] of Object.entries(responses)) {
        const names = make("small", {}, Object.keys(headers).join(", "))
        const meaning = make("dd", {}, description, names)
        for (const [type, { example }] of Object.entries(status == 200 ? content : {}))
            meaning.append(block(type == "text/html" ? example : pretty(JSON.stringify(example))))
        list.append(make("dt", {}, status), meaning)
    }
    return make("div", {}, make("h4", {}, "Answers"), list)
}

function formOf(operation, fields) {
    const code = make("code", {})
    const copy = make("button", { type: "button" })
    const buttons = make("p", {}, make("button", { type: "submit" }, "Send"), copy)
    const output = make("output", {})
    const form = make("form", {}, ...fields, make("pre", {}, code), buttons, output)
    const update = () => {
        code.textContent = curl(read(form, operation), operation.secured && !token.value)
        copy.textContent = "Copy"
    }
    copy.onclick = () => {
        getSelection().selectAllChildren(code)
        copy.textContent = document.execCommand("copy") ? "Copied" : "Selected"
    }
    form.onsubmit = event => {
        event.preventDefault()
        send(read(form, operation), output)
    }
    addEventListener("input", update)
    update()
    return form
}

function title(level, { operationId, method, path }) {
    const link = make("a", { href: `#${operationId}` }, path)
    return make(level, { class: method }, make("b", {}, method), link)
}

function section(operation, schemas) {
    const { operationId: id, summary, parameters = [], requestBody, responses } = operation
    const all = requestBody ? [...parameters, bodyParameter(requestBody, schemas)] : parameters
    const fields = all.map(parameter => field(`${id}-${parameter.name}`, parameter))
    const columns = make("div", {}, formOf(operation, fields), answers(responses))
    return make("section", { id }, title("h3", operation), make("p", {}, summary), columns)
}

// Every operation, in the order of the paths.
function list({ paths, security }) {
    const operations = []
    for (const [path, methods] of Object.entries(paths).sort()) {
        for (const [method, described] of Object.entries(methods)) {
            const secured = (described.security ?? security).length > 0
            operations.push({ ...described, path, method: method.toUpperCase(), secured })
        }
    }
    return operations
}

function build({ info, paths, security, components }) {
    const link = make("a", { href: "openapi.json" }, "openapi.json")
    const about = make("p", {}, `${info.description}. The same for programs: `, link)
    const index = make("ul", {})
    const groups = { tasks: make("div", {}), server: make("div", {}) }
    header.append(make("h1", {}, info.title), about, make("nav", {}, index))
    if (security.length > 0) {
        const hint = make("small", {}, "sent as Authorization: Bearer, never stored")
        header.append(make("div", {}, make("label", { for: "token" }, "Token"), hint, token))
    }
    for (const tag in groups) groups[tag].append(make("h2", {}, tag))
    for (const operation of list({ paths, security })) {
        index.append(title("li", operation))
        groups[operation.tags[0]].append(section(operation, components.schemas))
    }
    main.append(...Object.values(groups))
    if (location.hash) location.replace(location.hash)  // what it names was not there yet
}

try {
    const answer = await fetch("openapi.json", { cache: "no-store" })
    if (!answer.ok) throw Error(`${answer.status} ${answer.statusText}`)
    build(parse(await answer.text()))
} catch (error) {
    main.append(make("p", { role: "alert" }, `openapi.json can't be shown: ${error.message}`))
}
</script>
"""
