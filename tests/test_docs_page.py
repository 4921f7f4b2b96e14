"""The docs page: what it is made of, and that a person can do everything with it."""

import json
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from assertions import assert_status, headers_of, whole_task
from database import insert_tasks

import todo

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page()
    page.set_default_timeout(10_000)
    yield page
    page.close()


def send(page, operation_id, **fields):
    """Fill in the form of an operation, send it, and return what the page shows of the response.

    The name of a field is written with underscores.
    """
    section = page.locator(f"#{operation_id}")
    for name, value in fields.items():
        section.get_by_label(name.replace("_", "-"), exact=True).fill(value)
    section.get_by_role("button", name="Send", exact=True).click()
    section.locator("output strong").wait_for()
    return section.locator("output").inner_text()


def run_command(page, operation_id, **environment):
    """Run the curl command of an operation in a shell and return the JSON that it prints."""
    command = page.locator(f"#{operation_id} code").inner_text()
    completed = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
    )
    return json.loads(completed.stdout)


def test_the_page_is_sent_as_html(client):
    response = client.get("/docs")
    assert_status(response, 200)
    size = str(len(todo.PAGE.encode()))
    headers = {"content-type": "text/html; charset=utf-8", "content-length": size}
    assert headers_of(response) == headers
    assert response.text == todo.PAGE
    assert response.text.startswith("<!doctype html>\n")


def test_the_page_links_to_nothing_but_the_document():
    links = re.findall(r'(?:src|href)="([^"]*)"', todo.PAGE)
    assert links == ["data:,", "openapi.json"]
    assert re.findall(r"https?://\S+|@import|url\(", todo.PAGE) == []


def test_the_page_never_takes_text_for_html():
    takes_html = r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|srcdoc|DOMParser|document\.write"
    assert re.findall(takes_html, todo.PAGE) == []


@pytest.mark.slow
def test_a_name_that_is_html_is_shown_as_text(make_server, page):
    name = "<img src=x onerror=alert(1)>"
    page.goto(f"{make_server().url}/docs")
    shown = send(page, "create_task", body=json.dumps({"name": name, "done": False}))
    assert f'"name": "{name}"' in shown
    assert page.locator("img").count() == 0


@pytest.mark.slow
def test_every_operation_has_a_section_a_link_a_command_and_a_form(server, page):
    page.goto(f"{server.url}/docs")
    page.locator("#list_tasks").wait_for()
    operation_ids = [
        "list_tasks",
        "create_task",
        "delete_tasks",
        "get_task",
        "replace_task",
        "update_task",
        "delete_task",
        "get_root",
        "get_docs",
        "get_health",
        "get_info",
        "get_openapi",
    ]
    sections = page.locator("main section").evaluate_all("all => all.map(each => each.id)")
    links = page.locator("nav a").evaluate_all("all => all.map(each => each.hash)")
    commands = page.locator("section code").all_inner_texts()
    assert sections == operation_ids
    assert links == [f"#{operation_id}" for operation_id in operation_ids]
    assert [command.split()[0] for command in commands] == ["curl"] * 12
    assert page.locator("section form button").all_inner_texts() == ["Send"] * 12


@pytest.mark.slow
def test_a_task_is_created_found_and_deleted_with_forms(make_server, page):
    server = make_server()
    page.goto(f"{server.url}/docs")

    created = send(page, "create_task", body='{"name": "Buy milk", "done": false}')
    assert created.startswith("200 OK")
    assert "location: /tasks/1" in created
    assert '"name": "Buy milk"' in created

    assert '"id": 1' in send(page, "list_tasks", q="MILK", done="no", after="0")
    assert send(page, "get_task", id="1/../2?").startswith("404")
    assert "/tasks/1%2F..%2F2%3F" in page.locator("#get_task code").inner_text()
    assert send(page, "delete_task", id="1").startswith("200 OK")
    assert server.list_tasks() == []


@pytest.mark.slow
def test_an_error_is_shown_as_one(server, page):
    page.goto(f"{server.url}/docs")
    assert "string_type" in send(page, "create_task", body='{"name": 5, "done": false}')
    assert page.locator("#create_task output.error").is_visible()


@pytest.mark.slow
def test_a_long_response_is_cut(make_server, page):
    server = make_server()
    insert_tasks(server.db, [("x" * 500, False)] * 1000)
    page.goto(f"{server.url}/docs")
    shown = send(page, "list_tasks")
    assert shown.endswith("x…")
    assert 100_000 < len(shown) < 101_000


