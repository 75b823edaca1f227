//! A client with a lane, as the server sees it: everything it can write is read once, checked, then used (I4).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::end::End;
use super::estate::LaneRemains;
use super::executor::{Again, Executor, Intake};
use super::lane_heirs::next_record;
use super::lane_offer::Offer;
use super::notes::{LaneState, Note, Noted};
use super::outgoing::{Durable, Outgoing};
use super::pins::{LanePins, Lingering};
use super::socket::Socket;
use super::store::Store;
use super::turn::Turn;
use super::unfinished::{Stage, Unfinished};
use super::waking::Waking;
use crate::command::record::{self, RecordWriter};
use crate::command::reply::ReplyWriter;
use crate::command::{Command, ConnectionChange, Flow, LeaseName, Task, done, parse_cursor, pending};
use crate::limits;
use crate::ring::lane::{self, Lane};
use crate::ring::spsc::{Consumer, PositionError, Producer};
use crate::ring::wait::State;
use crate::shm::doorbell::Doorbell;
use crate::shm::segment::Mapping;
use crate::sync::{Memory, as_uninit};
use crate::table::commits::Commits;
use crate::table::hints::AccessLogId;
use crate::table::reclaim::HazardRecordId;

pub(super) struct LaneClient {
    mapping: Arc<Mapping>,
    /// Once the pins in the lane count.
    pub hazards: Option<HazardRecordId>,
    /// If hints are of use.
    hints: Option<AccessLogId>,
    socket: Socket,
    /// Rung by the client; watched by the worker, never read or written here.
    request_bell: Doorbell,
    /// Rung by us; the client has it only inside an epoll instance.
    response_bell: Doorbell,
    waking: Waking,
    /// How far it has come, for whoever comes after this server.
    note: Option<Note>,
    requests: Consumer,
    responses: Producer,
    unfinished: Option<Unfinished>,
    /// A request that takes several turns, and how far it has come.
    again: Option<(Vec<u8>, Again)>,
    /// Where the request in the executor's record stands in the ring, if all of it does, and the lane is to outlive
    /// this server.
    taken_at: Option<Consumer>,
    /// What the request at the head waits for, of which nothing was done: it stays in the ring.
    put_off: Option<Arc<Task>>,
    /// Reply records that did not fit the ring yet, or wait for the disk.
    outgoing: Outgoing,
    /// Whether the replies were held back when they were last to be sent. None of them is in the ring then.
    was_held_back: bool,
    /// What the replies wait for that stand in the ring and are not published, if the lane is to outlive this server:
    /// the next one publishes them then.
    unsynced: Option<Durable>,
    closing: bool,
    /// Whether its socket is closed: what it had published is executed, and nothing else.
    gone: bool,
}

impl LaneClient {
    /// Takes a lane that was sealed into service.
    pub fn new(offer: Offer, store: &Store) -> Self {
        let mut client = Self::with(offer, store, Consumer::default(), Producer::default());
        client.note_progress();
        client
    }

    /// Goes on with a lane of another server, which is dead, where its note says.
    ///
    /// What the client waits for is to be asked for again, since nobody else knows of it, and the client is told so.
    /// The request in hand is answered if `commits` say that it was done. Of one that took several turns nobody knows:
    /// its client is told that.
    ///
    /// Returns also why the lane cannot go on, if so. Then its client has to be ended; its pins count still.
    ///
    /// What its requests have done is on the disk, where that is waited for, or why not (`synced`).
    pub fn adopt(
        offer: Offer,
        store: &Store,
        (noted, commits): (&Noted, &Commits),
        synced: &Result<(), String>,
    ) -> (Self, Option<End>) {
        let lane = Lane::new(offer.mapping.words());
        let resumed = match noted.state {
            LaneState::Broken => Err(End::Broken),
            // Nobody is to see what is in the ring.
            _ if synced.is_err() && noted.unsynced.is_some() => Err(End::Undurable),
            _ => Consumer::resume(lane.requests(), noted.head)
                .and_then(|requests| Ok((requests, Producer::resume(lane.responses(), noted.tail)?)))
                .map_err(|_| End::Position),
        };
        let end = resumed.as_ref().err().copied();
        let (requests, responses) = resumed.unwrap_or_default();
        let mut client = Self::with(offer, store, requests, responses);
        if noted.has_pins {
            client.count_pins(store);
        }
        if end.is_some() {
            return (client, end);
        }
        let mut writer = RecordWriter::new(&mut client.outgoing);
        pending::announce_restart(&mut writer);
        writer.finish();
        if noted.state == LaneState::Taken {
            let mut writer = RecordWriter::new(&mut client.outgoing);
            writer.error(done::IN_DOUBT);
            writer.finish();
        } else if noted.is_in_hand {
            client.finish_in_hand(store, noted.connection, commits, synced);
        }
        let end = client.note_adopted().err();
        (client, end)
    }

