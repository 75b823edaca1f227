"""The keeper: a process that holds what has to outlive a server, and starts another one when that dies.

The keeper is what was started; it forks the server, and forks another one if that ends by anything but an order. A fork
takes milliseconds, and has all that the keeper holds: the table's memory, what was granted, how far each lane has come,
the listening sockets, and of each client its lane, its doorbells and its socket. The engine takes all of it over
(`crates/ringtable/src/server/`: `keeper.rs` has the other end of what is said here, `inheritance.rs` what is given).

The keeper reads nothing from clients, and knows nothing of tables. It holds, waits, and forks. It is Python, as nothing
here is hot: a client that comes costs it one message.

In order from the bottom up: `messages.py` has what keeper and server say to each other, `holdings.py` what is held,
`successor.py` how a new program gets into a fork, `manager.py` the service manager, `keeper.py` the keeper,
`taking_over.py` the new program's server.

If the keeper itself is killed, the server's process becomes the next one: it resigns as for an upgrade, and forks
another server. Where a service manager listens, that starts the next keeper, and the server goes on until it does.
"""
