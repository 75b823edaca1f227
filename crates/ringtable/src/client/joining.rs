//! Joining whatever server is there, while one may be about to follow another.

use std::time::{Duration, Instant};

use super::error::Error;
use super::handshake::is_put_off;
use super::patience::Patience;
use crate::limits;

/// What `join` makes: a connection. If a server dies while we join it, its keeper may have another one at the same
/// socket in a moment; and if its keeper is busy, it may be less so in a moment. Nothing was asked for yet: so we join
/// again. Each try has that patience.
///
/// # Errors
/// Those of the last try.
pub(super) fn joined<T>(
    patience: Patience<'_>,
    mut join: impl FnMut(Patience<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let (began, mut pause) = (Instant::now(), limits::JOIN_PAUSE_MIN);
    let limit = patience.timeout().unwrap_or(limits::KEEPER_PATIENCE).min(limits::KEEPER_PATIENCE);
    let (mut deaths, mut last_words) = (0, None);
    loop {
        match join(patience) {
            Err(Error::Gone(words) | Error::Unsent(words)) if deaths + 1 < limits::JOIN_TRIES => {
                deaths += 1;
                last_words = Some(words);
                // The first ones at once: there may be another server already.
                if deaths > limits::JOIN_TRIES_AT_ONCE {
                    let left = patience.timeout().map(|timeout| timeout.saturating_sub(began.elapsed()));
                    if let Some(timeout) = patience.timeout().filter(|_| left == Some(Duration::ZERO)) {
                        return Err(Error::Timeout(timeout));
                    }
                    std::thread::sleep(left.map_or(pause, |left| pause.min(left)));
                    pause = (2 * pause).min(limits::JOIN_PAUSE_MAX);
                    patience.check_interrupted()?;
                }
            }
            // No keeper has the socket.
            Err(Error::NotFound { .. }) if last_words.is_some() => {
                return Err(Error::Gone(last_words.unwrap_or_default()));
            }
            Err(Error::Refused(words)) if is_put_off(&words) => {
                let left = limit.saturating_sub(began.elapsed());
                if left.is_zero() {
                    return Err(Error::Short(
                        words.split_once(' ').map_or_else(String::new, |(_, why)| why.to_owned()),
                    ));
                }
                std::thread::sleep(pause.min(left));
                pause = (2 * pause).min(limits::JOIN_PAUSE_MAX);
                patience.check_interrupted()?;
            }
            outcome => return outcome,
        }
    }
}
