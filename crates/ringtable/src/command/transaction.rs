//! Transactions, of which there are none: all of one is refused.
//!
//! `MULTI` is refused, and so is everything up to its `EXEC`, as Redis refuses a transaction in which something is
//! wrong. To execute its commands one by one would be what nobody has asked for.
//!
//! A connection that speaks RESP has a [`Transaction`], which answers in place of the commands. On a lane each of the
//! three is refused by itself: only ringtable's own clients have lanes, and they refuse `MULTI` before it is sent.

use super::arguments::Arguments;
use super::context::Context;
use super::refusal::Refusal;
use super::spec::{Flag, Spec};

const UNKNOWN: &str = "ERR there are no transactions: nothing up to EXEC is executed";
const WITHIN: &str = "ERR not executed: this stands between MULTI and EXEC, and there are no transactions";
const NESTED: &str = "ERR MULTI calls can not be nested";
const ABORTED: &str = "EXECABORT Transaction discarded because there are no transactions: nothing of it was executed";
const EXEC_ALONE: &str = "ERR EXEC without MULTI";
const DISCARD_ALONE: &str = "ERR DISCARD without MULTI";

/// `MULTI`
pub(super) fn multi(_: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    Err(Refusal("ERR there are no transactions".into()))
}

/// `EXEC`
pub(super) fn exec(_: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    Err(Refusal(EXEC_ALONE.into()))
}

/// `DISCARD`
pub(super) fn discard(_: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    Err(Refusal(DISCARD_ALONE.into()))
}

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

    /// The answer to a command, or to a name that is none's, if it is or would be a part of a transaction: a status, or
    /// an error. `None` if it is to be executed.
    #[inline]
    pub fn answer(&mut self, spec: Option<&Spec>) -> Option<Result<&'static str, &'static str>> {
        let concerns = spec.filter(|spec| spec.has(Flag::Transaction));
        if !self.is_begun && concerns.is_none() { None } else { self.answer_of(spec, concerns) }
    }

    #[cold]
    fn answer_of(
        &mut self,
        spec: Option<&Spec>,
        concerns: Option<&Spec>,
    ) -> Option<Result<&'static str, &'static str>> {
        let was_begun = self.is_begun;
        match concerns.map(|spec| spec.name) {
            Some("MULTI") => {
                self.is_begun = true;
                Some(Err(if was_begun { NESTED } else { UNKNOWN }))
            }
            Some("EXEC") => {
                self.is_begun = false;
                Some(Err(if was_begun { ABORTED } else { EXEC_ALONE }))
            }
            // The third of them: `DISCARD`.
            Some(_) => {
                self.is_begun = false;
                Some(if was_begun { Ok("OK") } else { Err(DISCARD_ALONE) })
            }
            None if spec.is_some_and(|spec| spec.has(Flag::BehindMulti)) => None,
            None => Some(Err(WITHIN)),
        }
    }
}
