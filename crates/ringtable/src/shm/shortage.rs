//! Shortages: things that the system has no more of, in words that name the limit.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Whether this process, its user or the machine has run out of something: another try may succeed later.
pub fn is_shortage(error: &io::Error) -> bool {
    let shortages = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::TOOMANYREFS,
        Errno::NOMEM,
        Errno::NOBUFS,
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::FBIG,
    ];
    shortages.contains(&Errno::from_io_error(error).unwrap_or(Errno::PERM))
        || error.get_ref().is_some_and(|cause| cause.is::<NoWatchLeft>())
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
        Some(Errno::NOSPC) => "no space left on the device".to_owned(),
        Some(Errno::DQUOT) => "this user's share of the disk is used up".to_owned(),
        Some(Errno::FBIG) => "the segment is larger than files may be here (RLIMIT_FSIZE)".to_owned(),
        _ => error.to_string(),
    }
}

/// The error of this number, for people, if it is a shortage.
pub fn of_number(number: i32) -> Option<String> {
    let error = io::Error::from_raw_os_error(number);
    is_shortage(&error).then(|| in_words(&error))
}

/// Why `epoll_ctl` adds nothing more. The kernel says it by the number that otherwise stands for a full disk.
#[derive(Debug, thiserror::Error)]
#[error("no more descriptors may be watched (fs.epoll.max_user_watches)")]
struct NoWatchLeft;

/// What `epoll_ctl` has answered.
pub fn of_watching(answer: rustix::io::Result<()>) -> io::Result<()> {
    answer.map_err(|error| match error {
        Errno::NOSPC => io::Error::new(io::ErrorKind::QuotaExceeded, NoWatchLeft),
        error => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_named() {
        let words_of = |error: io::Error| {
            assert!(is_shortage(&error), "{error}");
            in_words(&error)
        };
        assert_eq!(words_of(Errno::NOSPC.into()), "no space left on the device");
        assert!(words_of(Errno::FBIG.into()).contains("RLIMIT_FSIZE"));
        let watching = of_watching(Err(Errno::NOSPC)).unwrap_err();
        assert!(words_of(watching).contains("fs.epoll.max_user_watches"));
        assert!(words_of(of_watching(Err(Errno::NOMEM)).unwrap_err()).contains("memory"));
        assert!(!is_shortage(&of_watching(Err(Errno::BADF)).unwrap_err()));
    }
}
