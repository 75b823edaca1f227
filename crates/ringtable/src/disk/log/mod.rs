//! The log: for each key, in the order of its changes, the state that it came to. In the files of Redis 7.
//!
//! # Files
//!
//! ```text
//! appendonlydir/appendonly.aof.manifest    which files there are, in their order
//! appendonlydir/appendonly.aof.1.base.rdb  a snapshot
//! appendonlydir/appendonly.aof.1.incr.aof  what has changed since it was begun, as commands
//! appendonlydir/appendonly.aof.2.incr.aof  what has changed since then
//! ```
//!
//! A file of changes is commands of the Redis protocol, and lines that begin with `#`, which Redis passes over:
//!
//! ```text
//! #ringtable-log 1 NONCE BEFORE SUM        at its beginning; a random number, how many bytes of the file before it
//!                                          were on the disk by then, and the checksum of both
//! SET key value [PXAT time]                the key has this value, and this time
//! DEL key                                  it has none
//! PEXPIREAT key time, PERSIST key          it has the same value, and this time, or none
//! #unevictable                             that which the next command sets is never evicted
//! #ringtable-sum SUM BEGIN SYNCED          behind each *batch*: the checksum of all bytes since byte BEGIN and of
//!                                          what follows it in this line, with the nonce before them; and how much
//!                                          of the file was on the disk by then
//! ```
//!
//! NONCE, BEFORE and checksums are 16 hexadecimal digits each. The manifest ends in a line with a checksum, too.
//!
//! # Design
//!
//! The table hands each change to the [`Queue`] while the key's bucket is locked. So the order of a key's changes in
//! the queue is their order in the table, whichever worker makes them. A thread takes all that is queued, writes it as
//! a batch ([`LogFile`]), and syncs. Small values are copied into the queue; larger ones are held, and written from
//! where they are.
//!
//! # A torn tail, and damage
//!
//! After the death of the machine a file may end in a batch that is there in parts, or not at all, or as zeroes: nobody
//! was told that it is durable, and it is cut off. So may one whose sync has failed, behind which there is another file
//! already. If a batch is damaged of which a later one, or the next file, says that it was on the disk before, that is
//! damage, and an error that names the byte. The nonce keeps whoever writes values from making
//! up batches in them.
//!
//! # Invariants
//!
//! - To play a file again changes nothing: a record says what a key came to, and not what was done to it.
//!
//! Source of the layout: `aof.c` of Redis 7.0.

mod queue;
mod file;
mod manifest;
mod reader;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

pub use file::LogFile;
pub use manifest::{FOLDER, Manifest, base_path, changes_path};
pub use queue::{Batch, Queue};
pub use reader::{LogContents, Operation, before, play, survey_log, survey_logs};
