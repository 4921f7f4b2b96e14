"""The database file, read and changed by another program than the server."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from assertions import Task, whole_task


def execute(db: Path, statement: str) -> list[tuple[Any, ...]]:
    """Execute a statement, commit what it has changed, and return its rows."""
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        return connection.execute(statement).fetchall()


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


def read_tasks(db: Path) -> list[Task]:
    """Return all tasks, as the server lists them, from a file that must be sound.

    A file that lacks a migration may lack members of a task: they have their defaults.
    """
    with contextlib.closing(sqlite3.connect(db)) as connection:
        problems = connection.execute("PRAGMA integrity_check").fetchall()
        assert problems == [("ok",)]
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM task ORDER BY id").fetchall()
    return [whole_task(members_of(dict(row))) for row in rows]


def members_of(columns: dict[str, Any]) -> Task:
    """Return what clients see of a row of the table, from its columns rather than its JSON."""
    hidden = ("key", "request", "json")
    members = {name: value for name, value in columns.items() if name not in hidden}
    return {**members, "done": bool(members["done"])}


@contextlib.contextmanager
def write_lock(db: Path) -> Iterator[sqlite3.Connection]:
    """Hold SQLite's lock, so that no server can write."""
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


@contextlib.contextmanager
def workers_lock(db: Path) -> Iterator[None]:
    """Hold the lock of the workers, as a worker does that writes or migrates.

    Skip the test where there is no flock.
    """
    fcntl = pytest.importorskip("fcntl")
    with open(f"{db}-lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
