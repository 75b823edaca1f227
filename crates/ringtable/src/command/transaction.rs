//! Transactions, of which there are none: all of one is refused.
//!
//! `MULTI` is refused, and so is everything up to its `EXEC`, as Redis refuses a transaction in which something is
//! wrong. To execute its commands one by one would be what nobody has asked for.

const UNKNOWN: &str = "ERR there are no transactions: nothing up to EXEC is executed";
const WITHIN: &str = "ERR not executed: this stands between MULTI and EXEC, and there are no transactions";
const ABORTED: &str = "EXECABORT Transaction discarded because there are no transactions: nothing of it was executed";

/// What a connection has begun.
#[derive(Debug, Default)]
pub struct Transaction {
    is_begun: bool,
}

impl Transaction {
    /// Whether what comes now will be refused.
    pub fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// The answer to a command that is, or would be, a part of a transaction: a status, or an error. `None` if it is to
    /// be executed.
    #[inline]
    pub fn answer(&mut self, name: &[u8]) -> Option<Result<&'static str, &'static str>> {
        // The first letter and the size tell most others apart.
        let may_be = matches!(
            (name.first(), name.len()),
            (Some(b'M' | b'm'), 5) | (Some(b'E' | b'e'), 4) | (Some(b'D' | b'd'), 7)
        );
        if !self.is_begun && !may_be { None } else { self.answer_of(name) }
    }

    #[cold]
    fn answer_of(&mut self, name: &[u8]) -> Option<Result<&'static str, &'static str>> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match self.is_begun {
            false if is("MULTI") => {
                self.is_begun = true;
                Some(Err(UNKNOWN))
            }
            false if is("EXEC") => Some(Err("ERR EXEC without MULTI")),
            false if is("DISCARD") => Some(Err("ERR DISCARD without MULTI")),
            false => None,
            true if is("MULTI") => Some(Err("ERR MULTI calls can not be nested")),
            true if is("EXEC") => {
                self.is_begun = false;
                Some(Err(ABORTED))
            }
            true if is("DISCARD") => {
                self.is_begun = false;
                Some(Ok("OK"))
            }
            true if is("QUIT") => None,
            true => Some(Err(WITHIN)),
        }
    }
}
