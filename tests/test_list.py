"""GET /tasks: its parameters, its pages, the whole list as a stream, and how SQLite reads it.

For invalid parameters see test_validation.py, for preconditions test_preconditions.py.
"""

import asyncio
import contextlib
import json
import re
import shutil
import sqlite3
import threading
from urllib.parse import urlencode

import pytest
from assertions import (
    assert_head,
    assert_json_body,
    assert_page,
    assert_status,
    headers_of,
    whole_task,
)
from client import Client
from database import insert_tasks, read_tasks
from starting import wait_until

import todo

with_and_without_slash = pytest.mark.parametrize("path", ["/tasks", "/tasks/"])


def next_page(response):
    """Return the target in the Link of a page, or None if it has no Link."""
    link = response.headers.get("link")
    if link is None:
        return None
    found = re.fullmatch(r'<(/tasks\?[!-~]+)>; rel="next"', link)
    assert found, f"unexpected Link: {link}"
    return found[1]


def read_pages(client, target):
    """Return the tasks of this page and of those that the Links lead to, a list for each page."""
    pages = []
    while target is not None:
        response = client.get(target)
        assert_status(response, 200)
        pages.append(response.json())
        target = next_page(response)
    return pages


def ids_of(tasks):
    """Return the ids of tasks."""
    return [task["id"] for task in tasks]


# Parameters


NAMES = ["milk", "MILK", " milk", "50% off", "a_b", "a\x00B", "Äpfel", "äpfel", "\u017fki", "+ +"]


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("", NAMES),
        ("milk", ["milk", "MILK", " milk"]),
        ("mILk", ["milk", "MILK", " milk"]),
        ("ilk", ["milk", "MILK", " milk"]),
        pytest.param(" milk", [" milk"], id="a blank and milk"),
        ("m.lk", []),
        ("%", ["50% off"]),
        ("_", ["a_b"]),
        ("*", []),
        ("\x00", ["a\x00B"]),
        ("A\x00b", ["a\x00B"]),
        ("Ä", ["Äpfel"]),
        ("ä", ["äpfel"]),
        ("PFEL", ["Äpfel", "äpfel"]),
        ("ski", []),
        ("KI", ["\u017fki"]),
        ("+ +", ["+ +"]),
        pytest.param(" ", [" milk", "50% off", "+ +"], id="a blank"),
        ("name", []),
        pytest.param("x" * 2000, [], id="2000 characters"),
    ],
)
def test_q_finds_the_names_that_contain_it(client, q, found):
    insert_tasks(client.db, [(name, False) for name in NAMES])
    response = client.get(f"/tasks?{urlencode({'q': q})}")
    assert_status(response, 200)
    assert [task["name"] for task in response.json()] == found


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("done=true", [1, 3, 5]),
        ("done=1", [1, 3, 5]),
        ("done=YES", [1, 3, 5]),
        ("done=false", [2, 4]),
        ("done=oFf", [2, 4]),
        ("limit=2", [1, 2]),
        ("limit=0002", [1, 2]),
        ("limit=1000", [1, 2, 3, 4, 5]),
        ("sort=id", [1, 2, 3, 4, 5]),
        ("sort=-id", [5, 4, 3, 2, 1]),
        ("sort=%2Did", [5, 4, 3, 2, 1]),
        ("after=0", [1, 2, 3, 4, 5]),
        ("after=3", [4, 5]),
        ("after=0003", [4, 5]),
        ("after=5", []),
        ("after=9223372036854775807", []),
        ("sort=-id&after=0", []),
        ("sort=-id&after=1", []),
        ("sort=-id&after=3", [2, 1]),
        ("sort=-id&after=9223372036854775807", [5, 4, 3, 2, 1]),
        ("sort=-id&limit=2&done=true", [5, 3]),
        ("sort=-id&after=5&done=true", [3, 1]),
        ("q=a", [1, 2, 5]),
        ("q=%61", [1, 2, 5]),
        ("q=%20", []),
        ("q=a&after=1&limit=1", [2]),
        ("q=A&sort=-id", [5, 2, 1]),
        ("q=a&sort=-id&after=5&limit=1", [2]),
        ("q=A&done=true", [1, 5]),
        ("q=a&done=true&after=1", [5]),
        ("q=A&done=true&sort=-id", [5, 1]),
        ("q=a&done=true&sort=-id&after=5&limit=2", [1]),
        ("done=true&after=0", [1, 3, 5]),
        ("done=true&after=1", [3, 5]),
        ("done=false&limit=1", [2]),
        ("sort=-id&after=4&done=false", [2]),
    ],
)
def test_parameters_select_tasks(client, query, ids):
    tasks = [("a1", True), ("A2", False), ("b3", True), ("b4", False), ("A5", True)]
    insert_tasks(client.db, tasks)
    all_tasks = read_tasks(client.db)
    response = client.get(f"/tasks?{query}")
    assert_status(response, 200)
    assert response.json() == [all_tasks[id - 1] for id in ids]


