"""The command line: the only place that prints, shows progress, reads the environment and exits."""

from __future__ import annotations


def main() -> None:
    from migrate.cli.main import run  # heavy imports wait until they are used

    run()
