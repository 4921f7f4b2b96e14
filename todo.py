"""A todo list over HTTP, kept in SQLite.

    uvicorn todo:app

serves it on http://127.0.0.1:8000, and /docs there shows every route. The settings are environment
variables, and none is needed:

    TODO_DB=todo.db                the database file, created if it is missing
    TODO_TOKEN=...                 what every request must send: `Authorization: Bearer ...`
    TODO_CORS_ORIGINS=https://...  the origins, separated by commas, whose pages may call; * for all

An operation checks what came in, runs one statement from sql/ and sends the JSON that it returns.
Reads are short, and run on the event loop. All writes go to one thread, which commits those that
wait together in one transaction, synced to disk, and then answers them.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
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
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import yoyo
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

try:
    import fcntl
except ImportError:  # Windows: SQLite's own lock has to do there
    fcntl = None  # type: ignore[assignment]

# Settings

NAME_LIMIT = 1000  # characters
BODY_LIMIT = 2**20  # bytes
DISCARD_LIMIT = 16 * 2**20  # bytes of a refused body that are read and thrown away
BODY_TIMEOUT = 10.0  # seconds that a body may pause
WRITE_TIMEOUT = 5.0  # seconds that a write may wait for its turn
START_TIMEOUT = 30.0  # seconds that a start may wait for the file
STOP_TIMEOUT = 5.0  # seconds that a stop may wait for the last writes
PIECE = 301  # tasks in one read of a list: one of up to 300 is whole after the first
WAL_LIMIT = 8 * 2**20  # bytes of SQLite's log (the -wal file) from which on it is emptied

ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)"  # browsers leave these ports out
    r"[a-z][a-z0-9+.-]*://"
    r"([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"
    r"(:(?P<port>[1-9][0-9]{0,4}))?"
)

log = logging.getLogger("uvicorn.error")  # so that a line of ours looks like one of its


class StartRefused(Exception):
    """The server can't start; the text is one sentence that names the setting or the file."""


class Settings(NamedTuple):
    """What the environment says, not yet checked."""

    database: str
    token: bytes | None
    origins: list[str]


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return what these variables say; what is wrong with it, check_settings() finds later."""
    token = environ.get("TODO_TOKEN")
    return Settings(
        database=os.path.realpath(environ.get("TODO_DB") or "todo.db"),
        token=None if token is None else os.fsencode(token).strip(),
        origins=environ.get("TODO_CORS_ORIGINS", "").replace(",", " ").split(),
    )


def check_settings(settings: Settings) -> None:
    """Raise StartRefused for a setting that can't be meant; an origin is as in RFC 6454."""
    if settings.token is not None and not re.fullmatch(rb"[^\x00-\x1f\x7f]+", settings.token):
        raise StartRefused("TODO_TOKEN is empty, or has characters that no header can carry")
    for origin in settings.origins:
        found = ORIGIN.fullmatch(origin)
        if origin != "*" and (found is None or int(found["port"] or 0) >= 2**16):
            raise StartRefused(
                f"TODO_CORS_ORIGINS: {origin!r} is no origin as browsers send it, "
                "like https://example.com or http://localhost:3000"
            )


# Input

JSON_TYPE = re.compile(r"application/([^\s;/]+\+)?json[ \t]*(;.*)?", re.IGNORECASE)
KEY_PATTERN = "^[!-~]{1,255}$"
UNREADABLE = "There was an error parsing the body"
STALLED = f"No more of the body has come for {BODY_TIMEOUT:g} s"
# 1 stands for True and 1.0 too: they are equal, and so one key.
WORDS: dict[object, int] = dict.fromkeys((1, "1", "true", "t", "yes", "y", "on"), 1)
WORDS |= dict.fromkeys((0, "0", "false", "f", "no", "n", "off"), 0)

Checks = Mapping[str, Callable[[Any], Any]]
Pairs = list[tuple[str, str]]
Values = Mapping[str, Any]


class Fault(Exception):
    """What is wrong with a value: type, text and context as FastAPI's clients know them."""

    def entry(self, loc: Sequence[str | int], input: object) -> dict[str, Any]:
        """Return the entry of a 422 for this fault, with where it is and what was sent."""
        type, msg, *context = self.args
        entry = {"type": type, "loc": loc, "msg": msg, "input": input}
        if context:
            entry["ctx"] = context[0]
        return entry


class Invalid(Exception):
    """A request with faults; the argument is the list of their entries."""


class Part(NamedTuple):
    """A part of a request: where it is, what was sent there, and a check for each value."""

    place: str
    source: Any
    checks: Checks
    required: bool


MISSING = Fault("missing", "Field required")
NO_OBJECT = Fault(
    "model_attributes_type",
    "Input should be a valid dictionary or object to extract fields from",
)


def validate(*parts: Part) -> dict[str, Any]:
    """Return the checked values of these parts by name; raise Invalid with every fault in them."""
    values = {}
    entries = []
    for part in parts:
        if not isinstance(part.source, dict):
            fault = MISSING if part.source is None else NO_OBJECT
            entries.append(fault.entry([part.place], part.source))
            continue
        for name, check in part.checks.items():
            if name in part.source:
                try:
                    values[name] = check(part.source[name])
                except Fault as fault:
                    entries.append(fault.entry([part.place, name], part.source[name]))
            elif part.required:
                sent = part.source if part.place == "body" else None
                entries.append(MISSING.entry([part.place, name], sent))
    if entries:
        raise Invalid(entries)
    return values


def check_name(value: Any) -> str:
    """Return the value if it is a name; raise Fault."""
    if not isinstance(value, str):
        raise Fault("string_type", "Input should be a valid string")
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character, as "\ud800" is
        raise Fault(
            "string_unicode",
            "Input should be a valid string, unable to parse raw data as a unicode string",
        ) from None
    if len(value) > NAME_LIMIT:
        msg = f"String should have at most {NAME_LIMIT} characters"
        raise Fault("string_too_long", msg, {"max_length": NAME_LIMIT})
    return value


