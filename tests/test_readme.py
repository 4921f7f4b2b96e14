"""The README's commands print what it says they print, and its names and links exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from server import ROOT
from starting import MIGRATIONS, applied_migrations

README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / ".github" / "CONTRIBUTING.md").read_text()


def can_send_json():
    version = re.match(r"curl (\d+)\.(\d+)", subprocess.getoutput("curl --version"))
    return version is not None and (int(version[1]), int(version[2])) >= (7, 82)


needs_curl = pytest.mark.skipif(not can_send_json(), reason="curl is missing, or older than 7.82")


def examples(heading):
    """Return the commands in a section, each with what it prints."""
    section = README.partition(f"\n{heading}\n")[2].partition("\n#")[0]
    found = []
    is_output = False
    for line in section.splitlines():
        if line.startswith("    $ "):
            found.append([line.removeprefix("    $ "), ""])
            is_output = True
        elif line and not line.startswith("    "):
            is_output = False
        elif is_output:
            found[-1][1] += line.removeprefix("    ") + "\n"
    return [(command, printed.strip()) for command, printed in found]


def run(command, server):
    """Return what a command prints for this server."""
    command = command.replace("curl ", "curl -s ").replace("localhost:8000", server.url)
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)


def without_date(text):
    return re.sub(r"^date: .*$", "date", text, flags=re.MULTILINE).strip()


@needs_curl
def test_the_examples_print_what_the_readme_says(make_server):
    server = make_server()
    count = 0
    for heading in (
        "## Run it",
        "### Paging and sorting",
        "### Concurrent edits",
        "### Safe retries",
    ):
        for command, printed in examples(heading):
            assert without_date(run(command, server).stdout) == without_date(printed), command
            count += 1
    assert count == 14


@needs_curl
def test_the_examples_with_a_token_print_what_the_readme_says(make_server):
    server = make_server(TODO_TOKEN="s3cret")
    milk = {"name": "milk", "done": True}
    server.request("POST", "/tasks", json=milk, headers={"Authorization": "Bearer s3cret"})
    found = examples("### Settings")
    assert len(found) == 2
    for command, printed in found:
        assert run(command, server).stdout == printed, command


def test_every_example_is_run():
    """The two tests above know how many there are."""
    assert README.count("\n    $ ") == 14 + 2


@pytest.mark.parametrize("text", [README, GUIDE], ids=["README", "guide"])
def test_the_files_that_it_names_exist(text):
    named = set(re.findall(r"`(?:tests/)?(test_\w+\.py)`", text))
    assert len(named) > 3
    assert [name for name in named if not (ROOT / "tests" / name).exists()] == []


@pytest.mark.parametrize("path", ["README.md", ".github/CONTRIBUTING.md"], ids=["README", "guide"])
def test_the_links_lead_somewhere(path):
    text = (ROOT / path).read_text()
    links = re.findall(r"\]\(([^)#:]+)[^):]*\)", text)
    assert links
    folder = (ROOT / path).parent
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_migrations_can_be_run_by_hand_as_the_readme_says(tmp_path):
    [line] = re.findall(r"^    \.venv/bin/yoyo (.*)$", README, re.MULTILINE)
    arguments = line.replace("sqlite:///todo.db", f"sqlite:///{tmp_path}/todo.db").split()
    program = Path(sys.executable).with_name("yoyo")
    subprocess.run([program, *arguments], cwd=ROOT, check=True, timeout=60)
    assert applied_migrations(tmp_path / "todo.db") == MIGRATIONS