@pytest.mark.parametrize("query", ["", "?done=false", "?sort=-id", "?sort=-id&done=false"])
def test_a_task_with_the_largest_id_is_in_every_list(client, query):
    with contextlib.closing(sqlite3.connect(client.db)) as connection, connection:
        connection.execute("INSERT INTO task (id, name, done) VALUES (?, 'milk', 0)", [2**63 - 1])
    assert_page(client.get(f"/tasks{query}"), [{"name": "milk", "done": False, "id": 2**63 - 1}])


@pytest.mark.parametrize(
    "query", ["DONE=x&LIMIT=0", "done[]=x", "Sort=-id", "order=-id", "=", "&&", "%", "%FF=%FF"]
)
def test_unknown_parameters_are_ignored(client, query):
    insert_tasks(client.db, [("milk", True), ("bread", False)])
    assert ids_of(client.get(f"/tasks?{query}").json()) == [1, 2]
    assert ids_of(client.get(f"/tasks?{query}&done=false").json()) == [2]


def test_of_a_repeated_parameter_the_last_one_counts(client):
    insert_tasks(client.db, [("milk", True), ("bread", False), ("eggs", False)])
    query = "done=x&limit=0&sort=x&after=x&done=false&limit=1&sort=-id&after=9"
    assert ids_of(client.get(f"/tasks?{query}").json()) == [3]


# Pages


@with_and_without_slash
def test_a_page_has_a_link_only_while_more_tasks_remain(client, path):
    insert_tasks(client.db, [("milk", False)] * 4)
    tasks = client.list_tasks()
    link = '</tasks?limit=2&after=3>; rel="next"'
    assert_page(client.get(f"{path}?limit=2&after=1"), tasks[1:3], link=link)
    assert_page(client.get(f"{path}?limit=2&after=2"), tasks[2:])
    assert_page(client.get(f"{path}?limit=3&after=2"), tasks[2:])
    assert_page(client.get(f"{path}?limit=4"), tasks)
    assert_page(client.get(f"{path}?limit=5"), tasks)
    assert_page(client.get(f"{path}?limit=1000"), tasks)


@with_and_without_slash
def test_a_page_of_the_newest_tasks_links_to_older_ones(client, path):
    insert_tasks(client.db, [("milk", False)] * 4)
    newest_first = client.list_tasks()[::-1]
    first = client.get(f"{path}?sort=-id&limit=2")
    assert_page(first, newest_first[:2], link='</tasks?sort=-id&limit=2&after=3>; rel="next"')
    assert_page(client.get(f"{path}?sort=-id&limit=2&after=3"), newest_first[2:])
    assert_page(client.get(f"{path}?sort=-id&limit=4"), newest_first)


