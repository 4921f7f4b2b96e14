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
    """Return whether curl has the option --json."""
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
    """Run a command with this server and return what it prints."""
    command = command.replace("curl ", "curl -s ").replace("localhost:8000", server.url)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    return without_date(done.stdout)


def without_date(text):
    """Return what a command prints without the time in it, and without blanks around it."""
    return re.sub(r"^date: .*$", "date", text, flags=re.MULTILINE).strip()


EXAMPLES = [
    *examples("## Run it"),
    *examples("### Paging and sorting"),
    *examples("### Concurrent edits"),
    *examples("### Safe retries"),
]
EXAMPLES_WITH_TOKEN = examples("### Settings")


def test_every_example_is_run():
    assert README.count("\n    $ ") == len(EXAMPLES) + len(EXAMPLES_WITH_TOKEN) > 10


@needs_curl
def test_the_examples_print_what_the_readme_says(make_server):
    server = make_server()
    for command, printed in EXAMPLES:
        assert run(command, server) == without_date(printed), command


@needs_curl
def test_the_examples_with_a_token_print_what_the_readme_says(make_server):
    server = make_server(TODO_TOKEN="s3cret")
    milk = {"name": "milk", "done": True}
    server.request("POST", "/tasks", json=milk, headers={"Authorization": "Bearer s3cret"})
    for command, printed in EXAMPLES_WITH_TOKEN:
        assert run(command, server) == printed, command


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
