//! A table that is filled with what is on the disk.
//!
//! # Design
//!
//! The clock is not asked before the end: an entry whose time has passed may be given another one by a later record.
//! What has expired goes as ever, lazily.
//!
//! Entries come in another order than they did before, and a snapshot that others wrote to meanwhile has more than the
//! table had at any moment. So what finds no room is put aside, until all that goes has gone, and what is scattered was
//! brought together.

use std::collections::HashMap;
use std::path::Path;

use super::error::Error;
use crate::disk::Reading;
use crate::disk::log::Operation;
use crate::shm::clock::wall_ms;
use crate::shm::segment::Mapping;
use crate::sync::Arc;
use crate::table::{Expiry, Guard, Mark, Table, Writer};

/// Keys between two looks at whether to go on.
const PLAYED_PER_CHECK: u64 = 4_096;

/// An entry that has found no room yet.
struct Aside {
    value: Vec<u8>,
    expiry: Option<Expiry>,
    mark: Mark,
}

/// A table that is being filled, before anybody else has it.
pub(super) struct Restoring<'a> {
    writer: Writer<Mapping>,
    aside: HashMap<Vec<u8>, Aside>,
    count: u64,
    is_interrupted: &'a dyn Fn() -> bool,
}

/// Records take no notice of the clock.
fn no_time() -> u64 {
    0
}

impl<'a> Restoring<'a> {
    /// A table, which is empty, to get about so many entries; unless that is interrupted.
    pub fn begin(table: &Arc<Table<Mapping>>, expected: u64, is_interrupted: &'a dyn Fn() -> bool) -> Self {
        let mut writer = Writer::new(Arc::clone(table));
        writer.expect(expected);
        Self { writer, aside: HashMap::new(), count: 0, is_interrupted }
    }

    /// Plays all entries of a file, which is whole. What has expired is left out where nothing follows.
    ///
    /// # Errors
    /// Those of the disk; [`Error::Interrupted`].
    pub fn load(&mut self, path: &Path, is_all: bool) -> Result<(), Error> {
        let mut reading = Reading::begin(path)?;
        while let Some(entry) = reading.next_entry()? {
            if is_all && entry.expiry.is_some_and(|expiry| expiry.has_passed(wall_ms())) {
                continue;
            }
            let crate::disk::rdb::Entry { key, value, expiry, is_unevictable } = entry;
            self.play(Operation::Set { key, value, expiry, is_unevictable })?;
        }
        Ok(())
    }

    /// Brings a key to the state that it came to.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    #[inline]
    pub fn play(&mut self, operation: Operation<'_>) -> Result<(), Error> {
        self.count += 1;
        if self.count.is_multiple_of(PLAYED_PER_CHECK) && (self.is_interrupted)() {
            return Err(Error::Interrupted);
        }
        match operation {
            Operation::Set { key, value, expiry, is_unevictable } => {
                let mark = if is_unevictable { Mark::Unevictable } else { Mark::Evictable };
                match self.writer.put_marked(key, value, expiry, Guard::Always, mark, no_time) {
                    Ok(_) if self.aside.is_empty() => {}
                    Ok(_) => drop(self.aside.remove(key)),
                    Err(_) => {
                        // What it had is not its any more.
                        self.writer.delete(key, no_time);
                        self.aside.insert(key.to_vec(), Aside { value: value.to_vec(), expiry, mark });
                    }
                }
            }
            Operation::Renew(key, expiry) => {
                if let Some(aside) = self.aside.get_mut(key) {
                    aside.expiry = expiry;
                } else if self.writer.renew(key, expiry, Guard::Always, no_time).is_err() {
                    self.put_aside(key, expiry);
                }
            }
            Operation::Delete(key) => {
                self.aside.remove(key);
                self.writer.delete(key, no_time);
            }
        }
        Ok(())
    }

    /// Puts an entry aside that has no room for another time.
    fn put_aside(&mut self, key: &[u8], expiry: Option<Expiry>) {
        if let Some(held) = self.writer.hold(key, no_time) {
            let mark = if held.found().is_unevictable { Mark::Unevictable } else { Mark::Evictable };
            let value = held.bytes().to_vec();
            drop(held);
            self.writer.delete(key, no_time);
            self.aside.insert(key.to_vec(), Aside { value, expiry, mark });
        }
    }

    /// Ends it: what was put aside finds room now, or nothing does. Returns how many entries there are.
    ///
    /// # Errors
    /// [`Error::Unloadable`], which names the file that this came from.
    pub fn finish(mut self, path: &Path) -> Result<u64, Error> {
        let table = Arc::clone(self.writer.table());
        let mut aside: Vec<_> = std::mem::take(&mut self.aside).into_iter().collect();
        // The large ones first, as long as there are runs of pages.
        aside.sort_by_key(|(_, aside)| std::cmp::Reverse(aside.value.len()));
        if !aside.is_empty() {
            while !self.writer.sweep_some(u64::MAX, wall_ms()) {}
            self.writer.release();
            while self.writer.empty_a_slab() {}
            self.writer.release();
        }
        for (key, Aside { value, expiry, mark }) in aside {
            if let Err(error) = self.writer.put_marked(&key, &value, expiry, Guard::Always, mark, no_time) {
                return Err(Error::Unloadable { path: path.to_owned(), loaded: table.entries(), error });
            }
        }
        self.writer.release();
        Ok(table.entries())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::disk::rdb::{Encoder, Entry};
    use crate::disk::{DataFolder, Replacement};
    use crate::server::{Options, Server};
    use crate::shm::random::random;

    const ENTRIES: u64 = 20_000;

    #[test]
    fn a_start_that_is_interrupted_at_any_time_leaves_all_as_it_was() {
        let place = std::env::temp_dir().join(format!("ringtable-test-{:016x}", random()));
        let (data, address) = (place.join("data"), place.join("name.sock"));
        crate::disk::make_folder(&data).unwrap();
        let folder = DataFolder::take(&data, std::time::Duration::ZERO).unwrap();
        let file = Replacement::begin(&folder.place_of_new(1)).unwrap();
        let mut encoder = Encoder::begin(file, ENTRIES, 0).unwrap();
        for number in 0..ENTRIES {
            let entry = Entry { key: &number.to_le_bytes(), value: b"value", expiry: None, is_unevictable: false };
            encoder.entry(&entry).unwrap();
        }
        encoder.finish().unwrap().1.commit().unwrap();
        drop(folder);
        // Each time a look later, with a log as without: until nobody interrupts it any more.
        for log in [false, true] {
            let options = Options {
                address: address.clone().into(),
                workers: 1,
                data: Some(data.clone()),
                log,
                ..Options::default()
            };
            let interrupted = Cell::new(0);
            let server = loop {
                let looks = Cell::new(0);
                let is_interrupted = || {
                    looks.set(looks.get() + 1);
                    looks.get() > interrupted.get()
                };
                match Server::start_unless(&options, &is_interrupted) {
                    Ok(server) => break server,
                    Err(Error::Interrupted) => interrupted.set(interrupted.get() + 1),
                    Err(error) => panic!("{error}"),
                }
                assert!(!address.exists());
            };
            assert!(interrupted.get() >= 8, "interrupted {} times", interrupted.get());
            let mut socket = UnixStream::connect(&address).unwrap();
            socket.write_all(b"*1\r\n$6\r\nDBSIZE\r\n").unwrap();
            let mut reply = [0; 8];
            socket.read_exact(&mut reply).unwrap();
            assert_eq!(&reply, b":20000\r\n");
            server.stop();
        }
        std::fs::remove_dir_all(&place).unwrap();
    }
}
