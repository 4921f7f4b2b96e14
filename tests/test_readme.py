"""The README's commands print what it says they print."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def examples(heading):
    """Return the commands under a heading, each with what it prints."""
    section = README.partition(f"# {heading}\n")[2].partition("\n#")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ") or not line]
    block = "\n".join(lines)
    found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", block, re.MULTILINE)
    return [(command, printed.strip()) for command, printed in found]


def run(command, server):
    """Return what a command prints for this server, without the date."""
    command = command.replace("curl ", "curl -s ").replace("localhost:8000", server.url)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    return re.sub(r"^date: .*$", "date", done.stdout, flags=re.MULTILINE).strip()


def can_send_json():
    version = re.match(r"curl (\d+)\.(\d+)", subprocess.getoutput("curl --version"))
    return version is not None and (int(version[1]), int(version[2])) >= (7, 82)


@pytest.mark.skipif(not can_send_json(), reason="curl is missing, or older than 7.82")
def test_every_curl_line_prints_what_the_readme_says(serve):
    server = serve()
    commands = 0
    for heading in ("Run it", "Paging", "Concurrent edits", "Safe retries", "A token"):
        if heading == "A token":
            server.stop()
            server = serve(TODO_TOKEN="s3cret")
        for command, printed in examples(heading):
            expected = re.sub(r"^date: .*$", "date", printed, flags=re.MULTILINE)
            assert run(command, server) == expected, command
            commands += 1
    assert commands == README.count("\n    $ ")


def test_the_promises_name_tests_that_exist():
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    section = README.partition("# What it promises\n")[2].partition("\n#")[0]
    names = re.findall(r"`(test_\w+)`", section)
    assert len(names) >= 8
    assert [name for name in names if f"def {name}(" not in tests] == []
