"""The list: its parameters, its pages, its stream, and how little of the table each of them reads."""

import contextlib
import json
import re
import sqlite3
import string
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest
from conftest import ROOT, Server
from test_errors import JSON, TASK, Wire, ask, check_error, compact, entry, running, strict

Task = dict[str, Any]
LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def insert(server: Server, tasks: list[tuple[str, bool]]) -> None:
    """Put (name, done) into the file, without the server."""
    with contextlib.closing(sqlite3.connect(server.db)) as db, db:
        db.executemany("INSERT INTO task (name, done) VALUES (?, ?)", tasks)


def everything(server: Server) -> list[Task]:
    """What the file holds, without the server."""
    with contextlib.closing(sqlite3.connect(server.db)) as db:
        rows = db.execute("SELECT name, done, id FROM task ORDER BY id").fetchall()
    return [{"name": name, "done": bool(done), "id": id} for name, done, id in rows]


def next_page(answer: httpx.Response) -> str | None:
    if "link" not in answer.headers:
        return None
    found = re.fullmatch(r'<(/tasks\?[!-~]*)>; rel="next"', answer.headers["link"])
    assert found, answer.headers["link"]
    return found[1]


def pages(client: httpx.Client, params: object) -> Iterator[list[Task]]:
    """Every page from the first to the end, as the Link headers lead; each but the last has a next one."""
    url: str | None = f"/tasks?{urlencode(params)}"  # type: ignore[arg-type]
    while url:
        answer = client.get(url)
        assert answer.status_code == 200, answer.text
        yield strict(answer.content)
        url = next_page(answer)


# Parameters

NAMES = [
    "milk",
    "MILK",
    "Milk & more=100%",
    "",
    "100_percent",
    "a\x00b",
    "A\x00B",
    "Äpfel",
    "äpfel",
    "\u017fKI",
    "ski",
    "+ +",
]


def filtered(tasks: list[Task], done: bool | None, q: str | None, after: int | None) -> list[Task]:
    wanted = (q or "").translate(LOWER)
    kept = [task for task in tasks if wanted in task["name"].translate(LOWER) and task["id"] > (after or 0)]
    return [task for task in kept if done is None or task["done"] is done]


@pytest.mark.parametrize("limit", [None, 1, 3, 1000])
@pytest.mark.parametrize("done", [None, True, False])
def test_parameters_combine(client: httpx.Client, server: Server, limit: int | None, done: bool | None) -> None:
    insert(server, [(name, number % 3 == 0) for number, name in enumerate(NAMES)])
    tasks = everything(server)
    for q, after in product([None, "", "m", "MI", "%", "_", "\x00", "Ä", "sk", "nowhere"], [None, 0, 5, 99]):
        start = None if after is None else tasks[0]["id"] - 1 + after
        given = {"done": done, "q": q, "limit": limit, "after": start}
        params = {name: str(value).lower() if name == "done" else value for name, value in given.items()}
        params = {name: value for name, value in params.items() if given[name] is not None}
        found = list(pages(client, params))
        assert [task for page in found for task in page] == filtered(tasks, done, q, start)
        assert all(len(page) == limit for page in found[:-1])
        assert limit is None or len(found[-1]) <= limit


