"""The app that this server replaces: FastAPI, Pydantic and SQLAlchemy, as tutorials write it.

    uvicorn fastapi_app:app

The endpoints are plain functions with a session for each request. The file is in WAL mode with
`synchronous = NORMAL`, so the last writes that were answered may be lost in a power cut.

One thing is not from a tutorial: `get_slot`. A request keeps its connection until its response is
sent, and needs a thread to make that response. With more clients than connections, all threads can
wait for a connection while each request that has one waits for a thread. Two slots for two
connections prevent that, and were faster than a connection for each client.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine, delete, event, select, true
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

engine = create_engine(
    f"sqlite:///{os.environ.get('TODO_DB', 'fastapi.db')}",
    pool_size=2,
    max_overflow=0,
    connect_args={"check_same_thread": False},
)
SessionLocal = sessionmaker(engine, expire_on_commit=False)
slots = asyncio.Semaphore(2)


@event.listens_for(engine, "connect")
def set_pragmas(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


class Base(DeclarativeBase):
    pass


class Task(Base):
    __tablename__ = "task"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    done: Mapped[bool] = mapped_column(index=True)


Base.metadata.create_all(engine)


class NewTask(BaseModel):
    name: str
    done: bool


class TaskPatch(BaseModel):
    name: str | None = None
    done: bool | None = None


class TaskOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str
    done: bool
    id: int


async def get_slot() -> AsyncIterator[None]:
    async with slots:
        yield


def get_session(_: Annotated[None, Depends(get_slot)]) -> Iterator[Session]:
    with SessionLocal() as session:
        yield session


DB = Annotated[Session, Depends(get_session)]
app = FastAPI()


def find_task(session: Session, id: int) -> Task:
    task = session.get(Task, id)
    if task is None:
        raise HTTPException(404, "Task not found")
    return task


def save(session: Session, task: Task) -> Task:
    session.add(task)
    session.commit()
    return task


@app.get("/")
def get_root() -> str:
    return "Hello, world!"


@app.post("/tasks", response_model=TaskOut)
def create_task(new: NewTask, session: DB) -> Task:
    return save(session, Task(**new.model_dump()))


@app.get("/tasks", response_model=list[TaskOut])
def list_tasks(
    session: DB,
    done: bool | None = None,
    q: str | None = None,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
    after: Annotated[int, Query(ge=0)] = 0,
) -> Any:
    statement = select(Task).where(
        Task.id > after,
        true() if done is None else Task.done == done,
        true() if q is None else Task.name.icontains(q, autoescape=True),
    )
    return session.scalars(statement.order_by(Task.id).limit(limit)).all()


@app.delete("/tasks")
def delete_tasks(session: DB, done: bool) -> int:
    deleted: Any = session.execute(delete(Task).where(Task.done == done))
    session.commit()
    return int(deleted.rowcount)


@app.get("/tasks/{id}", response_model=TaskOut)
def get_task(id: int, session: DB) -> Task:
    return find_task(session, id)


@app.put("/tasks/{id}", response_model=TaskOut)
def replace_task(id: int, new: NewTask, session: DB) -> Task:
    task = find_task(session, id)
    task.name, task.done = new.name, new.done
    return save(session, task)


@app.patch("/tasks/{id}", response_model=TaskOut)
def update_task(id: int, patch: TaskPatch, session: DB) -> Task:
    task = find_task(session, id)
    for name, value in patch.model_dump(exclude_unset=True).items():
        setattr(task, name, value)
    return save(session, task)


@app.delete("/tasks/{id}")
def delete_task(id: int, session: DB) -> int:
    session.delete(find_task(session, id))
    session.commit()
    return 1
