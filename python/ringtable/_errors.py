"""Every exception that ringtable raises on its own account.

    Error
    ├── TableNotFound    (ConnectionError)  no server of that name answers
    ├── AccessDenied     (PermissionError)  the system lets this user not connect, or not listen where a server should
    ├── Untrusted        (PermissionError)  the server is another user's, or others could put one there
    ├── ServerGone       (ConnectionError)  the server died or stopped while this client was connected
    │   └── Expelled                        the server sent this client away, because it kept others waiting
    ├── ServerExists     (OSError)          a server of that name runs already
    ├── PathTaken        (FileExistsError)  something that is no server's lies where a server would listen
    ├── ServerFailed     (RuntimeError)     the server of this process has ended through a fault of its own, or the
    │                                       one that was started for it
    ├── OutOfResources   (OSError)          the system gives no more descriptors, threads or memory
    ├── TooManyClients   (ConnectionError)  the server has no room for another client
    ├── VersionMismatch                     client and server were built from different layouts
    ├── ProtocolError                       the other side broke the protocol; the connection is closed
    ├── Timeout          (TimeoutError)     no answer in time, and the request may still be executed; or no event; or
    │                                       nobody has computed the value
    ├── Closed           (ValueError)       the table was closed by this process
    ├── Reentrant        (RuntimeError)     the thread would wait for itself: a signal handler called the table in the
    │                                       middle of a call, or the thread asked for the value that it computes
    ├── KeyTooLong       (ValueError)       the key is longer than a key may be
    ├── ValueTooLarge    (ValueError)       the value is larger than a value may be
    ├── BufferTooSmall   (ValueError)       the value has more bytes than the buffer that it was to be copied into
    ├── TooManyViews     (BufferError)      the table has as many views as it may have
    ├── OutOfMemory      (MemoryError)      the write does not fit into the table's memory; nothing was changed
    │   ├── BucketFull                      the bucket that the key falls in has as many entries as it may have
    │   └── UnevictableFull                 entries that are never evicted have as many bytes as they may have
    ├── ClientOutOfMemory (MemoryError)     this process has no memory for a value; the table has
    ├── NotOwned         (RuntimeError)     a lock was to be released by somebody who has not acquired it
    │   └── LockLost                        it was acquired, and lost since; or a party does not know whether it passed
    ├── Conflict                            others changed the key in each of the tries to update it
    ├── DecodeError      (ValueError)       the value is not what the table's codec writes, or is damaged
    ├── FileError        (OSError)          a snapshot cannot be written or read
    │   └── DamagedFile                     it is damaged, or is none, or has what a table cannot have
    ├── NotAnInteger     (ValueError)       the value to increment is no 64-bit integer, or the sum would be none
    ├── NotAFloat        (ValueError)       the value to add a float to is no number, or the sum would be infinite
    ├── CommandError                        the command was refused for another reason
    └── InvalidOption    (ValueError)       an option is out of its range

Each has one argument, its message, which names the value, the limit and what to do. The second bases let code that
knows nothing of ringtable handle them as what they are. A missing key is a plain `KeyError`, as in any mapping.
"""


class Error(Exception):
    """The base of all of ringtable's exceptions."""


class TableNotFound(Error, ConnectionError):
    """No server of that name answers: none was started, or it has stopped."""


class AccessDenied(Error, PermissionError):
    """A folder or a socket does not let this user in: to connect, or to start a server there. The message says which.

    A server's socket is its own user's alone, unless it was started with another `mode`.
    """


class Untrusted(Error, PermissionError):
    """The server at a unix socket is that of a user who is neither this process's own, nor root, nor in `trust_user`.

    Or the folder of names belongs to such a user, or others may write to it, so that they could put a server of theirs
    there. Nothing was sent, and nothing read. A server that is to be in such a folder does not start.
    """


class ServerGone(Error, ConnectionError):
    """The server died or stopped. Whether a request that was on its way was executed is not known."""


class Expelled(ServerGone):
    """The server sent this client away, since it kept all others from getting replies.

    That for longer than `slow_consumer_timeout`.

    That can happen only in the classic topologies, whose clients share one ring for all replies: to a process that was
    stopped, or that left replies unread after a call that timed out. The table needs a new connection.
    """


class ServerExists(Error, OSError):
    """A server of that name runs already."""


class PathTaken(Error, FileExistsError):
    """What lies at the path of the server's socket, or of its lock, is neither a server's nor a dead socket.

    It may be a file, a folder, a link, or another program's socket. It is left as it is.
    """


class ServerFailed(Error, RuntimeError):
    """The server of this process has ended by itself, through a fault of ringtable's; clients got `ServerGone`.

    Or the one that `open` has started in the background has ended before it was ready; the message has its last words.
    """


class OutOfResources(Error, OSError):
    """The system gives this process, or the server, no more descriptors, threads or memory. The message says which."""


