"""The settings: TODO_DB, TODO_TOKEN and TODO_CORS_ORIGINS."""

import pytest
from assertions import assert_error, assert_json, assert_page
from server import ServerExited
from starting import file_names

import todo


@pytest.fixture
def folder(tmp_path):
    """A folder with nothing in it, where the file would be created."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


# TODO_DB


@pytest.mark.parametrize(
    "path",
    [
        ":memory:",
        ":MEMORY:",
        "file:todo.db",
        "FILE:todo.db",
        "file::memory:?cache=shared",
        "sqlite:todo.db",
        "sqlite:///todo.db",
        "SQLite:///todo.db",
        "sqlite+aiosqlite:///todo.db",
    ],
)
def test_what_looks_like_a_path_but_means_something_else_is_refused(
    make_client, folder, monkeypatch, path
):
    monkeypatch.chdir(folder)
    with pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_DB=path)
    expected = f"TODO_DB: {path!r} is not a path: use the path of a file"
    assert str(refused.value) == expected
    assert file_names(folder) == []


@pytest.mark.parametrize("path", ["todo.db\n", "\ntodo.db", "to\tdo.db", "todo\x7f.db", "a\x00.db"])
def test_a_path_with_a_control_character_is_refused(make_client, folder, monkeypatch, path):
    monkeypatch.chdir(folder)
    with pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_DB=path)
    assert str(refused.value) == f"TODO_DB: {path!r} has a control character in it"
    assert file_names(folder) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", "todo.db"),
        ("other.db", "other.db"),
        ("files.db", "files.db"),
        ("sqlite.db", "sqlite.db"),
        ("my:memory:", "my:memory:"),
        ("./:memory:", ":memory:"),
        ("./file:todo.db", "file:todo.db"),
        ("./sqlite:todo.db", "sqlite:todo.db"),
    ],
)
def test_any_other_path_is_that_of_the_file(make_client, folder, monkeypatch, path, name):
    monkeypatch.chdir(folder)
    make_client(TODO_DB=path).stop()
    assert file_names(folder) == [name, f"{name}-lock"]


# TODO_TOKEN


@pytest.mark.parametrize(
    "token", ["", " ", "\n", "\t", "a\nb", "a\tb", "a\x00b", "a\x7fb", "\x1csecret"]
)
def test_a_token_that_no_client_could_send_is_refused(make_client, token):
    with pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_TOKEN=token)
    assert str(refused.value) == "TODO_TOKEN is empty or has a control character in it"


@pytest.mark.parametrize(
    "token",
    [
        "secret",
        "secret\n",  # as in a file that ends with a line break
        "secret\r\n",
        " secret ",
        "\tsecret",
    ],
)
def test_white_space_around_a_token_is_no_part_of_it(make_client, token):
    client = make_client(TODO_TOKEN=token)
    assert_error(client.get("/tasks"), 401, "Not authenticated")
    assert_page(client.get("/tasks", headers={"Authorization": "Bearer secret"}), [])


# TODO_CORS_ORIGINS


@pytest.mark.parametrize(
    "origin",
    [
        "a.example",
        "null",
        "https://a.example https://c.example",
        "localhost:3000",
        "//a.example",
        "://a.example",
        "https://",
        "https:a.example",
        "https://A.example",
        "HTTPS://a.example",
        "https://bücher.example",
        "https://a..example",
        "https://*.example",
        "https://user@a.example",
        "https://a.example/",
        "https://a.example/tasks",
        "https://a.example?",
        "https://a.example#",
        "https://a.example:443",
        "http://a.example:80",
        "https://a.example:",
        "https://a.example:x",
        "https://a.example:0",
        "https://a.example:08080",
        "https://a.example:65536",
        "https://a.example:123456",
        "https://[::1",
        "https://[::g]",
        "https://a.example\x00",
        "**",
    ],
)
def test_what_no_browser_sends_as_an_origin_is_refused(make_client, origin):
    with pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_CORS_ORIGINS=f"https://b.example,{origin}")
    assert str(refused.value) == (
        f"TODO_CORS_ORIGINS: {origin!r} is not an origin as browsers send it, "
        "such as https://example.com or http://localhost:3000"
    )


@pytest.mark.parametrize(
    "origin",
    [
        "https://a.example",
        "https://sub-domain.a.example",
        "https://xn--bcher-kva.example",
        "http://localhost",
        "http://a:6555",
        "http://127.0.0.1",
        "http://[::1]:3000",
        "http://a.example:443",
        "https://a.example:80",
        "https://a.example:1",
        "https://a.example:65535",
        "moz-extension://1-2",
    ],
)
def test_what_browsers_send_as_an_origin_is_accepted(make_client, origin):
    client = make_client(TODO_CORS_ORIGINS=origin)
    response = client.get("/info", headers={"Origin": origin})
    assert_json(
        response,
        "starlette",
        access_control_allow_origin=origin,
        access_control_expose_headers="ETag, Link, Location, Retry-After",
        vary="Origin",
    )


@pytest.mark.parametrize("origin", ["https://a.example", "http://localhost:3000"])
@pytest.mark.parametrize("separator", [",", ", ", " , ", ",,"])
def test_origins_are_separated_by_commas(make_client, separator, origin):
    origins = f"https://a.example{separator}http://localhost:3000{separator}"
    client = make_client(TODO_CORS_ORIGINS=origins)
    assert_json(
        client.get("/info", headers={"Origin": origin}),
        "starlette",
        access_control_allow_origin=origin,
        access_control_expose_headers="ETag, Link, Location, Retry-After",
        vary="Origin",
    )


@pytest.mark.parametrize("settings", [{}, {"TODO_CORS_ORIGINS": ""}, {"TODO_CORS_ORIGINS": " , "}])
def test_without_origins_there_is_no_cors(make_client, settings):
    client = make_client(**settings)
    assert_json(client.get("/info", headers={"Origin": "https://a.example"}), "starlette")


# The process


@pytest.mark.slow
def test_an_invalid_setting_is_one_line_of_the_log_and_exit_code_3(make_server):
    with pytest.raises(ServerExited) as exited:
        make_server(TODO_TOKEN="")
    assert exited.value.code == 3
    assert exited.value.server.lines[2:] == [
        "ERROR:    TODO_TOKEN is empty or has a control character in it\n",
        "ERROR:    Application startup failed. Exiting.\n",
    ]
