//! What a keeper holds for a server as a whole.

/// What is held for the server as a whole, by the number that it has at the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// The table's segment.
    Table = 0,
    /// The segment of grants.
    Grants = 1,
    /// The notes.
    Notes = 2,
    /// The listening unix socket.
    Listening = 3,
    /// The file of that socket, as it lies in its folder.
    SocketFile = 4,
    /// The lock of the path.
    Lock = 5,
    /// The TCP port.
    Tcp = 6,
    /// The UDP port.
    Udp = 7,
    /// The table's bookkeeping, if a server has ended in order.
    Bookkeeping = 8,
    /// All entries, for a server to which the table means nothing.
    Entries = 9,
}

impl Held {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Table,
        Self::Grants,
        Self::Notes,
        Self::Listening,
        Self::SocketFile,
        Self::Lock,
        Self::Tcp,
        Self::Udp,
        Self::Bookkeeping,
        Self::Entries,
    ];
}
