"""The limit of descriptors of a command that is a server."""

import resource


def raise_limit() -> None:
    """Raise this program's soft limit of open descriptors to the hard one: a server needs three for each client.

    Only programs of our own do that. A program that has a server in it may count on its limit: `select` takes no
    descriptors from 1,024 on, and some programs go over all that there may be.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
