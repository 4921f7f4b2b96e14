"""A todo list over HTTP, kept in SQLite.

    uvicorn todo:app                serves it on http://127.0.0.1:8000; /docs shows every route
    TODO_DB=todo.db                 is the database file, created if it is missing
    TODO_TOKEN=...                  is what requests must then send: `Authorization: Bearer ...`
    TODO_CORS_ORIGINS=https://...   are the origins, separated by commas, whose pages may call; * for all

A request is validated here, and the JSON that one statement from sql/ returns is sent. Reads run on the event loop, or
in a thread if they may take long; writes in another, which commits all that wait, synced to disk, then answers them.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fcntl import LOCK_EX, LOCK_UN, flock
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import yoyo
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.responses import StreamingResponse
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

# Settings

SQL = {file.stem: file.read_text() for file in Path(__file__).parent.glob("sql/*.sql")}
TOKEN = os.environb.get(b"TODO_TOKEN", b"").strip() if "TODO_TOKEN" in os.environ else None
ORIGINS = {origin.strip() for origin in os.environ.get("TODO_CORS_ORIGINS", "").split(",")} - {""}
CORS = {
    b"access-control-allow-methods": b"GET, HEAD, POST, PUT, PATCH, DELETE",
    b"access-control-allow-headers": b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match",
    b"access-control-expose-headers": b"ETag, Link, Location",
}
MAX_BODY, BODY_TIMEOUT, LOCK_TIMEOUT = 2**20, 10, 5  # bytes; seconds that a body may pause, that a write may wait
PIECE, PIECE_AIM, PIECE_MAX = 300, 2**16, 2**20  # of a list read at once: tasks, characters aimed at, bytes
log = logging.getLogger("uvicorn.error")

# Database


class Database:
    """One process's connections to the file; raises sqlite3.Error or OSError if that can't serve."""

    def __init__(self, path: str) -> None:
        self.path, self.loop, self.waiting = path, asyncio.get_running_loop(), list[dict[str, Any]]()
        self.writes, self.searches = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        connect = partial(sqlite3.connect, path, isolation_level=None, check_same_thread=False)
        self.writer, self.reader, self.lister, self.searcher = connect(), connect(), connect(), connect()
        self.writer.create_function("etag", 1, etag, deterministic=True)
        self.lister.set_progress_handler(lambda: time.monotonic() > self.end, 200)  # no list keeps the loop longer
        self.lock = open(f"{path}-lock", "a")  # not the database: closing that drops SQLite's locks  # noqa: SIM115
        flock(self.lock, LOCK_EX)  # workers take turns: SQLite's own lock has no queue
        self.writer.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
        self.migrate()
        flock(self.lock, LOCK_UN)
        for reader in (self.reader, self.lister, self.searcher):
            reader.execute("PRAGMA query_only = 1")
        self.read("get_task", {"id": "0"})  # fails if the table is another program's
        self.openapi = self.read("get_openapi", {"token": bool(TOKEN), "root": ""})
        if not os.access(path, os.W_OK):
            raise OSError("it can't be written")

    def migrate(self) -> None:
        """Apply the migrations that the file lacks, and note them in it, in one transaction."""
        migrations = yoyo.read_migrations(str(Path(__file__).with_name("migrations")))
        with contextlib.suppress(sqlite3.OperationalError):  # a new file notes none
            applied = {row[0] for row in self.writer.execute(SQL["list_migrations"])}
            if unknown := applied - {migration.id for migration in migrations}:
                raise OSError(f"it is newer than this server, which lacks its migration {', '.join(sorted(unknown))}")
            if len(applied) == len(migrations):
                return
        os.environ.setdefault("LOGNAME", "todo")  # yoyo notes the user's name, and in a container there may be none
        with yoyo.get_backend(f"sqlite:///{quote(self.path)}") as backend:
            backend.break_lock()  # left by a start that was killed
            pending = backend.to_apply(migrations)
            with backend.transaction():
                for migration in pending:
                    migration.process_steps(backend, "apply")
                    backend.log_migration(migration, "apply")
                    backend.mark_one(migration, log=False)

    def read(self, statement: str, parameters: Mapping[str, Any]) -> Any:
        """Return the first value that a statement finds, or None."""
        return next(self.reader.execute(SQL[statement], parameters), (None,))[0]

    def fetch(self, reader: sqlite3.Connection, query: Mapping[str, Any]) -> tuple[str, int]:
        rows = query["limit"] or PIECE
        reader.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, PIECE_MAX if rows > 1 else 2**31 - 1)
        text, found = reader.execute(SQL["list_tasks"], {**query, "rows": rows + 1}).fetchone()
        tasks = text.rpartition(',{"name":')[0] if found > rows else text  # the last one just shows that more remain
        return tasks, int(tasks.rpartition(":")[2][:-1]) if found > rows else 0

    async def search(self, query: Mapping[str, Any]) -> tuple[str, int]:
        try:
            return await self.loop.run_in_executor(self.searches, self.fetch, self.searcher, query)
        except sqlite3.DataError:  # longer than PIECE_MAX: half of them then
            return await self.search({**query, "limit": (query["limit"] or PIECE) // 2})

    async def read_tasks(self, query: Mapping[str, Any]) -> tuple[str, int]:
        """Return the next page or piece of the tasks, joined by commas, and the last one's id, or 0 if none remain."""
        if query["q"] is None and query["limit"] != 1:  # a search may scan all, a single task be long
            with contextlib.suppress(sqlite3.Error):  # they are long, or were not read in time
                self.end = time.monotonic() + 0.002
                return self.fetch(self.lister, query)
        return await self.search(query)

    async def write(self, statement: str, parameters: Mapping[str, Any]) -> Any:
        """Return what a statement returns, or how many rows it changed, once that is on disk; raises sqlite3.Error."""
        write = {"statement": SQL[statement], "parameters": parameters, "deadline": time.monotonic() + LOCK_TIMEOUT}
        self.waiting.append(write)
        if len(self.waiting) == 1:  # else a commit that takes it is asked for, or is taking it just now
            self.committed = asyncio.Event()
            self.writes.submit(self.commit_waiting, self.committed)
        await self.committed.wait()
        if isinstance(write["outcome"], Exception):
            raise write["outcome"]
        return write["outcome"]

    def commit_waiting(self, committed: asyncio.Event) -> None:
        group: list[dict[str, Any]] = []
        flock(self.lock, LOCK_EX)
        try:
            while self.waiting:
                group.append(self.waiting.pop(0))
            self.commit(group)
        finally:
            flock(self.lock, LOCK_UN)
            self.loop.call_soon_threadsafe(committed.set)

    def commit(self, group: list[dict[str, Any]]) -> None:
        """Carry out these writes (none, if the last group took them) in one transaction, or each alone if it fails."""
        try:
            patience = max(0, min((write["deadline"] for write in group), default=0) - time.monotonic())
            self.writer.execute(f"PRAGMA busy_timeout = {patience * 1000:.0f}")
            self.writer.execute("BEGIN IMMEDIATE")
            for write in group:
                rows = (cursor := self.writer.execute(write["statement"], write["parameters"])).fetchall()
                write["outcome"] = rows[0][0] if rows else cursor.rowcount
            self.writer.execute("COMMIT")
        except Exception as error:
            for write in group:
                write["outcome"] = error
            self.writer.rollback()
            if len(group) > 1 and getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_BUSY:
                for write in group:
                    self.commit([write])

    def close(self) -> None:
        """Finish the writes. The writer closes last: that checkpoints the file, which a reader may not."""
        for executor in (self.writes, self.searches):
            executor.shutdown()
        flock(self.lock, LOCK_EX)
        for closing in (self.searcher, self.lister, self.reader, self.writer, self.lock):
            closing.close()


