//! Every fixed limit and default, in one place. What may be chosen is checked against these once, at start-up.

use std::time::Duration;

/// Longest key, in bytes.
pub const KEY_SIZE_MAX: usize = 65_535;
/// Longest value, in bytes (512 MiB, as Redis).
pub const VALUE_SIZE_MAX: usize = 512 << 20;
/// Longest time to live that clients ask for, in seconds: a century or so. Whatever clock is added to it, nothing
/// overflows.
pub const TTL_MAX_S: u64 = 4_000_000_000;
/// Longest time-out of a call, in seconds: a round number below what `Duration` holds. In effect, none.
pub const TIMEOUT_MAX_S: u64 = 10_000_000_000_000_000_000;

/// Most worker threads of a server.
pub const WORKERS_MAX: usize = 64;
/// Most clients a server accepts, unless told otherwise.
pub const CLIENTS_MAX_DEFAULT: usize = 1_000;
/// How often a server looks again at a path that others make and remove things at meanwhile, before it gives up.
pub const CLAIM_TRIES_MAX: usize = 1_000;
/// How long a running server waits before it makes anew what was removed from its path: a folder that is being removed
/// is gone by then. It is also the first pause before it tries again, and this the longest.
pub const PATH_RETRY_MIN: Duration = Duration::from_millis(100);
/// See [`PATH_RETRY_MIN`].
pub const PATH_RETRY_MAX: Duration = Duration::from_secs(1);
/// Buckets a table starts with, unless told otherwise.
pub const BUCKETS_DEFAULT: u64 = 10_000;
/// Most buckets of a table, a power of two: so many bits of a hash choose one.
pub const BUCKETS_MAX: u64 = 1 << 31;
/// Entries per bucket (of seven slots) above which the table grows by one bucket.
pub const BUCKET_LOAD: u64 = if cfg!(loom) { 1 } else { 5 };

/// Bytes of the table segment, unless told otherwise.
pub const MAX_MEMORY_DEFAULT: u64 = 1 << 30;
/// Smallest table segment, in bytes: header, some buckets, and a page for each of a few size classes.
pub const MAX_MEMORY_MIN: u64 = 4 << 20;
/// Largest table segment, in bytes.
pub const MAX_MEMORY_MAX: u64 = 1 << 43;

/// The ring of events takes one part of so many of the table segment, within the limits below.
pub const EVENT_RING_SHARE: usize = 64;
/// Smallest ring of events, in bytes; a power of two. Three events with the longest key have to fit.
pub const EVENT_RING_SIZE_MIN: usize = 256 << 10;
/// Largest ring of events, in bytes; a power of two.
pub const EVENT_RING_SIZE_MAX: usize = 16 << 20;
/// Events that a watcher takes at once.
pub const EVENT_BATCH_MAX: usize = 1_024;

/// Values of at least so many bytes flow straight into their entry, and out of it, in turns.
pub const LARGE_VALUE_SIZE: usize = 64 << 10;
/// Bytes of entries that are copied while their bucket is locked; what is more is held, and copied later.
pub const COPIED_LOCKED_MAX: usize = 4 << 10;
/// Values that are still arriving reserve at most one part of so many of the table segment, all together.
pub const DRAFTS_SHARE: u64 = 4;

/// Entries that are never to be evicted take at most one part of so many of the table segment, unless told otherwise.
pub const UNEVICTABLE_SHARE: u64 = 2;

/// Bytes for which a worker makes room itself: to evict as much of small entries takes about a millisecond. For larger
/// entries a thread of its own does it, one after the other, while their clients wait: each has one such request.
pub const ROOM_AT_ONCE_MAX: usize = 256 << 10;

/// Lanes that are prepared for clients to come, where a keeper has to map them before: 264 KiB each.
pub const LANES_PREPARED: usize = 16;
/// For how long a client asks again whose join was put off, since the keeper has none prepared.
pub const KEEPER_PATIENCE: Duration = Duration::from_secs(3);
/// The pause before that, at first and at most.
pub const JOIN_PAUSE_MIN: Duration = Duration::from_millis(2);
/// See [`JOIN_PAUSE_MIN`].
pub const JOIN_PAUSE_MAX: Duration = Duration::from_millis(50);
/// For how long a server that leaves all to another one lets what is on its way come to its end.
pub const RESIGNATION_PATIENCE: Duration = Duration::from_secs(1);
/// For how long it waits for clients that read none of their replies meanwhile.
pub const RESIGNATION_PAUSE: Duration = Duration::from_millis(20);
/// How often a client joins whose server dies meanwhile, before it gives up.
pub const JOIN_TRIES: usize = 100;
/// How often of these it does not pause before the next one.
pub const JOIN_TRIES_AT_ONCE: usize = 3;

