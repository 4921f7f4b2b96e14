"""A todo list over HTTP, kept in SQLite.

    uvicorn todo:app                serves it on http://127.0.0.1:8000; /docs shows every route

    TODO_DB=todo.db                 the database file, created if it is missing
    TODO_TOKEN=...                  requests must then send `Authorization: Bearer ...`
    TODO_CORS_ORIGINS=https://...   the origins, separated by commas, whose pages may call; * for all

A request is validated here, answered by one statement from sql/, and sent. SQLite writes the JSON: the
table has a generated column for it. Reads run on the event loop; lists go out piece by piece, searches
run in a thread. Writes run in another thread, which commits all that wait as one transaction, synced to
disk, before any of them is answered. A file lock makes the workers take turns.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import yoyo
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

# Settings

HERE = Path(__file__).parent
SQL = {file.stem: file.read_text() for file in HERE.glob("sql/*.sql")}
TOKEN = os.environ.get("TODO_TOKEN")
ORIGINS = [origin.strip() for origin in os.environ.get("TODO_CORS_ORIGINS", "").split(",") if origin.strip()]

MAX_BODY = 2**20  # bytes
BODY_TIMEOUT = 10  # seconds that a body may pause
OPEN = ("/healthz", "/openapi.json", "/docs")  # these need no token
LOCK_TIMEOUT = 5  # seconds that a write waits for another process
PIECE = 300, 2**16  # tasks and characters after which a list lets other requests run
PAGE = 1000, 2**20  # tasks and characters after which a page ends

log = logging.getLogger("uvicorn.error")

# Database


class Write(NamedTuple):
    statement: str
    parameters: Mapping[str, Any]
    arrived: float
    outcome: asyncio.Future[Any]


class Database:
    """One process's connections to the file; raises sqlite3.Error or OSError if that can't serve."""

    def __init__(self, path: Path) -> None:
        self.path, self.loop = path, asyncio.get_running_loop()
        self.writes, self.searches = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.waiting: list[Write] = []
        self.committing = self.loop.create_task(self.commit_waiting())
        # Not the database file: closing any descriptor of that would drop SQLite's own locks.
        self.lock_file = open(f"{path}-lock", "a")  # noqa: SIM115
        with self.lock():
            self.writer = self.connect("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
            self.writer.create_function("etag", 1, etag, deterministic=True)
            self.migrate()
        self.reader, self.searcher = self.connect("PRAGMA query_only = 1"), self.connect("PRAGMA query_only = 1")
        self.read("get_task", {"id": "0"})  # fails if the table is another program's
        if not os.access(path, os.W_OK):
            raise OSError("it can't be written")

    def connect(self, pragmas: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.executescript(pragmas)
        return connection

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other workers from writing: SQLite's own lock has no queue, so that under load some would starve."""
        fcntl.flock(self.lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.lock_file, fcntl.LOCK_UN)

    def migrate(self) -> None:
        """Apply the migrations that the file lacks, and note them in it, in one transaction."""
        migrations = yoyo.read_migrations(str(HERE / "migrations"))
        with contextlib.suppress(sqlite3.OperationalError):  # a new file notes none
            applied = {row[0] for row in self.writer.execute(SQL["list_migrations"])}
            if unknown := applied - {migration.id for migration in migrations}:
                raise OSError(f"it is newer than this server, which lacks its migration {', '.join(sorted(unknown))}")
            if len(applied) == len(migrations):
                return
        os.environ.setdefault("LOGNAME", "todo")  # yoyo notes the user's name, and in a container there may be none
        with yoyo.get_backend(f"sqlite:///{quote(str(self.path))}") as backend:
            backend.break_lock()  # left by a start that was killed
            backend.ensure_internal_schema_updated()
            backend._internal_schema_updated = True  # or it looks again, inside the transaction
            with backend.transaction():
                for migration in backend.to_apply(migrations):
                    migration.process_steps(backend, "apply")
                    backend.log_migration(migration, "apply")
                    backend.mark_one(migration, log=False)

    def read(self, statement: str, parameters: Mapping[str, Any]) -> Any:
        """Return the first value that a statement finds, or None."""
        row = self.reader.execute(SQL[statement], parameters).fetchone()
        return row and row[0]

    async def read_tasks(self, query: dict[str, Any], rows: int, size: int) -> tuple[list[str], int]:
        """Return the next tasks, up to a number of them or of characters; if more remain, the id of the last, else 0."""
        if query["q"] is None:
            return fetch(self.reader, query, rows, size)
        return await self.loop.run_in_executor(self.searches, fetch, self.searcher, query, rows, size)

    async def write(self, statement: str, parameters: Mapping[str, Any]) -> Any:
        """Return what a statement returns, or how many rows it changed, once that is on disk."""
        write = Write(SQL[statement], parameters, time.monotonic(), self.loop.create_future())
        self.waiting.append(write)
        if self.committing.done():
            self.committing = self.loop.create_task(self.commit_waiting())
        if isinstance(outcome := await write.outcome, Exception):
            raise outcome
        return outcome

    async def commit_waiting(self) -> None:
        while self.waiting:
            for write, outcome in await self.loop.run_in_executor(self.writes, self.commit):
                if not write.outcome.done():  # cancelled
                    write.outcome.set_result(outcome)

    def commit(self, group: Sequence[Write] = ()) -> list[tuple[Write, Any]]:
        """Return the outcomes of all writes that wait: of one transaction or, if that fails, of one for each."""
        try:
            with self.lock():
                group = group or [self.waiting.pop(0) for _ in range(len(self.waiting))]
                patience = LOCK_TIMEOUT - (time.monotonic() - group[0].arrived)
                self.writer.execute(f"PRAGMA busy_timeout = {max(0, round(patience, 1) * 1000):.0f}")
                self.writer.execute("BEGIN IMMEDIATE")
                outcomes = [(write, self.execute(write)) for write in group]
                self.writer.execute("COMMIT")
                return outcomes
        except Exception as error:
            if self.writer.in_transaction:
                self.writer.execute("ROLLBACK")
            if len(group) == 1 or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                return [(write, error) for write in group]
            return [self.commit([write])[0] for write in group]

    def execute(self, write: Write) -> Any:
        try:
            cursor = self.writer.execute(write.statement, write.parameters)
            rows = cursor.fetchall()
            return rows[0][0] if rows else cursor.rowcount
        except Exception as error:
            if not self.writer.in_transaction:  # the error ended it, for the whole group
                raise
            return error

    def close(self) -> None:
        """Finish the writes. The writer closes last: that checkpoints the file, which a reader may not."""
        self.writes.shutdown()
        self.searches.shutdown()
        with self.lock():
            for connection in (self.searcher, self.reader, self.writer):
                connection.close()
        self.lock_file.close()


