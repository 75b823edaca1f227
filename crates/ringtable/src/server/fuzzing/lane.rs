//! A client with a lane, in which it writes what it likes, beside requests of any kind. The worker goes on, or ends the
//! connection, and keeps nothing of it.

use super::super::end::End;
use super::super::lane_client::LaneClient;
use super::super::lane_offer::Offer;
use super::super::turn::Turn;
use super::{check, connection, executor_with_lanes, hear, request};
use crate::command::known::Known;
use crate::command::record::{HEADER_SIZE, RequestHead, decode_reply, record_size};
use crate::input::Input;
use crate::limits;
use crate::ring::lane::{LANE_WORDS, Lane};
use crate::ring::spsc::{Consumer, Producer};
use crate::shm::segment::Segment;
use crate::sync::{Memory, Ordering, as_uninit};

/// Words of the lane that both sides read and write.
const CONTROL_WORDS: usize = 512;
const STEPS_MAX: usize = 60;
/// Turns after which a worker has done with all that an honest client has asked.
const TURNS_MAX: usize = 10_000;

pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut executor = executor_with_lanes(&mut input);
    let (server, client) = connection();
    let offer = Offer::make(server, (1, 0), &executor.store, None, |_| Ok(())).expect("the system lets us");
    let (words, mut passed) = hear(&client);
    assert_eq!(words, format!("+LANE {}\r\n", Known::ours()).as_bytes());
    let segment = Segment::from_foreign(passed.remove(1)).expect("a segment");
    let mapping = segment.map_writable().expect("it can be mapped");
    segment.seal(true).expect("it can be sealed");
    assert!(offer.is_sealed());
    let mut served = LaneClient::new(offer, &executor.store);
    let lane = Lane::new(mapping.words());
    let (mut requests, mut responses) = (Producer::default(), Consumer::default());
    // Input of requests that wait for room, and of replies that have come.
    let (mut unsent, mut replies): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
    let (mut honest, mut end) = (true, None);
    for _ in 0..STEPS_MAX {
        if input.is_empty() || end.is_some() {
            break;
        }
        match input.byte() % 8 {
            0..3 => {
                let (number, arguments) = request(&mut input);
                let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
                RequestHead::new(number, &arguments).expect("it is small").append_to(&mut unsent);
                if input.byte().is_multiple_of(16) {
                    // A record that lies.
                    honest = false;
                    let at = unsent.len().saturating_sub(8 * (1 + input.below(6))).next_multiple_of(8);
                    let word = input.nasty(u64::from(number) << 32 | 16).to_ne_bytes();
                    unsent.splice(at..(at + 8).min(unsent.len()), word);
                }
            }
            3 => {
                honest = false;
                let end = if input.byte().is_multiple_of(4) { LANE_WORDS } else { CONTROL_WORDS };
                let word = &mapping.words()[input.below(end)];
                word.store(input.nasty(word.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
            4 => drop(send(&mut requests, lane, &mut unsent, 8 * input.below(1 + limits::LANE_RING_SIZE / 8))),
            5 => drop(take(&mut responses, lane, &mut replies)),
            _ => {
                end = served.turn(&mut executor).err();
                executor.end_turn();
            }
        }
    }
    if honest {
        // All is answered: what was sent, and what was not yet.
        for _ in 0..TURNS_MAX {
            let sent = send(&mut requests, lane, &mut unsent, usize::MAX).expect("the server is honest");
            let taken = take(&mut responses, lane, &mut replies).expect("the server is honest");
            let turn = match end {
                None => served.turn(&mut executor),
                Some(end) => Err(end),
            };
            executor.end_turn();
            match turn {
                Ok(Turn::Idle) if sent + taken == 0 => break,
                Ok(_) => {}
                Err(why) => {
                    end = Some(why);
                    break;
                }
            }
        }
        assert!(matches!(end, None | Some(End::Quit)), "an honest client's connection ends: {end:?}");
        take(&mut responses, lane, &mut replies).expect("the server is honest");
        assert!(end.is_some() || unsent.is_empty(), "{} bytes of requests find no room", unsent.len());
        check_replies(&replies);
    }
    while served.execute_rest(&mut executor) {
        executor.end_turn();
    }
    served.drop_unfinished(&mut executor);
    let hazards = served.linger();
    check(&mut executor);
    drop(hazards);
}

/// Sends what waits for room, at most `share` bytes. Returns how many went; `None` if the ring is damaged.
fn send(requests: &mut Producer, lane: Lane<'_>, unsent: &mut Vec<u8>, share: usize) -> Option<usize> {
    let room = requests.room(lane.requests(), unsent.len()).ok()?;
    let size = room.min(unsent.len()).min(share) / 8 * 8;
    requests.write(lane.requests(), &unsent[..size]);
    unsent.drain(..size);
    requests.publish(lane.requests());
    Some(size)
}

/// Takes what has come. Returns how many bytes; `None` if the ring is damaged.
fn take(responses: &mut Consumer, lane: Lane<'_>, replies: &mut Vec<u8>) -> Option<usize> {
    let size = responses.available(lane.responses(), limits::LANE_RING_SIZE).ok()?;
    let begin = replies.len();
    replies.resize(begin + size, 0);
    responses.read(lane.responses(), as_uninit(&mut replies[begin..]));
    responses.release(lane.responses());
    Some(size)
}

fn check_replies(mut replies: &[u8]) {
    while let Some(word) = replies.first_chunk::<HEADER_SIZE>() {
        let size = record_size(u64::from_ne_bytes(*word), limits::REPLY_SIZE_MAX).expect("a record");
        let (record, rest) = replies.split_at_checked(size).expect("all of it has come");
        decode_reply(record).expect("a reply");
        replies = rest;
    }
    assert!(replies.is_empty());
}
