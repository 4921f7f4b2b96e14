"""The database file, read and changed by another program than the server."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def insert_tasks(db: Path, tasks: Iterable[tuple[str, bool]]) -> None:
    """Insert tasks, each a name and whether it is done."""
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")  # It runs in many tests: save the time.
        connection.executemany("INSERT INTO task (name, done) VALUES (?, ?)", tasks)


def delete_all_tasks(db: Path) -> None:
    """Delete all tasks and forget their ids: the next task has the id 1."""
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")  # It runs before most tests: save the time.
        connection.execute("DELETE FROM task")
        connection.execute("DELETE FROM sqlite_sequence")


def read_tasks(db: Path) -> list[dict[str, Any]]:
    """Return all tasks, as the server lists them, from a file that must be sound."""
    with contextlib.closing(sqlite3.connect(db)) as connection:
        problems = connection.execute("PRAGMA integrity_check").fetchall()
        assert problems == [("ok",)]
        rows = connection.execute("SELECT name, done, id FROM task ORDER BY id").fetchall()
    return [{"name": name, "done": bool(done), "id": id} for name, done, id in rows]


@contextlib.contextmanager
def write_lock(db: Path) -> Iterator[sqlite3.Connection]:
    """Hold SQLite's lock, so that no server can write."""
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