    /// Brings the note up to date: what was in hand is answered there, or was not begun. Behind that what the server
    /// before has logged of it counts no more. The client has to be rung.
    fn note_adopted(&mut self) -> Result<(), End> {
        let mut share = limits::TURN_BYTES_MAX;
        self.send_replies(&mut share)?;
        self.note_progress();
        // In this order: a death in between leaves what is in hand, and its log, as they were.
        if let Some(note) = &self.note {
            note.lay_down();
        }
        self.publish_unsynced();
        Ok(())
    }

    /// Lets the client see replies that may have waited for the disk, and gives back what it has asked.
    fn publish_unsynced(&mut self) {
        let lane = Lane::new(self.mapping.words());
        self.responses.publish(lane.responses());
        // In this order: a death in between has the same published once more.
        if let Some(note) = &self.note {
            note.end_unsynced();
        }
        self.requests.release(lane.requests());
        self.unsynced = None;
    }

    /// Answers the request in hand, if it has done what it was to do, and skips it. Else it stays where it is, to be
    /// executed as if for the first time; what it was granted is taken back for that.
    fn finish_in_hand(&mut self, store: &Store, connection: u64, commits: &Commits, synced: &Result<(), String>) {
        let ring = Lane::new(self.mapping.words()).requests();
        let mut next = self.requests.clone();
        let mut bytes = Vec::new();
        // What is in hand was there as a whole.
        let Some(()) = next_record(&mut next, ring, &mut bytes) else { return };
        let mut ranges = Vec::new();
        let Some(command) = Command::of_record(&bytes, &mut ranges) else { return };
        let is_gone = |(name, token)| store.leases.permits_taken(connection, name, Some(token)) == 0;
        if done::ended(command, commits).is_some_and(is_gone) {
            let mut writer = RecordWriter::new(&mut self.outgoing);
            writer.integer(1);
            writer.finish();
            self.requests = next;
        } else if !done::is_to_be_repeated(command, commits) {
            let mut writer = RecordWriter::new(&mut self.outgoing);
            match synced {
                Ok(()) => done::answer(command, commits, &mut writer),
                Err(why) => writer.error(&done::undurable(why)),
            }
            writer.finish();
            self.requests = next;
        } else if let "RING.LEASE" | "RING.LOCK" = command.spec.name
            && command.arguments.len() > 1
            && let Some(ticket) = parse_cursor(command.arguments.get(1))
        {
            let (name, ticket) = (command.arguments.get(0), LeaseName::Ticket(ticket));
            if command.spec.name == "RING.LEASE" {
                store.leases.give_back(connection, name, ticket);
            } else {
                store.leases.give_permit_back(connection, name, ticket);
            }
        }
    }

    fn with(offer: Offer, store: &Store, requests: Consumer, responses: Producer) -> Self {
        let mapping = Arc::new(offer.mapping);
        let hints = store.table.hints().map(|hints| hints.register(Box::new(LanePins(Arc::clone(&mapping)))));
        Self {
            mapping,
            hazards: None,
            hints,
            socket: offer.socket,
            request_bell: offer.request_bell,
            response_bell: offer.response_bell,
            waking: Waking::default(),
            note: offer.note,
            requests,
            responses,
            unfinished: None,
            again: None,
            taken_at: None,
            put_off: None,
            outgoing: Outgoing::default(),
            was_held_back: false,
            unsynced: None,
            closing: false,
            gone: false,
        }
    }

    fn count_pins(&mut self, store: &Store) {
        let hazards = LanePins(Arc::clone(&self.mapping));
        self.hazards = Some(store.table.reclaimer().register(Box::new(hazards)));
        if let Some(note) = &self.note {
            note.count_pins();
        }
    }

    /// Notes how far the lane has come.
    #[inline]
    fn note_progress(&mut self) {
        if let Some(note) = &mut self.note {
            let state = if self.was_held_back {
                // It is not in the ring, and nobody will know it if this server dies.
                LaneState::Taken
            } else if self.unfinished.is_some() || !self.outgoing.is_empty() {
                LaneState::Broken
            } else if self.again.is_some() {
                LaneState::Taken
            } else {
                LaneState::Resting
            };
            note.set(self.requests.head(), self.responses.tail(), state);
        }
    }