def fetch(reader: sqlite3.Connection, query: dict[str, Any], rows: int, size: int) -> tuple[list[str], int]:
    """See Database.read_tasks. One row at a time, for a name may be long; and one more, to see if any remain."""
    texts: list[str] = []
    last = 0
    for id, text in reader.execute(SQL["list_tasks"], {**query, "rows": rows + 1}):
        if len(texts) == rows or size <= 0:
            return texts, last
        texts.append(text)
        last, size = id, size - len(text)
    return texts, 0


def etag(text: str) -> str:
    """Return the entity tag of a representation (RFC 9110, section 8.8.3)."""
    return f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'


# Input

JSON_TYPE = re.compile(r"application/([^ ;/]+\+)?json")
INTEGER = re.compile(r"\s*([+-]?[0-9]{1,4000}(_[0-9]{1,99})*)(\.0+)?\s*")  # what pydantic takes for one
KEY = re.compile('"([!-~]{1,255})"|([!#-~][!-~]{0,254})')
WEAK_TAG = re.compile('W/"[^"]*"')
SURROGATE = re.compile("[\ud800-\udfff]")
RANGES = {"limit": (1, PAGE[0]), "after": (0, 2**63 - 1)}
WORDS = dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True)
WORDS |= dict.fromkeys(("0", "false", "f", "no", "n", "off"), False)

Answer = tuple[int, bytes | AsyncIterator[bytes], dict[str, str]]
UNREADABLE, NO_TASK = "There was an error parsing the body", "Task not found"
MISSING = "missing", "Field required"

Operation = Callable[[Request, Database], Awaitable[Answer]]


class Refused(Exception):
    """A request that gets an error: with a status, a `detail` and headers."""

    def __init__(self, status: int, detail: object, **headers: str) -> None:
        self.answer: Answer = status, encode({"detail": detail}), headers