def etag(text: str) -> str:
    """Return the entity tag of a representation (RFC 9110, section 8.8.3)."""
    return f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'


# Input

JSON_TYPE = re.compile(r"application/([^\s;/]+\+)?json\s*(;|$)", re.IGNORECASE)
WORDS: dict[object, int] = dict.fromkeys((1, "1", "true", "t", "yes", "y", "on"), 1)
WORDS |= dict.fromkeys((0, "0", "false", "f", "no", "n", "off"), 0)
BOUNDS, TASK, LIST = {"limit": (1, 1000), "after": (0, 2**63 - 1)}, ("name", "done"), ("done", "q", "limit", "after")
JSON, NO_STORE = b"application/json", {b"cache-control": b"no-store"}
UNREADABLE, PAUSED = "There was an error parsing the body", f"No more of the body came for {BODY_TIMEOUT} s"
MISSING, FORBIDDEN = ("missing", "Field required"), ("extra_forbidden", "Extra inputs are not permitted")
NO_JSON, NO_STRING = ("json_invalid", "JSON decode error"), ("string_type", "Input should be a valid string")
NO_OBJECT = "model_attributes_type", "Input should be a valid dictionary or object to extract fields from"
NO_UNICODE = "string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string"
decode = json.JSONDecoder(  # NaN fails, as any other word does, and 1e400 becomes no infinity
    parse_constant=lambda name: json.loads(""), parse_float=lambda text: max(-1.797e308, min(float(text), 1.797e308))
).decode
Answer = tuple[int, bytes | AsyncIterator[bytes], Mapping[bytes, bytes]]


