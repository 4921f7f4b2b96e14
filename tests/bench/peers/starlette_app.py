"""The shortest honest app: Starlette as its documentation shows it, and the sqlite3 module.

    uvicorn starlette_app:app

Each process has one connection, used on the event loop. Each write is a commit of its own, synced
to disk before the response is sent.
"""

import os
import sqlite3
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

database = sqlite3.connect(os.environ.get("TODO_DB", "starlette.db"), isolation_level=None)
database.row_factory = sqlite3.Row
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA synchronous = FULL")
database.execute(
    "CREATE TABLE IF NOT EXISTS task"
    " (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, done INTEGER NOT NULL)"
)
database.execute("CREATE INDEX IF NOT EXISTS task_done ON task (done)")


def to_json(row: sqlite3.Row) -> dict[str, Any]:
    return {"name": row["name"], "done": bool(row["done"]), "id": row["id"]}


def respond(row: sqlite3.Row | None) -> JSONResponse:
    if row is None:
        raise HTTPException(404, "Task not found")
    return JSONResponse(to_json(row))


async def read_task(request: Request) -> tuple[str, bool]:
    try:
        body = await request.json()
    except ValueError:
        raise HTTPException(400, "The body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(422, "The body must be an object")
    name, done = body.get("name"), body.get("done")
    if not isinstance(name, str) or not isinstance(done, bool):
        raise HTTPException(422, "name must be a string and done a boolean")
    return name, done


async def create_task(request: Request) -> JSONResponse:
    name, done = await read_task(request)
    statement = "INSERT INTO task (name, done) VALUES (?, ?) RETURNING name, done, id"
    return respond(database.execute(statement, [name, done]).fetchone())


async def list_tasks(request: Request) -> JSONResponse:
    try:
        limit = int(request.query_params.get("limit", -1))  # -1: all
    except ValueError:
        raise HTTPException(422, "limit must be an integer") from None
    statement = "SELECT name, done, id FROM task ORDER BY id LIMIT ?"
    return JSONResponse([to_json(row) for row in database.execute(statement, [limit])])


async def get_task(request: Request) -> JSONResponse:
    statement = "SELECT name, done, id FROM task WHERE id = ?"
    return respond(database.execute(statement, [request.path_params["id"]]).fetchone())


async def replace_task(request: Request) -> JSONResponse:
    name, done = await read_task(request)
    statement = "UPDATE task SET name = ?, done = ? WHERE id = ? RETURNING name, done, id"
    return respond(database.execute(statement, [name, done, request.path_params["id"]]).fetchone())


app = Starlette(
    routes=[
        Route("/tasks", create_task, methods=["POST"]),
        Route("/tasks", list_tasks),
        Route("/tasks/{id:int}", get_task),
        Route("/tasks/{id:int}", replace_task, methods=["PUT"]),
    ]
)
