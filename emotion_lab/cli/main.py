"""The console command ``emotion-lab <command> ...``."""

from __future__ import annotations

import re
import runpy
import sys

from emotion_lab import __version__
from emotion_lab.cli.app import fail
from emotion_lab.cli.completion import SHELLS, script
from emotion_lab.cli.help import commands, summary
from emotion_lab.config.compose import CONF
from emotion_lab.core.errors import UserError, unknown


def _help() -> str:
    lines = []
    for name in commands():  # the first part of a summary is enough in a list
        first = re.split("[:;.] ", summary(CONF / f"{name}.yaml"))[0]
        lines.append(f"  {name:<12}{first.rstrip('.')}.")
    return "\n".join(
        (
            "Facial-emotion recognition: train, measure and use models.",
            "",
            "  emotion-lab <command> [<key>=<value> ...]",
            "  emotion-lab <command> --help",
            "",
            "Commands:",
            "",
            *lines,
            f"  {'completion':<12}Print the completion script of a shell: {', '.join(SHELLS)}.",
            "",
            "Each command is also python -m emotion_lab.<command>. --version prints the version.",
        )
    )


def main() -> None:
    """Run ``sys.argv[1]`` as ``python -m emotion_lab.<command>`` does."""
    command, *arguments = sys.argv[1:] or ["--help"]
    try:
        if command in ("-h", "--help", "help"):
            print(_help())
        elif command in ("-V", "--version"):
            print(f"emotion_lab {__version__}")
        elif command == "completion":
            print(script(*arguments[:1] or [""]))
        elif command in commands():
            sys.argv[1:] = arguments
            # As __main__, so that the processes of several devices start the same command.
            runpy.run_module(f"emotion_lab.{command}", run_name="__main__", alter_sys=True)
        else:
            raise unknown("command", command, [*commands(), "completion"])
    except UserError as error:
        fail(error)
