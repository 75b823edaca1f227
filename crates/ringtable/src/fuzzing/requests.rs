//! The parser of requests in the Redis protocol: what it makes of a stream does not depend on how that is cut.

use super::pieces::feed;
use crate::command::resp::{Parsed, ProtocolError, RequestLimits, RequestParser};
use crate::input::Input;

const LIMITS: RequestLimits = RequestLimits {
    arguments_max: 12,
    arguments_at_once: 5,
    argument_size_max: 600,
    inline_size_max: 100,
    large_value_size: 80,
};

#[derive(Debug, PartialEq)]
struct Read {
    requests: Vec<Vec<Vec<u8>>>,
    error: Option<ProtocolError>,
}

/// Reads a stream that is cut in some way. Large values are left out of the input, or not, as asked.
fn read(stream: &[u8], sizes: &mut Input<'_>, leave_out: bool) -> Read {
    let mut parser = RequestParser::new(LIMITS);
    let mut read = Read { requests: Vec::new(), error: None };
    // What the parser gets, apart from the stream if a value was left out of it, and the value.
    let mut input = Vec::new();
    let mut value: Option<(usize, Vec<u8>)> = None;
    let mut value_left = 0;
    let mut seen = 0;
    feed(stream, sizes, |come| {
        let fresh = &come[seen..];
        seen = come.len();
        let (flows, rest) = fresh.split_at(value_left.min(fresh.len()));
        if let Some((_, value)) = &mut value {
            value.extend_from_slice(flows);
            value_left -= flows.len();
            if value_left > 0 {
                return Some(0);
            }
            if !flows.is_empty() {
                parser.leave_out();
            }
        }
        input.extend_from_slice(rest);
        loop {
            match parser.parse(&input) {
                Ok(Parsed::Incomplete { missing }) => {
                    assert!(missing > 0, "nothing is missing of what is incomplete");
                    assert!(parser.arguments().is_empty());
                    return Some(0);
                }
                Ok(Parsed::Paused) => {}
                Ok(Parsed::LargeValue { key, start, size }) => {
                    assert!(
                        key.end <= start && key.len() <= LIMITS.argument_size_max && size >= LIMITS.large_value_size
                    );
                    assert!(start <= input.len() && value.is_none());
                    if leave_out {
                        let here = input.len().min(start + size);
                        value = Some((start, input.drain(start..here).collect()));
                        value_left = size - (here - start);
                        if value_left > 0 {
                            return Some(0);
                        }
                        parser.leave_out();
                    }
                }
                Ok(Parsed::Complete { size }) => {
                    let mut request: Vec<Vec<u8>> =
                        parser.arguments().iter().map(|range| input[..size][range.clone()].to_vec()).collect();
                    assert!(request.len() <= LIMITS.arguments_max);
                    let mut taken = size;
                    if let Some((_, value)) = value.take() {
                        assert!(request[2].is_empty(), "an empty value stands for the one that was left out");
                        taken += value.len();
                        request[2] = value;
                    }
                    assert!(request.iter().all(|argument| argument.len() <= LIMITS.argument_size_max));
                    read.requests.push(request);
                    input.clear();
                    seen = 0;
                    return Some(taken);
                }
                Err(error) => {
                    assert!(error.to_string().starts_with("Protocol error"));
                    assert_eq!(parser.parse(&input).as_ref(), Err(&error), "an error is final");
                    read.error = Some(error);
                    return None;
                }
            }
        }
    });
    read
}

pub fn run(input: &[u8]) {
    let mut bytes = Input::new(input);
    let count = usize::from(bytes.byte() % 32);
    let sizes = bytes.take(count);
    let stream = bytes.rest();
    let whole = read(stream, &mut Input::new(&[]), false);
    assert_eq!(read(stream, &mut Input::new(sizes), false), whole);
    assert_eq!(read(stream, &mut Input::new(sizes), true), whole);
}
