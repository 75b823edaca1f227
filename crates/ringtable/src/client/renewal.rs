//! The connection of the moment: another one in a forked child, and after the server's death if that is wanted.
//!
//! # Design
//!
//! A connection has a stamp, the generation of the process that it was made in (`fork::generation`), and every call
//! compares the two. One that a child has inherited does not match; of one that has died, the stamp is spoilt
//! (`Connection::end`). Either way the next call makes a connection of its own, and calls of a client that is well
//! pay nothing for that.
//!
//! # Invariants
//!
//! - What a call has borrowed stays there: a connection that was replaced is kept, without all that is large
//!   ([`Connection::retire`]), until the client is dropped.
//! - Of a process's threads that find their connection dead, one makes the new one, and the others wait for it.
//! - A parent's connection is left alone in a child, and never freed: its locks may be held by threads that do not
//!   exist there. So nobody waits there; of threads that make connections at the same time, one keeps its own.

use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};

use super::connection::Connection;
use super::error::Error;
use super::gate::Gate;
use super::patience::Patience;

/// The connection of the moment, for any number of threads.
pub(super) struct RenewableConnection {
    current: AtomicPtr<Node>,
    closed: AtomicBool,
}

/// A connection in the list of them, the newest first.
struct Node {
    connection: Arc<Connection>,
    /// Before the making of the next one.
    renewing: Gate<()>,
    /// The one before, which calls may still use; ends with null, or with a parent's.
    previous: *mut Self,
}

impl RenewableConnection {
    pub fn new(connection: Arc<Connection>) -> Self {
        Self { current: AtomicPtr::new(Self::node(connection, null_mut())), closed: AtomicBool::new(false) }
    }

    fn node(connection: Arc<Connection>, previous: *mut Node) -> *mut Node {
        Box::into_raw(Box::new(Node { connection, renewing: Gate::new(()), previous }))
    }

    #[inline]
    fn current(&self) -> &Node {
        #[allow(unsafe_code)]
        // SAFETY: the pointer always is one of `node`, and what it points to is freed only in `drop`, when nobody
        // borrows from this. Acquire: pairs with the Release in `replace`, for one made by another thread.
        unsafe {
            &*self.current.load(Ordering::Acquire)
        }
    }

    /// The connection, or the parent's if this is a child that has not made its own, or one that has died.
    #[inline]
    pub fn peek(&self) -> &Connection {
        &self.current().connection
    }

    /// The connection of this process, made by `make` if need be.
    #[inline]
    pub fn get(
        &self,
        patience: Patience<'_>,
        make: impl FnOnce(Patience<'_>) -> Result<Arc<Connection>, Error>,
    ) -> Result<&Connection, Error> {
        let connection = self.peek();
        if connection.is_current() { Ok(connection) } else { self.renew(patience, make) }
    }

    #[cold]
    fn renew(
        &self,
        patience: Patience<'_>,
        make: impl FnOnce(Patience<'_>) -> Result<Arc<Connection>, Error>,
    ) -> Result<&Connection, Error> {
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let old = self.current();
        if old.connection.is_ours() {
            old.renewing.enter(patience, |(), patience| {
                if std::ptr::eq(self.current(), old) {
                    old.connection.retire(*patience)?;
                    old.connection.tell_lost()?;
                    failpoint!("reconnect.retired");
                    let new = make(*patience)?;
                    failpoint!("reconnect.connected");
                    self.replace(old, new);
                }
                Ok(())
            })?;
        } else {
            failpoint!("fork.inherited");
            let new = make(patience)?;
            failpoint!("fork.connected");
            self.replace(old, new);
        }
        let connection = self.peek();
        // Pairs with the fence in `close`.
        fence(Ordering::SeqCst);
        if self.is_closed() {
            connection.close(patience);
            return Err(Error::Closed);
        }
        Ok(connection)
    }

    /// Puts a new connection in the place of an old one, unless another thread was faster.
    fn replace(&self, old: &Node, new: Arc<Connection>) {
        let old = std::ptr::from_ref(old).cast_mut();
        let new = Self::node(new, old);
        // Release: what `node` wrote is seen by whoever loads the pointer; pairs with the Acquire in `current`.
        // Relaxed: what another thread has put there is loaded anew.
        if self.current.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed).is_err() {
            #[allow(unsafe_code)]
            // SAFETY: ours was never shared.
            unsafe {
                drop(Box::from_raw(new));
            }
        }
    }

    /// Whether it was closed in this process.
    pub fn is_closed(&self) -> bool {
        // Relaxed: guards nothing; see `close` for what is made meanwhile.
        self.closed.load(Ordering::Relaxed)
    }

    /// Closes the connection for good. In a forked child that has none of its own, that is nothing but the handle.
    pub fn close(&self, patience: Patience<'_>) {
        self.closed.store(true, Ordering::Relaxed);
        // Pairs with the fence in `renew`: either we see the connection that another thread makes meanwhile, or that
        // thread sees that it is closed, and closes it.
        fence(Ordering::SeqCst);
        let connection = self.peek();
        if connection.is_ours() {
            connection.close(patience);
        }
    }
}

impl Drop for RenewableConnection {
    fn drop(&mut self) {
        let mut next = *self.current.get_mut();
        while !next.is_null() {
            #[allow(unsafe_code)]
            // SAFETY: nobody else has this, so nobody borrows what it holds, and each node is freed once. What is a
            // parent's is left alone, with all before it.
            let node = unsafe {
                if !(*next).connection.is_ours() {
                    return;
                }
                Box::from_raw(next)
            };
            // A sender inside of the gate has it, too, for as long as it waits.
            if Arc::strong_count(&node.connection) > 1 {
                node.connection.end_waits();
            }
            next = node.previous;
        }
    }
}
