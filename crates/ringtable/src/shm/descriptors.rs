//! Passing descriptors over a unix socket (SCM_RIGHTS), and refusing those that others pass.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::fork::{self, Descriptor};

/// Most descriptors in one message.
pub const DESCRIPTORS_MAX: usize = 4;

#[cfg(test)]
thread_local! {
    /// Whether servers that this thread starts shall find a kernel that passes descriptors on to them.
    pub(crate) static OLD_KERNEL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Sends `bytes` with `descriptors` attached; never waits.
///
/// Returns how many bytes were taken (the descriptors travel with the first of them).
///
/// # Errors
/// `WouldBlock` if the socket's buffer is full; any error of the socket.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other(format!("more than {DESCRIPTORS_MAX} descriptors in one message")));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// The same for a message that has to go as a whole.
///
/// # Errors
/// `WouldBlock` if the socket's buffer has no room for all of it; any error of the socket.
pub fn send_all(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if send(socket, message, descriptors)? == message.len() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// Receives bytes, and adds descriptors that came with them to `descriptors`; never waits.
///
/// Returns the number of bytes, 0 at the end of the stream.
///
/// # Errors
/// `WouldBlock` if nothing has come; any error of the socket. If not all descriptors can be taken, they are lost with
/// their bytes: `EMFILE` if this process may have no more of them.
pub fn receive(socket: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<Descriptor>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let before = descriptors.len();
    let received = fork::undisturbed(|step| {
        let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                for descriptor in passed {
                    descriptors.push(Descriptor::adopt(descriptor, step)?);
                }
            }
        }
        Ok::<_, rustix::io::Errno>(received)
    })?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(if descriptors.len() - before < DESCRIPTORS_MAX {
            rustix::io::Errno::MFILE.into()
        } else {
            io::Error::other(format!("more than {DESCRIPTORS_MAX} descriptors in one message"))
        });
    }
    Ok(received.bytes)
}

/// Has the kernel refuse descriptors that are passed to this unix socket, or to those that are accepted from it.
/// Returns whether it does.
pub fn refuse(socket: impl AsFd) -> bool {
    /// Since Linux 6.16.
    const SO_PASSRIGHTS: libc::c_int = 83;
    #[cfg(test)]
    if OLD_KERNEL.get() {
        return false;
    }
    let no: libc::c_int = 0;
    #[allow(unsafe_code)]
    // SAFETY: the pointer is that of a number of this frame, and the size is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const no).cast(),
            size_of_val(&no) as libc::socklen_t,
        )
    };
    result == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_bytes() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(send(&near, b"here", &[right.as_fd()]).unwrap(), 4);
        drop(right);
        let (mut bytes, mut passed) = ([0; 16], Vec::new());
        assert_eq!(receive(&far, &mut bytes, &mut passed).unwrap(), 4);
        assert_eq!(passed.len(), 1);
        rustix::io::write(&passed[0], b"x").unwrap();
        assert_eq!(std::io::Read::read(&mut &left, &mut bytes).unwrap(), 1);
    }
}
