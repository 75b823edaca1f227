//! Whatever bytes a record has: it is read, or it is an error.

use super::frame::RECORD_VERSION;
use super::reply::{RecordWriter, decode_owned, decode_reply};
use super::request::{RequestHead, decode_request};
use crate::command::reply::ReplyWriter;

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

/// Whoever changes the layout has to raise the version: else two sides would misread each other.
#[test]
fn records_are_laid_out_as_their_version_says() {
    let mut request = Vec::new();
    RequestHead::new(1, &[b"key", b"value of 11"]).unwrap().append_to(&mut request);
    let mut reply = Vec::new();
    let mut writer = RecordWriter::new(&mut reply);
    writer.array(10);
    writer.nil();
    writer.ok();
    writer.status("PONG");
    writer.error("ERR no");
    writer.integer(-2);
    writer.boolean(true);
    writer.double(0.5);
    writer.bulk(b"123456789");
    writer.array(0);
    writer.map(1);
    writer.nil();
    writer.nil();
    writer.finish();
    let words =
        |bytes: &[u8]| bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect::<Vec<_>>();
    let text = |text: &[u8; 8]| u64::from_ne_bytes(*text);
    assert_eq!(RECORD_VERSION, 1);
    let [key, value, end] = [b"key\0\0\0\0\0", b"value of", b" 11\0\0\0\0\0"].map(text);
    assert_eq!(words(&request), [40 | 1 << 32 | 2 << 48, 3 | 11 << 32, key, value, end]);
    let [pong, error, digits, last] = [b"PONG\0\0\0\0", b"ERR no\0\0", b"12345678", b"9\0\0\0\0\0\0\0"].map(text);
    let scalars = [
        [8, 8 | 1 << 32].as_slice(),
        &[16 | 2 << 32 | 4 << 40, pong, 16 | 3 << 32 | 2 << 40, error],
        &[16 | 4 << 32, (-2_i64).cast_unsigned(), 16 | 5 << 32, 1, 16 | 6 << 32, 0.5_f64.to_bits()],
        &[24 | 7 << 32 | 7 << 40, digits, last],
        &[8 << 32, 0, 9 << 32, 1, 8, 8],
    ];
    assert_eq!(words(&reply), [&[184 | 8 << 32, 10], &scalars.concat()[..]].concat());
}