/// Bytes of each of a lane's two rings; a power of two.
pub const LANE_RING_SIZE: usize = if cfg!(loom) { 16 } else { 128 << 10 };
/// Hints that a direct reader leaves at most before the oldest are lost; a power of two.
pub const HINTS_MAX: usize = if cfg!(loom) { 2 } else { 256 };
/// Pin slots of a client: the most views that a process has at a time, of one connection.
pub const PINS_MAX: usize = if cfg!(loom) { 1 } else { 64 };
/// Values of at least so many bytes are pinned where objects keep the memory that they were read from; smaller ones are
/// copied.
pub const HELD_VALUE_SIZE_MIN: usize = 64 << 10;
/// Most pins that such objects take of a client's; the others are for views, which somebody asks for.
pub const HELD_PINS_MAX: usize = if cfg!(loom) { 1 } else { 48 };
/// Most bytes of values that such objects of a client keep pinned, all together; what is more is copied.
pub const HELD_SIZE_MAX: u64 = 1 << 30;
/// Entries that are gathered before all pins are looked at for them.
pub const RETIRED_MAX: usize = if cfg!(loom) { 1 } else { 32 };
/// Bytes of such entries above which the pins are looked at anyway.
pub const RETIRED_SIZE_MAX: usize = 256 << 10;

/// Most leases of a server at a time.
pub const LEASES_MAX: usize = 16 << 10;
/// Most bytes that their keys may have together.
pub const LEASE_KEYS_SIZE_MAX: usize = 16 << 20;

/// Most locks, and permits of semaphores, that are held at a time; so many permits a semaphore may have.
pub const LOCKS_MAX: usize = 16 << 10;
/// Most bytes that the names of those may have together.
pub const LOCK_NAMES_SIZE_MAX: usize = 16 << 20;

/// Most parties of a barrier.
pub const BARRIER_PARTIES_MAX: usize = 16 << 10;
/// Most bytes that the names of barriers may have together at which somebody waits.
pub const BARRIER_NAMES_SIZE_MAX: usize = 16 << 20;

/// Most calls that a rate limiter lets through in a period.
pub const RATE_COUNT_MAX: u64 = 1 << 32;
/// Longest period of a rate limiter, in nanoseconds: a year or so.
pub const RATE_PERIOD_NS_MAX: u64 = 1 << 55;
/// For how long the state of a rate limiter is kept beyond the time that it is needed for, in milliseconds: a wall
/// clock that is set forward by less makes none go early.
pub const RATE_KEPT_MORE_MS: u64 = 10_000;

/// Most connections, and tickets of theirs, that wait for leases, locks or keys, or at barriers, at a time.
pub const LEASE_WAITERS_MAX: usize = 64 << 10;
/// Most of them of one connection. Their answers may wait for it, some 64 bytes each, beyond [`REPLY_BACKLOG_MAX`].
pub const LEASE_WAITERS_PER_CONNECTION_MAX: usize = 4 << 10;

/// Most words that calls could not send, since others had the connection or it had no room, and that wait in a client:
/// each is about a wait of that connection. Beyond, the oldest are dropped.
pub const UNSENT_WORDS_MAX: usize = LEASE_WAITERS_PER_CONNECTION_MAX;

/// How long the thread that sends what calls have left stays in a connection at most, before it lets calls in that wait
/// for their turn. There is one such thread of a connection at most, as long as something is left.
pub const SENDER_STAY: Duration = Duration::from_millis(100);

/// Largest value that is handed over to those who wait for it where the table has no room, in bytes.
pub const HANDOVER_VALUE_SIZE_MAX: usize = 1 << 20;
/// Most bytes of such values and their keys, all together.
pub const HANDOVERS_SIZE_MAX: usize = 16 << 20;
/// Most such values.
pub const HANDOVERS_MAX: usize = 1_024;
/// For how long they are kept, in nanoseconds.
pub const HANDOVER_KEPT_NS: u64 = 5_000_000_000;

