"""The list: its parameters, its pages, its stream, and how SQLite reads it."""

import asyncio
import re
import sqlite3
import string
from contextlib import closing
from itertools import product
from urllib.parse import urlencode

import pytest
from helpers import Client, check, check_tagged, compact, fields, insert, strict, tag

import todo

LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
LONG = 2_000  # tasks of the long list, which is read in several pieces
NAMES = ["milk", "MILK", "Milk & more=100%", "", "100_percent", "a\x00b", "A\x00B", "Äpfel"]
NAMES += ["äpfel", "\u017fKI", "ski", "+ +"]
TEXTS = ["", "mILk", "& more=", "%", "\x00b", "Ä", "SKI", "+ +", "m.lk"]
QUERIES_OF_PAGES = [
    "limit=1&q=a%26b%3Dc%25d%2Be+f",
    "q=%00&limit=2&x=%C3%A9%26&=",
    "done=on&limit=1&q=",
]
QUERIES_OF_PAGES += ["q=%C3%A9%23%3F%3B%2F%3C%3E%22%27%5C%2C%F0%9F%91%8D&limit=2&done=YES"]
RARE = [*range(100, LONG + 1, 100)]
COMMON = [id for id in range(1, LONG + 1) if id not in RARE]
QUERIES = {"q=rare": RARE, "done=true": RARE, "q=RARE&done=1": RARE, "q=rare&after=99": RARE}
QUERIES |= {"q=%C3%A91&done=false": [id for id in COMMON if str(id)[0] == "1"], "done=no": COMMON}
QUERIES |= {"q=nowhere": [], "after=2000": [], f"after={2**63 - 1}": []}
BY_ID = "SEARCH task USING INTEGER PRIMARY KEY (rowid=?)"
PLANS = dict.fromkeys(["get_task", "replace_task", "update_task", "delete_task"], BY_ID)
PLANS["delete_tasks"] = "SEARCH task USING INDEX task_done (done=?)"
PLANS["list_tasks"] = "SEARCH task USING INTEGER PRIMARY KEY (rowid>?)"
PLANS["list_tasks_by_done"] = "SEARCH task USING INDEX task_done (done=? AND rowid>?)"


def next_page(answer):
    """Where the Link of a page leads, if it has one."""
    link = answer.headers.get("link")
    return link and re.fullmatch(r'<(/tasks\?[!-~]+)>; rel="next"', link)[1]


