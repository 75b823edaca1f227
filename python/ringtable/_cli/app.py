"""The commands by their names, and how a program ends that runs one.

Each command is a module of its own (`_Module` says what it has), which is imported when its name was typed: no start
pays for what other commands need. So what `ringtable --help` says of all of them stands here.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from ringtable._cli.output import as_typed, complain, complete_streams, silence
from ringtable._cli.parser import NotUnderstood, Parser, nearest
from ringtable._errors import Error, InvalidOption
from ringtable._ringtable import __version__


class Command(NamedTuple):
    """A command, before its module is imported."""

    name: str
    module: str
    """Its module in `commands/`."""
    purpose: str
    """What it does, in a sentence."""
    aliases: tuple[str, ...] = ()
    """Other names that it goes by."""


class _Module(Protocol):
    """The module of a command."""

    def arguments(self, parser: ArgumentParser) -> None:
        """Declare its options and words, and what help says of the command at its end (`parser.epilog`)."""

    def run(self, options: Namespace) -> None:
        """Do what was asked for."""


COMMANDS = (
    Command(
        "server",
        "server",
        "Run a server until SIGINT (Ctrl-C), SIGTERM or SIGHUP: a line when it is ready, then nothing.",
        aliases=("serve",),
    ),
    Command(
        "upgrade",
        "upgrade",
        "Have the version that is installed now take over from a server with a keeper, while it serves.",
    ),
    Command("list", "list", "List the servers in this user's folder of names: name, process, memory in use, clients."),
    Command(
        "stats",
        "stats",
        "Print the server's figures: grouped in a terminal, else one on a line with its bare number.",
    ),
    Command(
        "ping",
        "ping",
        "Print PONG if the server answers; exit status 1 if it does not. A full server answers, too.",
    ),
    Command("get", "get", "Print the value of a key, as it is, and a newline; exit status 1 where there is none."),
    Command("set", "set", "Write a value; exit status 1 where --nx or --xx forbids it."),
    Command("del", "delete", "Delete keys, and print how many there were."),
    Command(
        "keys",
        "keys",
        "Print keys, one on a line and in no order: all, those with a prefix, or those that fit a pattern.",
    ),
    Command("clear", "clear", "Delete all keys."),
    Command(
        "snapshot",
        "snapshot",
        "Write all entries to a file that `ringtable load`, `redis-server` and `valkey-server` load (RDB).",
    ),
    Command(
        "dump",
        "dump",
        "Write keys, values and times to live to a file that `ringtable load` and `redis-cli --pipe` read.",
    ),
    Command(
        "load",
        "load",
        "Write the entries of a file into the table, over those that it has, and leave its other keys alone.",
    ),
    Command(
        "check",
        "check",
        "Look whether the files of a server's folder are whole, or a snapshot; exit status 1 where one is damaged.",
    ),
    Command("watch", "watch", "Print what happens to keys, one event on a line, until Ctrl-C."),
    Command(
        "client",
        "client",
        "Insert keys, read and check their buckets, delete them; measure how long that takes.",
    ),
    Command(
        "demo",
        "demo",
        "Show what it does, in half a minute: eight processes share a cache, a rate limiter and arrays, and count"
        " words, checked word by word. A Manager's dict does the same beside them.",
    ),
    Command("bench", "bench", "Measure the classic topology and its successors, side by side, on this machine."),
    Command("profile", "profile", "Show where the CPU time of a server and of one of its clients goes."),
)
_NAMED = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}


def run() -> None:
    """Run the command that the arguments name, and end the program.

    What is wrong becomes one line on standard error, and the exit status: 2 if it is the command line, 1 if the server
    or the system refuses something.
    """
    complete_streams()
    status = status_of(lambda: _execute(sys.argv[1:]))
    try:
        sys.stdout.flush()
    except OSError as error:
        status = _tell(error)
    sys.exit(status)


def status_of(work: Callable[[], None]) -> int:
    """Do the work of a command, say what goes wrong, and return the exit status."""
    try:
        work()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except NotUnderstood as error:
        complain(str(error))
        return 2
    except InvalidOption as error:
        complain(as_typed(str(error)))
        return 2
    except Error as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        # Commands have their own way to end; this one came while their modules were imported.
        return 130
    except OSError as error:
        return _tell(error)
    return 0


def _execute(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        _overview().print_help()
        return
    name, *others = words
    if name == "--version":
        print(__version__)
        return
    if name not in _NAMED:
        meant = "".join(f' Did you mean "{near}"?' for near in nearest(name, _NAMED))
        raise NotUnderstood(f'Unknown command "{name}".{meant} Available commands: {", ".join(_NAMED)}')
    command = _NAMED[name]
    module = cast("_Module", import_module(f"ringtable._cli.commands.{command.module}"))
    parser = Parser(f"ringtable {name}", command.purpose)
    module.arguments(parser)
    module.run(parser.read(others))


def _overview() -> Parser:
    """Explains the command line as a whole; what commands it has is read elsewhere."""
    parser = Parser("ringtable", "A hash table that every process of this machine shares.", words="Commands")
    for name, _, purpose, aliases in COMMANDS:
        parser.add_argument(name, metavar=" ".join([name, *(f"({alias})" for alias in aliases)]), help=purpose)
    parser.usage = "%(prog)s COMMAND"
    parser.epilog = "`ringtable COMMAND --help` explains each."
    return parser


def _tell(error: OSError) -> int:
    """Say what the system refuses: to write the output, where it names no file. The exit status."""
    if error.filename is not None:
        complain(f"{error.filename}: {error.strerror}")
        return 1
    # A reader of the output that has had enough is no news to anybody.
    if not isinstance(error, BrokenPipeError):
        complain(f"writing the output: {error.strerror}" if error.strerror else str(error))
    silence(sys.stdout)
    return 1
