//! Models of the doorbell protocol: over a real lane, a side that publishes against a side that goes to sleep; and over
//! a real exchange, a client that publishes against two workers that do.
//!
//! The doorbell itself (an eventfd) becomes a value: whether it was rung. In the last model it becomes a loom
//! `Notify`, which like an eventfd keeps a ring for who comes to wait later; there a lost wake-up is a deadlock,
//! which loom reports.
//!
//! # Allowed
//!
//! - The sleeper sees the news and stays awake; whether it was rung as well does not matter.
//! - The sleeper does not see the news and sleeps, and the publisher saw its flag and has rung.
//!
//! # Forbidden
//!
//! - The sleeper sleeps with news in the lane, and nobody has rung: it sleeps for ever. Either of the two fences
//!   missing allows that: a store (of the position, of the flag) may become visible after a later load (of the other
//!   one).
//! - In [`a_piece_wakes_a_worker`]: both workers sleep with a piece in the queue, and nobody has rung.
//! - In [`taking_replies_wakes_a_server_that_waits_for_room`]: both sleep, and nobody has rung.
//!
//! # What this cannot show
//!
//! Loom gives a SeqCst load or store the meaning of an Acquire or a Release, so the same protocol without fences, by
//! SeqCst accesses, would fail here though the language allows it; SeqCst fences loom has in full. That an eventfd
//! loses no ring is assumed. The same on real threads, whose loads and stores are ordered by a processor, is
//! `every_word_goes_through_a_lane_and_nobody_sleeps_for_ever` in `tests`.

use loom::sync::Notify;
use loom::thread;

use super::exchange::{Exchange, Geometry, Workers};
use super::lane::{LANE_WORDS, Lane, announce_awake, announce_sleep, must_ring};
use super::mpmc;
use super::spsc::{Consumer, Producer};
use crate::sync::{Arc, AtomicU64, Ordering, heap_words, model};

/// What became of the two sides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Night {
    /// The sleeper found nothing and slept.
    slept: bool,
    /// The publisher rang.
    rung: bool,
}

const ALLOWED: [Night; 3] =
    [Night { slept: false, rung: false }, Night { slept: false, rung: true }, Night { slept: true, rung: true }];

/// Runs `publish` (returns whether it rang) against `sleep` (returns whether it slept) on a lane that `prepare` filled.
fn check<S: Send + 'static>(prepare: fn(Lane<'_>) -> S, publish: fn(Lane<'_>, S) -> bool, sleep: fn(Lane<'_>) -> bool) {
    let seen = model::outcomes(move || {
        let words = Arc::new(heap_words(LANE_WORDS));
        let state = prepare(Lane::new(&words));
        let publishing = {
            let words = Arc::clone(&words);
            thread::spawn(move || publish(Lane::new(&words), state))
        };
        let slept = sleep(Lane::new(&words));
        let rung = publishing.join().expect("the publisher ends");
        assert!(rung || !slept, "forbidden: a lost wake-up, asleep with news and not rung");
        Night { slept, rung }
    });
    assert!(seen.into_iter().eq(ALLOWED), "the model is too small: not all that is allowed happened");
}

/// A client publishes a request while the server cools: it announces that it sleeps, and looks once more.
#[test]
fn a_request_wakes_the_server() {
    check(
        |_| Producer::default(),
        |lane, mut requests| {
            requests.write(lane.requests(), b"request!");
            requests.publish(lane.requests()) && must_ring(lane.server_waiting())
        },
        |lane| {
            announce_sleep(lane.server_waiting(), 0);
            Consumer::default().available(lane.requests(), 8) == Ok(0)
        },
    );
}

/// The server publishes a reply while the client goes to sleep. The client looks by a Relaxed load: a hint suffices,
/// since who acts on it loads the position properly.
#[test]
fn a_reply_wakes_the_client() {
    check(
        |_| Producer::default(),
        |lane, mut responses| {
            responses.write(lane.responses(), b"response");
            responses.publish(lane.responses()) && must_ring(lane.client_state())
        },
        |lane| {
            announce_sleep(lane.client_state(), 0);
            lane.responses().tail.load(Ordering::Relaxed) == 0
        },
    );
}

