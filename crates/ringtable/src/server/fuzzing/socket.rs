//! A client that speaks the Redis protocol, or anything else, over its socket, in pieces of any size. It gets replies
//! that can be read, and the server keeps nothing of it.

use rustix::net::SendFlags;

use super::super::socket_client::SocketClient;
use super::super::turn::Turn;
use super::{check, connection, drain, executor_with_lanes, request};
use crate::command::numbered;
use crate::command::resp::{ReplyLimits, ReplyParser, write_request};
use crate::input::Input;
use crate::limits;

const STEPS_MAX: usize = 40;
const TURNS_MAX: usize = 10_000;

pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut executor = executor_with_lanes(&mut input);
    let (server, client) = connection();
    let mut served = SocketClient::new(server);
    let (mut unsent, mut replies) = (Vec::new(), Vec::new());
    let mut ended = false;
    for _ in 0..STEPS_MAX {
        if input.is_empty() || ended {
            break;
        }
        match input.byte() % 6 {
            0..3 => {
                let (number, arguments) = request(&mut input);
                let name = numbered(number).expect("there is one").name.as_bytes();
                let arguments: Vec<&[u8]> = std::iter::once(name).chain(arguments.iter().map(Vec::as_slice)).collect();
                write_request(&mut unsent, &arguments);
            }
            3 => {
                let size = usize::from(input.byte());
                unsent.extend_from_slice(input.take(size));
            }
            4 => send(&client, &mut unsent, 1 + usize::from(input.short())),
            _ => ended = turn(&mut served, &mut executor).is_none(),
        }
    }
    for _ in 0..TURNS_MAX {
        if ended {
            break;
        }
        let before = (unsent.len(), replies.len());
        send(&client, &mut unsent, usize::MAX);
        drain(&client, &mut replies);
        match turn(&mut served, &mut executor) {
            None => ended = true,
            Some(false) if before == (unsent.len(), replies.len()) => break,
            Some(_) => {}
        }
    }
    assert!(ended || unsent.is_empty(), "{} bytes are never read", unsent.len());
    drain(&client, &mut replies);
    check_replies(&replies, ended);
    served.session.drop_unfinished(&mut executor);
    drop(served);
    check(&mut executor);
}

/// A turn; `None` if the connection ends, or would be something else from here on. Else whether anything was done.
fn turn(served: &mut SocketClient, executor: &mut super::Executor) -> Option<bool> {
    served.notice(rustix::event::epoll::EventFlags::IN | rustix::event::epoll::EventFlags::OUT);
    let turn = served.turn(executor);
    executor.end_turn();
    match turn {
        Ok(Turn::Upgrade(_)) | Err(_) => None,
        Ok(turn) => Some(turn == Turn::Worked),
    }
}

fn send(client: &std::os::fd::OwnedFd, unsent: &mut Vec<u8>, size: usize) {
    let size = size.min(unsent.len());
    if let Ok(sent) = rustix::net::send(client, &unsent[..size], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        unsent.drain(..sent);
    }
}

fn check_replies(mut replies: &[u8], ended: bool) {
    let mut parser = ReplyParser::new(ReplyLimits {
        elements_max: 1 << 20,
        bulk_size_max: limits::VALUE_SIZE_MAX,
        line_size_max: limits::INLINE_SIZE_MAX,
    });
    while let Some((_, size)) = parser.parse(replies).expect("replies of ours can be read") {
        replies = &replies[size..];
    }
    assert!(ended || replies.is_empty(), "a reply that ends in the middle: {}", replies.escape_ascii());
}
