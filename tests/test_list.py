"""The list: its parameters, its pages, its stream, and how SQLite reads it."""

import asyncio
import re
import sqlite3
import string
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest
from helpers import (
    Client,
    check,
    check_tagged,
    compact,
    fields,
    insert,
    strict,
    tag,
)

import todo

LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
LONG = 2_000  # tasks of the long list, which is read in several pieces
NAMES = ["milk", "MILK", "Milk & more=100%", "", "100_percent", "a\x00b", "A\x00B", "Äpfel"]
NAMES += ["äpfel", "\u017fKI", "ski", "+ +", "a\ufffdb"]


def next_page(answer: httpx.Response) -> str | None:
    """Where the Link of a page leads, if it has one."""
    if "link" not in answer.headers:
        return None
    found = re.fullmatch(r'<(/tasks\?[!-~]+)>; rel="next"', answer.headers["link"])
    assert found, answer.headers["link"]
    return found[1]


def pages(client: Client, target: str | None) -> Iterator[list[dict[str, Any]]]:
    """Every page of a list, as the Links lead."""
    while target is not None:
        answer = client.get(target)
        assert answer.status_code == 200
        yield strict(answer.content)
        assert next_page(answer) != target
        target = next_page(answer)


def names(client: Client, query: str) -> list[str]:
    return [task["name"] for task in client.get(f"/tasks?{query}").json()]