@pytest.mark.parametrize(
    ("q", "names"),
    [
        ("", NAMES),
        ("milk", ["milk", "MILK", "Milk & more=100%"]),
        ("mILk", ["milk", "MILK", "Milk & more=100%"]),
        ("100%", ["Milk & more=100%"]),
        ("100_", ["100_percent"]),
        ("%", ["Milk & more=100%"]),
        ("_", ["100_percent"]),
        ("\x00", ["a\x00b", "A\x00B"]),
        ("\x00b", ["a\x00b", "A\x00B"]),
        ("B", ["a\x00b", "A\x00B"]),
        ("Äpfel", ["Äpfel"]),
        ("ÄPFEL", ["Äpfel"]),
        ("äpfel", ["äpfel"]),
        ("pfel", ["Äpfel", "äpfel"]),
        ("ski", ["ski"]),
        ("ki", ["\u017fKI", "ski"]),
        (" ", ["Milk & more=100%", "+ +"]),
        ("+ +", ["+ +"]),
        ("& more=", ["Milk & more=100%"]),
        ("milk ", ["Milk & more=100%"]),
        ("*", []),
        ("m.lk", []),
        ("'", []),
    ],
)
def test_q_finds_the_text_in_the_name(client: httpx.Client, server: Server, q: str, names: list[str]) -> None:
    insert(server, [(name, False) for name in NAMES])
    assert [task["name"] for task in client.get("/tasks", params={"q": q}).json()] == names
    assert [task["name"] for page in pages(client, {"q": q, "limit": 1}) for task in page] == names


def test_q_finds_every_character_as_itself(client: httpx.Client, server: Server) -> None:
    letters = [chr(code) for code in [*range(256), 0x130, 0x131, 0x17F, 0x212A, 0x1F44D, 0xFFFD, 0x10FFFF]]
    insert(server, [(f"<{letter}>", False) for letter in letters])
    for letter in letters:
        found = [task["name"] for task in client.get("/tasks", params={"q": f"<{letter}>"}).json()]
        assert found == [f"<{other}>" for other in letters if other.translate(LOWER) == letter.translate(LOWER)]


def test_q_that_is_no_utf_8_is_read_as_replacement_characters(client: httpx.Client, server: Server) -> None:
    insert(server, [("a\ufffdb", False), ("ab", False)])
    assert [task["name"] for task in ask(server, "GET", "/tasks?q=a%FFb").json()] == ["a\ufffdb"]


@pytest.mark.parametrize("limit", ["5", "05", "+5", "%2B5", "%205%20", "5.0", "5.00", "0_5", "%C2%A05", "1&limit=5"])
def test_a_number_as_pydantic_reads_it(client: httpx.Client, server: Server, limit: str) -> None:
    insert(server, [(str(number), False) for number in range(7)])
    answer = ask(server, "GET", f"/tasks?limit={limit}&after=-0")
    assert (answer.status_code, len(answer.json())) == (200, 5)


@pytest.mark.parametrize("query", ["x=1", "Done=true", "DONE=x&LIMIT=0&Q=x", "done[]=true", "=", "&&", "?", "%"])
def test_unknown_parameters_are_ignored(client: httpx.Client, server: Server, query: str) -> None:
    insert(server, [("a", True), ("b", False)])
    assert ask(server, "GET", f"/tasks?{query}").json() == everything(server)


# Pages


@pytest.mark.parametrize(
    "params",
    [
        [("limit", "2")],
        [("limit", "1"), ("q", "a&b=c%d+e f")],
        [("q", "é#?;/<>\"'\\,👍"), ("limit", "2"), ("done", "YES")],
        [("q", "\x00"), ("limit", "2")],
        [("limit", "2"), ("q", "")],
        [("after", "0"), ("limit", "3"), ("after", "1")],
        [("x", "1"), ("limit", "2"), ("x", "é&"), ("", "")],
        [("done", "no"), ("done", "on"), ("limit", "1"), ("limit", "2")],
        [("limit", " +2")],
    ],
    ids=urlencode,
)
def test_links_keep_every_other_parameter_and_give_everything_once(
    client: httpx.Client, server: Server, params: list[tuple[str, str]]
) -> None:
    insert(server, [("a&b=c%d+e f é#?;/<>\"'\\,👍 \x00", True)] * 5 + [("other", True), ("other", False)])
    given = dict(params)
    done = True if "done" in given else None
    first = client.get(f"/tasks?{urlencode(params)}")
    link = next_page(first)
    assert link
    kept = [item for item in params if item[0] != "after"]
    after = ("after", str(first.json()[-1]["id"]))
    assert sorted(parse_qsl(link.partition("?")[2], keep_blank_values=True)) == sorted([*kept, after])
    found = [task for page in pages(client, params) for task in page]
    assert found == filtered(everything(server), done, given.get("q"), None)


