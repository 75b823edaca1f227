//! One of the transports, whichever the server has given. No step of it waits.

use std::ops::Range;

use super::error::Error;
use super::lane::LaneLink;
use super::rings::RingsLink;
use super::socket::SocketLink;
use super::udp::UdpLink;
use crate::command::reply::Reply;

pub(super) enum Channel {
    Lane(Box<LaneLink>),
    Rings(Box<RingsLink>),
    Socket(Box<SocketLink>),
    Udp(Box<UdpLink>),
}

impl Channel {
    /// Writes a request, if it fits. Returns whether it did. Not yet published.
    #[inline]
    pub fn try_push(&mut self, number: u16, arguments: &[&[u8]]) -> Result<bool, Error> {
        match self {
            Self::Lane(lane) => lane.try_push(number, arguments),
            Self::Rings(rings) => rings.try_push(number, arguments),
            Self::Socket(socket) => socket.try_push(number, arguments),
            Self::Udp(udp) => udp.try_push(number, arguments),
        }
    }

    /// Lets the server have what was written, as far as there is room. Returns whether all has gone.
    #[inline]
    pub fn publish(&mut self) -> Result<bool, Error> {
        match self {
            Self::Lane(lane) => lane.publish(),
            Self::Rings(rings) => Ok(rings.publish()),
            Self::Socket(socket) => socket.flush(),
            Self::Udp(udp) => udp.flush(),
        }
    }

    /// Whether something that was written has not gone, and goes when there is room.
    pub fn has_rest(&self) -> bool {
        match self {
            Self::Lane(lane) => lane.has_rest(),
            Self::Rings(rings) => rings.has_rest(),
            Self::Socket(socket) => socket.has_rest(),
            // What is lost on the way is sent again by who waits.
            Self::Udp(_) => false,
        }
    }

    /// The next reply, if all of it has come.
    #[inline]
    pub fn try_receive(&mut self) -> Result<Option<Reply>, Error> {
        match self {
            Self::Lane(lane) => lane.try_receive(),
            Self::Rings(rings) => rings.try_receive(),
            Self::Socket(socket) => socket.try_receive(),
            Self::Udp(udp) => udp.try_receive(),
        }
    }

    /// The workers that may serve us; none over a socket or UDP, which do not tell.
    pub fn workers(&self) -> Range<usize> {
        match self {
            Self::Lane(lane) => lane.workers(),
            Self::Rings(rings) => rings.workers(),
            Self::Socket(_) | Self::Udp(_) => 0..0,
        }
    }
}
