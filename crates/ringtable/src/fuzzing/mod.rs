//! What fuzzers run: one function a file, each of which makes something of arbitrary bytes, and panics if the engine
//! does not keep a promise.
//!
//! The same functions run in two ways. `scripts/fuzz.sh` builds them with coverage instrumentation (`--cfg fuzzing`)
//! and lets libFuzzer search for inputs that reach something new; what it has found worth keeping is in `fuzz/corpus`,
//! and the inputs that once did harm are there, too. The tests below run each of these inputs again, in any build.
//!
//! A target is a function of its input: no clock, no threads, nothing left from the run before.

mod addresses;
mod commands;
mod events;
mod files;
mod guarded;
mod pieces;
mod reader;
mod records;
mod replies;
mod requests;

use crate::server::fuzzing as server;

/// Something to be run over and over on inputs that a fuzzer makes up.
pub struct Target {
    /// Its name, that of its file and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Runs it once.
    pub run: fn(&[u8]),
}

/// All targets.
pub static TARGETS: &[Target] = &[
    Target { name: "addresses", run: addresses::run },
    Target { name: "client", run: crate::client::fuzzing::run },
    Target { name: "commands", run: commands::run },
    Target { name: "datagrams", run: server::datagrams::run },
    Target { name: "events", run: events::run },
    Target { name: "exchange", run: server::exchange::run },
    Target { name: "files", run: files::run },
    Target { name: "lane", run: server::lane::run },
    Target { name: "logs", run: crate::disk::log::fuzzing::run },
    Target { name: "reader", run: reader::run },
    Target { name: "records", run: records::run },
    Target { name: "replies", run: replies::run },
    Target { name: "requests", run: requests::run },
    Target { name: "socket", run: server::socket::run },
];

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    /// Runs a target on all that is kept for it, and on a few mutilations of that. Prints the input before it is run,
    /// so that a failure can be seen for what it is.
    fn replay(name: &str) {
        let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", folder.display());
        let run = find(name).unwrap().run;
        for file in &files {
            let input = std::fs::read(file).unwrap();
            println!("{}", file.display());
            run(&input);
            for end in [input.len() / 3, input.len() / 2] {
                println!("{}, cut to {end}", file.display());
                run(&input[..end]);
            }
        }
    }

    macro_rules! replays {
        ($($name:ident),* $(,)?) => {
            $(#[test]
            fn $name() {
                replay(stringify!($name));
            })*

            #[test]
            fn every_target_is_replayed() {
                let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
                assert_eq!(names, [$(stringify!($name)),*]);
            }
        };
    }

    replays!(
        addresses, client, commands, datagrams, events, exchange, files, lane, logs, reader, records, replies,
        requests, socket
    );
}
