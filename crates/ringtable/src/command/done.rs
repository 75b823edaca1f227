//! The answer to a command whose server died when it had done what it was to do, and had not said so.
//!
//! The next server knows how many changes the command has committed, and the entry of the last one, if nobody has
//! changed it since ([`crate::table::commits`]). Of most commands that is the answer. A command that may be done twice
//! without a difference is done again. Of the others nobody knows the answer any more: the client is told that it was
//! done.

use super::execute::Command;
use super::integer::{parse_cursor, parse_integer};
use super::reply::ReplyWriter;
use super::set_options::SetOptions;
use crate::table::commits::Commits;

/// The answer where nobody knows whether the command was done.
pub const IN_DOUBT: &str = "SHUTDOWN the server died when it had this request in hand, which may have been done, or \
                            not; another one goes on with the table";
/// The answer where it was done, and nobody knows what the answer was.
const LOST: &str = "SHUTDOWN the server died when it had done this, or a part of it, and the answer is lost; \
                    another one goes on with the table";

/// The answer where it was done, and the disk refuses it.
pub fn undurable(why: &str) -> String {
    format!("DISK {why}: the table has what was written, and the disk may not")
}

/// Whether a command is to be executed again: it has done nothing, or would do nothing else than before.
pub fn is_to_be_repeated(command: Command<'_>, commits: &Commits) -> bool {
    // What GETEX gives is still there, and it gives the same time to live once more.
    commits.count == 0 || command.spec.name == "GETEX" && commits.count == 1 && commits.entry.is_some()
}

/// The name and the token of the permit that a command was to end, and had not ended when it announced that.
pub fn ended<'a>(command: Command<'a>, commits: &Commits) -> Option<(&'a [u8], u64)> {
    let arguments = command.arguments;
    let is_it = command.spec.name == "RING.UNLOCK" && arguments.len() == 2 && commits.ending > 0;
    (is_it && parse_cursor(arguments.get(1)) == Some(commits.ending)).then(|| (arguments.get(0), commits.ending))
}

/// Answers a command that has committed something.
pub fn answer(command: Command<'_>, commits: &Commits, reply: &mut dyn ReplyWriter) {
    let arguments = command.arguments;
    let value = || commits.entry.as_ref().and_then(|(_, value)| value.as_deref());
    let version = || commits.entry.as_ref().map(|(version, _)| version.cast_signed());
    match (command.spec.name, commits.count) {
        ("SET", 1) => match SetOptions::parse(arguments, 2) {
            Ok(options) if options.manner.wants_old => reply.error(LOST),
            Ok(options) if options.wants_version => integer_or_lost(version(), reply),
            _ => reply.ok(),
        },
        ("INCR" | "DECR" | "INCRBY" | "DECRBY" | "RING.INCR", 1) => {
            integer_or_lost(value().and_then(parse_integer), reply);
        }
        ("INCRBYFLOAT", 1) => match value() {
            Some(sum) => reply.bulk(sum),
            None => reply.error(LOST),
        },
        ("EXPIRE" | "PEXPIRE" | "PERSIST" | "RING.DELV", 1) => reply.integer(1),
        ("DEL", 1) if arguments.len() == 1 => reply.integer(1),
        _ => reply.error(LOST),
    }
}

fn integer_or_lost(number: Option<i64>, reply: &mut dyn ReplyWriter) {
    match number {
        Some(number) => reply.integer(number),
        None => reply.error(LOST),
    }
}
