//! Closing sockets in whose queues there may be descriptors of files that make who closes them wait: see
//! [`super::socket`]. Only on Linux before 6.16.
//!
//! A thread that ends lets go of the files of its own table of descriptors without waiting for anything: the kernel
//! does not linger for who is about to end. So the disposer has, for each batch of sockets, a **holder**, a thread that
//! takes a table of its own (`unshare`), with a copy of all that is open. While it holds them, the sockets are closed
//! in the table of the process, which makes nobody wait, since that is not the last time; then the holder ends, and
//! that is.
//!
//! Where `unshare` is forbidden (some containers), the holder just closes them, and may have to wait. Then there is
//! another one for the next batch, up to [`HOLDERS_MAX`]; beyond, sockets stay open until one of them has ended.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{Builder, JoinHandle};

use crate::shm::descriptors;
use crate::shm::fork::Descriptor;
use crate::shm::signals::block_signals;

/// Most threads that wait for the kernel to close something.
const HOLDERS_MAX: usize = 16;
/// Most sockets that are closed at once.
const BATCH_MAX: usize = 64;

/// The way to the thread that closes sockets. It ends when the last of these is dropped, and all is closed.
#[derive(Clone)]
pub(super) struct Disposer(Sender<Descriptor>);

impl Disposer {
    /// A disposer, if this kernel lets descriptors through to a socket that wants none.
    pub fn if_needed() -> io::Result<Option<Self>> {
        let probe = Descriptor::make(|| {
            let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM);
            rustix::net::socket_with(family, kind, rustix::net::SocketFlags::CLOEXEC, None)
        })?;
        if descriptors::refuse(&probe) {
            return Ok(None);
        }
        let (sender, receiver) = mpsc::channel();
        Builder::new().name("ringtable-close".into()).spawn(move || run(&receiver))?;
        Ok(Some(Self(sender)))
    }

    /// Has a socket closed. Never waits.
    pub fn close(&self, socket: Descriptor) {
        // The thread ends after the last sender only.
        let _ = self.0.send(socket);
    }
}

fn run(sockets: &Receiver<Descriptor>) {
    block_signals();
    let mut waiting: Vec<JoinHandle<()>> = Vec::new();
    while let Ok(first) = sockets.recv() {
        let batch = std::iter::once(first).chain(sockets.try_iter().take(BATCH_MAX - 1)).collect();
        waiting.extend(dispose(batch));
        waiting.retain(|holder| !holder.is_finished());
        if waiting.len() >= HOLDERS_MAX {
            let _ = waiting.swap_remove(0).join();
        }
    }
}

/// Closes sockets. Returns a thread that is at it still, and may have to wait.
fn dispose(batch: Vec<Descriptor>) -> Option<JoinHandle<()>> {
    let (give_back, given_back) = mpsc::channel();
    let (keep_on, kept_on) = mpsc::channel::<()>();
    let hold = move || {
        #[allow(unsafe_code)]
        // SAFETY: from here on this thread has a table of descriptors of its own. It uses nothing of it: it waits, and
        // ends.
        let apart = unsafe { libc::unshare(libc::CLONE_FILES) } == 0;
        if apart {
            let _ = give_back.send(batch);
            // Until they are closed.
            let _ = kept_on.recv();
        } else {
            drop(give_back);
            drop(batch);
        }
    };
    let Ok(holder) = Builder::new().name("ringtable-hold".into()).spawn(hold) else {
        // The batch was dropped with the function: that may have made us wait, but nobody else.
        return None;
    };
    match given_back.recv() {
        Ok(batch) => {
            drop::<Vec<Descriptor>>(batch);
            drop(keep_on);
            let _ = holder.join();
            None
        }
        Err(_) => Some(holder),
    }
}
