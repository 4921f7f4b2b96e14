"""Lays the wheel out as one package, so that it installs no folder `sql` or `migrations`."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WheelHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files of a wheel and their places; an editable one has none of its own."""
        if version != "editable":
            build_data["force_include"] = {
                "todo.py": "todo/__init__.py",
                "sql": "todo/sql",
                "migrations": "todo/migrations",
            }
