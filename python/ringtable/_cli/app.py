"""The commands by their names, and how a program ends that runs one."""

import itertools
import re
import sys

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from ringtable._cli.client import client
from ringtable._cli.keys import keys
from ringtable._cli.output import as_typed, complain, complete_streams, silence
from ringtable._cli.quick import clear, delete, get, ping, set_
from ringtable._cli.server import server
from ringtable._cli.servers import list_
from ringtable._cli.stats import stats
from ringtable._cli.transfer import dump, load
from ringtable._cli.watch import watch
from ringtable._errors import Error, InvalidOption
from ringtable._ringtable import __version__

# Options by the names that they had once: not in the help, but understood.
RENAMED = {"--laggard-timeout": "--slow-consumer-timeout"}

app = App(
    name="ringtable",
    help="A hash table that every process of this machine shares.",
    help_format="markdown",
    version=__version__,
    # A flag is absent or present: no `--no-json` beside each `--json`.
    default_parameter=Parameter(negative=()),
)
app.command(server, name=["server", "serve"])
app.command(list_, name="list")
app.command(stats)
app.command(ping)
app.command(get)
app.command(set_, name="set")
app.command(delete, name="del", usage="Usage: ringtable del [OPTIONS] KEY [KEY...]")
# What may be left out has no name in the usage line, unless it is given one.
app.command(keys, usage="Usage: ringtable keys [OPTIONS] [WHICH]")
app.command(clear)
app.command(dump, usage="Usage: ringtable dump [OPTIONS] [FILE]")
app.command(load, usage="Usage: ringtable load [OPTIONS] [FILE]")
app.command(watch, usage="Usage: ringtable watch [OPTIONS] [PREFIX]")
app.command(client, usage="Usage: ringtable client [OPTIONS] [OUTER INNER]")
# Imported only when they run: what they need would double the start-up time of all the others. So what `--help` says of
# them, here and there, stands here.
app.command(
    "ringtable._cli.demo:demo",
    help="Show what it does, in half a minute: eight processes share a cache, a rate limiter and arrays, and count"
    " words, checked word by word. A Manager's dict does the same beside them.",
)
app.command(
    "ringtable._cli.bench:bench",
    help="Measure the classic topology and its successors, side by side, on this machine."
    "\n\n"
    "Three parts: the seven scenarios of the published analysis; tight loops of 1 to 16 clients; large values beside"
    " memcpy. Everything runs in processes of its own and ends with the command.",
)
app.command(
    "ringtable._cli.profile:profile",
    help="Show where the CPU time of a server and of one of its clients goes."
    "\n\n"
    "Runs both, prints the shares, and writes flame graphs (server.svg, client.svg) and what they are drawn from"
    " (server.folded, client.folded). It needs no privileges: the two processes sample themselves.",
)


def run() -> None:
    """Run the command that the arguments name, and end the program.

    What is wrong becomes one line on standard error, and the exit status: 2 if it is the command line, 1 if the server
    or the system refuses something.
    """
    complete_streams()
    status = _run()
    try:
        sys.stdout.flush()
    except OSError as error:
        status = _tell(error)
    sys.exit(status)


def today(arguments: list[str]) -> list[str]:
    """The command line with the names that options have today: those that they had once are still understood."""
    options = itertools.takewhile(lambda argument: argument != "--", arguments)
    renamed = [re.sub(rf"^({'|'.join(RENAMED)})(?==|$)", lambda old: RENAMED[old[1]], option) for option in options]
    return renamed + arguments[len(renamed) :]


def _run() -> int:
    """The command's exit status."""
    try:
        app(today(sys.argv[1:]), exit_on_error=False, print_error=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except UnusedCliTokensError as error:
        complain(f"nothing is known to do with {', '.join(map(repr, error.unused_tokens or ()))}")
        return 2
    except (CycloptsError, InvalidOption) as error:
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


def _tell(error: OSError) -> int:
    """Say what the system refuses: to write the output, where it names no file. The exit status."""
    if error.filename is not None:
        complain(f"{error.filename}: {error.strerror}")
        return 1
    # A reader of the output that has had enough is no news to anybody.
    if not isinstance(error, BrokenPipeError):
        complain(f"writing the output: {error.strerror}")
    silence(sys.stdout)
    return 1
