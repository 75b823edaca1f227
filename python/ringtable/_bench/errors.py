"""The errors of a benchmark."""

from ringtable._errors import Error


class BenchError(Error):
    """What was to be measured is missing, or did not do what was asked of it."""


class ClientError(BenchError):
    """A client process failed, died or hung."""
