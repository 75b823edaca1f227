//! Executing a request, whichever codec has decoded it.

use super::arguments::Arguments;
use super::commands::Spec;
use super::context::Context;
use super::effect::Effect;
use super::refusal::Refusal;

/// A request, decoded by either codec.
#[derive(Clone, Copy)]
pub struct Command<'a> {
    /// What is asked.
    pub spec: &'static Spec,
    /// With what arguments.
    pub arguments: Arguments<'a>,
}

/// Does what is asked and writes exactly one reply (except for [`Effect::Protocol`], [`Effect::Lane`],
/// [`Effect::Rings`], [`Effect::Watch`], [`Effect::Pins`] and [`Effect::Again`]).
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
            context.effect = Effect::Again;
        } else {
            context.reply.error(&message);
        }
    }
}