@pytest.mark.parametrize(
    ("query", "next_query"),
    [
        ("limit=2", "limit=2&after=2"),
        ("limit=02", "limit=02&after=2"),
        ("after=1&limit=2", "limit=2&after=3"),
        ("limit=2&after=0&after=1", "limit=2&after=3"),
        ("limit=1&limit=2", "limit=1&limit=2&after=2"),
        ("x=1&limit=2&x=2", "x=1&limit=2&x=2&after=2"),
        ("limit=2&sort=-id", "limit=2&sort=-id&after=4"),
        ("sort=id&limit=2", "sort=id&limit=2&after=2"),
        ("done=YES&limit=2&q=", "done=YES&limit=2&q=&after=2"),
        ("limit=1&q=a%26b%3Dc%25d%2Be+f", "limit=1&q=a%26b%3Dc%25d%2Be+f&after=1"),
        ("q=%00&limit=2&x=%C3%A9%26&=", "q=%00&limit=2&x=%C3%A9%26&=&after=2"),
        (
            "q=%C3%A9%23%3F%3B%2F%3C%3E%22%27%5C%2C%F0%9F%91%8D&limit=2",
            "q=%C3%A9%23%3F%3B%2F%3C%3E%22%27%5C%2C%F0%9F%91%8D&limit=2&after=2",
        ),
    ],
)
def test_a_link_keeps_every_other_parameter(client, query, next_query):
    insert_tasks(client.db, [("a&b=c%d+e f é#?;/<>\"'\\,👍 \x00", True)] * 5)
    assert next_page(client.get(f"/tasks?{query}")) == f"/tasks?{next_query}"


@pytest.mark.parametrize("target", ["/tasks", "/tasks?limit=2", "/tasks?limit=1&sort=-id&q=m"])
def test_head_has_the_headers_of_get(client, target):
    insert_tasks(client.db, [("milk", False)] * 3)
    response = client.get(target)
    assert_status(response, 200)
    assert_head(client.head(target), response)


# A list of 1,000 tasks, which is read in several pieces

ALL = list(range(1, 1001))
RARE = [id for id in ALL if id % 100 == 0]
COMMON = [id for id in ALL if id % 100 != 0]


@pytest.fixture(scope="module")
def long_client(portal, empty_db, tmp_path_factory):
    """A client of an application with 1,000 tasks; every hundredth is done and has a rare name."""
    db = shutil.copy(empty_db, tmp_path_factory.mktemp("long"))
    insert_tasks(db, [("rare", True) if id in RARE else ("common", False) for id in ALL])
    client = Client(portal, TODO_DB=str(db)).start()
    yield client
    client.stop()


@pytest.mark.parametrize("sort", ["id", "-id"])
@pytest.mark.parametrize(
    ("query", "ids", "limit"),
    [
        *[("q=rare", RARE, limit) for limit in (1, 9, 10, 11)],
        *[("done=true", RARE, limit) for limit in (1, 9, 10, 11)],
        *[("q=RARE&done=1", RARE, limit) for limit in (1, 9, 10, 11)],
        *[("q=common", COMMON, limit) for limit in (300, 301, 495, 989, 990)],
        *[("done=no", COMMON, limit) for limit in (300, 301, 495, 989, 990)],
        *[("q=", ALL, limit) for limit in (300, 301, 500, 999, 1000)],
        *[("", ALL, limit) for limit in (300, 301, 500, 999, 1000)],
        ("q=nowhere", [], 1),
        ("q=rare&done=false", [], 1000),
    ],
)
def test_every_page_but_the_last_is_full(long_client, query, ids, limit, sort):
    expected = ids if sort == "id" else ids[::-1]
    pages = read_pages(long_client, f"/tasks?{query}&sort={sort}&limit={limit}")
    starts = range(0, len(expected), limit) or [0]  # If nothing is found, there is an empty page.
    assert [ids_of(page) for page in pages] == [expected[n : n + limit] for n in starts]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ALL),
        ("?after=0", ALL),
        ("?after=299", ALL[299:]),
        ("?after=700", ALL[700:]),
        ("?after=1000", []),
        ("?done=false", COMMON),
        ("?done=true", RARE),
        ("?q=common", COMMON),
        ("?q=rare", RARE),
        ("?q=rare&after=100", RARE[1:]),
        ("?q=nowhere", []),
        ("?sort=-id", ALL[::-1]),
        ("?sort=-id&after=301", ALL[299::-1]),
        ("?sort=-id&after=302", ALL[300::-1]),
        ("?sort=-id&done=false", COMMON[::-1]),
        ("?sort=-id&q=rare", RARE[::-1]),
    ],
)
def test_a_long_list_is_complete(long_client, query, ids):
    response = long_client.get(f"/tasks{query}")
    assert_status(response, 200)
    assert ids_of(response.json()) == ids


