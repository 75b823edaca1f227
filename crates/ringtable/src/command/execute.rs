//! Executing a request, whichever codec has decoded it.

use std::ops::Range;

use super::arguments::Arguments;
use super::commands::numbered;
use super::context::Context;
use super::flow::Flow;
use super::record::decode_request;
use super::refusal::Refusal;
use super::spec::{Flag, Spec};

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
        numbered(number).map(|spec| Self { spec, arguments })
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
    debug_assert!(
        context.flow != Flow::Again || spec.has(Flag::Slow),
        "{spec:?} takes several turns, and does not say so"
    );
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::command::alone::Alone;
    use crate::command::commands::{COMMANDS, NUMBERS_END};
    use crate::command::protocol::Protocol;
    use crate::command::record::{RecordWriter, RequestHead};
    use crate::shm::clock::wall_ms;
    use crate::table::lookup::Buffer;
    use crate::table::{Eviction, Lookup, Options};

    #[test]
    fn a_record_for_a_command_that_there_is_not_is_none() {
        let name_of = |number: u16| {
            let (mut record, mut ranges) = (Vec::new(), Vec::new());
            RequestHead::new(number, &[b"key"]).unwrap().append_to(&mut record);
            Command::of_record(&record, &mut ranges).map(|command| command.spec.name)
        };
        assert_eq!(name_of(0), Some("GET"));
        for number in [NUMBERS_END as u16, u16::MAX] {
            assert_eq!(name_of(number), None, "{number}");
        }
    }

    /// All commands, with all arguments of a few words, beside what their lines in the table say.
    #[test]
    fn commands_write_if_they_say_so_and_only_to_their_keys() {
        const KEYS: [&str; 4] = ["a", "b", "7", "new"];
        const WORDS: usize = 7;
        let options = Options { buckets: 8, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let mut alone = Alone::new(4 << 20, &options);
        let mut run = |number: u16, arguments: &[&str]| {
            let (mut reply, mut progress) = (Vec::new(), 0);
            loop {
                let mut writer = RecordWriter::new(&mut reply);
                let (flow, _, come) = alone.turn(number, arguments, &mut writer, Protocol::Resp3, progress);
                progress = come;
                if flow != Flow::Again {
                    break;
                }
            }
            let found = KEYS.map(|key| {
                let mut value = Buffer::default();
                match alone.writer.get(key.as_bytes(), wall_ms, &mut value) {
                    Lookup::Hit(found) => Some((value.bytes().to_vec(), found.version, found.expiry.is_some())),
                    _ => None,
                }
            });
            KEYS.into_iter().zip(found).collect::<BTreeMap<_, _>>()
        };
        let (set, del) = (COMMANDS[1].number, COMMANDS[2].number);
        assert_eq!((COMMANDS[1].name, COMMANDS[2].name), ("SET", "DEL"));
        for spec in COMMANDS {
            let mut has_written = false;
            for code in 0..(0..=3).map(|count| WORDS.pow(count)).sum() {
                run(del, &["new"]);
                run(set, &["a", "1", "EX", "100"]);
                run(set, &["b", "2"]);
                let before = run(set, &["7", "text"]);
                let version = before["a"].as_ref().unwrap().1.to_string();
                let words: [_; WORDS] = ["a", "b", "7", "new", "-1", "persist", &version];
                // From no argument to three, each any of the words.
                let (mut rest, mut count) = (code, 0);
                while rest >= WORDS.pow(count) {
                    rest -= WORDS.pow(count);
                    count += 1;
                }
                let arguments: Vec<&str> = (0..count).map(|at| words[rest / WORDS.pow(at) % WORDS]).collect();
                let after = run(spec.number, &arguments);
                let changed: Vec<_> = KEYS.into_iter().filter(|key| before[key] != after[key]).collect();
                has_written |= !changed.is_empty();
                if changed.is_empty() {
                    continue;
                }
                assert!(spec.has(Flag::Writes) && spec.arity.contains(&arguments.len()), "{spec:?} {arguments:?}");
                let keys = &arguments[spec.keys_among(arguments.len())];
                let is_named = |key: &&str| match spec.name {
                    "FLUSHALL" => true,
                    "RING.DELPREFIX" => key.starts_with(arguments[0]),
                    _ => keys.contains(key),
                };
                assert!(changed.iter().all(is_named), "{spec:?} {arguments:?}: {changed:?}");
            }
            assert_eq!(has_written, spec.has(Flag::Writes), "{spec:?}");
        }
    }
}