class Refused(Exception):
    """A request that gets an error: with a status, a `detail` and headers. A lone surrogate in it becomes `?`."""

    def __init__(self, status: int, detail: object, headers: Mapping[bytes, bytes] = {}) -> None:
        text = json.dumps({"detail": detail}, ensure_ascii=False, separators=(",", ":"))
        self.answer: Answer = status, text.encode(errors="replace"), headers


def fault(input: object, loc: tuple[str | int, ...], type: str, msg: str, ctx: object = None) -> dict[str, Any]:
    return {"type": type, "loc": loc, "msg": msg, "input": input} | ({"ctx": ctx} if ctx else {})


def check(name: str, value: Any) -> Any:
    """Return a member, parameter or header as a statement takes it; raises ValueError with what pydantic says."""
    least, most = BOUNDS.get(name, (0, 0))
    match name, value:
        case "name" | "q", str() if value.isascii() or not re.search("[\ud800-\udfff]", value):
            return value
        case "name", _:
            raise ValueError(*(NO_UNICODE if isinstance(value, str) else NO_STRING))
        case "done", str() | int() | float() if (word := value.lower() if isinstance(value, str) else value) in WORDS:
            return WORDS[word]
        case "done", str() | int() | float() if isinstance(value, str) or (value % 1 == 0 and abs(value) < 2**63):
            raise ValueError("bool_parsing", "Input should be a valid boolean, unable to interpret input")
        case "done", _:
            raise ValueError("bool_type", "Input should be a valid boolean")
        case "idempotency-key", _:
            if found := re.fullmatch('"([!-~]{1,255})"|([!#-~][!-~]{0,254})', value):
                return found[1] or found[2]
            raise ValueError("idempotency_key_invalid", "Idempotency-Key should be 1 to 255 visible ASCII characters")
        case _ if not re.fullmatch(r"(?=[^\x1c-\x1f]{1,4300}$)\s*[+-]?[0-9]+(_[0-9]+)*(\.0+)?\s*", value):
            raise ValueError("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
        case _ if (number := int(value.partition(".")[0])) < least:
            raise ValueError("greater_than_equal", f"Input should be greater than or equal to {least}", {"ge": least})
        case _ if number > most:
            raise ValueError("less_than_equal", f"Input should be less than or equal to {most}", {"le": most})
    return number


def validate(*parts: tuple[str, Mapping[str, Any], Sequence[str], bool], faults: Any = ()) -> dict[str, Any]:
    """Return the named values in parts of a request (location, source, names, all required or not); raises 422."""
    values, found = {}, []
    for location, source, name, required in [(at, of, name, must) for at, of, names, must in parts for name in names]:
        try:
            if name in source:
                values[name] = check(name, source[name])
            elif required:
                found.append(fault(source if location == "body" else None, (location, name), *MISSING))
        except ValueError as error:
            found.append(fault(source[name], (location, name), *error.args))
    if found or faults:
        raise Refused(422, [*found, *faults])
    return values


def header(scope: Scope, name: bytes) -> str | None:
    """Return a header, its lines as one if it has several (RFC 9110, section 5.3)."""
    lines = [value for key, value in scope["headers"] if key == name]
    return b", ".join(lines).strip().decode("latin-1") if lines else None


async def read_object(scope: Scope, receive: Receive, *others: Any) -> dict[str, Any]:
    """Return the JSON object in the body; raises 415, 413, 408, 400, and 422 with the faults in other parts."""
    if not JSON_TYPE.match(header(scope, b"content-type") or ""):
        raise Refused(415, "Send the body with Content-Type: application/json (curl: --json)")
    body, size, more = bytearray(), int(header(scope, b"content-length") or 0), True
    task: Any = asyncio.current_task()
    while more and size <= MAX_BODY:
        timer = task.get_loop().call_later(BODY_TIMEOUT, task.cancel, PAUSED)  # asyncio.timeout() is much slower
        message = await receive()
        timer.cancel()
        if message["type"] == "http.disconnect":
            raise Refused(400, UNREADABLE)  # nobody is left to read it
        body += message.get("body", b"")
        size, more = len(body), message.get("more_body", False)
    if size > MAX_BODY:
        raise Refused(413, f"The body is larger than {MAX_BODY} bytes")
    try:
        value = decode(body.decode().removeprefix("\ufeff")) if body else None
    except ValueError as error:  # not JSON, not UTF-8, or a number that int() refuses
        if not isinstance(error, json.JSONDecodeError) or "utf-8" not in json.detect_encoding(bytes(body)):
            raise Refused(400, UNREADABLE) from None
        raise Refused(422, [fault({}, ("body", error.pos), *NO_JSON, {"error": error.msg})]) from None
    if not isinstance(value, dict):
        return validate(*others, faults=[fault(value, ("body",), *(MISSING if value is None else NO_OBJECT))])  # raises
    return value


# Operations


def represent(scope: Scope, text: str, headers: Mapping[bytes, bytes] = {}) -> Answer:
    """Answer with a representation, or with 304 if the client has it (RFC 9110, section 13.1.2)."""
    tag = etag(text)
    headers = {b"etag": tag.encode(), b"cache-control": b"no-cache", **headers}
    known = scope["method"] in ("GET", "HEAD") and header(scope, b"if-none-match")
    return (304, b"", headers) if known and (tag in known or known == "*") else (200, text.encode(), headers)


async def show(statement: str, headers: Mapping[bytes, bytes], scope: Scope, receive: Receive, db: Database) -> Answer:
    parameters = {"token": bool(TOKEN), "root": scope["root_path"], "openapi": db.openapi}
    return 200, db.read(statement, parameters).encode(), headers


async def create_task(scope: Scope, receive: Receive, db: Database) -> Answer:
    key = header(scope, b"idempotency-key")
    head = [] if key is None else [("header", {"idempotency-key": key}, ["idempotency-key"], True)]
    values = validate(*head, ("body", await read_object(scope, receive, *head), TASK, True))
    key = values.pop("idempotency-key", "")
    text = await db.write("create_task", {**values, "key": key, "request": key and etag(json.dumps(values))})
    if not text:
        reused = "idempotency_key_reused", "Idempotency-Key was used for a request with another body"
        raise Refused(422, [fault(key, ("header", "idempotency-key"), *reused)])
    return represent(scope, text, {b"location": f"{scope['root_path']}/tasks/{text.rpartition(':')[2][:-1]}".encode()})


async def list_tasks(scope: Scope, receive: Receive, db: Database) -> Answer:
    pairs = QueryParams(scope["query_string"]).multi_items()
    query = {"done": None, "q": None, "limit": None, "after": 0, **validate(("query", dict(pairs), LIST, False))}
    text, last = await db.read_tasks(query)
    if last and not query["limit"]:
        return 200, stream_tasks(db, query, text, last), {}
    rest = [pair for pair in pairs if pair[0] != "after"] + [("after", str(last))]
    link = {b"link": f'<{scope["root_path"]}/tasks?{urlencode(rest)}>; rel="next"'.encode()} if last else {}
    return represent(scope, f"[{text}]", link)


async def stream_tasks(db: Database, query: dict[str, Any], text: str, last: int) -> AsyncIterator[bytes]:
    yield f"[{text}".encode()
    while last:
        await asyncio.sleep(0)  # uvicorn's send() waits only for a slow client
        query["limit"] = max(1, min(PIECE, (query["limit"] or PIECE) * PIECE_AIM // len(text)))
        text, last = await db.read_tasks({**query, "after": last})
        yield f",{text}".encode() if text else b""
    yield b"]"


async def delete_tasks(scope: Scope, receive: Receive, db: Database) -> Answer:
    pairs = QueryParams(scope["query_string"]).multi_items()
    params, names = dict(pairs), sorted((name for name, _ in pairs if name in LIST), key="done".__ne__)
    faults = [fault(params[name], ("query", name), *FORBIDDEN) for name in names["done" in params :]]  # but one done
    return 200, b"%d" % await db.write("delete_tasks", validate(("query", params, ["done"], True), faults=faults)), {}


async def get_task(scope: Scope, receive: Receive, db: Database) -> Answer:
    if text := db.read("get_task", scope["path_params"]):
        return represent(scope, text)
    raise Refused(404, "Task not found")


async def change_task(statement: str, required: bool | None, scope: Scope, receive: Receive, db: Database) -> Answer:
    """Write the task in the path as the body and If-Match (RFC 9110, section 13.1.1) say; raises 404 and 412."""
    values = {} if required is None else validate(("body", await read_object(scope, receive), TASK, required))
    tags = header(scope, b"if-match")
    match = "*" if tags is None or tags == "*" else " ".join(re.findall(r'(?:^|,)\s*("[^"]*")\s*(?=,|$)', tags))
    parameters = {"name": None, "done": None, **values, **scope["path_params"], "match": match}
    if not (result := await db.write(statement, parameters)):
        await get_task(scope, receive, db)  # raises 404 if there is none
        raise Refused(412, "The task has changed: its ETag is not in If-Match")
    return represent(scope, result) if isinstance(result, str) else (200, b"%d" % result, {})


def require_token(scope: Scope) -> None:
    """Raise 401 if the request lacks the token. A preflight can't have one."""
    scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
    right = scheme.lower() == "bearer" and secrets.compare_digest(token.strip().encode("latin-1"), TOKEN or b"")
    if not right and not (scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method")):
        raise Refused(401, "Not authenticated", {b"www-authenticate": b"Bearer"})


class Resource(BaseRoute):
    """One path: an operation for each method. HEAD, OPTIONS, and 405 follow from those; without any it is 404."""

    def __init__(self, path: str, **operations: Callable[[Scope, Receive, Database], Awaitable[Answer]]) -> None:
        self.path, self.pattern = path, re.compile(path.replace("{id}", r"(?P<id>[^/]*[^/\n])"))
        self.operations = operations | ({"HEAD": operations["GET"]} if "GET" in operations else {})
        self.allow = {b"allow": ", ".join([*self.operations, "OPTIONS"]).encode()}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match = scope["type"] == "http" and self.pattern.fullmatch(scope["path"].removeprefix(scope["root_path"]))
        return (Match.FULL, {"path_params": match.groupdict()}) if match else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, body, headers = await self.answer(scope, receive)
        if ORIGINS:
            allowed = ORIGINS & {header(scope, b"origin") or "", "*"}  # which sorts first
            cors = {b"access-control-allow-origin": min(allowed).encode("latin-1"), **CORS} if allowed else {}
            headers = {**headers, b"vary": b"Origin", **cors}
        if not isinstance(body, bytes):
            response = StreamingResponse(body if scope["method"] == "GET" else (), status)
            response.raw_headers = [(b"content-type", JSON), *headers.items()]
            await response(scope, receive, send)
            return
        if status not in (204, 304):
            headers = {b"content-type": JSON, b"content-length": b"%d" % len(body), **headers}
        await send({"type": "http.response.start", "status": status, "headers": headers.items()})
        await send({"type": "http.response.body", "body": body})

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """Return the answer to the request; this is where errors become statuses."""
        try:
            if TOKEN is not None and self.path not in ("/healthz", "/openapi.json", "/docs"):
                require_token(scope)
            if operation := self.operations.get(scope["method"]):
                return await operation(scope, receive, scope["state"]["database"])
            if scope["method"] == "OPTIONS" and self.operations:
                return 204, b"", self.allow
            raise Refused(405, "Method Not Allowed", self.allow) if self.operations else Refused(404, "Not Found")
        except Refused as refused:
            return refused.answer
        except RecursionError:  # too deep a nest, to read or to repeat in a 422
            return Refused(400, UNREADABLE).answer
        except (sqlite3.Error, asyncio.CancelledError) as error:  # which --timeout-graceful-shutdown sends
            if error.args == (PAUSED,):
                return Refused(408, PAUSED, {b"connection": b"close"}).answer
            log.error("%s: %s", type(error).__name__, error)
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                return Refused(507, "The disk is full").answer
            return Refused(503, "The database can't be used now", {b"retry-after": b"1", **NO_STORE}).answer
        except Exception:
            log.exception("Unexpected")
            return Refused(500, "Internal Server Error").answer


# Routes

replace_task = partial(change_task, "update_task", True)
update_task = partial(change_task, "update_task", False)
delete_task = partial(change_task, "delete_task", None)
routes = [  # the busiest first, for Starlette tries them in turn
    Resource("/tasks/{id}", GET=get_task, PUT=replace_task, PATCH=update_task, DELETE=delete_task),
    Resource("/tasks/?", GET=list_tasks, POST=create_task, DELETE=delete_tasks),
    Resource("/", GET=partial(show, "get_root", {})),
    Resource("/info", GET=partial(show, "get_info", {})),
    Resource("/healthz", GET=partial(show, "get_health", NO_STORE)),
    Resource("/openapi.json", GET=partial(show, "get_openapi", {})),
    Resource("/docs", GET=partial(show, "get_docs", {b"content-type": b"text/html; charset=utf-8"})),
    Resource("(?s:.*)"),
]


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Database]]:
    path = os.path.abspath(os.environ.get("TODO_DB") or "todo.db")
    try:
        if TOKEN == b"":
            raise OSError("TODO_TOKEN is empty")
        database = Database(path)
    except (sqlite3.Error, OSError, ValueError) as error:
        log.critical("Can't serve the database %s: %s", path, error)
        logging.disable()  # that is enough: Starlette would have the traceback logged
        raise
    yield {"database": database}
    database.close()


app = Starlette(routes=routes, lifespan=lifespan)
app.middleware_stack = app.router.app  # Resource handles all errors; the layers that Starlette has for that take 5 µs
