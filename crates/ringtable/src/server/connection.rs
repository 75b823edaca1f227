//! A connection, of whatever kind, as a worker has it among its clients.
//!
//! A further transport is a file of its own, and a variant here.

use rustix::event::epoll::EventFlags;

use super::end::End;
use super::estate::LaneRemains;
use super::executor::Executor;
use super::lane_client::LaneClient;
use super::lane_offer::Offer;
use super::pins::Lingering;
use super::socket::Socket;
use super::socket_client::SocketClient;
use super::turn::Turn;
use super::watch_client::WatchClient;
use crate::limits;
use crate::sync::Arc;

/// What stands between a client and its worker.
pub(super) enum Connection {
    /// Has been given a lane, and has not sealed it yet.
    Offered(Box<Offer>),
    Lane(Box<LaneClient>),
    Socket(Box<SocketClient>),
    /// A member of the exchange: its number, and the sign of its life.
    Member(u16, Arc<Socket>),
    Watch(Box<WatchClient>),
    /// Served no more; its views keep entries in place.
    Lingering(Lingering),
}

impl Connection {
    /// One turn of the client. A member of an exchange is served at the worker's port instead.
    #[inline]
    pub fn turn(&mut self, executor: &mut Executor) -> Result<Turn, End> {
        match self {
            Self::Lane(lane) => lane.turn(executor),
            Self::Socket(socket) => socket.turn(executor),
            Self::Member(_, socket) => socket.check_silent().map(|()| Turn::Idle),
            Self::Offered(_) | Self::Watch(_) => Ok(Turn::Idle), // it asks nothing
            Self::Lingering(lingering) => lingering.check().map(|()| Turn::Idle),
        }
    }

    /// What another server needs to go on with it, if it is a lane that outlives this server. Nobody is told.
    pub fn leave(self) -> Option<LaneRemains> {
        match self {
            Self::Offered(offer) => offer.leave(),
            Self::Lane(lane) => lane.leave(),
            Self::Lingering(lingering) => lingering.leave(),
            other => {
                std::mem::forget(other);
                None
            }
        }
    }

    /// Takes note of what the kernel reports of its socket: of most, that is whether the client lives (I1).
    pub fn notice(&mut self, flags: EventFlags) -> Result<(), End> {
        match self {
            Self::Socket(socket) => {
                socket.notice(flags);
                Ok(())
            }
            Self::Offered(offer) => offer.check_socket(),
            Self::Lane(lane) => lane.check_socket(),
            Self::Member(_, socket) => socket.check_silent(),
            Self::Watch(watch) => watch.check_socket(),
            Self::Lingering(lingering) => lingering.check(),
        }
    }

    /// Whether the client may have asked for something. A hint: the turn looks properly.
    pub fn has_news(&self) -> bool {
        match self {
            Self::Lane(lane) => lane.has_news(),
            Self::Socket(socket) => socket.has_news(),
            _ => false,
        }
    }

    /// Whether it keeps more memory for what follows than an idle client shall.
    pub fn keeps_much(&self) -> bool {
        let kept = match self {
            Self::Lane(lane) => lane.kept(),
            Self::Socket(socket) => socket.session.kept(),
            _ => 0,
        };
        kept > limits::IDLE_BUFFER_MAX
    }

    /// Lets go of large buffers that are kept.
    pub fn let_go(&mut self, executor: &mut Executor) {
        match self {
            Self::Lane(lane) => lane.let_go(),
            Self::Socket(socket) => socket.session.let_go(executor),
            _ => {}
        }
    }

    /// Whether it can do nothing before another thread has made room for its request.
    pub fn is_waiting(&self) -> bool {
        match self {
            Self::Lane(lane) => lane.is_waiting(),
            Self::Socket(socket) => socket.session.is_waiting(),
            _ => false,
        }
    }

    /// Gives the client the answer with this ticket, a token or OK, which was to come later. Returns whether there is
    /// something to send.
    pub fn tell(&mut self, ticket: u64, answer: Option<u64>) -> bool {
        match self {
            Self::Lane(lane) => lane.tell(ticket, answer),
            Self::Socket(socket) => socket.session.tell(ticket, answer),
            _ => false, // it has become something else since it asked
        }
    }

    /// Whether it has the reserved place.
    pub fn has_reservation(&self) -> bool {
        matches!(self, Self::Socket(socket) if socket.session.has_reservation())
    }
}

/// A client of a worker.
pub(super) struct Client {
    pub connection: Connection,
    /// The number of the connection, which stays when it is upgraded.
    pub number: u64,
    pub hot: bool,
    pub idle_rounds: u32,
    /// Turns with work since the last one without.
    pub streak: u32,
    /// The window in which it was last active.
    pub window: u64,
    /// Whether it is among those that keep large buffers, and whether it has worked since that was last looked at.
    pub keeps_much: bool,
    pub has_worked: bool,
}

impl Client {
    /// Takes note of a turn with work.
    pub fn note_work(&mut self) {
        self.idle_rounds = 0;
        self.has_worked = true;
        self.streak = self.streak.saturating_add(1);
    }

    /// Its lane, if that is served.
    #[inline]
    pub fn lane(&self) -> Option<&LaneClient> {
        if let Connection::Lane(lane) = &self.connection { Some(lane) } else { None }
    }
}
