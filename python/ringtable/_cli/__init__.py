"""The command line: this file names the commands, each of which lives in a file of its own or with its kin.

server.py   server, serve
client.py   client (the classic client, and the printing of the table)
quick.py    get, set, del
stats.py    stats
demo.py     demo
bench.py    bench
profile.py  profile
"""

import os
import sys

from cyclopts import App, Parameter

from ringtable._cli.client import client
from ringtable._cli.quick import delete, get, set_
from ringtable._cli.server import server
from ringtable._cli.stats import stats
from ringtable._errors import Error
from ringtable._ringtable import __version__

app = App(
    name="ringtable",
    help="A hash table that every process of this machine shares.",
    help_format="markdown",
    version=__version__,
    # A flag is absent or present: no `--no-json` beside each `--json`.
    default_parameter=Parameter(negative=()),
)
app.command(server, name=["server", "serve"])
app.command(client)
app.command(get)
app.command(set_, name="set")
app.command(delete, name="del")
app.command(stats)
# Imported only when they run: what they need would double the start-up time of all the others.
app.command(
    "ringtable._cli.demo:demo", help="Count the words of Python's standard library with eight processes; measure."
)
app.command("ringtable._cli.bench:bench", help="Measure the classic topology and its successors on this machine.")
app.command(
    "ringtable._cli.profile:profile", help="Show where the CPU time of a server and a client goes, with flame graphs."
)


def main() -> None:
    """Run the command that the arguments name. An `Error` becomes one line on standard error and exit status 1."""
    try:
        app()
    except Error as error:
        print(f"ringtable: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        # Commands have their own way to end; this one came while their modules were imported.
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has had enough. Python would complain again when it flushes at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
