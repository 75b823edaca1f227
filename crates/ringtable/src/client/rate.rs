//! Rate limiters.

use super::error::Error;
use super::handle::Client;
use super::numbers::NUMBERS;
use super::patience::Patience;
use super::replies::unexpected;
use super::validate::check_key;
use crate::command::reply::Reply;

/// So many calls in a period, and how that is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many, in decimal digits.
    count: String,
    /// In how many nanoseconds.
    period_ns: String,
    is_sliding: bool,
}

impl Rate {
    /// A rate: in windows of a period, or sliding.
    pub fn new(count: u64, period_ns: u64, is_sliding: bool) -> Self {
        Self { count: count.to_string(), period_ns: period_ns.to_string(), is_sliding }
    }
}

/// What a limiter says to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Whether it is within the rate.
    pub is_allowed: bool,
    /// How many more would be now.
    pub remaining: u64,
    /// After how many nanoseconds to ask again.
    pub retry_ns: u64,
}

impl Client {
    /// One step of a rate limiter: whether `cost` calls are within the rate.
    ///
    /// # Errors
    /// As [`Self::set`]; [`Error::Refused`] if the key holds something else.
    pub fn limit(&self, key: &[u8], rate: &Rate, cost: u64, patience: Patience<'_>) -> Result<Allowance, Error> {
        check_key(key)?;
        let way: &[u8] = if rate.is_sliding { b"SLIDING" } else { b"FIXED" };
        let digits = cost.to_string();
        let arguments: [&[u8]; 5] = [key, rate.count.as_bytes(), rate.period_ns.as_bytes(), way, digits.as_bytes()];
        let count = if cost == 1 { 4 } else { 5 };
        match self.request(NUMBERS.ring_limit, &arguments[..count], patience)? {
            Reply::Array(parts) => match parts[..] {
                [Reply::Integer(is_allowed), Reply::Integer(remaining), Reply::Integer(retry_ns)] => Ok(Allowance {
                    is_allowed: is_allowed == 1,
                    remaining: remaining.max(0).unsigned_abs(),
                    retry_ns: retry_ns.max(0).unsigned_abs(),
                }),
                _ => Err(unexpected(Reply::Array(parts))),
            },
            other => Err(unexpected(other)),
        }
    }
}