def check_done(value: Any) -> int:
    """Return 1 or 0 for what pydantic takes for a boolean; raise Fault."""
    word = value.lower() if isinstance(value, str) else value
    if isinstance(word, str | int | float):
        if word in WORDS:
            return WORDS[word]
        # pydantic's difference: a word or a whole number of 64 bits might have been a boolean.
        if isinstance(word, str) or (word % 1 == 0 and -(2**63) <= word < 2**63):
            msg = "Input should be a valid boolean, unable to interpret input"
            raise Fault("bool_parsing", msg)
    raise Fault("bool_type", "Input should be a valid boolean")


def check_number(least: int, most: int, value: str) -> int:
    """Return a whole number in ASCII digits that is within these bounds; raise Fault."""
    if not (value.isascii() and value.isdigit()):
        msg = "Input should be a valid integer, unable to parse string as an integer"
        raise Fault("int_parsing", msg)
    digits = value.lstrip("0")[:20]  # 20 are beyond any bound, and int() takes 4,300 at most
    number = int(digits or "0")
    if number < least:
        msg = f"Input should be greater than or equal to {least}"
        raise Fault("greater_than_equal", msg, {"ge": least})
    if number > most:
        msg = f"Input should be less than or equal to {most}"
        raise Fault("less_than_equal", msg, {"le": most})
    return number


def check_key(value: str) -> str:
    """Return the Idempotency-Key as it was sent; raise Fault."""
    if not re.fullmatch(KEY_PATTERN, value):
        msg = f"String should match pattern '{KEY_PATTERN}'"
        raise Fault("string_pattern_mismatch", msg, {"pattern": KEY_PATTERN})
    return value


def refuse_value(value: str) -> None:
    """Raise Fault: this parameter may not be here."""
    raise Fault("extra_forbidden", "Extra inputs are not permitted")


TASK_CHECKS: Checks = {"name": check_name, "done": check_done}
KEY_CHECKS: Checks = {"idempotency-key": check_key}
LIST_CHECKS: Checks = {
    "done": check_done,
    "q": str,
    "limit": partial(check_number, 1, 1000),
    "after": partial(check_number, 0, 2**63 - 1),
}


def header(request: Request, name: bytes) -> str | None:
    """Return a header, its lines joined by commas (RFC 9110, section 5.3), or None.

    Starlette's `request.headers` does the same, but takes much longer for the first one.
    """
    lines = [value for key, value in request.scope["headers"] if key == name]
    if not lines:
        return None
    return b", ".join(lines).decode("latin-1").strip(" \t")


def query_pairs(request: Request) -> Pairs:
    """Return the parameters of the query string in their order, those without a value too."""
    text = request.scope["query_string"].decode(errors="replace")
    return parse_qsl(text, keep_blank_values=True)


async def read_json(request: Request) -> Any:
    """Return the JSON value in the body, or None if it is empty.

    Raises HTTPException (415, 413, 408, 400), ClientDisconnect, or Invalid for malformed JSON.
    """
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
    """Raise JSONDecodeError for NaN, Infinity and -Infinity, which Python would take."""
    raise json.JSONDecodeError(f"{name} is not JSON", "", 0)


JSON_DECODER = json.JSONDecoder(parse_constant=refuse_constant)


async def read_body(request: Request) -> bytearray:
    """Return the body; raise HTTPException (415, 413, 408) or ClientDisconnect."""
    if not JSON_TYPE.fullmatch(header(request, b"content-type") or ""):
        detail = "Send JSON with Content-Type: application/json (curl --json does)"
        raise HTTPException(415, detail, await discard_body(request))
    body = bytearray()
    more = True
    size = int(header(request, b"content-length") or 0)
    while more and size <= BODY_LIMIT:
        chunk, more = await next_chunk(request)
        body += chunk
        size = len(body)
    if size > BODY_LIMIT:
        headers = await discard_body(request) if more else {}
        raise HTTPException(413, f"The body is larger than {BODY_LIMIT} bytes: send less", headers)
    return body


async def discard_body(request: Request) -> dict[str, str]:
    """Read the rest of a body: a client that closes once it is sent must still hear the refusal.

    Returns headers for that: the connection can't be used again if the rest did not come.
    """
    size = 0
    more = True
    with contextlib.suppress(HTTPException, ClientDisconnect):
        while more and size < DISCARD_LIMIT:
            chunk, more = await next_chunk(request)
            size += len(chunk)
    return {"Connection": "close"} if more else {}


async def next_chunk(request: Request) -> tuple[bytes, bool]:
    """Return bytes of the body, and whether more follow; raise 408 or ClientDisconnect."""
    task: Any = asyncio.current_task()
    timer = task.get_loop().call_later(BODY_TIMEOUT, task.cancel, STALLED)  # cheaper than timeout()
    try:
        message = await request.receive()
    except asyncio.CancelledError as error:
        if STALLED not in error.args:
            raise
        raise HTTPException(408, STALLED, {"Connection": "close"}) from None
    finally:
        timer.cancel()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


# Operations


async def get_root(request: Request, database: Database) -> Answer:
    """Greet."""
    return Answer(b'"Hello, world!"')


async def get_info(request: Request, database: Database) -> Answer:
    """Name the implementation."""
    return Answer(b'"starlette"')


async def create_task(request: Request, database: Database) -> Answer:
    """Create a task."""
    key = header(request, b"idempotency-key")
    head = {} if key is None else {"idempotency-key": key}
    task = validate(
        Part("header", head, KEY_CHECKS, required=False),
        Part("body", await read_json(request), TASK_CHECKS, required=True),
    )
    values = {"name": task["name"], "done": task["done"]}
    digest = None if key is None else etag(json.dumps(values))
    row = await database.write("create_task", {**values, "key": key, "request": digest})
    if not row:
        fault = Fault("idempotency_key_reused", "Idempotency-Key was used with another body")
        raise Invalid([fault.entry(["header", "idempotency-key"], key)])
    id, text = row
    location = f"{root_path(request)}/tasks/{id}"
    return represent(request, text, (b"location", location.encode()))