@pytest.mark.parametrize("path", ["/tasks", "/tasks/"])
def test_the_last_page_has_no_link(client: httpx.Client, server: Server, path: str) -> None:
    insert(server, [("x", False)] * 4)
    ids = [task["id"] for task in everything(server)]
    for limit in (4, 5, 1000):
        assert "link" not in client.get(f"{path}?limit={limit}").headers
    assert "link" not in client.get(f"{path}?limit=2&after={ids[1]}").headers
    assert "link" not in client.get(f"{path}?limit=1&done=true").headers
    assert client.get(f"{path}?limit=2").headers["link"] == f'</tasks?limit=2&after={ids[1]}>; rel="next"'
    assert (
        client.get(f"{path}?limit=2&after={ids[0]}").headers["link"] == f'</tasks?limit=2&after={ids[2]}>; rel="next"'
    )
    assert client.head(f"{path}?limit=2").headers["link"] == f'</tasks?limit=2&after={ids[1]}>; rel="next"'


def test_a_page_of_1000(client: httpx.Client, server: Server) -> None:
    insert(server, [("x", False)] * 2001)
    assert [len(page) for page in pages(client, {"limit": 1000})] == [1000, 1000, 1]


def test_pages_of_long_names_give_everything_once(client: httpx.Client, server: Server) -> None:
    insert(server, [(letter * 700_000, False) for letter in "abcde"])
    for limit in (1, 2, 5):
        found = list(pages(client, {"limit": limit}))
        assert [task["name"][0] for page in found for task in page] == list("abcde")
        assert all(len(page) <= limit for page in found)
    assert [task["name"][0] for task in client.get("/tasks").json()] == list("abcde")


def test_pages_stay_right_while_the_table_changes(client: httpx.Client, server: Server) -> None:
    insert(server, [(str(number), False) for number in range(10)])
    tasks, found = everything(server), []
    for page in pages(client, {"limit": 2}):
        found += page
        client.delete(f"/tasks/{page[0]['id']}")
    assert found == tasks


# A long list

