//! Whatever bytes a record has: it is read, or it is an error.

use super::reply::{decode_owned, decode_reply};
use super::request::decode_request;

#[test]
fn random_bytes_are_never_more_than_an_error() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ranges = Vec::new();
    for _ in 0..100_000 {
        let mut bytes = vec![0; random.usize(..96)];
        random.fill(&mut bytes);
        if bytes.len() > 7 && random.bool() {
            bytes[4] = random.u8(..10); // a kind, or a command, that exists
            bytes[5..8].fill(0);
            bytes[..4].copy_from_slice(&(random.u32(..13) * 8).to_ne_bytes());
        }
        let _ = decode_request(&bytes, &mut ranges);
        assert_eq!(decode_reply(&bytes).is_ok(), decode_owned(bytes).is_ok());
    }
}
