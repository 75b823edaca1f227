//! Members of an exchange, which write what they like into the rings that they share, come, go, and stand still. The
//! worker goes on, and so does a member that reads.

use std::os::fd::OwnedFd;

use super::super::port::Port;
use super::super::socket::Socket;
use super::super::topology::Topology;
use super::{check, connection, drain, executor, hear, request, runtime};
use crate::command::record::RequestHead as RecordHead;
use crate::input::Input;
use crate::limits;
use crate::ring::broadcast::Receiver;
use crate::ring::exchange::{Exchange, Geometry, ReplyHead, RequestHead};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Arc, Memory, Ordering, as_uninit, copy_in, copy_out};
use crate::table::Eviction;

const STEPS_MAX: usize = 80;
/// Rounds after which a worker has done with all that there is.
const ROUNDS_MAX: usize = 10_000;

/// A client, as far as it has joined.
struct Joined {
    socket: OwnedFd,
    server: Arc<Socket>,
    mapping: Mapping,
    geometry: Geometry,
    number: u16,
    generation: u16,
    sequence: u32,
    receiver: Receiver,
    unsent: Vec<u8>,
}

pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let runtime = runtime(Topology::Shared, Eviction::Never);
    let mut executor = executor(&runtime);
    let mut port = Port::new(Arc::clone(&runtime.exchanges[0]), 0, runtime.cpus);
    let (mut members, mut now_ns, mut connections): (Vec<Joined>, u64, u64) = (Vec::new(), 1, 0);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let step = input.byte();
        if members.is_empty() || step % 16 == 15 && members.len() < 3 {
            connections += 1;
            match join(&mut port, connections, &executor) {
                Some(member) => members.push(member),
                None if members.is_empty() => break,
                None => {}
            }
            continue;
        }
        let chosen = usize::from(step >> 4) % members.len();
        let member = &mut members[chosen];
        match step % 16 {
            0..3 => {
                let (number, arguments) = request(&mut input);
                let arguments: Vec<&[u8]> =
                    arguments.iter().map(|argument| &argument[..argument.len().min(400)]).collect();
                RecordHead::new(number, &arguments).expect("it is small").append_to(&mut member.unsent);
            }
            3..6 => member.send(&mut input),
            6 | 7 => {
                let words = member.mapping.words();
                let end = if step & 0x10 == 0 { words.len() } else { 200 };
                let word = &words[input.below(end)];
                word.store(input.nasty(word.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
            // A member that stands still for ever.
            8 => drop(member.view().queue().try_claim(member.number)),
            9 | 10 => member.receive(),
            11 => {
                let member = members.swap_remove(chosen);
                member.leave(&mut port, &executor);
            }
            12 => {
                // The end of the exchange, as a worker that has nothing to do sees it.
                port.announce_sleep();
                port.announce_awake();
            }
            _ => {
                now_ns += [0, limits::CLAIM_PATIENCE_NS + 1, 5_000_000_000][input.below(3)];
                port.serve(&mut executor, &runtime.workers, now_ns, 1, &mut 0);
                executor.end_turn();
            }
        }
    }
    for member in members {
        member.leave(&mut port, &executor);
    }
    // Everybody is gone, whatever they have left behind: the seats come free, in bounded time.
    for _ in 0..ROUNDS_MAX {
        now_ns += limits::CLAIM_PATIENCE_NS + 1;
        port.serve(&mut executor, &runtime.workers, now_ns, 1, &mut 0);
        executor.end_turn();
        port.announce_sleep();
        port.announce_awake();
        if port.exchange.members() == 0 {
            break;
        }
    }
    assert_eq!(port.exchange.members(), 0, "seats of clients that are gone");
    check(&mut executor);
}

fn join(port: &mut Port, connection_number: u64, executor: &super::Executor) -> Option<Joined> {
    let (server, socket) = connection();
    let server = Arc::new(server);
    let number = port.exchange.join(&server, connection_number, &executor.store).ok()?;
    let (words, mut passed) = hear(&socket);
    let words = String::from_utf8(words).expect("text");
    let mut numbers = words.trim_start_matches("+RINGS ").trim_end().split(' ');
    assert_eq!(numbers.next().and_then(|word| word.parse().ok()), Some(number));
    let generation = numbers.next().and_then(|word| word.parse().ok()).expect("a generation");
    let mapping = Segment::from_foreign(passed.remove(1)).and_then(|segment| segment.map_writable());
    let mapping = mapping.expect("a segment");
    // What a fellow has scribbled over the header is refused.
    let Ok((view, _)) = Exchange::attach(mapping.words(), 1) else {
        port.depart(number, &executor.statistics);
        return None;
    };
    let geometry = view.geometry();
    Some(Joined {
        socket,
        server,
        mapping,
        geometry,
        number,
        generation,
        sequence: 0,
        receiver: Receiver::new(number),
        unsent: Vec::new(),
    })
}

impl Joined {
    fn view(&self) -> Exchange<'_> {
        Exchange::new(self.mapping.words(), self.geometry)
    }

    /// Sends a piece as an honest client does, or one with a head that lies.
    fn send(&mut self, input: &mut Input<'_>) {
        let view = Exchange::new(self.mapping.words(), self.geometry);
        if !self.receiver.is_listening() {
            self.receiver.listen(view.responses());
        }
        let queue = view.queue();
        let Some(claim) = queue.try_claim(self.number) else { return };
        let size = self.unsent.len().min(view.geometry().piece_size());
        let head = RequestHead { size, generation: self.generation, sequence: self.sequence }.pack();
        let body = queue.body(&claim);
        let lies = input.byte().is_multiple_of(16);
        body[0].store(if lies { input.nasty(head) } else { head }, Ordering::Relaxed);
        copy_in(&self.unsent[..size], &body[1..]);
        if queue.publish(claim) {
            self.sequence = self.sequence.wrapping_add(1);
            self.unsent.drain(..size);
        }
    }

    /// Reads as an honest client does.
    fn receive(&mut self) {
        let view = Exchange::new(self.mapping.words(), self.geometry);
        let ring = view.responses();
        if !self.receiver.is_listening() {
            return;
        }
        for _ in 0..20 {
            match self.receiver.next(ring) {
                Ok(Some(body)) => {
                    let head = ReplyHead::unpack(body[0].load(Ordering::Relaxed));
                    if head.size <= view.geometry().piece_size() {
                        copy_out(&body[1..], as_uninit(&mut vec![0; head.size]));
                    }
                    if self.receiver.check(ring).is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(_) => return self.receiver.leave(ring),
            }
        }
        let _ = (self.receiver.has_news(ring), self.receiver.unannounced());
        self.receiver.announce(ring);
    }

    fn leave(self, port: &mut Port, executor: &super::Executor) {
        drain(&self.socket, &mut Vec::new());
        drop(self.server);
        drop(self.socket);
        port.depart(self.number, &executor.statistics);
    }
}