async def list_tasks(request: Request, database: Database) -> Answer | StreamingResponse:
    """List the tasks in the order of their ids: all, or those that the query asks for."""
    pairs = query_pairs(request)
    query = validate(Part("query", dict(pairs), LIST_CHECKS, required=False))
    listing = Listing(database, query)
    if "limit" in query:
        tasks = await read_page(request, listing, query["limit"])
        page = tasks[: query["limit"]]
        links = [next_page(request, pairs, page[-1])] if len(tasks) > len(page) else []
        return represent(request, f"[{','.join(page)}]", *links)
    tasks = listing.read()
    if listing.more:
        pieces = stream(request, listing, tasks)
        return StreamingResponse(pieces, media_type="application/json")
    return represent(request, f"[{','.join(tasks)}]")


async def delete_tasks(request: Request, database: Database) -> Answer:
    """Delete the tasks that are done, or those that are not."""
    pairs = query_pairs(request)
    names = [name for name, _ in pairs]
    checks: dict[str, Any] = {"done": check_done}
    if names.count("done") == 1:
        names.remove("done")
    checks |= dict.fromkeys(names, refuse_value)
    query = validate(Part("query", dict(pairs), checks, required=True))
    count = await database.write("delete_tasks", query)
    return Answer(b"%d" % count)


async def get_task(request: Request, database: Database) -> Answer:
    """Get a task."""
    return represent(request, find_task(request, database))


async def replace_task(request: Request, database: Database) -> Answer:
    """Replace a task."""
    task = validate(Part("body", await read_json(request), TASK_CHECKS, required=True))
    row = await change_task("replace_task", task, request, database)
    return represent(request, row[0])


async def update_task(request: Request, database: Database) -> Answer:
    """Change what is said of a task (a merge patch, RFC 7396)."""
    changes = validate(Part("body", await read_json(request), TASK_CHECKS, required=False))
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
    return Answer(b'{"status":"ok"}', [NO_STORE])


async def get_openapi(request: Request, database: Database) -> Answer:
    """Describe the API to programs, in OpenAPI 3.1."""
    token_required = request.state.settings.token is not None
    return Answer(openapi_json(root_path(request), token_required))


async def get_docs(request: Request, database: Database) -> Answer:
    """Describe the API to people, as a page with forms to try it."""
    return Answer(PAGE.encode(), type=HTML)


def root_path(request: Request) -> str:
    """Return the path below which a proxy serves this application; mostly empty."""
    return str(request.scope.get("root_path", ""))


def find_task(request: Request, database: Database) -> str:
    """Return the JSON of the task in the path; raise 404."""
    rows = database.read("get_task", request.path_params)
    if not rows:
        raise HTTPException(404, "Task not found")
    return str(rows[0][0])


async def change_task(statement: str, values: Values, request: Request, database: Database) -> Any:
    """Return the outcome of a statement that changes the task in the path, if If-Match allows it.

    Raises HTTPException: 404, or 412 (RFC 9110, section 13.1.1).
    """
    text = find_task(request, database)
    condition = header(request, b"if-match")
    expected = None
    if condition is not None and condition != "*":
        tags = [tag.strip(" \t") for tag in condition.split(",")]
        if etag(text) not in tags:
            raise task_has_changed(text)
        expected = text
    parameters = {**values, "id": request.path_params["id"], "expected": expected}
    outcome = await database.write(statement, parameters)
    if not outcome:  # it was deleted or changed in the meantime
        raise task_has_changed(find_task(request, database))
    return outcome


def task_has_changed(text: str) -> HTTPException:
    headers = {"ETag": etag(text), "Cache-Control": "no-cache"}
    return HTTPException(412, "The task has changed: its ETag is not in If-Match", headers)


class Listing:
    """The tasks that a query asks for, read in pieces: each is a short read of its own."""

    def __init__(self, database: Database, query: Values) -> None:
        self.database = database
        self.statement = "list_tasks_by_done" if "done" in query else "list_tasks"
        self.query = {"q": None, "after": 0, "size": PIECE, **query}
        if "limit" in query and "q" not in query:
            self.query["size"] = min(query["limit"] + 1, PIECE)
        self.more = True

    def read(self) -> list[str]:
        """Return the JSON of those of the next tasks that match; set `more` if others remain."""
        [(count, last, lines)] = self.database.read(self.statement, self.query)
        self.more = count == self.query["size"]
        self.query["after"] = last
        return lines.split("\n") if lines else []


async def read_page(request: Request, listing: Listing, limit: int) -> list[str]:
    """Return the first tasks of a list: more than the limit, if there are more.

    Raises ClientDisconnect if the client leaves while a search goes on.
    """
    tasks = listing.read()
    while listing.more and len(tasks) <= limit:
        await listing.database.pause()
        if await request.is_disconnected():
            raise ClientDisconnect
        tasks += listing.read()
    return tasks


async def stream(request: Request, listing: Listing, tasks: list[str]) -> AsyncIterator[str]:
    """Yield the JSON of a list of which these tasks are read, and the others are not yet."""
    if request.method == "HEAD":  # all tasks would be read for nothing
        return
    yield "[" + ",".join(tasks)
    separator = "," if tasks else ""
    while listing.more:
        await listing.database.pause()
        tasks = listing.read()
        if tasks:
            yield separator + ",".join(tasks)
            separator = ","
    yield "]"