@pytest.mark.parametrize("sort", ["id", "-id"])
def test_a_stream_goes_on_after_a_piece_in_which_nothing_is_found(client, sort):
    names = ["milk"] * 400 + ["bread"] * 700 + ["milk"] * 400
    insert_tasks(client.db, [(name, False) for name in names])
    ids = [*range(1, 401), *range(1101, 1501)]
    response = client.get(f"/tasks?q=milk&sort={sort}")
    assert_status(response, 200)
    assert ids_of(response.json()) == (ids if sort == "id" else ids[::-1])


@pytest.mark.parametrize("query", ["", "?done=false", "?q=x", "?after=0", "?sort=-id"])
@pytest.mark.parametrize("count", [0, 1, 299, 300])
def test_a_list_of_at_most_300_tasks_has_an_etag(client, count, query):
    insert_tasks(client.db, [("x", False)] * count)
    expected = [{"name": "x", "done": False, "id": id} for id in range(1, count + 1)]
    if query == "?sort=-id":
        expected.reverse()
    assert_page(client.get(f"/tasks{query}"), expected)


@pytest.mark.parametrize("query", ["", "?done=false", "?q=x", "?after=0", "?sort=-id"])
@pytest.mark.parametrize("count", [301, 600, 601, 602, 901])
def test_a_longer_list_is_streamed_without_an_etag(client, count, query):
    insert_tasks(client.db, [("x", False)] * count)
    expected = [whole_task({"name": "x", "done": False, "id": id}) for id in range(1, count + 1)]
    if query == "?sort=-id":
        expected.reverse()
    response = client.get(f"/tasks{query}")
    assert_status(response, 200)
    assert_json_body(response, expected)
    assert headers_of(response) == {"content-type": "application/json"}


# How a list is read and sent


@contextlib.contextmanager
def recorded_reads(client):
    """Yield a list to which every statement is added that the application reads with."""
    reads = []
    reader = client.application.database.reader
    reader.set_trace_callback(reads.append)
    try:
        yield reads
    finally:
        reader.set_trace_callback(None)


class StreamReader:
    """Calls an application as a server does, and takes the response piece by piece.

    `at_piece` is called for each piece of the body when it arrives. The client leaves when it sets
    `has_left`.
    """

    def __init__(self, at_piece=lambda: None, spec_version="2.3"):
        self.at_piece = at_piece
        self.spec_version = spec_version
        self.has_left = asyncio.Event()
        self.is_receiving = False
        self.messages = []
        self.pieces = []

    async def get(self, client, target):
        """Send a GET, and return when the application has ended with it."""
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": self.spec_version},
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "query_string": query.encode(),
            "headers": [],
        }
        await client.app(scope, self.receive, self.send)

    async def receive(self):
        """Wait until the client leaves. As with some servers, only one call may wait."""
        assert not self.is_receiving, "The application calls receive() twice at the same time."
        self.is_receiving = True
        try:
            await self.has_left.wait()
        finally:
            self.is_receiving = False
        return {"type": "http.disconnect"}

    async def send(self, message):
        """Take a message of the response; raise OSError if the client has left (ASGI 2.4)."""
        if self.has_left.is_set() and self.spec_version == "2.4":
            raise OSError("The client has left.")
        self.messages.append(message)
        if message.get("body"):
            self.pieces.append(message["body"])
            self.at_piece()

    @property
    def is_complete(self):
        """Whether the whole response has been sent."""
        return self.messages[-1].get("more_body", False) is False


