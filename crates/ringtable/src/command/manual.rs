//! `docs/commands.md`, the part of it that is made of the table of commands. A test keeps the two equal.
//!
//! `make manual` writes it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::commands::COMMANDS;
use super::spec::{Flag, Group, Keys, Spec};
use crate::limits::ARGUMENTS_MAX;

/// What stands before the part that is made, which goes on to the end.
const BEGIN: &str = "<!-- From here on made by `make manual`. -->\n";
const LINE_LENGTH_MAX: usize = 120;

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/commands.md")
}

/// The chapters: all commands, with what their lines say.
fn chapters() -> String {
    let mut text = String::new();
    for group in Group::ALL {
        let _ = write!(text, "\n## {}\n", group.title());
        for spec in COMMANDS.iter().filter(|spec| spec.group == group) {
            let _ = write!(text, "\n### {}\n\n`{}`\n\n", spec.name, [spec.name, spec.takes].join(" ").trim_end());
            wrap(&mut text, spec.help);
            text.push('\n');
            item(&mut text, &facts(spec));
            if !spec.unlike_redis.is_empty() {
                item(&mut text, &format!("Unlike Redis: {}", spec.unlike_redis));
            }
        }
    }
    text
}

/// What programs need to know: number, arguments, flags.
fn facts(spec: &Spec) -> String {
    let (least, most) = (*spec.arity.start(), *spec.arity.end());
    let arguments = match (least, most) {
        (0, 0) => "No arguments".to_owned(),
        (1, 1) => "1 argument".to_owned(),
        (0, 1) => "1 argument or none".to_owned(),
        (0, ARGUMENTS_MAX) => "Any number of arguments".to_owned(),
        (1, ARGUMENTS_MAX) => "1 argument or more".to_owned(),
        (_, ARGUMENTS_MAX) => format!("{least} arguments or more"),
        _ if least == most => format!("{least} arguments"),
        _ if least + 1 == most => format!("{least} or {most} arguments"),
        _ => format!("{least} to {most} arguments"),
    };
    let keys = match spec.keys {
        Keys::No => "",
        Keys::First if most == 1 => ", a key",
        Keys::First => ", the first of them a key",
        Keys::All => ", all of them keys",
    };
    let mut facts = format!("{arguments}{keys}. Number {}.", spec.number);
    for (flag, words) in [
        (Flag::Writes, " Writes."),
        (Flag::Slow, " May take several turns."),
        (Flag::WhenFull, " Also answered in the reserved place of a full server."),
        (Flag::BehindMulti, " Also executed behind a refused MULTI."),
        (Flag::Connected, " Refused over UDP."),
    ] {
        if spec.has(flag) {
            facts.push_str(words);
        }
    }
    facts
}

fn item(text: &mut String, words: &str) {
    let mut lines = String::new();
    wrap(&mut lines, words);
    for (index, line) in lines.lines().enumerate() {
        let _ = writeln!(text, "{}{line}", if index == 0 { "- " } else { "  " });
    }
}

/// Writes words in lines, which leave room for an item's indentation.
fn wrap(text: &mut String, words: &str) {
    let mut length = 0;
    for word in words.split(' ') {
        let size = word.chars().count();
        match length {
            0 => {}
            _ if length + 1 + size > LINE_LENGTH_MAX - 2 => {
                text.push('\n');
                length = 0;
            }
            _ => {
                text.push(' ');
                length += 1;
            }
        }
        text.push_str(word);
        length += size;
    }
    text.push('\n');
}

#[test]
fn the_manual_is_that_of_the_table() {
    let written = std::fs::read_to_string(page()).unwrap();
    let (introduction, made) = written.split_once(BEGIN).expect("the page has a part that is made");
    let chapters = chapters();
    if std::env::var_os("RINGTABLE_WRITE_MANUAL").is_some() {
        std::fs::write(page(), [introduction, BEGIN, &chapters].concat()).unwrap();
        return;
    }
    assert!(made == chapters, "docs/commands.md is not as the table of commands has it: run make manual");
}