def next_page(request: Request, pairs: Pairs, last: str) -> Header:
    """Return the Link to the page after this task (RFC 8288, section 3)."""
    kept = [(name, value) for name, value in pairs if name != "after"]
    query = urlencode([*kept, ("after", json.loads(last)["id"])])
    return b"link", f'<{root_path(request)}/tasks?{query}>; rel="next"'.encode()


# Answers and errors

Header = tuple[bytes, bytes]
Headers = Sequence[Header]
JSON = b"application/json"
HTML = b"text/html; charset=utf-8"
NO_STORE = (b"cache-control", b"no-store")


class Answer:
    """A whole answer, in JSON unless it is said: plainer than Starlette's Response, and quicker."""

    def __init__(
        self, body: bytes, headers: Headers = (), status: int = 200, type: bytes = JSON
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        if status not in (204, 304):
            length = b"%d" % len(body)
            self.headers = [*headers, (b"content-type", type), (b"content-length", length)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status, "headers": self.headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body})


def etag(text: str) -> str:
    """Return the entity tag of a representation (RFC 9110, section 8.8.3)."""
    return f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'


def represent(request: Request, text: str, *more: Header) -> Answer:
    """Answer with a representation, or 304 if the client has it (RFC 9110, section 13.1.2)."""
    tag = etag(text)
    headers = [(b"etag", tag.encode()), (b"cache-control", b"no-cache"), *more]
    if request.scope["method"] in ("GET", "HEAD"):
        known = header(request, b"if-none-match") or ""
        if known == "*" or tag in known:  # W/ before a tag makes no difference here
            return Answer(b"", headers, status=304)
    return Answer(text.encode(), headers)


def answer_error(error: BaseException) -> Answer:
    """Return the answer to what was raised: the one list of exceptions and their statuses."""
    match error:
        case HTTPException():
            return refusal(error.status_code, error.detail, error.headers or {})
        case Invalid():
            return refusal(422, error.args[0])
        case ClientDisconnect():  # nobody is there to read it
            return refusal(400, UNREADABLE)
        case sqlite3.Error() if error_code(error) == sqlite3.SQLITE_FULL:
            return failure(507, "The disk is full", error)
        case sqlite3.Error() | OSError() | MemoryError():
            return failure(503, "The database can't be used now: try again", error)
        case asyncio.CancelledError():
            return failure(503, "The server must stop: try again", error)
        case _:
            log.error("A defect of the server", exc_info=error)
            return refusal(500, "Internal Server Error")


def failure(status: int, detail: str, error: BaseException) -> Answer:
    """Log a failure that passes, and return its answer."""
    log.error("%s: %.300r", detail, error)
    headers = {"Cache-Control": "no-store"}
    if status == 503:
        headers["Retry-After"] = "1"
    return refusal(status, detail, headers)