def test_the_first_bytes_of_a_long_list_leave_after_one_read(long_client):
    with recorded_reads(long_client) as reads:
        reads_at_piece = []
        reader = StreamReader(lambda: reads_at_piece.append(len(reads)))
        long_client.portal.call(reader.get, long_client, "/tasks")
    assert ids_of(json.loads(b"".join(reader.pieces))) == ALL
    assert reads_at_piece[:3] == [1, 2, 3]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        # A stream reads all tasks, and so does a search that does not find enough.
        ("", 4),
        ("?q=common", 4),
        ("?q=nowhere", 4),
        ("?q=nowhere&limit=1", 4),
        ("?sort=-id&q=nowhere", 4),
        # A search ends when it has found one task more than the page has. Three are in a piece.
        ("?q=rare&limit=1", 1),
        ("?q=rare&limit=2", 1),
        ("?q=rare&limit=3", 2),
        # A page and a short list are one read, however many tasks they have.
        ("?limit=1000", 1),
        ("?limit=1000&done=false", 1),
        ("?limit=1000&sort=-id", 1),
        ("?done=true", 1),
    ],
)
def test_only_a_stream_or_a_search_is_read_in_pieces_of_300(long_client, query, count):
    with recorded_reads(long_client) as reads:
        assert_status(long_client.get(f"/tasks{query}"), 200)
    assert len(reads) == count


def test_head_reads_only_the_beginning_of_a_long_list(long_client):
    with recorded_reads(long_client) as reads:
        response = long_client.head("/tasks")
    assert_head(response, long_client.get("/tasks"))
    assert len(reads) == 1


@pytest.mark.parametrize("sort", ["id", "-id"])
def test_a_task_that_exists_all_the_time_is_in_a_long_list_exactly_once(client, sort):
    insert_tasks(client.db, [("milk", False)] * 1000)
    deleted = {1, 299, 300, 301, 302, 600, 601, 699, 700, 701, 1000}
    changes = [
        f"DELETE FROM task WHERE id IN ({', '.join(map(str, deleted))})",
        "INSERT INTO task (name, done) VALUES ('bread', 0)",
        "UPDATE task SET name = 'eggs' WHERE id % 2 = 0",
    ]

    def change():
        with contextlib.closing(sqlite3.connect(client.db)) as connection, connection:
            while changes:
                connection.execute(changes.pop(0))

    reader = StreamReader(change)
    client.portal.call(reader.get, client, f"/tasks?sort={sort}")
    ids = ids_of(json.loads(b"".join(reader.pieces)))
    assert changes == []
    assert ids == sorted(set(ids), reverse=sort == "-id")
    assert set(range(1, 1001)) - deleted <= set(ids)


