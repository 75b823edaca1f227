//! What comes to the UDP port: datagrams, whatever bytes they have, and a session, whatever numbers come to it.

use super::super::headcount::Headcount;
use super::super::statistics::Statistics;
use super::super::udp_session::{Accepted, Sessions};
use crate::command::record::Datagram;
use crate::input::Input;
use crate::limits;
use crate::sync::Arc;

pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    if input.byte().is_multiple_of(2) { codec(input.rest()) } else { session(&mut input) }
}

/// A message is read as it was written.
fn codec(bytes: &[u8]) {
    let Ok(message) = Datagram::decode(bytes) else { return };
    let mut again = message.head().to_vec();
    if let Datagram::Request { record, .. } | Datagram::Reply { record, .. } = message {
        again.extend_from_slice(record);
    }
    assert_eq!(Datagram::decode(&again), Ok(message));
}

/// Each number is executed once at most, in order, and answered with its own reply.
fn session(input: &mut Input<'_>) {
    let address = ([127, 0, 0, 1], 1).into();
    let mut sessions = Sessions::new(Arc::new(Headcount::new(1)), Arc::new(Statistics::new(0)));
    let token = sessions.join(address, 1, 0, 0, || 1).expect("there is room");
    let mut executed = 0_u64;
    while !input.is_empty() {
        let session = sessions.hear(address, token, 0).expect("it is there");
        let (number, floor) = match input.byte() % 4 {
            0 => (input.nasty(executed), input.nasty(executed)),
            _ => (executed + u64::from(input.byte() % 40), executed.saturating_sub(u64::from(input.byte() % 40))),
        };
        let record = vec![0; 8 * usize::from(input.byte())];
        let mut is_now = false;
        match session.accept(number, floor, &record) {
            Accepted::Now => is_now = true,
            Accepted::Answered(reply) => {
                assert!(reply.starts_with(&number.to_ne_bytes()) && (floor..=executed).contains(&number));
            }
            Accepted::Later => assert!(number > executed && number - floor < limits::UDP_WINDOW as u64),
            Accepted::Old | Accepted::Wrong => {}
        }
        while is_now || session.take_next().is_some() {
            is_now = false;
            executed += 1;
            assert_eq!(session.next(), executed);
            let mut reply = executed.to_ne_bytes().to_vec();
            reply.resize(8 + 256 * usize::from(input.byte()), 0);
            session.answer(&reply);
        }
    }
}
