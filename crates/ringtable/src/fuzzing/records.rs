//! The records that flow through lanes and rings: requests and replies, whatever bytes they have.

use super::replies::write;
use crate::command::record::{
    self, HEADER_SIZE, RecordWriter, RequestHead, decode_owned, decode_reply, decode_request,
};
use crate::input::Input;
use crate::limits;

pub fn run(input: &[u8]) {
    let mut bytes = Input::new(input);
    if bytes.byte().is_multiple_of(2) { request(bytes.rest()) } else { reply(bytes.rest()) }
}

fn request(bytes: &[u8]) {
    let mut ranges = Vec::new();
    if let Some(word) = bytes.first_chunk::<8>() {
        let word = u64::from_ne_bytes(*word);
        let size = record::record_size(word, limits::REQUEST_SIZE_MAX);
        assert!(
            size.is_err() || size.as_ref().is_ok_and(|size| (HEADER_SIZE..=limits::REQUEST_SIZE_MAX).contains(size))
        );
        if let Some(end) = record::large_set(word)
            && let Some(head) = bytes.get(..end)
            && let Some((key_size, value_size)) = record::large_set_sizes(head)
        {
            large(head, key_size, value_size, &bytes[end..]);
        }
    }
    let Ok((number, arguments)) = decode_request(bytes, &mut ranges) else { return };
    let arguments: Vec<&[u8]> = arguments.iter().collect();
    let head = RequestHead::new(number, &arguments).expect("as many and as large as before");
    let mut written = Vec::new();
    head.append_to(&mut written);
    assert_eq!(written.len(), head.size());
    let mut ranges = Vec::new();
    let (again, decoded) = decode_request(&written, &mut ranges).expect("what was just written");
    assert!(again == number && decoded.iter().eq(arguments.iter().copied()));
}

/// As the server does with a `SET` whose value flows past its record: the value is cut out, and the rest is decoded.
fn large(head: &[u8], key_size: usize, value_size: usize, rest: &[u8]) {
    let size = u32::from_ne_bytes(head[..4].try_into().expect("four bytes")) as usize;
    let cut = [head, rest].concat();
    let left = {
        let mut cut = cut.clone();
        record::cut_value(&mut cut)
    };
    assert_eq!(left, size - value_size.next_multiple_of(8));
    assert!(left >= head.len() + key_size.next_multiple_of(8), "the key is left");
    if left <= cut.len() {
        let mut cut = cut[..left].to_vec();
        record::cut_value(&mut cut);
        let _ = decode_request(&cut, &mut Vec::new());
    }
}

fn reply(bytes: &[u8]) {
    let decoded = decode_reply(bytes);
    let owned = decode_owned(bytes.to_vec());
    assert_eq!(decoded.is_ok(), owned.is_ok());
    let Ok(reply) = decoded else { return };
    assert_eq!(format!("{owned:?}"), format!("Ok({reply:?})"));
    let mut written = Vec::new();
    let mut writer = RecordWriter::new(&mut written);
    write(&reply, &mut writer);
    let size = writer.finish();
    assert_eq!(size, written.len());
    assert_eq!(format!("{:?}", decode_reply(&written)), format!("Ok({reply:?})"));
}