    fn lane(&self) -> Lane<'_> {
        Lane::new(self.mapping.words())
    }

    pub fn request_bell(&self) -> &Doorbell {
        &self.request_bell
    }

    /// What the client says of itself: a hint for spinning, never more.
    pub fn client_state(&self) -> State {
        State::unpack(self.lane().client_state().load(Ordering::Relaxed))
    }

    pub fn announce_sleep(&self) {
        lane::announce_sleep(self.lane().server_waiting(), 0);
    }

    pub fn announce_awake(&self) {
        lane::announce_awake(self.lane().server_waiting(), 0);
    }

    /// Whether the client has published something since the last turn, or made room for replies that wait for it. A
    /// hint: the turn looks properly.
    #[inline]
    pub fn has_news(&self) -> bool {
        let lane = self.lane();
        lane.requests().tail.load(Ordering::Relaxed) != self.requests.seen()
            || !self.outgoing.is_empty() && lane.responses().head.load(Ordering::Relaxed) != self.responses.head_seen()
    }

    /// Serves the client for its share of time: replies first, then requests as long as their replies find room.
    pub fn turn(&mut self, executor: &mut Executor) -> Result<Turn, End> {
        if self.gone {
            return Err(End::Gone);
        }
        if self.outgoing.is_held_back() {
            // Further requests are executed meanwhile, as long as there is room for their replies.
            executor.engine.wait_for_log()?;
        }
        // What may go out in this turn.
        let mut share = limits::TURN_BYTES_MAX;
        let was_synced = self.look_at_disk(executor)?;
        let mut worked = self.send_replies(&mut share)?;
        if worked {
            self.note_progress();
        }
        worked |= was_synced;
        let (mut requests, mut bytes) = (0, 0);
        // Where the lane is to outlive this server, no request is executed while the reply to another one waits.
        let backlog_max = if self.note.is_some() { 1 } else { limits::REPLY_BACKLOG_MAX };
        while !executor.is_turn_over(requests, bytes) && self.outgoing.len() < backlog_max && !self.closing {
            if self.has_to_wait() {
                break;
            }
            self.put_off = None;
            if let Some((record, again)) = self.again.take() {
                worked = true;
                executor.record = record;
                self.execute(executor, again)?;
            } else if executor.intake == Intake::Nothing {
                break;
            } else {
                let (taken, complete) = self.take_request(executor, limits::TURN_BYTES_MAX - bytes)?;
                if taken == 0 {
                    break;
                }
                worked = true;
                bytes += taken;
                if let Some(begin) = complete {
                    requests += 1;
                    self.execute(executor, begin)?;
                }
            }
            if self.note.is_some() {
                self.send_replies(&mut share)?;
                self.note_progress();
                failpoint!("request.noted");
            }
            if self.again.is_some() || self.put_off.is_some() {
                break;
            }
        }
        if worked {
            // With a note all has gone that can, request by request: it says what is in the ring.
            if self.note.is_none() {
                self.send_replies(&mut share)?;
            }
            if self.outgoing.has_let_go() {
                executor.engine.writer.rescan();
            }
            failpoint!("reply.written");
            self.look_at_disk(executor)?;
            if self.unsynced.is_none() {
                let lane = Lane::new(self.mapping.words());
                self.responses.publish(lane.responses());
                failpoint!("reply.published");
                self.requests.release(lane.requests());
            }
        }
        if self.closing && self.outgoing.is_empty() {
            return Err(End::Quit);
        }
        Ok(if worked { Turn::Worked } else { Turn::Idle })
    }

    /// Publishes what has waited for the disk; or has this worker rung when that is there. Returns whether anything
    /// was.
    ///
    /// # Errors
    /// If nothing comes to the disk any more.
    #[inline]
    fn look_at_disk(&mut self, executor: &Executor) -> Result<bool, End> {
        if self.unsynced.is_none() {
            return Ok(false);
        }
        if self.publish_synced() {
            return Ok(true);
        }
        executor.engine.wait_for_log()?;
        // In this order: it may have come before anybody was to be rung.
        Ok(self.publish_synced())
    }

    /// Lets the client see the replies that have waited for the disk, if what they waited for is there. Returns whether
    /// it does.
    fn publish_synced(&mut self) -> bool {
        if self.unsynced.as_ref().is_none_or(|durable| !durable.is_reached()) {
            return false;
        }
        self.publish_unsynced();
        true
    }

    /// Gives the client the answer with this ticket, behind the replies that there are. Returns whether it gets it.
    pub fn tell(&mut self, ticket: u64, answer: Option<u64>) -> bool {
        if self.closing || self.gone {
            return false;
        }
        let mut writer = RecordWriter::new(&mut self.outgoing);
        pending::announce(&mut writer, ticket);
        pending::answer(&mut writer, answer);
        writer.finish();
        true
    }

    /// Whether a request is arriving in parts.
    pub fn is_receiving(&self) -> bool {
        self.unfinished.is_some()
    }

    /// What is left of requests that were taken: bytes of replies that wait for room, and one more if a request that
    /// takes several turns can go on.
    pub fn left_to_do(&self) -> usize {
        let has_begun = self.again.is_some() || self.put_off.is_some();
        self.outgoing.len() + usize::from(has_begun && !self.has_to_wait()) + usize::from(self.unsynced.is_some())
    }

    /// Whether all that was taken of it is done, and answered where its client finds the answer.
    pub fn is_at_rest(&self) -> bool {
        self.unfinished.is_none() && self.again.is_none() && self.outgoing.is_empty() && self.unsynced.is_none()
    }

    /// Whether it can do nothing before another thread has done something, which rings for the worker: has made room
    /// for its next request, or has brought what it has written to the disk.
    pub fn is_waiting(&self) -> bool {
        self.has_to_wait() || self.outgoing.is_held_back() || self.unsynced.is_some()
    }

    /// Whether its next request has to wait for another thread.
    fn has_to_wait(&self) -> bool {
        self.waits_with_request() || self.unfinished.as_ref().is_some_and(Unfinished::is_waiting)
    }

    /// Whether the request that was taken last, or put off, waits for another thread.
    fn waits_with_request(&self) -> bool {
        self.again.as_ref().is_some_and(|(_, again)| again.is_waiting())
            || self.put_off.as_ref().is_some_and(|task| !task.is_done())
    }

    /// Wakes the client if it sleeps. To be called after a turn that worked. Returns whether it had to be.
    ///
    /// # Errors
    /// If that was too expensive, again and again.
    pub fn ring_if_asleep(&mut self) -> Result<bool, End> {
        let asleep = lane::must_ring(self.lane().client_state());
        if asleep {
            self.waking.measured(|| self.response_bell.ring())?;
        }
        Ok(asleep)
    }

    /// Copies (a part of) the next request into private memory, a large value into its entry. Returns the bytes taken;
    /// and if `executor.record` now holds a complete request, how it begins. A part has at most `share` bytes.
    fn take_request(&mut self, executor: &mut Executor, share: usize) -> Result<(usize, Option<Again>), End> {
        let ring = Lane::new(self.mapping.words()).requests();
        let available = self.requests.available(ring, 8).map_err(|_| End::Position)?;
        if available == 0 {
            return Ok((0, None));
        }
        // Bytes that are taken already.
        let mut begun = 0;
        let unfinished = match &mut self.unfinished {
            Some(unfinished) => {
                // What it has waited for may be done.
                unfinished.advance(executor);
                unfinished
            }
            None => {
                let word = self.requests.peek(ring);
                let size = record::record_size(word, limits::REQUEST_SIZE_MAX).map_err(|_| End::Record)?;
                let large = record::large_set(word);
                let is_there =
                    |requests: &mut Consumer| Ok(size <= available || requests.available(ring, size)? >= size);
                // The common case: all of it is there.
                if large.is_none() && is_there(&mut self.requests).map_err(|_: PositionError| End::Position)? {
                    executor.record.resize(size, 0);
                    self.taken_at = self.note.is_some().then(|| self.requests.clone());
                    self.requests.read(ring, as_uninit(&mut executor.record));
                    if let Some(note) = &self.note {
                        // In this order: a request that is in hand has committed what the log says. It is the one at
                        // the head, of which nothing else is noted: one that arrives in parts, or takes several turns,
                        // has been taken out before it comes to its end.
                        executor.engine.writer.begin_request();
                        note.take_in_hand();
                    }
                    return Ok((size, Some(Again::default())));
                }
                if executor.intake != Intake::All {
                    return Ok((0, None));
                }
                let stage = large.map_or(Stage::Rest(None), Stage::Head);
                let unfinished = self.unfinished.insert(Unfinished::new(size, stage));
                // The word that was checked is the one that is used: in the ring there may be another one by now.
                unfinished
                    .make_room(record::HEADER_SIZE, &executor.store.requests)?
                    .copy_from_slice(&word.to_ne_bytes());
                self.requests.skip(record::HEADER_SIZE);
                begun = record::HEADER_SIZE;
                unfinished
            }
        };
        let mut piece = (available - begun).min(share);
        if let Stage::Value(inflow) = &mut unfinished.stage {
            piece = piece.min(inflow.missing().next_multiple_of(8));
            inflow.take_words(&mut self.requests, ring, piece);
        } else {
            let place = unfinished.make_room(piece, &executor.store.requests)?;
            piece = place.len();
            self.requests.read(ring, as_uninit(place));
        }
        let mut complete = None;
        if unfinished.advance(executor)
            && let Some(finished) = self.unfinished.take()
        {
            finished.forget_size(&executor.store.requests);
            executor.record = finished.bytes;
            let streamed = if let Stage::Rest(streamed) = finished.stage { streamed } else { None };
            complete = Some(Again { streamed, ..Again::default() });
        }
        Ok((begun + piece, complete))
    }

    /// Executes the request in `executor.record`, or goes on with it.
    fn execute(&mut self, executor: &mut Executor, again: Again) -> Result<(), End> {
        failpoint!("request.copied");
        let taken_at = self.taken_at.take();
        let executed = executor.execute_own_record(&mut self.outgoing, again)?;
        failpoint!("request.executed");
        self.closing |= executed.flow == Flow::Close;
        if let Some(durable) = executed.durable {
            match (&self.note, &taken_at) {
                (Some(note), Some(taken_at)) => {
                    if self.unsynced.is_none() {
                        note.begin_unsynced(taken_at.head());
                    }
                    self.unsynced = Some(durable);
                }
                // It is in the ring no more, or the lane ends with this server.
                _ => self.outgoing.wait_for(durable),
            }
        }
        if executed.change == Some(ConnectionChange::Pins) && self.hazards.is_none() {
            // The reply is published after this.
            self.count_pins(&executor.store);
        }
        if executed.is_put_off
            && let Some(taken_at) = taken_at
        {
            // As if it had not been looked at: if this server ends, the next one executes it.
            (self.requests, self.put_off) = (taken_at, executed.again.task);
            if let Some(note) = &self.note {
                note.lay_down();
            }
        } else if executed.flow == Flow::Again {
            self.again = Some((std::mem::take(&mut executor.record), executed.again));
        }
        Ok(())
    }

    /// Moves replies into the ring as far as there is room, and at most `share` bytes. Returns whether any went.
    fn send_replies(&mut self, share: &mut usize) -> Result<bool, End> {
        self.was_held_back = self.outgoing.is_held_back();
        if self.was_held_back {
            return Ok(false);
        }
        let before = *share;
        let ring = Lane::new(self.mapping.words()).responses();
        // Pieces are whole words, see `RecordWriter`.
        while *share > 0 && !self.outgoing.is_empty() {
            let next = self.outgoing.next();
            let wanted = next.len().min(*share);
            let piece = self.responses.room(ring, wanted).map_err(|_| End::Position)?.min(wanted);
            if piece == 0 {
                break;
            }
            self.responses.write(ring, &next[..piece]);
            self.outgoing.advance(piece);
            *share -= piece;
        }
        if *share == 0 && !self.outgoing.is_empty() {
            failpoint!("reply.piece");
        }
        Ok(*share < before)
    }

    /// Bytes of memory that are kept for what follows.
    pub fn kept(&self) -> usize {
        self.outgoing.kept()
    }

    /// Lets go of large buffers that are kept.
    pub fn let_go(&mut self) {
        self.outgoing.keep(limits::IDLE_BUFFER_MAX);
    }

    /// Whether the client lives.
    pub fn check_socket(&self) -> Result<(), End> {
        self.socket.check_silent()
    }

    /// Executes what a client that is gone had published, up to the share of a turn: a posted write counts once it is
    /// in the lane. Returns whether there is more.
    ///
    /// All of it has at most the ring's size: a client that closes its socket and goes on writing gets no further,
    /// since nothing is given back to it.
    pub fn execute_rest(&mut self, executor: &mut Executor) -> bool {
        self.gone = true;
        let (mut requests, mut bytes) = (0, 0);
        self.outgoing.clear();
        while !executor.is_turn_over(requests, bytes) {
            if self.waits_with_request() {
                break;
            }
            self.put_off = None;
            if let Some((record, again)) = self.again.take() {
                executor.record = record;
                if self.execute(executor, again).is_err() {
                    return false;
                }
            } else {
                match self.take_request(executor, limits::TURN_BYTES_MAX - bytes) {
                    Ok((taken, complete)) if taken > 0 => {
                        bytes += taken;
                        requests += usize::from(complete.is_some());
                        if complete.is_some_and(|begin| self.execute(executor, begin).is_err()) {
                            return false;
                        }
                    }
                    _ => return false,
                }
            }
            // Nobody reads the reply.
            self.outgoing.clear();
            (self.was_held_back, self.unsynced) = (false, None);
            self.note_progress();
            if self.again.is_some() || self.put_off.is_some() {
                break;
            }
        }
        true
    }

    /// Forgets a request that will never be complete, and what else the server has of a client that is gone.
    pub fn drop_unfinished(&mut self, executor: &mut Executor) {
        if let (Some(id), Some(hints)) = (self.hints.take(), executor.store.table.hints()) {
            hints.unregister(id);
        }
        if let Some(unfinished) = self.unfinished.take() {
            unfinished.forget_size(&executor.store.requests);
            let touched = unfinished.bytes.len();
            executor.discarded.put(unfinished.bytes, touched);
        }
    }

    /// What is left of a client whose connection we have ended, if its pins count.
    pub fn linger(mut self) -> Option<Lingering> {
        if let Some(note) = &mut self.note {
            note.set(0, 0, LaneState::Broken);
        }
        let bells = [self.request_bell, self.response_bell];
        self.hazards.map(|hazards| Lingering::new(self.socket, hazards, self.mapping, bells))
    }

    /// What another server needs to go on with it, if the lane is one that outlives this server.
    pub fn leave(self) -> Option<LaneRemains> {
        let Self { mapping, socket, request_bell, response_bell, .. } = self;
        let (lane, socket) = socket.leave()?;
        Some(LaneRemains { lane, mapping, segment: None, request_bell, response_bell, socket })
    }

    /// Tells the client on its socket why the connection ends.
    pub fn say_goodbye(&self, end: End) {
        end.say_goodbye(&self.socket);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fuzzing::{connection, runtime};
    use super::super::notes::Notes;
    use super::super::topology::Topology;
    use super::*;
    use crate::command::number;
    use crate::command::record::RequestHead;
    use crate::table::Eviction;

    /// What stands of a lane once it is adopted, whose server has died with an increment in hand; and the size of that.
    fn adopted(commits: &Commits) -> (Noted, u64) {
        let runtime = runtime(Topology::Lanes, Eviction::Never);
        let (socket, _client) = connection();
        let mut offer = Offer::make(socket, (1, 0), &runtime.store, None, |_| Ok(())).unwrap();
        let notes = Arc::new(Notes::create(1).unwrap().0);
        let mut note = Note::begin(Arc::clone(&notes), 0, 1, 0);
        note.set(0, 0, LaneState::Resting);
        note.take_in_hand();
        offer.note = Some(note);
        let mut request = Vec::new();
        RequestHead::new(number("INCR"), &[b"key"]).unwrap().append_to(&mut request);
        let ring = Lane::new(offer.mapping.words()).requests();
        let mut producer = Producer::default();
        assert!(producer.room(ring, request.len()).unwrap() >= request.len());
        producer.write(ring, &request);
        producer.publish(ring);
        let noted = notes.read(0).unwrap();
        assert!(noted.is_in_hand);
        let (_lane, end) = LaneClient::adopt(offer, &runtime.store, (&noted, commits), &Ok(()));
        assert_eq!(end, None);
        (notes.read(0).unwrap(), request.len() as u64)
    }

    /// If another lane's request is in hand at the next death, nothing says of this one that it was done.
    #[test]
    fn what_is_to_be_done_again_is_in_hand_no_more() {
        let (noted, _) = adopted(&Commits::default());
        assert_eq!((noted.head, noted.state, noted.is_in_hand), (0, LaneState::Resting, false));
        assert!(noted.tail > 0, "it is told of the restart");
    }

    /// Before the log begins anew: at the next death it says nothing any more.
    #[test]
    fn what_was_done_is_answered_as_soon_as_its_lane_is_adopted() {
        let told = adopted(&Commits::default()).0.tail;
        let (noted, size) = adopted(&Commits { count: 1, entry: Some((1, Some(b"7".to_vec()))), ending: 0 });
        assert_eq!((noted.head, noted.state, noted.is_in_hand), (size, LaneState::Resting, false));
        assert!(noted.tail > told, "it has its answer");
    }
}