def refusal(status: int, detail: object, headers: Mapping[str, str] = {}) -> Answer:
    """Return an error's answer; a lone surrogate in its detail becomes `?`.

    What JSON can't repeat (1e999, what is nested too deeply) makes it a 400.
    """
    try:
        text = json.dumps(
            {"detail": detail}, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
    except (ValueError, RecursionError):
        return refusal(400, UNREADABLE)
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Answer(text.encode(errors="replace"), encoded, status)


def error_code(error: object) -> int:
    """Return SQLite's primary code for an error, or 0 (https://sqlite.org/rescode.html)."""
    extended: int = getattr(error, "sqlite_errorcode", 0)
    return extended & 0xFF


# Routes and the application

Operation = Callable[[Request, "Database"], Awaitable[ASGIApp]]


async def respond(operation: Operation, scope: Scope, receive: Receive, send: Send) -> None:
    """Send the answer of an operation, or the answer to what it raised."""
    try:
        answer = await operation(Request(scope, receive), scope["state"]["database"])
    except (Exception, asyncio.CancelledError) as error:  # uvicorn cancels when it must stop
        answer = answer_error(error)
    try:
        await answer(scope, receive, send)
    except (Exception, asyncio.CancelledError) as error:  # too late for another answer
        log.error("An answer broke off: %.300r", error)


def route_path(scope: Scope) -> str:
    """Return the path below the root path."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


class Resource(BaseRoute):
    """A path with an operation for each method; HEAD, OPTIONS and 405 follow from them.

    In the path `{id}` is one segment, `/?` a slash that may be missing, `{path:path}` anything.
    """

    def __init__(self, path: str, **operations: Operation) -> None:
        pattern = re.escape(path)
        pattern = pattern.replace(r"\{id\}", r"(?P<id>[^/]*[^/\n])")
        pattern = pattern.replace(r"/\?", "/?").replace(r"\{path:path\}", r"(?s:.*)")
        self.pattern = re.compile(pattern)
        self.path = path
        self.operations = operations
        if "GET" in operations:
            operations["HEAD"] = operations["GET"]
        if operations:
            operations["OPTIONS"] = self.get_options
        self.allow = ", ".join(operations)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        found = self.pattern.fullmatch(route_path(scope))
        if found is None:
            return Match.NONE, {}
        return Match.FULL, {"path_params": found.groupdict()}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self.operations.get(scope["method"], self.refuse_method)
        await respond(operation, scope, receive, send)

    async def get_options(self, request: Request, database: Database) -> Answer:
        """Name the methods of the path."""
        return Answer(b"", [(b"allow", self.allow.encode())], status=204)

    async def refuse_method(self, request: Request, database: Database) -> Answer:
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
    Resource("{path:path}"),
]
OPEN_PATHS = ("/healthz", "/openapi.json", "/docs")  # need no token


class TokenMiddleware:
    """Lets a request through if it sends the token (RFC 6750, section 2.1); answers 401 if not."""

    def __init__(self, app: ASGIApp, token: bytes) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in OPEN_PATHS or self.is_sent(scope):
            await self.app(scope, receive, send)
        else:
            await respond(self.refuse, scope, receive, send)

    def is_sent(self, scope: Scope) -> bool:
        scheme, _, token = (header(Request(scope), b"authorization") or "").partition(" ")
        sent = token.strip(" \t").encode("latin-1")
        return scheme.lower() == "bearer" and secrets.compare_digest(sent, self.token)

    async def refuse(self, request: Request, database: Database) -> Answer:
        headers = {"WWW-Authenticate": "Bearer", **await discard_body(request)}
        raise HTTPException(401, "Not authenticated", headers)


class Application(Starlette):
    """The server with the settings in `environ`, which are read when it starts.

    Starlette's own layers for errors would have nothing to do (`respond` answers all of them) but
    would take a fifth of the time of a short request, so they are left out.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(routes=routes, lifespan=lifespan)
        self.environ = environ

    def build_middleware_stack(self) -> ASGIApp:
        settings = read_settings(self.environ)
        app: ASGIApp = self.serve
        if settings.token is not None:
            app = TokenMiddleware(app, settings.token)
        if settings.origins:
            app = CORSMiddleware(
                app,
                allow_origins=settings.origins,
                allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
                allow_headers=["Authorization", "Idempotency-Key", "If-Match", "If-None-Match"],
                expose_headers=["ETag", "Link", "Location", "Retry-After"],
            )
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            send = partial(send_sentence, send)
        await self.router.app(scope, receive, send)


@contextlib.asynccontextmanager
async def lifespan(app: Application) -> AsyncIterator[dict[str, Any]]:
    """Open the database, and close it at the end; raise StartRefused."""
    settings = read_settings(app.environ)
    check_settings(settings)
    database = Database(settings.database)
    await database.open()
    log.info("Serving the tasks in %s", settings.database)
    gc.freeze()  # what is here stays: to look through it again and again would slow lists down
    try:
        yield {"database": database, "settings": settings}
    finally:
        await database.close()


async def send_sentence(send: Send, message: Message) -> None:
    """Send a message of the lifespan; of a refused start's traceback just the last sentence."""
    if message["type"] == "lifespan.startup.failed":
        message["message"] = message["message"].rpartition("StartRefused: ")[2].strip()
    await send(message)


app = Application(os.environ)

# Database

FOLDER = Path(__file__).parent
SQL = {file.stem: file.read_text(encoding="utf-8") for file in FOLDER.glob("sql/*.sql")}

Future = asyncio.Future[Any]


@dataclass(eq=False)
class Write:
    """A statement that waits for its turn, and the future that its outcome is for."""

    statement: str
    parameters: Values
    future: Future
    begun: bool = False
    outcome: Any = None

    def give_up(self) -> None:
        """Fail the request, unless the thread has begun with it."""
        if not self.begun and not self.future.done():
            self.future.set_exception(TimeoutError(f"no turn to write for {WRITE_TIMEOUT:g} s"))


class Database:
    """The file, with two connections: one reads on the event loop, one writes in a thread.

    The thread alone waits for locks. It also opens the file, brings it up to date, and closes it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.loop = asyncio.get_running_loop()
        self.opened: Future = self.loop.create_future()
        self.closed: Future = self.loop.create_future()
        self.closing = False
        self.queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self.turn = asyncio.Lock()
        self.wal_limit = WAL_LIMIT

    # What the event loop calls

    async def open(self) -> None:
        """Open the file, which is created if it is missing; raise StartRefused."""
        threading.Thread(target=self.work, daemon=True).start()
        try:
            await asyncio.wait_for(self.opened, START_TIMEOUT)
        except TimeoutError:
            reason = f"nothing for {START_TIMEOUT:g} s: another process may hold {self.path}-lock"
            raise StartRefused(f"Can't serve {self.path}: {reason}") from None
        except (sqlite3.Error, OSError, ValueError) as error:
            raise StartRefused(f"Can't serve {self.path}: {error}") from error

    def read(self, statement: str, parameters: Values) -> list[Any]:
        """Return the rows that a statement finds; raise sqlite3.Error."""
        return self.reader.execute(SQL[statement], parameters).fetchall()

    async def pause(self) -> None:
        """Let others run before a list is read on. Lists take turns: many delay others like one."""
        async with self.turn:
            await asyncio.sleep(0)

    async def write(self, statement: str, parameters: Values) -> Any:
        """Return the first row that a statement returns, or how many it changed, once on disk.

        Raises sqlite3.Error or OSError, after WRITE_TIMEOUT at the latest if others hold the lock.
        """
        write = Write(SQL[statement], parameters, self.loop.create_future())
        timer = self.loop.call_later(WRITE_TIMEOUT, write.give_up)
        self.queue.put(write)
        try:
            return await write.future
        finally:
            timer.cancel()

    def check_file(self) -> None:
        """Raise OSError if the file is not where it was: nobody would find what is written."""
        with contextlib.suppress(OSError):
            if self.identity() == self.opened_files:
                return
        raise OSError(
            f"{self.path} was moved or replaced under the server, which must be restarted"
        )

    def identity(self) -> list[tuple[int, int]]:
        """Return what tells the file, and SQLite's two beside it, from others of their names."""
        found = [os.lstat(self.path + end) for end in ("", "-wal", "-shm")]
        return [(file.st_dev, file.st_ino) for file in found]

    async def close(self) -> None:
        """Finish the writes and close the file, or leave it after STOP_TIMEOUT."""
        self.closing = True
        self.queue.put(None)
        await asyncio.wait([self.closed], timeout=STOP_TIMEOUT)

    # What the thread does

    def work(self) -> None:
        """Open the file, carry out the writes that come, and close it."""
        try:
            self.check_kind()
            with open(f"{self.path}-lock", "a") as self.lock_file:
                self.open_file()
                self.tell([(self.opened, None)])
                while not self.closing or not self.queue.empty():
                    with contextlib.suppress(Exception):  # no fault that passes may end the thread
                        self.carry_out(self.next_group())
                self.close_file()
        except Exception as error:
            self.tell([(self.opened, error)])
        self.tell([(self.closed, None)])

    def tell(self, outcomes: list[tuple[Future, Any]]) -> None:
        """Hand outcomes to the event loop."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(settle, outcomes)

    def open_file(self) -> None:
        """Connect to the file and bring it up to date, one process at a time.

        Raises sqlite3.Error, OSError or ValueError.
        """
        with self.exclusive():
            if self.opened.done():
                raise TimeoutError("the start was given up")
            self.writer = self.connect(timeout=WRITE_TIMEOUT)
            self.set_pragmas()
            self.migrate()
            self.reader = self.connect(timeout=0.1)  # a longer wait would hold up the event loop
            self.reader.execute("PRAGMA query_only = ON")
            self.read("get_health", {})
            self.opened_files = self.identity()

    def check_kind(self) -> None:
        """Raise OSError for an SQLite that is too old, and for a file that can't be served."""
        if sqlite3.sqlite_version_info < (3, 37):
            raise OSError(f"it takes SQLite 3.37, and this Python has {sqlite3.sqlite_version}")
        if os.path.exists(self.path):
            if not os.path.isfile(self.path):
                raise OSError("it is no regular file")
            if os.stat(self.path).st_nlink > 1:
                raise OSError("it has several names (hard links), each of which has its own lock")

    def connect(self, timeout: float) -> sqlite3.Connection:
        """Return a connection that waits so many seconds for locks and begins no transactions."""
        return sqlite3.connect(
            self.path, timeout=timeout, isolation_level=None, check_same_thread=False
        )

    def set_pragmas(self) -> None:
        """Make every commit reach the disk; raise OSError if there can be no WAL."""
        mode = self.writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise OSError("its file system can't hold SQLite's write-ahead log (WAL)")
        self.writer.execute("PRAGMA synchronous = FULL")
        self.writer.execute("PRAGMA fullfsync = ON")  # macOS: without it a sync is none
        self.writer.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")

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
            pending = backend.to_apply(migrations)
            with backend.transaction():
                for migration in pending:
                    migration.process_steps(backend, "apply")
                    backend.mark_one(migration, log=False)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock of all workers: SQLite's own has no queue, so that one might starve."""
        if fcntl is None:
            yield
            return
        fcntl.flock(self.lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.lock_file, fcntl.LOCK_UN)

    def next_group(self) -> list[Write]:
        """Wait for a write, and return it with all that wait behind it."""
        waiting = [self.queue.get()]
        while not self.queue.empty():
            waiting.append(self.queue.get())
        return [write for write in waiting if write is not None]

    def carry_out(self, group: list[Write]) -> None:
        """Commit these writes, except those that were given up, and tell the outcomes."""
        try:
            with self.exclusive():
                group = [write for write in group if not write.future.done()]
                if group:
                    self.check_file()
                    self.commit(group)
                    self.shorten_wal()
        except Exception as error:
            for write in group:
                write.outcome = error
        self.tell([(write.future, write.outcome) for write in group])

    def commit(self, group: list[Write]) -> None:
        """Commit these writes at once; if that fails, but not for a lock, each alone."""
        try:
            with self.writer:  # commits at the end, or rolls back
                self.writer.execute("BEGIN IMMEDIATE")
                for write in group:
                    write.begun = True
                    if not write.future.done():
                        self.execute(write)
        except Exception as error:
            for write in group:
                write.outcome = error
            if len(group) == 1 or error_code(error) == sqlite3.SQLITE_BUSY:
                return
            for write in group:
                self.commit([write])
                if error_code(write.outcome) == sqlite3.SQLITE_BUSY:
                    break  # the others would wait in vain, too

    def execute(self, write: Write) -> None:
        """Execute a statement; an error that leaves the transaction open is its own alone.

        Raises the others.
        """
        try:
            cursor = self.writer.execute(write.statement, write.parameters)
            rows = cursor.fetchall()  # all of them: one that is left makes COMMIT fail
            write.outcome = rows[0] if rows else cursor.rowcount
        except Exception as error:
            if not self.writer.in_transaction:
                raise
            write.outcome = error

    def shorten_wal(self) -> None:
        """Move what a long log holds into the file; if that fails, try again when it is longer."""
        with contextlib.suppress(sqlite3.Error, OSError):
            size = os.path.getsize(f"{self.path}-wal")
            if size < WAL_LIMIT:
                self.wal_limit = WAL_LIMIT
            if size < self.wal_limit:
                return
            self.wal_limit = size + WAL_LIMIT
            self.writer.execute("PRAGMA busy_timeout = 100")  # milliseconds
            try:
                self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self.writer.execute(f"PRAGMA busy_timeout = {WRITE_TIMEOUT * 1000:.0f}")

    def close_file(self) -> None:
        """Close the connections; with the last one of all workers SQLite empties its log."""
        try:
            with self.exclusive():
                self.reader.close()
                self.writer.close()
        except Exception as error:
            log.error("The database %s was not closed: %s", self.path, error)


def settle(outcomes: list[tuple[Future, Any]]) -> None:
    """Hand outcomes to those who wait for them."""
    for future, outcome in outcomes:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


# Documentation

Described = dict[str, Any]  # a piece of the OpenAPI document

TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
NAME = {"type": "string", "maxLength": NAME_LIMIT, "description": "What is to do"}
DONE = {"type": "boolean", "description": "Whether it is done"}
ID = {"type": "integer", "minimum": 1, "description": "Given by the server, and never again"}

TASK = {"name": "Buy milk", "done": False, "id": 1}
NEW_TASK = {"name": "Buy milk", "done": False}
TAG = '"9c1c27a2b8f5a3ee1ad2bc40"'

SCHEMAS = {
    "Task": {
        "type": "object",
        "description": "A task",
        "required": ["name", "done", "id"],
        "properties": {"name": NAME, "done": DONE, "id": ID},
    },
    "NewTask": {
        "type": "object",
        "description": "A task without its id, as it is created or replaced",
        "required": ["name", "done"],
        "properties": {"name": NAME, "done": DONE},
    },
    "TaskPatch": {
        "type": "object",
        "description": "What to change of a task; what is not said stays as it is",
        "properties": {"name": NAME, "done": DONE},
    },
    "Error": {
        "type": "object",
        "description": "Why there is no other answer",
        "required": ["detail"],
        "properties": {"detail": TEXT},
    },
    "HTTPValidationError": {
        "type": "object",
        "description": "Every fault in what was sent",
        "required": ["detail"],
        "properties": {
            "detail": {"type": "array", "items": {"$ref": "#/components/schemas/ValidationError"}}
        },
    },
    "ValidationError": {
        "type": "object",
        "description": "A fault in what was sent, in pydantic's words",
        "required": ["type", "loc", "msg", "input"],
        "properties": {
            "type": {"type": "string", "description": "The kind of fault"},
            "loc": {
                "type": "array",
                "description": "Where it is: body, query or header, then the name",
                "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            },
            "msg": {"type": "string", "description": "What is wrong, in a sentence"},
            "input": {"description": "What was sent there"},
            "ctx": {"description": "The limit"},  # no type: generators would make a class of it
        },
    },
}


def reference(name: str) -> Described:
    """Return a schema that is described by name."""
    return {"$ref": f"#/components/schemas/{name}"}


def parameter(name: str, place: str, meaning: str, schema: Described, example: object) -> Described:
    """Return a parameter; the server can do without, except in a path."""
    described = {"name": name, "in": place, "description": meaning}
    return {**described, "required": place == "path", "schema": schema, "example": example}


def response_header(meaning: str, example: object, always: bool = True) -> Described:
    """Return a header that every such response has, or some have."""
    return {"description": meaning, "required": always, "schema": TEXT, "example": example}


def response(
    meaning: str, schema: Described, example: object, headers: Described | None = None
) -> Described:
    """Return a response in JSON."""
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": meaning, "headers": headers or {}, "content": content}


def request_body(name: str, example: object, *media_types: str) -> Described:
    """Return a body that may be sent as any of these types."""
    content = {"schema": reference(name), "example": example}
    return {"required": True, "content": dict.fromkeys(media_types, content)}


def describe(
    function: Operation, answer: Described, errors: str = "", *parameters: Described, **more: object
) -> Described:
    """Return an operation; its name and its summary are those of the function that does it."""
    responses = {status: ERRORS[status] for status in [*errors.split(), "default"]}
    return {
        "operationId": function.__name__,
        "summary": str(function.__doc__).partition("\n")[0].rstrip("."),
        "parameters": list(parameters),
        "responses": {"200": answer, **responses},
        **more,
    }


TASK_ID = parameter("id", "path", "The id of the task", {"type": "integer", "minimum": 1}, 1)
ONLY_DONE = parameter(
    "done",
    "query",
    "Only the tasks that are done, or those that are not",
    {"type": "boolean"},
    False,
)
WHICH_DONE = {**ONLY_DONE, "description": "Which tasks", "required": True, "example": True}
SEARCH = parameter(
    "q",
    "query",
    "Only the tasks whose name contains this; ASCII letters match in either case",
    TEXT,
    "milk",
)
LIMIT = parameter(
    "limit",
    "query",
    "At most this many tasks; while more remain, Link names the next page",
    {"type": "integer", "minimum": 1, "maximum": 1000},
    100,
)
AFTER = parameter(
    "after",
    "query",
    "Only the tasks with a greater id",
    {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
    0,
)
IF_NONE_MATCH = parameter(
    "If-None-Match",
    "header",
    "The ETags that the client has, or *: if one is current, the answer is 304",
    TEXT,
    TAG,
)
IF_MATCH = parameter(
    "If-Match", "header", "Only if one of these ETags is current, or with * whichever is", TEXT, TAG
)
IDEMPOTENCY_KEY = parameter(
    "Idempotency-Key",
    "header",
    "A name for this request: sent again with it, it creates nothing more",
    {"type": "string", "pattern": KEY_PATTERN},
    "5f0c2a9e",
)

NEW_TASK_BODY = request_body("NewTask", NEW_TASK, "application/json")
PATCH_BODY = request_body(
    "TaskPatch", {"done": True}, "application/merge-patch+json", "application/json"
)

TASK_HEADERS = {
    "ETag": response_header("Changes with the task", TAG),
    "Cache-Control": response_header("Keep the answer, but ask again with its ETag", "no-cache"),
}
CREATED_HEADERS = TASK_HEADERS | {"Location": response_header("The path of the task", "/tasks/1")}
LIST_HEADERS = {
    "ETag": response_header("Changes with the tasks; on a page, and on a short list", TAG, False),
    "Cache-Control": response_header("Beside an ETag: keep it, but ask again", "no-cache", False),
    "Link": response_header("The next page", '</tasks?limit=100&after=100>; rel="next"', False),
}
FRESH = {"Cache-Control": response_header("Do not keep the answer", "no-store")}
BUSY_HEADERS = {
    "Retry-After": response_header("With 503: seconds until the next try", "1", False),
    "Cache-Control": response_header("With 503: do not keep the answer", "no-store", False),
}
TOKEN_HEADERS = {"WWW-Authenticate": response_header("Send the token as a Bearer", "Bearer")}

TASK_ANSWER = response("The task as it is now", reference("Task"), TASK, TASK_HEADERS)
ERRORS: Described = {
    "304": {"description": "If-None-Match holds the current ETag", "headers": TASK_HEADERS},
    "401": response(
        "The token is missing or wrong",
        reference("Error"),
        {"detail": "Not authenticated"},
        TOKEN_HEADERS,
    ),
    "404": response("There is no such task", reference("Error"), {"detail": "Task not found"}),
    "412": response(
        "If-Match does not hold the current ETag, which comes in ETag",
        reference("Error"),
        {"detail": "The task has changed: its ETag is not in If-Match"},
        TASK_HEADERS,
    ),
    "422": response(
        "Something was not sent as it is described here",
        reference("HTTPValidationError"),
        {"detail": [MISSING.entry(["body", "name"], {"done": False})]},
    ),
    "default": response(
        "Any other error; after a 5xx a write may have happened or not: repeat it as it was",
        reference("Error"),
        {"detail": "Internal Server Error"},
        BUSY_HEADERS,
    ),
}

PATHS = {
    "/tasks": {
        "get": describe(
            list_tasks,
            response(
                "The tasks", {"type": "array", "items": reference("Task")}, [TASK], LIST_HEADERS
            ),
            "304 422",
            *(ONLY_DONE, SEARCH, LIMIT, AFTER, IF_NONE_MATCH),
        ),
        "post": describe(
            create_task,
            response(
                "The task, or the one that the key's first use created",
                reference("Task"),
                TASK,
                CREATED_HEADERS,
            ),
            "422",
            IDEMPOTENCY_KEY,
            requestBody=NEW_TASK_BODY,
        ),
        "delete": describe(
            delete_tasks, response("How many were deleted", COUNT, 3), "422", WHICH_DONE
        ),
    },
    "/tasks/{id}": {
        "get": describe(get_task, TASK_ANSWER, "304 404", TASK_ID, IF_NONE_MATCH),
        "put": describe(
            replace_task,
            TASK_ANSWER,
            "404 412 422",
            TASK_ID,
            IF_MATCH,
            requestBody=NEW_TASK_BODY,
        ),
        "patch": describe(
            update_task, TASK_ANSWER, "404 412 422", TASK_ID, IF_MATCH, requestBody=PATCH_BODY
        ),
        "delete": describe(
            delete_task, response("One was deleted", COUNT, 1), "404 412", TASK_ID, IF_MATCH
        ),
    },
    "/": {"get": describe(get_root, response("The greeting", TEXT, "Hello, world!"))},
    "/info": {"get": describe(get_info, response("Its name", TEXT, "starlette"))},
    "/healthz": {
        "get": describe(
            get_health,
            response("They can be", {"additionalProperties": TEXT}, {"status": "ok"}, FRESH),
        )
    },
    "/openapi.json": {
        "get": describe(get_openapi, response("This document", {}, {"openapi": "3.1.0"}))
    },
    "/docs": {
        "get": describe(
            get_docs,
            {
                "description": "The page",
                "content": {"text/html": {"schema": TEXT, "example": "<!doctype html>…"}},
            },
        )
    },
}


def openapi(root_path: str, token_required: bool) -> Described:
    """Return the OpenAPI document of a server below this path, which wants a token or none."""
    components: Described = {"schemas": SCHEMAS}
    paths = copy.deepcopy(PATHS)
    for path, operations in paths.items():
        for operation in operations.values():
            operation["tags"] = ["tasks" if path.startswith("/tasks") else "server"]
            if path in OPEN_PATHS:
                operation["security"] = []
            elif token_required:
                operation["responses"]["401"] = ERRORS["401"]
    if token_required:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "todo", "version": "1.0.0", "description": "A todo list over HTTP"},
        "servers": [{"url": root_path or "/"}],
        "security": [{"bearer": []}] if token_required else [],
        "tags": [
            {"name": "tasks", "description": "The list, and each task in it"},
            {"name": "server", "description": "The server itself"},
        ],
        "paths": paths,
        "components": components,
    }


@cache
def openapi_json(root_path: str, token_required: bool) -> bytes:
    """Return the document as it is sent."""
    return json.dumps(openapi(root_path, token_required), separators=(",", ":")).encode()


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

function limits({ type, description, ...keywords }) {
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
    const schema = { type }
    return { name: "body", in: "body", description: meaning, required: true, schema, example }
}

function field(id, { name, in: place, description, required, schema, example }) {
    const input = make(place == "body" ? "textarea" : "input", { id, name, "data-in": place })
    input.setAttribute("aria-describedby", `${id}-kind ${id}-meaning`)
    input.autocomplete = "off"
    input.required = place == "path"
    if (required) input.value = show(example)
    const kind = `${place}, ${required ? "" : "optional, "}${limits(schema)}`
    const meaning = required ? description : `${description}, for example ${show(example)}`
    return make("div", {}, make("label", { for: id }, name),
        make("small", { id: `${id}-kind` }, kind), input,
        make("small", { id: `${id}-meaning` }, meaning))
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

function build({ info, tags, paths, security, components }) {
    const link = make("a", { href: "openapi.json" }, "openapi.json")
    const about = make("p", {}, `${info.description}. The same for programs: `, link)
    const list = make("ul", {})
    const groups = {}
    header.append(make("h1", {}, info.title), about, make("nav", {}, list))
    if (components.securitySchemes) {
        const hint = make("small", {}, "sent as Authorization: Bearer, never stored")
        header.append(make("div", {}, make("label", { for: "token" }, "Token"), hint, token))
    }
    for (const { name, description } of tags) {
        groups[name] = make("div", {}, make("h2", {}, name), make("p", {}, description))
        main.append(groups[name])
    }
    for (const [path, methods] of Object.entries(paths)) {
        for (const [method, described] of Object.entries(methods)) {
            const secured = (described.security ?? security).length > 0
            const operation = { ...described, path, method: method.toUpperCase(), secured }
            list.append(title("li", operation))
            groups[operation.tags[0]].append(section(operation, components.schemas))
        }
    }
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
