"""However it is installed, it adds only the name `todo` to site-packages."""

import os
import re
import subprocess
import sys

import pytest
from server import ROOT
from starting import MIGRATIONS, applied_migrations, file_names

pytestmark = pytest.mark.slow

# where the packages are that the project requires
REQUIRED = [path for path in sys.path if path.endswith("site-packages")]


@pytest.fixture(scope="module", autouse=True)
def build_tools(tmp_path_factory):
    """Skip these tests where no virtual environment can be made, or pip cannot fetch hatchling."""
    folder = tmp_path_factory.mktemp("tools")
    for command in [
        [sys.executable, "-m", "venv", folder / "venv"],
        # Hatchling needs the other one for an editable installation.
        [folder / "venv" / "bin" / "pip", "download", "-q", "-d", folder, "hatchling", "editables"],
    ]:
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if run.returncode != 0:
            pytest.skip(f"nothing can be installed here: {run.stdout}{run.stderr}")


def install(venv, *arguments):
    """Install the project without what it requires, and return the folder `site-packages`."""
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    command = [venv / "bin" / "pip", "install", "-q", "--no-deps", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    [packages] = venv.glob("lib/python*/site-packages")
    return packages


def test_a_wheel_installs_one_folder_and_serves_from_anywhere(tmp_path):
    packages = install(tmp_path / "venv", str(ROOT))
    others = re.compile("pip|setuptools|pkg_resources|_distutils_hack|distutils-|__pycache__")
    installed = [name for name in file_names(packages) if not others.match(name)]
    assert installed == ["todo", "todo-1.0.0.dist-info"]
    assert file_names(packages / "todo") == ["__init__.py", "__pycache__", "migrations", "sql"]
    script = """if True:
        import asyncio, todo
        async def main():
            async with todo.app.router.lifespan_context(todo.app):
                print(todo.__file__)
        asyncio.run(main())
    """
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(packages), *REQUIRED]),
            "TODO_DB": "here.db",
        },
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (0, f"{packages}/todo/__init__.py\n"), run.stderr
    assert applied_migrations(tmp_path / "here.db") == MIGRATIONS


def test_an_editable_install_copies_nothing(tmp_path):
    packages = install(tmp_path / "venv", "-e", str(ROOT))
    assert {"todo", "todo.py", "sql", "migrations"} & set(file_names(packages)) == set()
    script = "import todo; print(todo.__file__)"
    command = [tmp_path / "venv" / "bin" / "python", "-c", script]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(REQUIRED)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"{ROOT / 'todo.py'}\n"), run.stderr