class TooManyClients(Error, ConnectionError):
    """The server has as many clients as it may have (`max_clients`)."""


class VersionMismatch(Error):
    """Client and server were built from different versions of the table's layout."""


class ProtocolError(Error):
    """The other side sent what the protocol does not allow; the connection is closed."""


class Timeout(Error, TimeoutError):
    """The server did not answer in time, and may still execute the request. Or a watch had no event.

    Or, from `Table.get_or_set`, the process that computes the value did not write it in time.
    """


class Closed(Error, ValueError):
    """The table was used after `close`, or another thread closed it during the call, which may have been executed.

    In a forked child also for the parent's watches and views, which are not the child's.
    """


class Reentrant(Error, RuntimeError):
    """The thread would wait for itself, for ever.

    It is in the middle of a call of the same table or watch, and a signal handler has begun another one. Nothing was
    sent. What needs no connection is possible all the same: reads in place, and `close`, which ends the interrupted
    call with `Closed`. For all else give the handler a table of its own.

    Or it computes a value for `Table.get_or_set`, and `make`, or another task of the same thread (a greenlet, say),
    asks for the same key in this way, also through another table of that server.
    """


class KeyTooLong(Error, ValueError):
    """The key has more bytes than a key may have (`KEY_SIZE_MAX`)."""


class ValueTooLarge(Error, ValueError):
    """The value has more bytes than a value may have (`VALUE_SIZE_MAX`)."""


class BufferTooSmall(Error, ValueError):
    """The value has more bytes than the buffer that `get_into` was to copy it into."""


class TooManyViews(Error, BufferError):
    """The table has 64 views in place, and can have no more: close some, or take copies (`copy_ok`)."""


class OutOfMemory(Error, MemoryError):
    """The write does not fit into the server's `max_memory`. All that was in the table is still there."""


class ClientOutOfMemory(Error, MemoryError):
    """This process has no memory for a value that it wants to read or to write, whatever the table has.

    What was to be written was not sent then. A reply that there is no memory for is dropped as it comes: its command
    was executed, as the message says, and the calls that follow, and the others of a pipeline, get their replies.
    """


class BucketFull(OutOfMemory):
    """The bucket that the key falls in has as many entries as it may have; nothing was changed.

    Other keys can be written, and so can this one if it is there already. It happens to who chooses keys that fall into
    one bucket, or to many small entries in a table that has no memory for more buckets; a cache evicts instead.
    """


class UnevictableFull(OutOfMemory):
    """Entries that are never evicted have as many bytes as they may have; nothing was changed.

    They are those that were written with `evictable=False`. Others can be written; `Server(max_unevictable=...)` and
    `ringtable server --max-unevictable` say how much such entries may have.
    """


class NotOwned(Error, RuntimeError):
    """A lock, or a permit of a semaphore, was to be released or extended by somebody who has not acquired it.

    It was never acquired through this object, or by another thread, or by the process that this one was forked from.
    Nothing was changed.
    """


class LockLost(NotOwned):
    """A lock was acquired, and was lost before it was released: others may have had it since.

    Its time to live was over, or the server has died, or has ended this client's connection.

    Or, from `Barrier.wait`, the server has not answered: this party may be counted, and the others may have passed.
    """


class Conflict(Error):
    """Others changed the key between the read and the write of each try to update it; nothing was changed."""


class DecodeError(Error, ValueError):
    """The bytes of a value are not what the table's codec writes: another one's, or damaged. The value stays as it is.

    Attributes:
        key: The key, as the table gives keys.
        codec: The name of the table's codec.
        position: The byte of the value at which it cannot be read, as far as that is known, from 0.
        written_by: The name of the codec that has written it, if its first bytes tell; else `None`.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | bytes = "",
        codec: str = "",
        position: int = 0,
        written_by: str | None = None,
    ) -> None:
        """Take the message, and what it is made of."""
        super().__init__(message)
        self.key = key
        self.codec = codec
        self.position = position
        self.written_by = written_by


class FileError(Error, OSError):
    """A file with the entries of a table cannot be written, or read: the system refuses it. The message says why."""


class DamagedFile(FileError):
    """A file with the entries of a table is damaged, or is no such file, or has what a table cannot have.

    The message has the byte where that is, from 0 on, and how many entries before it are whole. Nothing was loaded.
    """


class NotAnInteger(Error, ValueError):
    """The value to increment is not the decimal text of a 64-bit integer, or the sum would not fit into one."""


class NotAFloat(Error, ValueError):
    """The value to add a `float` to is not the decimal text of a number, or the sum would be infinite."""


class CommandError(Error):
    """The command was refused for a reason that has no class of its own.

    By the server; or before it was sent, with all that was to be sent with it, if it has more arguments or bytes than a
    server reads (65,535, and 512 MiB and 68 KiB).
    """


class InvalidOption(Error, ValueError):
    """An option is out of its range."""