/// The server takes a request out of a full ring while the client, which has another one, goes to sleep.
#[test]
fn room_wakes_the_client() {
    check(
        |lane| {
            let (mut client, mut server) = (Producer::default(), Consumer::default());
            client.write(lane.requests(), &[1; 16]);
            client.publish(lane.requests());
            assert_eq!(server.available(lane.requests(), 16), Ok(16));
            server
        },
        |lane, mut requests| {
            requests.skip(16);
            requests.release(lane.requests()) && must_ring(lane.client_state())
        },
        |lane| {
            announce_sleep(lane.client_state(), 0);
            lane.requests().head.load(Ordering::Relaxed) == 0
        },
    );
}

/// A client takes replies without ringing (the common case, where the server does not wait for it), and rings a waiting
/// server only before it goes to sleep itself; the server, whose reply finds no room, goes to sleep meanwhile.
#[test]
fn taking_replies_wakes_a_server_that_waits_for_room() {
    check(
        |lane| {
            let (mut server, mut client) = (Producer::default(), Consumer::default());
            server.write(lane.responses(), &[1; 16]);
            server.publish(lane.responses());
            assert_eq!(client.available(lane.responses(), 16), Ok(16));
            client
        },
        |lane, mut responses| {
            responses.skip(16);
            responses.release(lane.responses());
            announce_sleep(lane.client_state(), 0);
            // As in the client's `sleep`: the fence in `announce_sleep` stands in for that of `must_ring`.
            lane.server_waiting().load(Ordering::Relaxed) & 1 != 0
        },
        |lane| {
            announce_sleep(lane.server_waiting(), 0);
            lane.responses().head.load(Ordering::Relaxed) == 0
        },
    );
}

/// Two requests one after the other, and a server that sleeps between them as it may: it gets both.
#[test]
fn nobody_sleeps_through_the_second_request() {
    let seen = model::outcomes(|| {
        let (words, bell): (Arc<Box<[AtomicU64]>>, _) = (Arc::new(heap_words(LANE_WORDS)), Arc::new(Notify::new()));
        let publishing = {
            let (words, bell) = (Arc::clone(&words), Arc::clone(&bell));
            thread::spawn(move || {
                let (lane, mut requests) = (Lane::new(&words), Producer::default());
                for _ in 0..2 {
                    requests.write(lane.requests(), b"request!");
                    if requests.publish(lane.requests()) && must_ring(lane.server_waiting()) {
                        bell.notify();
                    }
                }
            })
        };
        let (lane, mut requests, mut naps) = (Lane::new(&words), Consumer::default(), 0);
        while requests.seen() < 16 {
            announce_sleep(lane.server_waiting(), 0);
            let seen = requests.seen();
            requests.available(lane.requests(), 16).expect("forbidden: the client is well");
            if requests.seen() == seen {
                naps += 1;
                bell.wait();
            }
            announce_awake(lane.server_waiting(), 0);
        }
        publishing.join().expect("the publisher ends");
        naps
    });
    assert!(seen.contains(&0) && seen.contains(&2), "the model is too small: never slept twice, or always");
}

/// A client publishes a piece while two workers go to sleep, each by the steps of one that finds nothing: it counts
/// itself out and looks at the queue once more.
#[test]
fn a_piece_wakes_a_worker() {
    const GEOMETRY: Geometry = Geometry { slot_words: 3, slots: 1, members: 1 };
    let seen = model::bounded_outcomes(|| {
        let words: Arc<Box<[AtomicU64]>> = Arc::new(heap_words(GEOMETRY.size() / 8));
        Exchange::new(&words, GEOMETRY).create(Workers { first: 0, count: 2 });
        let workers = Arc::new(mpmc::Consumer::default());
        let sleeping = [(); 2].map(|()| {
            let (words, workers) = (Arc::clone(&words), Arc::clone(&workers));
            thread::spawn(move || {
                let exchange = Exchange::new(&words, GEOMETRY);
                exchange.announce_sleep();
                let slept = !workers.has_news(exchange.queue());
                if !slept {
                    exchange.announce_awake();
                }
                slept
            })
        });
        let exchange = Exchange::new(&words, GEOMETRY);
        let claim = exchange.queue().try_claim(0).expect("there is room");
        assert!(exchange.queue().publish(claim), "forbidden: nobody has quarantined it");
        let rung = exchange.must_ring();
        let slept = sleeping.map(|worker| worker.join().expect("the worker ends")) == [true; 2];
        assert!(rung || !slept, "forbidden: a lost wake-up, all asleep with news and not rung");
        Night { slept, rung }
    });
    assert!(seen.into_iter().eq(ALLOWED), "the model is too small: not all that is allowed happened");
}
