"""What speaks another protocol to a server, and the orders that others may have put into it.

A browser can be made to send any body to a port of its own machine, and any name may be in a certificate or a header.
So lines that are commands stand in what is no request of ours, or behind it.
"""

from random import Random

from support import resp

MARK = b"hostile-executed"
"""A key that nobody writes, unless what is said in another protocol is executed."""

_PLAIN_ORDERS = [
    order + end
    for order in (b"SET %b 1" % MARK, b"set %b '1 2'" % MARK, b"INCR %b" % MARK, b"INCRBY %b 3" % MARK)
    for end in (b"\r\n", b"\n")
]
ORDERS = [*_PLAIN_ORDERS, resp(b"SET", MARK, b"1"), resp(b"INCRBY", MARK, b"3")]
"""What others may have chosen of what is said: a body, a name, a header."""

# Some of them are commands of ours, too.
_METHODS = "GET SET DEL EXISTS INCR INCRBY EXPIRE PING POST PUT HEAD OPTIONS CONNECT PATCH TRACE PRI M-SEARCH NOTIFY"
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1")
_HEADERS = (b"Host: localhost", b"Content-Length: 100", b"Accept: */*", b"X-Text: SET", b"Transfer-Encoding: chunked")
_LINES = (
    b"EHLO localhost",
    b"SSH-2.0-OpenSSH_9.6",
    b"PROXY TCP4 127.0.0.1 127.0.0.1 5000 6379",
    b'{"jsonrpc": "2.0", "method": "x"}',
    b"{",
    b"<?xml version='1.0'?>",
    b"<policy-file-request/>",
    b"USER anonymous",
    b"NICK nobody",
    b"a1 LOGIN user word",
    b"stats",
    b"version",
    b"gets key",
)
_BINARY = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"\x80\x2e\x01\x00\x02\x00\x15",  # SSL 2
    b"\x04\x01\x18\xeb\x7f\x00\x00\x01\x00",  # SOCKS 4
    b"\x05\x01\x00",  # SOCKS 5
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",  # PROXY 2
    b"\x00\x00\x00\x2b\x00\x03\x00\x00user\x00",  # PostgreSQL
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",  # PostgreSQL that asks for TLS
    b"AMQP\x00\x00\x09\x01",
    b"\x80\x00\x00\x03",  # memcached
    b"\x10\x1a\x00\x04MQTT\x04\x02",
    b"\x03\x00\x00\x13\x0e\xe0",  # a remote desktop
    b"\xffSMB\x00",
    b"GIOP\x01\x02",
    b"JRMI\x00\x02",
)
_CONTROL = bytes([0, 1, 3, 7, 8, 14, 27, 31, 127])
"""Bytes that no line of text has."""


def other_protocol(random: Random) -> bytes:
    """How somebody begins to speak, or goes on, who takes this for a server of another kind."""
    end = random.choice([b"\r\n", b"\n"])
    match random.randrange(4):
        case 0:
            method = random.choice(_METHODS.split()).encode()
            method = method if random.random() < 0.8 else method.lower()
            path = random.choice([b"/", b"/x", b"*", MARK, b"localhost:6379", b"/" + b"x" * random.randrange(5_000)])
            headers = random.choices(_HEADERS, k=random.randrange(4))
            return b"".join(line + end for line in [b" ".join([method, path, random.choice(_VERSIONS)]), *headers])
        case 1:
            return random.choice(_LINES + _HEADERS) + end
        case 2:
            return random.choice(_BINARY) + random.randbytes(random.choice([0, 1, 30, 500])) + end
        case _:
            # An order, but for one byte.
            order = random.choice(_PLAIN_ORDERS).rstrip()
            place = random.randrange(len(order))
            return order[:place] + bytes([random.choice(_CONTROL)]) + order[place:] + end