/// Bytes of a slot of the classic topologies' rings, unless told otherwise.
pub const RING_SLOT_SIZE_DEFAULT: usize = 256;
/// Smallest slot, in bytes: its head, and room for a piece worth sending.
pub const RING_SLOT_SIZE_MIN: usize = 64;
/// Largest slot, in bytes: the size of a piece has 16 bits.
pub const RING_SLOT_SIZE_MAX: usize = 64 << 10;
/// Slots of a ring of the classic topologies, unless told otherwise.
pub const RING_SLOTS_DEFAULT: usize = 2_048;
/// Fewest slots of a ring.
pub const RING_SLOTS_MIN: usize = 16;
/// Most slots of a ring.
pub const RING_SLOTS_MAX: usize = 64 << 10;
/// Most bytes of a ring.
pub const RING_SIZE_MAX: usize = 256 << 20;
/// Most clients that share a pair of rings.
pub const RING_MEMBERS_MAX: usize = 1_024;
/// How long consumers wait for a slot that is claimed and not published, before they step over it, in nanoseconds:
/// who is not interrupted publishes within a microsecond, and this is a few hundred times as long.
pub const CLAIM_PATIENCE_NS: u64 = 200_000;
/// How long a client may keep all others from getting replies, unless told otherwise, in milliseconds.
pub const SLOW_CONSUMER_TIMEOUT_MS_DEFAULT: u64 = 2_000;
/// Least and most of that time, in milliseconds.
pub const SLOW_CONSUMER_TIMEOUT_MS_MIN: u64 = 10;
/// See [`SLOW_CONSUMER_TIMEOUT_MS_MIN`].
pub const SLOW_CONSUMER_TIMEOUT_MS_MAX: u64 = 3_600_000;

/// Allowed milliseconds for which a server goes on without clients. The least leaves a client the time to come; the
/// most is about thirty years.
pub const LINGER_MS_MIN: u64 = 10;
/// See [`LINGER_MS_MIN`].
pub const LINGER_MS_MAX: u64 = 1_000_000_000_000;

/// For how long FLUSHALL waits at most until the memory has gone back to the system, in milliseconds.
pub const GIVING_BACK_MS_MAX: u64 = 1_000;

/// Most requests taken from one client before the next one has its turn.
pub const TURN_REQUESTS_MAX: usize = 32;
/// Most bytes of requests taken from one client before the next one has its turn.
pub const TURN_BYTES_MAX: usize = 64 << 10;
/// Most arguments read of a request in a turn; 30 ns each.
pub const TURN_ARGUMENTS_MAX: usize = 2_048;
/// Nanoseconds after which a turn ends before it has come to the limits above: some requests are expensive.
pub const TURN_NS_MAX: u64 = 100_000;
/// Nanoseconds of processor time from which on waking a client is expensive: it has some ten thousand waiters. To send
/// it 64 KiB, over TCP, takes less than a tenth of that.
pub const WAKE_NS_MAX: u64 = 1_000_000;
/// Nanoseconds of processor time that expensive wake-ups of a client may take before its connection ends.
pub const WAKING_NS_MAX: u64 = 20_000_000;
/// Expensive wake-ups of clients that cannot be told apart, over UDP, take one part of so many of the time together.
pub const SHARED_WAKING_SHARE: u64 = 20;
/// Requests executed between two looks at how long the turn has lasted; a look takes 20 ns.
pub const TURN_REQUESTS_PER_CLOCK: usize = 16;
/// For how long a write that finds no memory is tried again, turn after turn, while other workers have it in hand: they
/// make room themselves, which takes milliseconds, or hold free slots back.
pub const ROOM_PATIENCE_NS: u64 = 100_000_000;
/// Largest buffer that a client keeps which has asked for nothing for a while, in bytes.
pub const IDLE_BUFFER_MAX: usize = 16 << 10;
/// That while, in nanoseconds; it may be twice as long.
pub const IDLE_NS: u64 = 1_000_000_000;
/// Reply bytes waiting for a client to take them, above which its further requests wait too.
pub const REPLY_BACKLOG_MAX: usize = 64 << 10;
/// Bytes of further requests that are kept for a client meanwhile. Beyond, its connection ends.
pub const REQUEST_BACKLOG_MAX: usize = 32 << 20;
/// Those of all clients together may take one part of so many of the table's size, or twice the bytes of one client.
pub const REQUEST_BACKLOG_SHARE: u64 = 8;
/// Largest single reply, in bytes: the largest value, and room for its framing. Anything larger is refused.
pub const REPLY_SIZE_MAX: usize = VALUE_SIZE_MAX + (1 << 20);
/// Largest request, in bytes: the largest key and value, and room for framing and options.
pub const REQUEST_SIZE_MAX: usize = VALUE_SIZE_MAX + KEY_SIZE_MAX + 4_096;
/// Longest message that `PING` sends back, in bytes.
pub const PING_SIZE_MAX: usize = 64 << 10;
/// Bytes around a word of a request, at most, in any encoding.
pub const WORD_FRAMING_MAX: usize = 32;
/// Most arguments of one request, its command's name included.
pub const ARGUMENTS_MAX: usize = 1 << 16;
/// Longest request line of a RESP client that sends plain lines, in bytes.
pub const INLINE_SIZE_MAX: usize = 64 << 10;
/// Bytes of one answer to `RING.DUMP` or `SCAN`, after which it ends and gives a cursor to go on from.
pub const DUMP_SIZE_MAX: usize = 256 << 10;
/// Entries nested in one reply at most this deep.
pub const REPLY_DEPTH_MAX: usize = 8;

