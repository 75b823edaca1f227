"""The parts that the extension may have been built without, and the words in which a command says so."""

from ringtable import _ringtable
from ringtable._errors import Error


def require_bench(command: str) -> None:
    """Look whether the extension has what measures.

    Raises:
        Error: It was built without the feature `bench`.
    """
    if not hasattr(_ringtable, "classic_client"):
        raise Error(
            f"{command} needs what this build of ringtable leaves out: the feature `bench`, which every build has"
            " unless told otherwise"
        )


def require_line_tables(command: str) -> None:
    """Look whether the extension has what takes samples, and names for its functions.

    Raises:
        Error: It was built for users, without the feature `profile`, or without line tables.
    """
    if not hasattr(_ringtable, "Profiler") or not _ringtable.Profiler.can_name():
        raise Error(
            f"{command} needs a profiler and line tables, which this build of ringtable leaves out: in a clone of"
            " ringtable, `make install` builds it with them"
        )
