"""How a command line is read: by argparse, in the ways that its users count on.

- Options stand before, between and behind the words that are none: `ringtable del a --name words b`.
- Behind `--` no word is an option, whatever it looks like, not even a second `--`. What argparse does with `--` itself
  depends on the version of Python, so it never sees one. Words behind it that begin with a hyphen are *marked* by a
  NUL, which no argument of a process has in it, and lose the mark where they are read (`unmarked`).
- An option has its whole name, and is given once, unless it gathers what it is given.
- What is wrong is an exception with one line that names the option, the value and what is allowed; no usage is printed.

argparse makes a formatter of help for each argument that is declared. Ours does not ask for the width of the terminal
then: that imports as much again as argparse does.
"""

import argparse
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ringtable._ringtable import __version__

_MARK = "\0"
_NEGATIVE_NUMBER = re.compile(r"-[0-9]+|-[0-9]*\.[0-9]+")
_ASKS = ("-h", "--help", "--version")
_USAGE = {None: "{0}", "?": "[{0}]", "+": "{0} [{0}...]"}


class NotUnderstood(Exception):
    """The command line is wrong, for the reason that this is told in."""


class Parser(argparse.ArgumentParser):
    """Reads the command line of one command, or explains it."""

    def __init__(self, name: str, purpose: str, *, words: str = "Arguments") -> None:
        """Make one that knows the options which all commands have.

        Args:
            name: The command, as it is typed.
            purpose: What it does, in a sentence.
            words: What help calls the words that are no options.
        """
        super().__init__(
            name,
            usage="%(prog)s [OPTIONS]",
            description=purpose,
            formatter_class=_Formatter,
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
        )
        self.register("type", None, unmarked)
        self._words = self.add_argument_group(words)
        self._takes_words = False
        self._options = self.add_argument_group("Options")
        self._named: dict[str, argparse.Action] = {}
        self._gathering: set[argparse.Action] = set()
        self.add_argument("-h", "--help", action="help", help="Print this help, and do nothing else.")
        self.add_argument("--version", action="version", version=__version__, help="Print the version of ringtable.")

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Declare an option or a word, as with any parser; help has each in its group, and words in its usage."""
        if not names[0].startswith("-"):
            word = self._words.add_argument(*names, **settings)
            self.usage = f"{self.usage} {_USAGE[settings.get('nargs')].format(word.metavar)}"
            self._takes_words = True
            return word
        option = self._options.add_argument(*names, **settings)
        self._named.update(dict.fromkeys(names, option))
        if settings.get("action") == "append":
            self._gathering.add(option)
        return option

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The options and words of a command line.

        Raises:
            NotUnderstood: It is wrong.
            SystemExit: It asked for help, or for the version.
        """
        end = words.index("--") if "--" in words else len(words)
        first, behind = words[:end], words[end + 1 :]
        if not any(word in _ASKS for word in first):
            self._check_options(first)
        try:
            options, rest = self.parse_known_intermixed_args(
                [*first, *(_MARK + word if word.startswith("-") else word for word in behind)]
            )
        except argparse.ArgumentError as error:
            # An option by its last name, which is the long one.
            about = "" if error.argument_name is None else f"{error.argument_name.rpartition('/')[2]}: "
            raise NotUnderstood(f"{about}{error.message}") from None
        if rest:
            raise NotUnderstood(f"nothing is known to do with {', '.join(repr(unmarked(word)) for word in rest)}")
        return options

    def _check_options(self, words: Iterable[str]) -> None:
        """Look for options that there are not, which argparse would tell of last, and for those given twice."""
        given: set[argparse.Action] = set()
        for word in words:
            if word[:1] != "-" or word == "-" or _NEGATIVE_NUMBER.fullmatch(word):
                continue
            name = word.partition("=")[0]
            # `-n2` is `-n 2`.
            option = self._named.get(name) or (None if word.startswith("--") else self._named.get(word[:2]))
            if option is None:
                raise NotUnderstood(self._unknown(name))
            if option in given and option not in self._gathering:
                raise NotUnderstood(f"{name} is given several times, and may be given once")
            if option.nargs == 0 and word.startswith(f"{name}="):
                raise NotUnderstood(f"{name} takes no value, and is given {word.removeprefix(f'{name}=')!r}")
            given.add(option)

    def _unknown(self, name: str) -> str:
        meant = "".join(f" Did you mean {near}?" for near in nearest(name, self._named))
        hint = " What begins with a hyphen and is no option goes behind a --." if self._takes_words else ""
        return f"Unknown option: {name}.{meant}{hint}"

    def error(self, message: str) -> NoReturn:
        raise NotUnderstood(message)

    def print_help(self, file: Any = None) -> None:
        # argparse's own says nothing if this fails.
        print(self.format_help(), end="", file=file)

    def format_help(self) -> str:
        from shutil import get_terminal_size

        self.formatter_class = functools.partial(_Formatter, width=get_terminal_size().columns - 2)
        return super().format_help()


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str, width: int = 78) -> None:
        super().__init__(prog, max_help_position=28, width=width)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = "Usage: ",
    ) -> None:
        super().add_usage(usage, actions, groups, prefix)

    # argparse's own break the names of options at their hyphens.

    def _split_lines(self, text: str, width: int) -> list[str]:
        from textwrap import wrap

        return wrap(text, width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in self._split_lines(text, width - len(indent)))


def unmarked(word: str) -> str:
    """A word as it was typed."""
    return word.removeprefix(_MARK)


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """That of some names which is meant, if one is much like it."""
    from difflib import get_close_matches

    return get_close_matches(name, names, 1)


def whole_number(word: str) -> int:
    """A whole number, in decimal digits or, behind 0x, in hexadecimal ones."""
    digits = unmarked(word)
    try:
        return int(digits, 16 if digits[:2] in ("0x", "0X") else 10)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{digits!r} is no whole number") from None


def number(word: str) -> float:
    """A number, which may have a fraction."""
    digits = unmarked(word)
    try:
        return float(digits)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{digits!r} is no number") from None
