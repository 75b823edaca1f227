//! A connection that was just made, whoever is to drive it: a transport, and what came with it.

use std::sync::Arc;

use super::channel::Channel;
use super::connect::{connect, not_found};
use super::error::Error;
use super::handshake::{is_put_off, join, join_over_udp, lane_request, rings_request, speak_resp3, upgrade};
use super::in_place::TableReader;
use super::life::Life;
use super::options::{Options, Transport};
use super::patience::Patience;
use super::sharing::Sharing;
use super::socket::SocketLink;
use crate::address::Location;
use crate::command::known::Known;

/// A connection that nobody has used yet.
pub(super) struct Opened {
    /// The table, if it can be read in place.
    pub reader: Option<TableReader>,
    pub channel: Channel,
    /// Which commands the server knows.
    pub known: Known,
    /// The number of the server's table; 0 if it does not tell.
    pub server_id: u64,
    pub life: Arc<Life>,
    pub sharing: Arc<Sharing>,
}

impl Opened {
    /// Connects, and asks for a lane if the options want one.
    pub fn open(location: &Location, options: &Options, mut patience: Patience<'_>) -> Result<Self, Error> {
        let is_local = matches!(location, Location::Unix(_));
        if matches!(options.transport, Transport::Lane | Transport::Rings) && !is_local {
            return Err(Error::NoSharedMemory(location.clone()));
        }
        patience.start();
        let socket = connect(location, &options.trust, &mut patience)?;
        failpoint!("connect.socket");
        let life = Arc::new(Life::new(&socket)?);
        if let Location::Udp(_) = location {
            let udp = join_over_udp(socket, &mut patience).map_err(|error| match error {
                Error::Gone(words) | Error::Unsent(words) => not_found(location.clone(), std::io::Error::other(words)),
                error => error,
            })?;
            let (known, server_id) = (udp.known(), udp.server_id());
            let channel = Channel::Udp(Box::new(udp));
            return Ok(Self { reader: None, channel, known, server_id, life, sharing: Arc::default() });
        }
        let mut plain = SocketLink::new(socket);
        let sharing = Arc::<Sharing>::default();
        let mut refusal = None;
        let reader_and_channel = if options.transport == Transport::Socket || !is_local {
            None
        } else {
            let first = if options.transport == Transport::Rings { rings_request() } else { lane_request() };
            match upgrade(&mut plain, &first, &mut patience) {
                Ok(upgraded) => Some(upgraded),
                // The server says which of the two it has.
                Err(Error::Refused(words))
                    if options.transport == Transport::Auto && words.starts_with("TOPOLOGY ") =>
                {
                    Some(upgrade(&mut plain, &rings_request(), &mut patience)?)
                }
                // A server that has neither to give (or is none of ours) still has a socket.
                Err(Error::Refused(words)) if options.transport == Transport::Auto && !is_put_off(&words) => {
                    refusal = Some(Error::Refused(words));
                    None
                }
                Err(error) => return Err(error),
            }
        };
        let (reader, channel, known, id) = match reader_and_channel {
            Some((status, passed)) => {
                failpoint!("connect.received");
                let (reader, channel, known) = join(plain.into_socket(), &status, passed, &sharing)?;
                failpoint!("connect.joined");
                let id = reader.constants().id;
                (Some(reader), channel, known, id)
            }
            None => {
                let id = match (speak_resp3(&mut plain, &mut patience), refusal) {
                    // It has ended the connection: why, it has said before.
                    (Err(Error::Gone(_)), Some(refusal)) => return Err(refusal),
                    (id, _) => id?,
                };
                (None, Channel::Socket(Box::new(plain)), Known::ALL, id)
            }
        };
        Ok(Self { reader, channel, known, server_id: id, life, sharing })
    }
}
