//! The user at the other end of a unix socket, as the kernel knows it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The user of the process that listens, as it was when it began to; for a connection that was accepted, that of the
/// process that connected. One that this user namespace does not know is 65534.
///
/// # Errors
/// Those of the system.
pub fn user(socket: impl AsFd) -> io::Result<u32> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    #[allow(unsafe_code)]
    // SAFETY: the kernel writes at most `size` bytes, which is what there is room for; any bytes make a `ucred`. (Not
    // so rustix's, whose process number is never 0: that of a process in another namespace is.)
    let status = unsafe {
        let (socket, place) = (socket.as_fd().as_raw_fd(), &raw mut found);
        libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, place.cast(), &raw mut size)
    };
    match status {
        0 if size as usize == size_of::<libc::ucred>() => Ok(found.uid),
        0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_other_end_is_ours() {
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(super::user(&near).unwrap(), rustix::process::geteuid().as_raw());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(super::user(&file).is_err());
    }
}
