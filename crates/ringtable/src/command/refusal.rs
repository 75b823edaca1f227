//! Refusals of commands: words for people that begin with a code word for programs, as in Redis.

use crate::table::WriteError;

/// Why a command is refused, worded for the client and beginning with a code word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl Refusal {
    /// A refusal with the general code word.
    pub fn err(message: impl std::fmt::Display) -> Self {
        Self(format!("ERR {message}"))
    }
}

/// Whether a refusal says that the table has no place for what was to be written.
pub fn is_for_want_of_room(message: &str) -> bool {
    let code = message.split_once(' ').map_or(message, |(code, _)| code);
    ["OOM", "BUCKETFULL", "UNEVICTABLEFULL"].contains(&code)
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::KeyTooLong(_) => Self(format!("KEYTOOLONG {error}")),
            WriteError::ValueTooLarge(_) => Self(format!("VALUETOOLARGE {error}")),
            WriteError::OutOfMemory(_) => Self(format!(
                "OOM command not allowed when used memory > 'maxmemory': {error}; delete something, or start the \
                 server with a larger --max-memory"
            )),
            WriteError::UnevictableFull(_) => Self(format!(
                "UNEVICTABLEFULL {error}: delete some, write others so that they may be evicted, or start the server \
                 with a larger --max-unevictable"
            )),
            WriteError::BucketFull | WriteError::BucketKeysFull => Self(format!(
                "BUCKETFULL {error}: the table has no room for more buckets, or these keys were chosen to fall into \
                 one; others can be written"
            )),
        }
    }
}

/// The answer to a name that is no command's.
pub fn unknown(name: &[u8]) -> Refusal {
    Refusal::err(format_args!("unknown command '{}'", shown(name)))
}

/// The answer to a command that a server of another version does not know, given by the client.
pub fn unknown_to_server(name: &str) -> Refusal {
    Refusal::err(format_args!("the server does not know the command '{name}': it is of another version of ringtable"))
}

/// A word of a request for messages: its beginning, if it is long.
pub fn shown(word: &[u8]) -> String {
    const SHOWN_SIZE: usize = 64;
    let cut = if word.len() > SHOWN_SIZE { "…" } else { "" };
    format!("{}{cut}", String::from_utf8_lossy(&word[..word.len().min(SHOWN_SIZE)]).escape_debug())
}
