"""`ringtable demo`: what `demo.py` shows."""

from argparse import ArgumentParser, Namespace


def arguments(parser: ArgumentParser) -> None:
    """It has no options of its own."""


def run(options: Namespace) -> None:
    from ringtable._cli.demo import demo

    demo()