def encode(value: object) -> bytes:
    """Return strict JSON of whatever a body held: infinity becomes a string, a lone surrogate a question mark."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")
    except ValueError:
        return encode(json.loads(json.dumps(value), parse_constant=str))


decode = json.JSONDecoder(parse_constant=lambda name: json.loads("")).decode  # NaN fails as any other word does


def fault(loc: Sequence[str | int], input: object, type: str, msg: str, ctx: object = None) -> dict[str, Any]:
    return {"type": type, "loc": loc, "msg": msg, "input": input} | ({"ctx": ctx} if ctx else {})


def check(name: str, value: Any) -> Any:
    """Return the value of a member, parameter or header; raises ValueError with pydantic's type and message."""
    match name, value:
        case "name" | "q", str() if not SURROGATE.search(value):
            return value
        case "name" | "q", str():
            wrong = "string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string"
        case "name" | "q", _:
            wrong = "string_type", "Input should be a valid string"
        case "done", str() if value.lower() in WORDS:
            return WORDS[value.lower()]
        case "done", int() | float() if value in (0, 1):
            return bool(value)
        case "done", str() | int() | float() if isinstance(value, str) or (abs(value) < 2**63 and value == int(value)):
            wrong = "bool_parsing", "Input should be a valid boolean, unable to interpret input"
        case "done", _:
            wrong = "bool_type", "Input should be a valid boolean"
        case "idempotency-key", _:
            if match := KEY.fullmatch(value):
                return match[1] or match[2]
            wrong = "idempotency_key_invalid", "Idempotency-Key should be 1 to 255 visible ASCII characters"
        case _:
            return integer(value, *RANGES[name])
    raise ValueError(*wrong)