@pytest.mark.slow
def test_the_order_of_a_list_is_chosen_from_its_values(make_server, page):
    server = make_server()
    server.request("POST", "/tasks", json={"name": "first", "done": False})
    server.request("POST", "/tasks", json={"name": "second", "done": False})
    page.goto(f"{server.url}/docs")
    field = page.locator("#list_tasks").get_by_label("sort", exact=True)
    assert field.locator("option").all_inner_texts() == ["", "id", "-id"]
    field.select_option("-id")
    assert "second" in send(page, "list_tasks", limit="1")
    assert page.locator("#list_tasks code").inner_text().endswith("/tasks?limit=1&sort=-id'")


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_shown(make_server, page):
    server = make_server()
    page.goto(f"{server.url}/docs")
    page.locator("#get_info").wait_for()
    server.stop()
    assert send(page, "get_info").startswith("No response")


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 900, 1600])
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_a_wide_screen(server, page, width, color_scheme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=color_scheme)
    page.goto(f"{server.url}/docs")
    send(page, "create_task", body=json.dumps({"name": "x" * 500, "done": False}))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    response = page.locator("#create_task output pre").last
    assert response.evaluate("element => element.scrollWidth <= element.clientWidth")
    background = page.evaluate("getComputedStyle(document.querySelector('pre')).backgroundColor")
    assert background == ("rgb(38, 38, 38)" if color_scheme == "dark" else "rgb(241, 241, 241)")


@pytest.mark.slow
def test_the_curl_command_does_what_the_form_says(make_server, page):
    name = 'it\'s "5" $HOME `ls` \\ \n!!  ünï€ 🥛'
    page.goto(f"{make_server().url}/docs")

    body = json.dumps({"name": name, "done": False}, ensure_ascii=False, indent=1)
    send(page, "create_task", body=body, Idempotency_Key="it's-$1")
    created = whole_task({"name": name, "done": False, "id": 1})
    assert run_command(page, "create_task") == created

    send(page, "list_tasks", q='it\'s "5" $HOME `ls` \\ ', limit="1")
    assert run_command(page, "list_tasks") == [created]
    assert run_command(page, "update_task") == {**created, "done": True}
    assert run_command(page, "delete_task") == 1


@pytest.mark.slow
def test_one_click_selects_the_curl_command(server, page):
    page.goto(f"{server.url}/docs")
    command = page.locator("#list_tasks code")
    command.click()
    assert page.evaluate("getSelection().toString()") == command.inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("token", ["secret", "voilà €'s"])
def test_the_token_is_sent_from_its_field(make_server, page, token):
    page.goto(f"{make_server(TODO_TOKEN=token).url}/docs")
    assert send(page, "get_info").startswith("401")
    assert run_command(page, "get_info", TODO_TOKEN=token) == "starlette"
    page.get_by_label("Token", exact=True).fill(token)
    assert "starlette" in send(page, "get_info")
    assert run_command(page, "get_info") == "starlette"


@pytest.mark.slow
def test_the_token_is_not_sent_where_none_is_needed(make_server, page):
    page.goto(f"{make_server(TODO_TOKEN='secret').url}/docs")
    page.get_by_label("Token", exact=True).fill("secret")
    assert "Bearer" in page.locator("#get_info code").inner_text()
    assert "Bearer" not in page.locator("#get_health code").inner_text()


@pytest.mark.slow
def test_an_open_server_has_no_field_for_a_token(server, page):
    page.goto(f"{server.url}/docs")
    page.locator("#get_info").wait_for()
    assert page.get_by_label("Token").count() == 0


@pytest.mark.slow
def test_the_page_works_below_a_root_path_and_loads_nothing_else(make_server, page):
    server = make_server("--root-path", "/api")
    loaded = []

    def forward(route):
        """Forward a request as a proxy does that serves the application below /api."""
        loaded.append(urlsplit(route.request.url).path)
        route.fulfill(response=route.fetch(url=route.request.url.replace("/api/", "/")))

    page.route("**/*", forward)
    page.goto(f"{server.url}/api/docs")
    assert "starlette" in send(page, "get_info")
    assert loaded == ["/api/docs", "/api/openapi.json", "/api/info"]


@pytest.mark.slow
def test_a_link_to_an_operation_scrolls_to_it(server, page):
    page.goto(f"{server.url}/docs#get_info")
    page.locator("#get_info:target").wait_for()
    assert page.evaluate("scrollY") > 0