/// Largest datagram, in bytes: what IPv4 allows (65,507), in whole words.
pub const UDP_DATAGRAM_SIZE_MAX: usize = 65_504;
/// Requests of a client over UDP that are on their way at most: those from the first one on whose reply has not come.
pub const UDP_WINDOW: usize = 32;
/// Bytes of them, above which a further one waits, if it is not the only one.
pub const UDP_WINDOW_SIZE: usize = 128 << 10;
/// Bytes of replies that a server keeps for a session, in case they are asked for again, above which it executes no
/// further request of that session.
pub const UDP_REPLIES_KEPT_MAX: usize = 64 << 10;
/// Bytes of requests that have come before their turn, above which a session takes no more of them.
pub const UDP_EARLY_KEPT_MAX: usize = 64 << 10;
/// Most sessions of a server over UDP, whatever `--max-clients` says.
pub const UDP_SESSIONS_MAX: usize = 1_024;
/// How long a session is kept of which nothing is heard.
pub const UDP_SESSION_IDLE: Duration = Duration::from_secs(60);
/// Bytes of keys after which an answer to `RING.DUMP` or `SCAN` over UDP ends. A key has sixteen times its size at most
/// in a reply.
pub const UDP_LISTING_SIZE: usize = 4 << 10;
/// Bytes of a value above which no command over UDP deletes or replaces it in order to return it: the reply would not
/// fit a datagram, and the value would be lost.
pub const UDP_VALUE_SIZE: usize = UDP_DATAGRAM_SIZE_MAX - 128;
/// How long a client waits for replies over UDP before it asks again. The pause doubles each time.
pub const UDP_RETRY_MIN: Duration = Duration::from_millis(10);
/// The longest such pause.
pub const UDP_RETRY_MAX: Duration = Duration::from_millis(500);
/// After how long without an answer a server is taken for gone over UDP, by a call without a time-out.
pub const UDP_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Bytes of datagrams that may wait to be received; the kernel grants as many as `net.core.rmem_max` says.
pub const UDP_RECEIVE_BUFFER: usize = 4 << 20;

/// Shortest pause between two looks at a key whose value somebody else computes.
pub const LEASE_POLL_MIN: Duration = Duration::from_micros(200);
/// Longest such pause.
pub const LEASE_POLL_MAX: Duration = Duration::from_millis(10);

/// For so long a call that waits for others, but no longer than it was told, waits at least for the server's answer: a
/// busy machine may take longer for that than a caller is willing to wait for others.
pub const ANSWER_WAIT_MIN: Duration = Duration::from_secs(5);

/// Bytes of requests over a socket after which a client waits for the replies to those that it had sent before: twice
/// as many are on their way at most, which is well below what a server keeps for it.
pub const SOCKET_STRETCH_SIZE: usize = 4 << 20;
/// How long a call that has failed waits to hear that its lease was given back.
pub const LEASE_RETURN_MAX: Duration = Duration::from_millis(100);

