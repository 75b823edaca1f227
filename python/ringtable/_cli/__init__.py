"""The command line. app.py names the commands, each of which lives in a file of its own or with its kin.

server.py   server, serve (config.py: its options in a file)
client.py   client (the classic client, and the printing of the table)
quick.py    get, set, del, clear, ping
keys.py     keys
transfer.py dump, load (stream.py: the file)
watch.py    watch
stats.py    stats
servers.py  list
demo.py     demo
bench.py    bench
profile.py  profile

What they share: connection.py, the options that name a server; output.py, standard output and standard error;
built.py, what a build may leave out; signals.py, how they are told to end; children.py, processes that end with them.
"""

import signal


def main() -> None:
    """Run the command that the arguments name, and end the program."""
    # Ctrl-C ends the program without a word while what it needs is imported. (What comes before is Python's own start,
    # and the import of the package.)
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ringtable._cli.app import run

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
