//! The version of the Redis serialization protocol that a connection speaks.

/// A version of the protocol. A connection begins with 2; `HELLO 3` changes it. A lane counts as 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Version 2: statuses, errors, integers, strings and arrays.
    #[default]
    Resp2,
    /// Version 3: also nil, booleans, doubles and maps of their own.
    Resp3,
}