/// Largest buffer that a client keeps for the next large reply, in bytes.
pub const SPARE_BUFFER_SIZE_MAX: usize = 16 << 20;

/// Buckets that a client goes over in place before it looks for signals again: less than a millisecond, or what it
/// takes to touch so much memory for the first time.
pub const WALK_STEPS_MAX: usize = 4_096;

/// Bytes of changes that wait to be written to the log, above which those who write wait, too.
pub const LOG_QUEUE_MAX: u64 = 32 << 20;
/// Values that are held until they are written to the log take one part of so many of the table at most.
pub const LOG_HELD_SHARE: u64 = 16;
/// Bytes of memory that are kept for the next batch of changes.
pub const LOG_BATCH_KEPT: usize = 1 << 20;
/// Bytes of changes above which a log is rewritten, if it has more than its snapshot.
pub const LOG_REWRITE_MIN: u64 = 64 << 20;
/// Files of changes with which a server that starts begins anew: each start adds one.
pub const LOG_FILES_MAX: usize = 16;
/// Milliseconds from one snapshot of a server to the next one, unless told otherwise.
pub const SNAPSHOT_EVERY_MS_DEFAULT: u64 = 300_000;
/// Most milliseconds of that: a year or so.
pub const SNAPSHOT_EVERY_MS_MAX: u64 = 32_000_000_000;
/// Snapshots that a server keeps, unless told otherwise.
pub const SNAPSHOTS_KEPT_DEFAULT: usize = 2;
/// Most snapshots that a server keeps.
pub const SNAPSHOTS_KEPT_MAX: u64 = 10_000;
/// Values of at most so many bytes are copied with their bucket where all entries are gone over; larger ones are read
/// one by one.
pub const SNAPSHOT_COPIED_MAX: usize = 16 << 10;
/// Bytes of entries that are gathered before they are written to a file.
pub const SNAPSHOT_STEP_SIZE: usize = 256 << 10;
/// Most entries of a file that are sent to a server at once.
pub const LOAD_BATCH_MAX: usize = 1_024;
/// Bytes of entries of a file above which they are sent.
pub const LOAD_BATCH_SIZE: usize = 256 << 10;

/// How often a reader tries again when writers get in its way, before it asks the server.
pub const READ_RETRIES_MAX: usize = if cfg!(loom) { 2 } else { 64 };
/// Overflow buckets of a chain: a write that needs more is refused, or evicts, and a reader that comes to more has read
/// a chain that is being rebuilt. With the home bucket, 259 entries: fifty times as many as a bucket has on average.
pub const CHAIN_HOPS_MAX: usize = if cfg!(all(loom, not(shuttle))) { 3 } else { 42 };
/// A key of more bytes is long: to compare or to copy it takes longer than to find it.
pub const LONG_KEY_SIZE: usize = 1 << 10;
/// Bytes of the long keys of a chain, together: what a lookup may have to compare, and a walk to copy at once. That is
/// 32 of the longest keys. A bucket has ten entries on average at most, just before it is split: of a hundred million
/// such buckets one has more than 32.
pub const CHAIN_KEYS_SIZE_MAX: usize = 2 << 20;

/// How long a write whose bucket is full waits for another worker to split a bucket, in nanoseconds: for as long as
/// that may be without its processor.
pub const GROWTH_PATIENCE_NS: u64 = 50_000_000;

/// Longest time for which either side may spin, in nanoseconds, whatever was measured or asked for.
pub const SPIN_NS_MAX: u64 = 1_000_000;
/// The largest value of a posted write, in bytes, that is sent without letting go of what its caller holds.
pub const POSTED_AT_ONCE_MAX: usize = 4_096;
/// Longest time a waiting client sleeps before it looks for signals again, in milliseconds.
pub const SIGNAL_CHECK_MS: u64 = 100;
/// How long a thread waits for another one of the same connection before its turn comes for certain; and how often that
/// happens at most.
pub const GATE_PATIENCE: Duration = Duration::from_micros(500);
/// How many servers that end under a call it meets, before it is told so.
pub const REPEATS_MAX: usize = 3;
/// How old the knowledge that the server lives may get before a direct read asks again, in milliseconds.
pub const LIVENESS_CHECK_MS: u64 = 100;