def check_pages(client, query, expected, limit):
    """Check that the pages to which the Links lead are full, but for the last, and have these."""
    target = f"/tasks?{query}"
    found = []
    while target is not None:
        answer = client.get(target)
        found.append(strict(answer.content))
        target = next_page(answer)
    assert [task for page in found for task in page] == expected
    assert [len(page) for page in found[:-1]] == [limit] * ((len(expected) - 1) // limit)


@pytest.fixture(scope="module")
def long(portal, empty, tmp_path_factory):
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
def test_parameters_combine(client, done, limit):
    insert(client.db, [(name, number % 3 == 0) for number, name in enumerate(NAMES)])
    tasks = [task for task in client.tasks() if done is None or task["done"] is done]
    for q, after in product([None, *TEXTS], [None, 0, 5, 99]):
        wanted = (q or "").translate(LOWER)
        found = [task for task in tasks if wanted in task["name"].translate(LOWER)]
        query = {"done": done, "q": q, "limit": limit, "after": after}
        given = {name: value for name, value in query.items() if value is not None}
        expected = [task for task in found if task["id"] > (after or 0)]
        check_pages(client, urlencode(given), expected, limit or LONG)


@pytest.mark.parametrize("query", ["DONE=x&LIMIT=0", "done[]=x", "=", "&&", "%", "limit=0002"])
def test_unknown_parameters_are_ignored(client, query):
    insert(client.db, [("a", True), ("b", False)])
    both = client.tasks()
    assert client.get(f"/tasks?{query}").json() == both
    found = client.get(f"/tasks?{query}&limit=2&limit=1&done=x&done=false")  # the last counts
    assert found.json() == both[1:]


# Pages


@pytest.mark.parametrize("query", QUERIES_OF_PAGES)
def test_a_link_keeps_every_other_parameter(client, query):
    insert(client.db, [("a&b=c%d+e f é#?;/<>\"'\\,👍 \x00", True)] * 5)
    for after in ("", "&after=0&after=1"):
        first = client.get(f"/tasks?{query}{after}")
        assert next_page(first) == f"/tasks?{query}&after={first.json()[-1]['id']}"


@pytest.mark.parametrize("path", ["/tasks", "/tasks/"])
def test_a_page_has_a_link_only_while_more_remain(client, path):
    insert(client.db, [("x", False)] * 4)
    tasks = client.tasks()
    for limit in (4, 5, 1000):
        check_tagged(client.get(f"{path}?limit={limit}"), tasks)
    check_tagged(client.get(f"{path}?limit=2&after=2"), tasks[2:])
    link = '</tasks?limit=2&after=3>; rel="next"'
    check_tagged(client.get(f"{path}?limit=2&after=1"), tasks[1:3], link=link)
    assert client.head(f"{path}?limit=2&after=1").headers["link"] == link


@pytest.mark.parametrize(("query", "ids"), QUERIES.items(), ids=QUERIES)
def test_a_page_is_full_while_more_remain(long, query, ids):
    tasks = long.get(f"/tasks?{query}").json()
    assert [task["id"] for task in tasks] == ids
    for limit in (10, 19, 20, 299, 300, 301, 1000):
        check_pages(long, f"{query}&limit={limit}", tasks, limit)


# The whole list


@pytest.mark.parametrize("query", ["", "?done=false", "?q=x", "?after=0"])
@pytest.mark.parametrize("count", [0, 1, 300, 301, 600, 601])
def test_a_list_of_at_most_300_tasks_has_a_tag_and_a_longer_one_is_streamed(client, count, query):
    insert(client.db, [("x", False)] * count)
    answer = client.get(f"/tasks{query}")
    expected = [{"name": "x", "done": False, "id": id} for id in range(1, count + 1)]
    if count <= 300:
        check_tagged(answer, expected)
        assert tag(client.head(f"/tasks{query}")) == tag(answer)
    else:
        assert (answer.status_code, answer.content) == (200, compact(expected))
        assert fields(answer) == {"content-type": "application/json"}


@pytest.fixture
def slow(client, monkeypatch):
    """A client of an application that reads its 1,000 tasks one by one."""
    monkeypatch.setattr(todo, "WHOLE_LIST", 1)
    insert(client.db, [("x", False)] * 1_000)
    return client


@pytest.mark.parametrize("query", ["", "?q=x", "?q=nowhere", "?q=none&limit=1", "?limit=1000"])
def test_a_list_ends_when_its_client_has_left(slow, query):
    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    sent = []
    scope = {"type": "http", "method": "GET", "path": "/tasks", "query_string": query[1:].encode()}
    slow.portal.call(slow, {**scope, "headers": [], "http_version": "1.1"}, receive, send)
    assert not sent or sent[0]["status"] != 200 or sent[-1].get("more_body")


@pytest.mark.parametrize("query", ["", "?q=nowhere", "?q=nowhere&limit=1", "?limit=1000"])
def test_others_are_answered_while_a_long_list_is_read(slow, query):
    async def both():
        reading = asyncio.create_task(slow.ask("GET", f"/tasks{query}"))
        await asyncio.sleep(0)  # it begins
        check(await slow.ask("GET", "/info"), "starlette")
        assert not reading.done()
        return await reading

    assert slow.portal.call(both).status_code == 200


@pytest.mark.parametrize(("statement", "expected"), PLANS.items())
def test_no_statement_reads_more_than_it_must(long, statement, expected):
    sql = todo.SQL[statement]
    with closing(sqlite3.connect(long.db)) as db:
        parameters = dict.fromkeys(re.findall(r":(\w+)", sql), "1")
        rows = db.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
    steps = [row[3].replace("COVERING ", "") for row in rows]
    assert [step for step in steps if "task" in step or "B-TREE" in step] == [expected]