@pytest.fixture(scope="module")
def long(portal: Any, empty: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of an application with 2,000 tasks, of which every hundredth is done and rare."""
    db = tmp_path_factory.mktemp("long") / "todo.db"
    db.write_bytes(empty.read_bytes())
    insert(db, [(f"{'rare' * (id % 100 == 0)} é{id}", id % 100 == 0) for id in range(1, LONG + 1)])
    client = Client(portal, TODO_DB=str(db)).open()
    yield client
    client.close()


# Parameters


@pytest.mark.parametrize("limit", [None, 1, 3, 1000])
@pytest.mark.parametrize("done", [None, True, False])
def test_parameters_combine(client: Client, done: bool | None, limit: int | None) -> None:
    insert(client.db, [(name, number % 3 == 0) for number, name in enumerate(NAMES)])
    tasks = client.tasks()
    for q, after in product([None, "", "MI", "%", "\x00", "Ä", "sk", "nowhere"], [None, 0, 5, 99]):
        wanted = (q or "").translate(LOWER)
        expected = [
            task
            for task in tasks
            if wanted in task["name"].translate(LOWER)
            and task["id"] > (after or 0)
            and task["done"] in ([True, False] if done is None else [done])
        ]
        query = {"done": done, "q": q, "limit": limit, "after": after}
        given = {name: value for name, value in query.items() if value is not None}
        found = list(pages(client, f"/tasks?{urlencode(given)}"))
        assert [task for page in found for task in page] == expected
        assert {len(page) for page in found[:-1]} <= {limit}
        assert limit is None or len(found[-1]) <= limit


FOUND = {"": NAMES, "mILk": NAMES[:3], "100%25": [NAMES[2]], "%26+more%3D": [NAMES[2]]}
FOUND |= {"%00": NAMES[5:7], "%00b": NAMES[5:7], "SKI": ["ski"], "%2B+%2B": ["+ +"], "m.lk": []}
FOUND |= {"a%FFb": ["a\ufffdb"]}  # what is not UTF-8 is read as replacement characters


@pytest.mark.parametrize(("q", "found"), FOUND.items(), ids=FOUND)
def test_q_finds_the_text_in_the_name(client: Client, q: str, found: list[str]) -> None:
    insert(client.db, [(name, False) for name in NAMES])
    assert names(client, f"q={q}") == found
    one_by_one = pages(client, f"/tasks?q={q}&limit=1")
    assert [task["name"] for page in one_by_one for task in page] == found


def test_q_finds_every_character_as_itself(client: Client) -> None:
    letters = [chr(code) for code in [*range(256), 0x130, 0x131, 0x17F, 0x212A, 0xFFFD, 0x1F44D]]
    insert(client.db, [(f"<{letter}>", False) for letter in letters])
    for letter in letters:
        alike = [other for other in letters if other.translate(LOWER) == letter.translate(LOWER)]
        assert names(client, urlencode({"q": f"<{letter}>"})) == [f"<{it}>" for it in alike]


@pytest.mark.parametrize("query", ["DONE=x&LIMIT=0", "done[]=x", "=", "&&", "%", "limit=0002"])
def test_unknown_parameters_are_ignored(client: Client, query: str) -> None:
    insert(client.db, [("a", True), ("b", False)])
    assert names(client, query) == ["a", "b"]
    assert names(client, f"{query}&limit=2&limit=1&done=x&done=false") == ["b"]  # the last counts


# Pages


PARAMS = [
    [("limit", "1"), ("q", "a&b=c%d+e f")],
    [("q", "é#?;/<>\"'\\,👍"), ("limit", "2"), ("done", "YES")],
    [("q", "\x00"), ("limit", "2"), ("x", "1"), ("x", "é&"), ("", "")],
    [("after", "0"), ("limit", "3"), ("after", "1"), ("q", "")],
    [("done", "no"), ("done", "on"), ("limit", "1"), ("limit", "2")],
]


@pytest.mark.parametrize("params", PARAMS, ids=urlencode)
def test_a_link_keeps_every_other_parameter(client: Client, params: list[tuple[str, str]]) -> None:
    insert(client.db, [("a&b=c%d+e f é#?;/<>\"'\\,👍 \x00", True)] * 5)
    first = client.get(f"/tasks?{urlencode(params)}")
    link = next_page(first)
    assert link is not None
    kept = [(name, value) for name, value in params if name != "after"]
    kept.append(("after", str(first.json()[-1]["id"])))
    assert sorted(parse_qsl(link.partition("?")[2], keep_blank_values=True)) == sorted(kept)


@pytest.mark.parametrize("path", ["/tasks", "/tasks/"])
def test_a_page_has_a_link_only_while_more_remain(client: Client, path: str) -> None:
    insert(client.db, [("x", False)] * 4)
    tasks = client.tasks()
    for limit in (4, 5, 1000):
        check_tagged(client.get(f"{path}?limit={limit}"), tasks)
    check_tagged(client.get(f"{path}?limit=2&after=2"), tasks[2:])
    check_tagged(client.get(f"{path}?limit=1&done=true"), [])
    link = '</tasks?limit=2&after=2>; rel="next"'
    check_tagged(client.get(f"{path}?limit=2"), tasks[:2], link=link)
    assert client.head(f"{path}?limit=2").headers["link"] == link
    link = '</tasks?limit=2&after=3>; rel="next"'
    check_tagged(client.get(f"{path}?limit=2&after=1"), tasks[1:3], link=link)


RARE = [*range(100, LONG + 1, 100)]
COMMON = [id for id in range(1, LONG + 1) if id not in RARE]
QUERIES = {"q=rare": RARE, "done=true": RARE, "q=RARE&done=1": RARE, "q=rare&after=99": RARE}
QUERIES |= {"q=%C3%A91&done=false": [id for id in COMMON if str(id)[0] == "1"], "done=no": COMMON}


@pytest.mark.parametrize(("query", "ids"), QUERIES.items(), ids=QUERIES)
def test_a_page_is_full_while_more_remain(long: Client, query: str, ids: list[int]) -> None:
    assert [task["id"] for task in long.get(f"/tasks?{query}").json()] == ids
    for limit in (10, 19, 20, 299, 300, 301, 1000):
        found = list(pages(long, f"/tasks?{query}&limit={limit}"))
        assert [task["id"] for page in found for task in page] == ids
        assert [len(page) for page in found[:-1]] == [limit] * ((len(ids) - 1) // limit)


# The whole list


@pytest.mark.parametrize("query", ["", "?done=false", "?q=x", "?after=0"])
@pytest.mark.parametrize("count", [0, 1, 300, 301, 600, 601])
def test_a_list_of_at_most_300_tasks_has_a_tag_and_a_longer_one_is_streamed(
    client: Client, count: int, query: str
) -> None:
    insert(client.db, [("x", False)] * count)
    answer = client.get(f"/tasks{query}")
    expected = [{"name": "x", "done": False, "id": id} for id in range(1, count + 1)]
    if count <= 300:
        check_tagged(answer, expected)
        assert tag(client.head(f"/tasks{query}")) == tag(answer)
    else:
        assert (answer.status_code, answer.content) == (200, compact(expected))
        assert fields(answer) == {"content-type": "application/json"}


def test_a_search_that_finds_nothing_is_an_empty_array(long: Client) -> None:
    assert long.get("/tasks?q=nowhere").content == b"[]"
    check_tagged(long.get("/tasks?q=nowhere&limit=5"), [])
    check_tagged(long.get(f"/tasks?after={LONG}"), [])


class Reader:
    """A client that takes so many messages of an answer, of which the first is its head."""

    def __init__(self, client: Client, target: str, take: int = 3) -> None:
        self.portal = client.portal
        self.sent: list[Any] = []
        self.left = asyncio.Event()
        self.taken = asyncio.Semaphore(take)
        path, _, query = target.partition("?")
        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        scope |= {"query_string": query.encode(), "root_path": "", "http_version": "1.1"}
        if take > 3:
            self.left.set()
        self.answer = self.portal.start_task_soon(client, scope, self.receive, self.send)
        client.get("/info")

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        await self.taken.acquire()

    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def finish(self) -> bytes:
        """Take all that is left of the answer, and return its body."""
        for _ in range(20):
            self.portal.call(self.taken.release)
        self.answer.result(10)
        return self.body()


def test_the_first_bytes_leave_before_the_rest_is_read(client: Client) -> None:
    """What is created, changed or deleted meanwhile may be in the list; what stays, is, once."""
    insert(client.db, [("x", False)] * 1_000)
    reader = Reader(client, "/tasks")
    assert strict(reader.body() + b"]")[0]["id"] == 1
    added = client.post("/tasks").json()
    changed = client.put("/tasks/1000").json()
    for id in range(1, 1_000, 10):
        check(client.delete(f"/tasks/{id}"), 1)
    found = strict(reader.finish())
    assert found[-2:] == [changed, added]
    ids = [task["id"] for task in found]
    assert ids == sorted(set(ids))
    assert {id for id in range(1, 1_000) if id % 10 != 1} <= set(ids)
    assert 991 not in ids


def test_a_list_whose_rest_is_deleted_ends_as_an_array(client: Client) -> None:
    insert(client.db, [("x", False)] * 1_000)
    reader = Reader(client, "/tasks")
    check(client.delete("/tasks?done=false"), 1_000)
    assert 0 < len(strict(reader.finish())) < 1_000


def test_a_list_that_breaks_off_is_one_line_in_the_log(
    start: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    client = start()
    insert(client.db, [("x", False)] * 1_000)
    reader = Reader(client, "/tasks")
    with closing(sqlite3.connect(client.db)) as db:
        db.execute("DROP TABLE task")
    reader.finish()
    assert reader.sent[-1]["more_body"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "no such table" in record.getMessage()
    assert record.exc_info is None


@pytest.fixture
def slow(client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of an application that reads its 1,000 tasks one by one."""
    monkeypatch.setattr(todo, "PIECE", 1)
    insert(client.db, [("x", False)] * 1_000)
    return client


@pytest.mark.parametrize("query", ["", "?q=x", "?q=nowhere", "?q=none&limit=1", "?limit=1000"])
def test_a_list_ends_when_its_client_has_left(slow: Client, query: str) -> None:
    reader = Reader(slow, f"/tasks{query}", take=3_000)
    reader.answer.result(10)
    assert not reader.sent or reader.sent[0]["status"] != 200 or reader.sent[-1].get("more_body")


@pytest.mark.parametrize("query", ["", "?q=nowhere", "?q=nowhere&limit=1", "?limit=1000"])
def test_others_are_answered_while_a_long_list_is_read(slow: Client, query: str) -> None:
    reading = slow.begin("GET", f"/tasks{query}")
    check(slow.get("/info"), "starlette")
    assert not reading.done()
    assert reading.result(10).status_code == 200


# How SQLite reads

Plan = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def plan(long: Client) -> Iterator[Plan]:
    """Say how SQLite would run a statement of sql/."""
    with closing(sqlite3.connect(long.db)) as db:

        def plan(statement: str) -> list[str]:
            sql = (todo.FOLDER / f"sql/{statement}.sql").read_text()
            parameters = dict.fromkeys(re.findall(r":(\w+)", sql), "1")
            rows = db.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
            steps = [row[3].replace("COVERING ", "") for row in rows]
            return [step for step in steps if "task" in step or "B-TREE" in step]

        yield plan


BY_ID = "SEARCH task USING INTEGER PRIMARY KEY (rowid=?)"
PLANS = dict.fromkeys(["get_task", "replace_task", "update_task", "delete_task"], BY_ID)
PLANS["delete_tasks"] = "SEARCH task USING INDEX task_done (done=?)"
PLANS["list_tasks"] = "SEARCH task USING INTEGER PRIMARY KEY (rowid>?)"
PLANS["list_tasks_by_done"] = "SEARCH task USING INDEX task_done (done=? AND rowid>?)"


@pytest.mark.parametrize(("statement", "expected"), PLANS.items())
def test_no_statement_reads_more_than_it_must(plan: Plan, statement: str, expected: str) -> None:
    assert plan(statement) == [expected]
