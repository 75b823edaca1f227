//! The source of an event that wakes a worker, packed into the token that the kernel hands back with it.

use rustix::event::epoll::EventData;

/// What an event is about, packed into its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Mailbox,
    /// The queue of the exchange.
    Queue,
    /// The UDP port.
    Udp,
    Socket {
        place: usize,
        serial: u32,
    },
    Bell {
        place: usize,
        serial: u32,
    },
}

impl Source {
    pub fn pack(self) -> EventData {
        EventData::new_u64(match self {
            Self::Mailbox => u64::MAX,
            Self::Queue => u64::MAX - 1,
            Self::Udp => u64::MAX - 2,
            Self::Socket { place, serial } => (place as u64) << 33 | u64::from(serial) << 1,
            Self::Bell { place, serial } => (place as u64) << 33 | u64::from(serial) << 1 | 1,
        })
    }

    pub fn unpack(data: EventData) -> Self {
        let token = data.u64();
        let (place, serial) = ((token >> 33) as usize, (token >> 1) as u32);
        match token {
            u64::MAX => Self::Mailbox,
            _ if token == u64::MAX - 1 => Self::Queue,
            _ if token == u64::MAX - 2 => Self::Udp,
            _ if token & 1 == 0 => Self::Socket { place, serial },
            _ => Self::Bell { place, serial },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_who_is_meant() {
        for source in [
            Source::Mailbox,
            Source::Queue,
            Source::Udp,
            Source::Socket { place: 0, serial: 0 },
            Source::Bell { place: 1 << 20, serial: u32::MAX },
            Source::Socket { place: 77, serial: 5 },
        ] {
            assert_eq!(Source::unpack(source.pack()), source);
        }
    }
}