ROWS, EVERY = 20_000, 2_000


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with 20,000 tasks of 2,000 characters, of which ten are open."""
    with running(tmp_path_factory.mktemp("long") / "todo.db") as server:
        insert(server, [(f"{number:05} {'x' * 2_000}", number % EVERY != 7) for number in range(ROWS)])
        yield server


def memory(server: Server) -> int:
    """The most bytes that the server has ever had in memory."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def test_a_long_list_is_streamed_whole_in_flat_memory(long: Server) -> None:
    tasks = everything(long)
    expected = compact(tasks)
    with long.client() as client:
        client.get("/tasks?limit=1000")
        before = memory(long)
        answer = client.get("/tasks")
        assert memory(long) - before < 8 * 2**20 < len(expected) / 4
        assert answer.content == expected
        assert "content-length" not in answer.headers
        assert "etag" not in answer.headers
        assert client.get("/tasks?done=true").json() == [task for task in tasks if task["done"]]
        assert client.get(f"/tasks?after={ROWS // 2}").json() == tasks[ROWS // 2 :]
        start = {"limit": 999, "after": ROWS * 3 // 4}
        assert [task for page in pages(client, start) for task in page] == tasks[ROWS * 3 // 4 :]
        assert memory(long) - before < 24 * 2**20


def test_long_names_are_streamed_in_flat_memory(serve: Callable[..., Server]) -> None:
    server = serve()
    insert(server, [("é" * 1_000_000, False)] * 15)
    with server.client() as client:
        client.get("/tasks?limit=1")
        before = memory(server)
        assert client.get("/tasks").content.count(b'"id":') == 15
        assert client.get("/tasks?q=é").content.count(b'"id":') == 15
        assert client.get("/tasks?done=true").json() == []
        assert client.get("/tasks/15").json() == {"name": "é" * 1_000_000, "done": False, "id": 15}
        assert [task["id"] for page in pages(client, {"limit": 1000}) for task in page] == [*range(1, 16)]
        assert memory(server) - before < 25 * 2**20  # of 29


def test_a_search_passes_over_long_names_and_fills_its_page(client: httpx.Client, server: Server) -> None:
    names = ["rare one", "x" * 1_000_000, "rare two", "rare three"]
    insert(server, [(name, False) for name in names])
    found = [[task["name"] for task in page] for page in pages(client, {"q": "rare", "limit": 2})]
    assert found == [["rare one", "rare two"], ["rare three"]]


def slow(server: Server, target: str) -> Wire:
    """A client that reads one line of the answer, and so holds up what the kernel's buffers do not take."""
    wire = Wire(server)
    assert b"200" in wire.request("GET", target).file.readline()
    return wire


def test_the_first_bytes_leave_before_the_last_are_read_and_tasks_that_stay_come_once(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    insert(server, [(f"{number} {'x' * 1_000}", False) for number in range(ROWS)])
    tasks = everything(server)
    with server.client() as client, slow(server, "/tasks") as wire:
        changed = client.patch(f"/tasks/{ROWS}", content=b'{"name":"changed"}', headers=JSON).json()
        added = client.post("/tasks", content=TASK, headers=JSON).json()
        for id in range(1, ROWS, 500):
            assert client.delete(f"/tasks/{id}").content == b"1"
        while wire.file.readline().strip():
            pass  # the headers
        found = strict(wire.body(httpx.Response(200, headers={"transfer-encoding": "chunked"})))
    assert found[-2:] == [changed, added]
    ids = [task["id"] for task in found]
    assert ids == sorted(set(ids))
    assert [task for task in found if task["id"] % 500 != 1] == [
        task for task in [*tasks[:-1], changed, added] if task["id"] % 500 != 1
    ]


def test_a_list_whose_rest_is_deleted_while_it_is_sent_ends_as_an_array(serve: Callable[..., Server]) -> None:
    server = serve()
    insert(server, [("x" * 20_000, False)] * 1_000)
    with slow(server, "/tasks") as wire:
        assert int(ask(server, "DELETE", "/tasks?done=false").content) == 1_000
        while wire.file.readline().strip():
            pass  # the headers
        found = strict(wire.body(httpx.Response(200, headers={"transfer-encoding": "chunked"})))
    assert [task["id"] for task in found] == [*range(1, len(found) + 1)]
    assert 0 < len(found) < 1_000


def read_beside(server: Server, target: str) -> list[float]:
    """When short reads were answered while a list was read, in seconds from its start."""
    with ThreadPoolExecutor(1) as pool, Wire(server) as wire:
        started, times = time.perf_counter(), [0.0]
        reading = pool.submit(ask, server, "GET", target)
        while not reading.done():
            assert wire.request("GET", "/tasks/1").answer().status_code == 200
            times.append(time.perf_counter() - started)
        assert reading.result().status_code == 200
        return times


def longest_wait(server: Server, target: str) -> float:
    """The longest wait for a short read while a list is read, as a share of the time that the list takes."""
    times = read_beside(server, target)
    return max(after - before for before, after in pairwise(times)) / times[-1]


@pytest.mark.parametrize(
    "target", ["/tasks", "/tasks?q=nowhere", "/tasks?q=nowhere&limit=1", "/tasks?done=true&q=07%20x"]
)
def test_other_reads_are_answered_while_a_long_list_is_read(long: Server, target: str) -> None:
    assert any(longest_wait(long, target) < 0.4 for _ in range(5))  # most of it, if the list kept the event loop


def test_other_reads_are_answered_while_long_names_are_read(serve: Callable[..., Server]) -> None:
    server = serve()
    insert(server, [("x" * length, False) for length in (1, 900_000, 10, 20_000, 300_000) * 20])
    for target in ("/tasks", "/tasks?limit=1000"):
        assert any(longest_wait(server, target) < 0.4 for _ in range(5))


def test_a_page_of_long_names_does_not_keep_the_event_loop_until_it_turns_out_too_long(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    insert(server, [("short", False)] + [("x" * 300_000, False)] * 200)
    for target in ("/tasks?limit=1000", "/tasks?done=false&limit=200"):
        assert any(longest_wait(server, target) < 0.2 for _ in range(5)), target  # 0.33, if it did


def test_a_very_long_name_is_read_off_the_event_loop_as_a_search_is(serve: Callable[..., Server]) -> None:
    server = serve()
    insert(server, [("short", False)] + [("x" * 1_000_000, False)] * 40)

    def long_wait(target: str) -> float:
        """The tenth longest for a short read while the list is read, in seconds."""
        return sorted(after - before for before, after in pairwise(read_beside(server, target)))[-10]

    assert any(long_wait("/tasks") < 2 * long_wait("/tasks?q=x") for _ in range(5))  # 3 times, if it were not


def test_clients_that_do_not_read_hold_up_nobody(long: Server) -> None:
    before = memory(long)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(slow(long, "/tasks"))
        with long.client() as client:
            assert {client.get(f"/tasks/{id}").status_code for id in range(1, 50)} == {200}
        assert memory(long) - before < 80 * 2**20  # a piece of 1 MiB each, not 40 MiB
    assert len(ask(long, "GET", "/tasks").json()) == ROWS


def test_head_of_a_long_list_has_no_body(long: Server) -> None:
    with Wire(long) as wire:
        answer = wire.request("HEAD", "/tasks").answer(head=True)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert wire.request("GET", "/info").answer().content == b'"starlette"'


def test_a_list_of_more_than_one_piece_has_no_tag_but_its_pages_do(long: Server) -> None:
    with long.client() as client:
        assert "etag" in client.get("/tasks?done=false").headers
        page = client.get("/tasks?limit=5")
        again = client.get("/tasks?limit=5", headers={"if-none-match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


# Query plans

Run = Callable[..., sqlite3.Cursor]


@pytest.fixture(scope="module")
def run(long: Server) -> Iterator[Run]:
    """Run a statement of sql/ on the long list; parameters that are not named are NULL."""
    with contextlib.closing(sqlite3.connect(f"file:{long.db}?mode=ro", uri=True)) as db:
        db.create_function("etag", 1, str, deterministic=True)

        def statement(name: str, before: str = "", **parameters: object) -> sqlite3.Cursor:
            sql = (ROOT / "sql" / f"{name}.sql").read_text()
            sql = re.sub(r"^--.*", "", sql, flags=re.MULTILINE)
            return db.execute(before + sql, {**dict.fromkeys(re.findall(r":(\w+)", sql)), **parameters})

        yield statement


def steps(run: Run, name: str, **parameters: object) -> int:
    """How many of its instructions SQLite executes for a statement: a measure of work without a clock."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    db = run("get_info").connection
    db.set_progress_handler(tick, 1)
    try:
        run(name, **parameters).fetchall()
    finally:
        db.set_progress_handler(None, 1)
    return count


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("get_task", "INTEGER PRIMARY KEY (rowid=?)"),
        ("update_task", "INTEGER PRIMARY KEY (rowid=?)"),
        ("delete_task", "INTEGER PRIMARY KEY (rowid=?)"),
        ("list_tasks", "INTEGER PRIMARY KEY (rowid>?)"),
        ("list_tasks", "INDEX task_done (done=? AND rowid>?)"),
        ("delete_tasks", "INDEX task_done (done=?)"),
    ],
)
def test_a_statement_uses_an_index_and_sorts_nothing(run: Run, name: str, index: str) -> None:
    plan = [row[3] for row in run(name, before="EXPLAIN QUERY PLAN ")]
    assert any(re.search(f"SEARCH task USING (COVERING )?{re.escape(index)}", line) for line in plan), plan
    assert not [line for line in plan if "SCAN task" in line or "TEMP B-TREE" in line]


@pytest.mark.parametrize("done", [None, 1])
def test_a_far_page_costs_what_the_first_costs(run: Run, done: int | None) -> None:
    first = steps(run, "list_tasks", done=done, after=0, rows=11)
    assert steps(run, "list_tasks", done=done, after=ROWS - EVERY, rows=11) <= first + 20
    assert steps(run, "list_tasks", done=done, after=2**63 - 1, rows=11) <= first
    assert first < 1000


def test_the_few_open_tasks_among_many_done_cost_little(run: Run) -> None:
    assert run("list_tasks", done=0, after=0, rows=100).fetchone()[1] == ROWS // EVERY
    assert steps(run, "list_tasks", done=0, after=0, rows=100) < 1000


def test_a_point_read_costs_the_same_in_every_place(run: Run) -> None:
    assert len({steps(run, "get_task", id=str(id)) for id in (1, 77, ROWS // 2, ROWS)}) == 1
    assert steps(run, "get_task", id=str(ROWS)) < 100


def test_health_reads_no_more_than_one_task(run: Run) -> None:
    assert steps(run, "get_health") < 100


# DELETE /tasks


@pytest.mark.parametrize("path", ["/tasks", "/tasks/"])
@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("", {"done": "missing"}),
        ("?", {"done": "missing"}),
        ("?x=1", {"done": "missing"}),
        ("?Done=true", {"done": "missing"}),
        ("?done=", {"done": "bool_parsing"}),
        ("?done", {"done": "bool_parsing"}),
        ("?done=all", {"done": "bool_parsing"}),
        ("?done=true&q=x", {"q": "extra_forbidden"}),
        ("?done=true&q=", {"q": "extra_forbidden"}),
        ("?limit=1&done=true", {"limit": "extra_forbidden"}),
        ("?done=true&after=0", {"after": "extra_forbidden"}),
        (
            "?done=true&q=x&limit=x&after=-1",
            {"q": "extra_forbidden", "limit": "extra_forbidden", "after": "extra_forbidden"},
        ),
        ("?q=x", {"done": "missing", "q": "extra_forbidden"}),
        ("?done=x&limit=1", {"done": "bool_parsing", "limit": "extra_forbidden"}),
    ],
)
def test_delete_many_is_refused_rather_than_delete_more_than_was_meant(
    client: httpx.Client, server: Server, path: str, query: str, wrong: Mapping[str, str]
) -> None:
    insert(server, [("x", True), ("y", False)])
    tasks = everything(server)
    answer = ask(server, "DELETE", path + query)
    check_error(answer, 422)
    assert {fault["loc"][1]: fault["type"] for fault in answer.json()["detail"]} == wrong
    assert {fault["loc"][0] for fault in answer.json()["detail"]} == {"query"}
    assert everything(server) == tasks


def test_delete_many_says_what_is_missing_as_fastapi_does(client: httpx.Client) -> None:
    check_error(client.delete("/tasks"), 422, [entry("missing", ["query", "done"], None)])


def test_delete_many_with_two_values_deletes_nothing(client: httpx.Client, server: Server) -> None:
    insert(server, [("x", True), ("y", False)])
    check_error(client.delete("/tasks?done=true&done=false"), 422)
    assert len(everything(server)) == 2


def test_delete_many_ignores_unknown_parameters(client: httpx.Client, server: Server) -> None:
    insert(server, [("x", True), ("y", False)])
    assert client.delete("/tasks?done=true&x=1").content == b"1"
    assert [task["name"] for task in json.loads(client.get("/tasks").content)] == ["y"]
