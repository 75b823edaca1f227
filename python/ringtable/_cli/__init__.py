"""The command line: `app.py` has the table of the commands, `commands/` a module for each, imported when it runs.

What commands share: parser.py, how a command line is read; connection.py, the options that name a server; output.py,
standard output and standard error; built.py, what a build may leave out; signals.py, how they are told to end;
children.py, processes that end with them; descriptors.py, how many a server may have.

What some need to run stands beside them: config.py, a server's options in a file; stream.py, the file of dump and load;
figures.py, a server's figures for people; demo.py, bench.py and profile.py, the work of the commands of that name.
"""

import signal


def main() -> None:
    """Run the command that the arguments name, and end the program."""
    # Ctrl-C ends the program without a word while what all commands need is imported. (What comes before is Python's
    # own start, and the import of the package; what one command needs besides is imported by `run`.)
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ringtable._cli.app import run

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
