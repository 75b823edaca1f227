"""`ringtable check`: whether what is on the disk is whole."""

from argparse import ArgumentParser, Namespace

from ringtable._cli.output import escaped, remark
from ringtable._cli.progress import shown_progress
from ringtable._cli.signals import interrupt_on_termination


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "Nothing is changed. Of a folder, the files are looked at that a server would begin with, and its older"
        " snapshots; a line for each. A log may end in bytes that were never durable, as after the death of the"
        " machine: they are no damage, and a server cuts them off. No server may write there meanwhile."
    )
    parser.add_argument("path", metavar="PATH", help="The folder of a server (--data), or a file with entries (RDB).")


def run(options: Namespace) -> None:
    from ringtable._ringtable import check

    interrupt_on_termination()
    damaged = False
    with shown_progress("read", "bytes") as progress:
        found = check(options.path, progress and (lambda read, of: progress(read, of, read)))
    for path, count, is_log, torn, damage in found:
        if damage is not None:
            damaged = True
            remark(damage)
            continue
        words = f"{count} {'changes' if is_log else 'entries'}"
        tail = f", and {torn} bytes at the end that were never durable" if torn else ""
        print(f"{escaped(path)}: whole: {words}{tail}")
    if damaged:
        raise SystemExit(1)
