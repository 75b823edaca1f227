//! Executing a request, whichever codec has decoded it.

use std::ops::Range;

use super::arguments::Arguments;
use super::commands::{COMMANDS, Spec};
use super::context::Context;
use super::flow::Flow;
use super::record::decode_request;
use super::refusal::Refusal;

/// A request, decoded by either codec.
#[derive(Clone, Copy)]
pub struct Command<'a> {
    /// What is asked.
    pub spec: &'static Spec,
    /// With what arguments.
    pub arguments: Arguments<'a>,
}

impl<'a> Command<'a> {
    /// What a private copy of a lane's record asks for; `None` if that is no request, or for a command that there is
    /// not. `ranges` is a place for the arguments' ranges.
    #[inline]
    pub fn of_record(record: &'a [u8], ranges: &'a mut Vec<Range<usize>>) -> Option<Self> {
        let (number, arguments) = decode_request(record, ranges).ok()?;
        COMMANDS.get(usize::from(number)).map(|spec| Self { spec, arguments })
    }
}

/// Does what is asked and writes exactly one reply; none if the context then says [`Flow::Again`], or has a change of
/// the connection.
pub fn execute(context: &mut Context<'_>, command: Command<'_>) {
    let Command { spec, arguments } = command;
    context.scratch.clear();
    context.pairs.clear();
    context.writer.take_crowded();
    // A value that has arrived goes with the attempt to write it.
    let is_repeatable = context.streamed.is_none();
    let outcome = if spec.arity.contains(&arguments.len()) {
        (spec.run)(context, arguments)
    } else {
        let name = spec.name.to_ascii_lowercase();
        Err(Refusal::err(format_args!("wrong number of arguments for '{name}' command")))
    };
    if let Err(Refusal(message)) = outcome {
        if is_repeatable && context.writer.take_crowded() && context.has_patience() {
            context.flow = Flow::Again;
        } else {
            context.reply.error(&message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::record::RequestHead;

    #[test]
    fn a_record_for_a_command_that_there_is_not_is_none() {
        let name_of = |number: u16| {
            let (mut record, mut ranges) = (Vec::new(), Vec::new());
            RequestHead::new(number, &[b"key"]).unwrap().append_to(&mut record);
            Command::of_record(&record, &mut ranges).map(|command| command.spec.name)
        };
        assert_eq!(name_of(0), Some("GET"));
        for number in [COMMANDS.len() as u16, 99, u16::MAX] {
            assert_eq!(name_of(number), None, "{number}");
        }
    }
}
