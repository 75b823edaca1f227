//! What is refused before anything is sent: what is too long, too many or too large.

use super::error::Error;
use crate::command;
use crate::command::spec::Flag;
use crate::limits;

/// Refuses a key that is too long.
///
/// # Errors
/// [`Error::KeyTooLong`].
#[inline]
pub fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.len() > limits::KEY_SIZE_MAX { Err(Error::KeyTooLong(key.len())) } else { Ok(()) }
}

/// Refuses a value that is too large.
///
/// # Errors
/// [`Error::ValueTooLarge`].
#[inline]
pub fn check_value(value: &[u8]) -> Result<(), Error> {
    if value.len() > limits::VALUE_SIZE_MAX { Err(Error::ValueTooLarge(value.len())) } else { Ok(()) }
}

/// The refusal of a command that the server at the other end does not know.
#[cold]
pub(super) fn unknown_to_server(number: u16) -> Error {
    let name = command::numbered(number).map_or("?", |spec| spec.name);
    Error::Refused(command::unknown_to_server(name).0)
}

/// Refuses a command that no server would read, whatever it is: a connection would end by it, and with it all others
/// that were sent over it.
///
/// # Errors
/// [`Error::TooManyArguments`], [`Error::TooLarge`]; [`Error::NoTransactions`] for what begins or ends one, since what
/// stands in between would be executed.
pub fn check_command(words: &[&[u8]]) -> Result<(), Error> {
    let name = || command::shown(words.first().copied().unwrap_or_default());
    let spec = words.first().and_then(|name| command::find(name));
    if spec.is_some_and(|spec| spec.has(Flag::Transaction)) {
        return Err(Error::NoTransactions);
    }
    if words.len() > limits::ARGUMENTS_MAX {
        return Err(Error::TooManyArguments { command: name(), count: words.len() - 1 });
    }
    let size = words.iter().map(|word| word.len() + limits::WORD_FRAMING_MAX).sum();
    if size > limits::REQUEST_SIZE_MAX {
        return Err(Error::TooLarge { command: name(), size });
    }
    Ok(())
}
