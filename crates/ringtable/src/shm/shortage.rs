//! What the system has no more of, in words that name the limit.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Whether this process, its user or the machine has run out of something: another try may succeed later.
pub fn is_shortage(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::TOOMANYREFS, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC]
        .contains(&Errno::from_io_error(error).unwrap_or(Errno::PERM))
}

/// The error, for people.
pub fn in_words(error: &io::Error) -> String {
    let limit =
        || getrlimit(Resource::Nofile).current.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => format!("too many open files (the limit is {})", limit()),
        Some(Errno::NFILE) => "too many open files in the whole system".to_owned(),
        Some(Errno::TOOMANYREFS) => {
            format!("too many descriptors are on their way between processes of this user (the limit is {})", limit())
        }
        Some(Errno::NOMEM | Errno::NOBUFS) => "out of memory".to_owned(),
        // Of what we do, only watching meets it.
        Some(Errno::NOSPC) => "no more descriptors may be watched (fs.epoll.max_user_watches)".to_owned(),
        _ => error.to_string(),
    }
}