def integer(value: str, ge: int, le: int) -> int:
    if not (match := INTEGER.fullmatch(value)):
        raise ValueError("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
    if (number := int(match[1])) < ge:
        raise ValueError("greater_than_equal", f"Input should be greater than or equal to {ge}", {"ge": ge})
    if number > le:
        raise ValueError("less_than_equal", f"Input should be less than or equal to {le}", {"le": le})
    return number


def validate(*parts: tuple[str, Mapping[str, Any], str, bool]) -> dict[str, Any]:
    """Return the named values in parts of a request (location, source, names, all required or not); raises 422."""
    values, faults = {}, []
    for location, source, name, required in [(*part[:2], name, part[3]) for part in parts for name in part[2].split()]:
        try:
            values[name] = check(name, source[name])
        except ValueError as error:
            faults.append(fault((location, name), source[name], *error.args))
        except KeyError:
            if required:
                faults.append(fault((location, name), source, "missing", "Field required"))
    if faults:
        raise Refused(422, faults)
    return values


async def read_body(request: Request) -> bytes:
    """Return the body as it came; raises 415, 413, 408."""
    if not JSON_TYPE.fullmatch(request.headers.get("content-type", "").partition(";")[0].strip().lower()):
        raise Refused(415, "Send the body with Content-Type: application/json (curl: --json)")
    body, too_large = b"", Refused(413, f"The body is larger than {MAX_BODY} bytes")
    if int(request.headers.get("content-length", 0)) > MAX_BODY:
        raise too_large
    try:
        async with asyncio.timeout(BODY_TIMEOUT) as timeout:
            async for chunk in request.stream():
                timeout.reschedule(asyncio.get_running_loop().time() + BODY_TIMEOUT)
                body += chunk
                if len(body) > MAX_BODY:
                    raise too_large
    except TimeoutError:
        raise Refused(408, f"The rest of the body did not come for {BODY_TIMEOUT} s", connection="close") from None
    return body


async def read_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body; raises 415, 413, 408, 400, 422."""
    body = await read_body(request)
    try:
        value = decode(body.decode("utf-8-sig")) if body else None
    except json.JSONDecodeError as error:
        if not json.detect_encoding(body).startswith("utf-8"):
            raise Refused(400, UNREADABLE) from None
        wrong = fault(("body", error.pos), {}, "json_invalid", "JSON decode error", {"error": error.msg})
        raise Refused(422, [wrong]) from None
    except ValueError:  # not UTF-8, or a number that int() refuses
        raise Refused(400, UNREADABLE) from None
    if isinstance(value, dict):
        return value
    no_object = "model_attributes_type", "Input should be a valid dictionary or object to extract fields from"
    raise Refused(422, [fault(("body",), value, *(no_object if body and value is not None else MISSING))])


# Operations


def represent(request: Request, text: str, headers: Mapping[str, str] = {}) -> Answer:
    """Answer with a representation, or with 304 if the client has it (RFC 9110, section 13.1.2)."""
    tag = etag(text)
    headers = {"etag": tag, "cache-control": "no-cache", **headers}
    known = ", ".join(request.headers.getlist("if-none-match"))
    if request.method in ("GET", "HEAD") and (tag in known or known == "*"):
        return 304, b"", headers
    return 200, text.encode(), headers


def show(statement: str, **headers: str) -> Operation:
    """Return an operation that answers with what a statement finds."""

    async def operation(request: Request, db: Database) -> Answer:
        return 200, db.read(statement, {"token": TOKEN is not None}).encode(), headers

    return operation


async def create_task(request: Request, db: Database) -> Answer:
    body = await read_object(request)
    values = validate(("body", body, "name done", True), ("header", request.headers, "idempotency-key", False))
    key = values.pop("idempotency-key", None)
    text = await db.write("create_task", {**values, "key": key, "request": key and etag(json.dumps(values))})
    if not text:
        reused = "idempotency_key_reused", "Idempotency-Key was used for a request with another body"
        raise Refused(422, [fault(("header", "idempotency-key"), key, *reused)])
    id = text[text.rindex(":") + 1 : -1]
    return represent(request, text, {"location": f"{request['root_path']}/tasks/{id}"})


async def list_tasks(request: Request, db: Database) -> Answer:
    params = request.query_params
    query = {"done": None, "q": None, "after": 0, **validate(("query", params, "done q limit after", False))}
    limit = query.pop("limit", None)
    texts, last = await db.read_tasks(query, *((limit, PAGE[1]) if limit else PIECE))
    if last and not limit:
        return 200, stream_tasks(db, query, texts, last), {}
    link = {}
    if last:
        kept = [(name, value) for name, value in params.multi_items() if name != "after"]
        link["link"] = f'<{request["root_path"]}/tasks?{urlencode([*kept, ("after", last)])}>; rel="next"'
    return represent(request, f"[{','.join(texts)}]", link)


async def stream_tasks(db: Database, query: dict[str, Any], texts: list[str], last: int) -> AsyncIterator[bytes]:
    yield f"[{','.join(texts)}".encode()
    while last:
        await asyncio.sleep(0)  # uvicorn's send() waits only for a slow client
        texts, last = await db.read_tasks({**query, "after": last}, *PIECE)
        yield "".join([f",{text}" for text in texts]).encode()
    yield b"]"


async def delete_tasks(request: Request, db: Database) -> Answer:
    params = request.query_params
    values = validate(("query", params, "done", True))
    if extra := [name for name in ("q", "limit", "after") if name in params] + ["done"] * (
        len(params.getlist("done")) > 1
    ):
        forbidden = "extra_forbidden", "Extra inputs are not permitted"
        raise Refused(422, [fault(("query", name), params[name], *forbidden) for name in extra])
    return 200, b"%d" % await db.write("delete_tasks", values), {}


async def get_task(request: Request, db: Database) -> Answer:
    if text := db.read("get_task", request.path_params):
        return represent(request, text)
    raise Refused(404, NO_TASK)


async def replace_task(request: Request, db: Database, complete: bool = True) -> Answer:
    values = validate(("body", await read_object(request), "name done", complete))
    return represent(request, await change(request, db, "update_task", {"name": None, "done": None, **values}))


async def delete_task(request: Request, db: Database) -> Answer:
    return 200, b"%d" % await change(request, db, "delete_task", {}), {}


async def change(request: Request, db: Database, statement: str, values: dict[str, Any]) -> Any:
    """Return what a write of the task in the path returns; raises 404, and 412 (RFC 9110, section 13.1.1)."""
    tags = ", ".join(request.headers.getlist("if-match")) if "if-match" in request.headers else "*"
    match = None if tags == "*" else WEAK_TAG.sub("", tags)
    if result := await db.write(statement, {**values, **request.path_params, "match": match}):
        return result
    if db.read("get_task", request.path_params):
        raise Refused(412, "The task has changed: its ETag is not in If-Match")
    raise Refused(404, NO_TASK)


# Answers


async def reply(operation: Operation, scope: Scope, receive: Receive, send: Send) -> None:
    """Send what an operation answers, as JSON if it does not say otherwise; nothing to a client that has gone."""
    request = Request(scope, receive)
    try:
        status, body, headers = await attempt(operation, request)
    except ClientDisconnect:
        return
    if status not in (204, 304):
        headers = {"content-type": "application/json", **headers}
    if ORIGINS:
        headers = headers | cross_origin(request)
    if not isinstance(body, bytes):
        await StreamingResponse(body, status, headers)(scope, receive, send)
        return
    if status not in (204, 304):
        headers["content-length"] = str(len(body))
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def attempt(operation: Operation, request: Request) -> Answer:
    """Return what an operation answers; this is where errors become statuses."""
    try:
        require_token(request)
        return await operation(request, request["state"]["database"])
    except Refused as refused:
        return refused.answer
    except RecursionError:  # nested too deeply to be read, or to be repeated in a 422
        return Refused(400, UNREADABLE).answer
    except asyncio.CancelledError:  # by --timeout-graceful-shutdown
        return Refused(503, "The server is stopping", **{"retry-after": "1"}).answer
    except sqlite3.Error as error:
        log.error("SQLite: %s", error)
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return Refused(507, "The disk is full").answer
        return Refused(503, "The database can't be used now", **{"retry-after": "1"}).answer
    except Exception:
        log.exception("Unexpected")
        return Refused(500, "Internal Server Error").answer


def require_token(request: Request) -> None:
    """Raise 401 if there is a token and the request lacks it. A preflight can't have one."""
    if TOKEN is None or request.url.path in OPEN or "access-control-request-method" in request.headers:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secrets.compare_digest(token.strip().encode("latin-1"), TOKEN.encode()):
        raise Refused(401, "Not authenticated", **{"www-authenticate": "Bearer"})


def cross_origin(request: Request) -> dict[str, str]:
    """Return the headers that let a page on one of ORIGINS call (the Fetch standard's CORS protocol)."""
    origin = request.headers.get("origin", "")
    if not origin or ("*" not in ORIGINS and origin not in ORIGINS):
        return {"vary": "Origin"}
    return {
        "vary": "Origin",
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "access-control-allow-headers": request.headers.get("access-control-request-headers", ""),
        "access-control-expose-headers": "ETag, Link, Location",
    }


async def not_found(request: Request, db: Database) -> Answer:
    raise Refused(404, "Not Found")


class Resource:
    """One path: an operation for each method. HEAD, OPTIONS and 405 follow from those."""

    def __init__(self, **operations: Operation) -> None:
        if "GET" in operations:
            operations["HEAD"] = operations["GET"]
        self.operations = {**operations, "OPTIONS": self.options}
        self.headers = {"allow": ", ".join(self.operations)}
        if "PATCH" in operations:
            self.headers["accept-patch"] = "application/merge-patch+json, application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self.operations.get(scope["method"], self.refuse)
        if scope["path"].endswith("\n"):  # Starlette's patterns match that too
            operation = not_found
        await reply(operation, scope, receive, send)

    async def options(self, request: Request, db: Database) -> Answer:
        return 204, b"", self.headers

    async def refuse(self, request: Request, db: Database) -> Answer:
        raise Refused(405, "Method Not Allowed", **self.headers)


# Routes: the busiest first, for Starlette tries them in turn

tasks = Resource(GET=list_tasks, POST=create_task, DELETE=delete_tasks)
update_task = partial(replace_task, complete=False)
routes = [
    Route("/tasks/{id}", Resource(GET=get_task, PUT=replace_task, PATCH=update_task, DELETE=delete_task)),
    Route("/tasks", tasks),
    Route("/tasks/", tasks),
    Route("/", Resource(GET=show("get_root"))),
    Route("/info", Resource(GET=show("get_info"))),
    Route("/healthz", Resource(GET=show("get_health", **{"cache-control": "no-store"}))),
    Route("/openapi.json", Resource(GET=show("get_openapi"))),
    Route("/docs", Resource(GET=show("get_docs", **{"content-type": "text/html; charset=utf-8"}))),
]


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Database]]:
    path = Path(os.environ.get("TODO_DB") or "todo.db").absolute()
    try:
        if TOKEN is not None and not TOKEN.strip():
            raise OSError("TODO_TOKEN is empty")
        database = Database(path)
    except (sqlite3.Error, OSError) as error:
        log.critical("Can't serve the database %s: %s", path, error)
        logging.disable()  # that is enough: Starlette would have the traceback logged
        raise
    yield {"database": database}
    database.close()


app = Starlette(routes=routes, lifespan=lifespan)
app.router.redirect_slashes = False
app.router.default = partial(reply, not_found)
app.middleware_stack = app.router  # reply() handles all errors, and the layers that Starlette has for that take 8 µs