def test_a_long_list_does_not_hold_up_a_checkpoint(client):
    insert_tasks(client.db, [("milk", False)] * 1000)
    results = []

    def checkpoint():
        with contextlib.closing(sqlite3.connect(client.db, timeout=0)) as connection:
            connection.execute("UPDATE task SET name = 'bread' WHERE id = 1")
            connection.commit()
            results.append(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    reader = StreamReader(checkpoint)
    client.portal.call(reader.get, client, "/tasks")
    assert len(results) > 3
    assert set(results) == {(0, 0, 0)}, "not busy, and nothing is left in the log"


@contextlib.contextmanager
def first_and_last_task_renamed(db):
    """Let another program rename the tasks 1 and 1000 in one transaction, again and again."""
    is_over = threading.Event()

    def rename():
        with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            while not is_over.is_set():
                connection.execute("UPDATE task SET name = name + 1 WHERE id IN (1, 1000)")

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("sort", ["id", "-id"])
@pytest.mark.parametrize("query", ["", "&done=false"])
def test_a_page_never_shows_tasks_together_that_were_not_in_the_table_together(client, query, sort):
    insert_tasks(client.db, [("0", False)] * 1000)
    names = set()

    def names_have_changed_five_times():
        page = client.get(f"/tasks?limit=1000&sort={sort}{query}").json()
        names.add((page[0]["name"], page[-1]["name"]))
        return len(names) > 5

    with first_and_last_task_renamed(client.db):
        wait_until("the names have changed five times", names_have_changed_five_times)
    assert all(first == last for first, last in names), names


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("query", ["", "?q=common"])
def test_a_stream_ends_when_its_client_leaves(long_client, query, spec_version):
    with recorded_reads(long_client) as reads:
        reader = StreamReader(lambda: reader.has_left.set(), spec_version)
        long_client.portal.call(reader.get, long_client, f"/tasks{query}")
    assert len(reads) <= 3
    assert not reader.is_complete


@pytest.mark.parametrize("query", ["?q=nowhere", "?q=nowhere&limit=1", "?q=nowhere&sort=-id"])
def test_a_search_ends_when_its_client_has_left(long_client, caplog, query):
    with recorded_reads(long_client) as reads:
        reader = StreamReader()
        reader.has_left.set()
        long_client.portal.call(reader.get, long_client, f"/tasks{query}")
    assert len(reads) == 1
    assert 200 not in [message.get("status") for message in reader.messages]
    assert caplog.messages == []


@pytest.mark.parametrize("query", ["", "?q=nowhere", "?q=nowhere&limit=1"])
def test_others_are_answered_while_many_long_lists_are_read(long_client, query):
    """A short request waits for few of the pieces that 50 lists read at the same time."""

    async def count_reads_during_each_request():
        lists = [
            asyncio.create_task(StreamReader().get(long_client, f"/tasks{query}"))
            for _ in range(50)
        ]
        while len(reads) <= 50:  # Each list reads its first piece.
            await asyncio.sleep(0)
        counts = []
        for _ in range(10):
            before = len(reads)
            await asyncio.create_task(long_client.send("GET", "/info"))
            counts.append(len(reads) - before)
        assert not any(task.done() for task in lists)
        await asyncio.gather(*lists)
        return counts

    with recorded_reads(long_client) as reads:
        counts = long_client.portal.call(count_reads_during_each_request)
    assert max(counts) <= 2, counts


# How SQLite finds the tasks

BY_ID = "SEARCH task USING INTEGER PRIMARY KEY (rowid=?)"


PLANS = {
    "create_task": [],
    "get_task": [BY_ID],
    "replace_task": [BY_ID],
    "update_task": [BY_ID],
    "delete_task": [BY_ID],
    "delete_tasks": ["SEARCH task USING INDEX task_done (done=?)"],
    "list_tasks": ["SEARCH task USING INTEGER PRIMARY KEY (rowid>?)"],
    "list_newest_tasks": ["SEARCH task USING INTEGER PRIMARY KEY (rowid<?)"],
    "list_tasks_by_done": ["SEARCH task USING INDEX task_done (done=? AND rowid>?)"],
    "list_newest_tasks_by_done": ["SEARCH task USING INDEX task_done (done=? AND rowid<?)"],
    "get_health": ["SCAN task"],  # Its LIMIT ends the scan at the first task.
}


@pytest.mark.parametrize(("statement", "steps"), PLANS.items(), ids=PLANS)
def test_a_statement_reads_no_more_than_it_must(long_client, statement, steps):
    sql = todo.SQL[statement]
    parameters = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    with contextlib.closing(sqlite3.connect(long_client.db)) as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
    plan = [row[3].replace("COVERING ", "") for row in rows]
    assert [step for step in plan if "task" in step or "B-TREE" in step] == steps


def test_the_plan_of_every_statement_is_known():
    assert PLANS.keys() == todo.SQL.keys()
