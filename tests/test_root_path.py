"""The root path: the application below a path, behind a proxy (--root-path) or mounted."""

import pytest
from assertions import assert_error, assert_json, assert_page, assert_status, assert_task
from starlette.applications import Starlette
from starlette.routing import Mount

import todo

MILK = {"name": "milk", "done": False}

with_and_without_slash = pytest.mark.parametrize("root_path", ["/api", "/api/"])


@with_and_without_slash
@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param("/api", id="with the root path"),
        pytest.param("", id="without the root path"),  # a proxy has taken it away
    ],
)
def test_every_route_works_below_a_root_path(client, root_path, prefix):
    created = client.post(f"{prefix}/tasks", json=MILK, root_path=root_path)
    assert_task(created, {**MILK, "id": 1}, location="/api/tasks/1")
    assert_task(client.get(f"{prefix}/tasks/1", root_path=root_path), {**MILK, "id": 1})
    assert_page(client.get(f"{prefix}/tasks/", root_path=root_path), [{**MILK, "id": 1}])
    assert_json(client.get(f"{prefix}/", root_path=root_path), "Hello, world!")
    assert_json(client.get(f"{prefix}/info", root_path=root_path), "starlette")
    assert client.get(f"{prefix}/docs", root_path=root_path).text == todo.PAGE
    document = client.get(f"{prefix}/openapi.json", root_path=root_path)
    assert document.text == todo.openapi_document("/api", needs_token=False)
    assert_error(client.get(f"{prefix}/nothing", root_path=root_path), 404, "Not Found")
    assert_json(client.delete(f"{prefix}/tasks?done=false", root_path=root_path), 1)


@with_and_without_slash
def test_the_link_to_the_next_page_has_the_root_path(client, root_path):
    client.create_task()
    client.create_task()
    response = client.get("/api/tasks?limit=1&x=y", root_path=root_path)
    link = '</api/tasks?limit=1&x=y&after=1>; rel="next"'
    assert_page(response, [{**MILK, "id": 1}], link=link)


@with_and_without_slash
@pytest.mark.parametrize(
    "path",
    [
        "/apitasks",
        "/apitasks/1",
        "/apix/tasks",
        "/ap/tasks",
        "/API/tasks",
        "/api",
        "/api/api/tasks",
        "/x/api/tasks",
        "//api/tasks",
    ],
)
def test_only_the_root_path_itself_is_taken_from_a_path_and_only_once(client, root_path, path):
    client.create_task()
    assert_error(client.get(path, root_path=root_path), 404, "Not Found")


@with_and_without_slash
@pytest.mark.parametrize("path", ["/api/docs", "/api/openapi.json", "/api/healthz", "/docs"])
def test_no_token_is_required_for_these_paths_below_a_root_path(make_client, root_path, path):
    client = make_client(TODO_TOKEN="secret")
    assert_status(client.get(path, root_path=root_path), 200)


@with_and_without_slash
@pytest.mark.parametrize(
    "path", ["/api/info", "/api/tasks", "/api/docs/", "/apidocs", "/api/api/docs"]
)
def test_the_token_is_required_for_all_other_paths(make_client, root_path, path):
    client = make_client(TODO_TOKEN="secret")
    assert_error(client.get(path, root_path=root_path), 401, "Not authenticated")


@pytest.mark.parametrize("root_path", ["/tasks", "/info", "/tasks/1", "/docs"])
def test_a_root_path_may_look_like_a_route(client, root_path):
    created = client.post(f"{root_path}/tasks", json=MILK, root_path=root_path)
    assert_task(created, {**MILK, "id": 1}, location=f"{root_path}/tasks/1")
    assert_task(client.get(f"{root_path}/tasks/1", root_path=root_path), {**MILK, "id": 1})


@pytest.mark.parametrize(
    ("root_path", "encoded"),
    [
        pytest.param("/a b", "/a%20b", id="blank"),
        pytest.param("/café", "/caf%C3%A9", id="not ASCII"),
        pytest.param("/a%2Fb", "/a%252Fb", id="percent sign"),
        pytest.param("/a\r\nX: y", "/a%0D%0AX%3A%20y", id="line break"),
        pytest.param('/a>; rel="prev", <b', "/a%3E%3B%20rel%3D%22prev%22%2C%20%3Cb", id="link"),
        pytest.param("/a?b#c", "/a%3Fb%23c", id="query"),
        pytest.param("/a/b//c", "/a/b//c", id="slashes"),
    ],
)
def test_odd_characters_in_a_root_path_are_encoded(client, root_path, encoded):
    created = client.post("/tasks", json=MILK, root_path=root_path)
    assert_task(created, {**MILK, "id": 1}, location=f"{encoded}/tasks/1")
    client.create_task()
    page = client.get("/tasks?limit=1", root_path=root_path)
    link = f'<{encoded}/tasks?limit=1&after=1>; rel="next"'
    assert_page(page, [{**MILK, "id": 1}], link=link)


# Mounted in another application


@pytest.mark.parametrize("path", ["/api", "/api/", "/v1/api"])
def test_the_application_can_be_mounted(make_client, path):
    client = make_client()
    client.app = Starlette(routes=[Mount(path, app=client.application)])
    base = path.rstrip("/")
    created = client.post(f"{base}/tasks", json=MILK)
    assert_task(created, {**MILK, "id": 1}, location=f"{base}/tasks/1")
    assert_task(client.get(f"{base}/tasks/1"), {**MILK, "id": 1})
    assert_error(client.get(f"{base}/nothing"), 404, "Not Found")
    assert_status(client.get("/tasks"), 404)  # These two are the outer application's.
    assert_status(client.get(f"{base}tasks"), 404)


@pytest.mark.parametrize("path", ["/todo", "/todo/"])
def test_it_can_be_mounted_below_a_root_path(make_client, path):
    client = make_client()
    client.app = Starlette(routes=[Mount(path, app=client.application)])
    created = client.post("/api/todo/tasks", json=MILK, root_path="/api")
    assert_task(created, {**MILK, "id": 1}, location="/api/todo/tasks/1")


# uvicorn


@pytest.mark.parametrize("root_path", ["/api/", pytest.param("/api", marks=pytest.mark.slow)])
def test_uvicorn_has_an_option_for_it(make_server, root_path):
    server = make_server("--root-path", root_path)
    created = server.request("POST", "/tasks", json=MILK)
    assert_task(created, {**MILK, "id": 1}, location="/api/tasks/1")
    assert_task(server.request("GET", "/tasks/1"), {**MILK, "id": 1})
    assert_error(server.request("GET", "/api/tasks"), 404, "Not Found")
    assert_error(server.request("GET", "/nothing"), 404, "Not Found")
