//! What people write by hand and programs read: addresses, the seat in a server's answer.

use crate::address::{self, Location, SOCKET_PATH_SIZE_MAX};
use crate::client::fuzzing::is_seat;

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match address::location(&text) {
        Ok(Location::Unix(path)) => {
            assert!(path.as_os_str().len() <= SOCKET_PATH_SIZE_MAX);
            assert!(
                text.contains('/') || path.parent() == Some(&address::directory()),
                "a name leads out of its folder"
            );
        }
        Ok(found @ Location::Tcp(address)) => {
            assert!(address.port() > 0);
            assert_eq!(address::location(&found.to_string()), Ok(found));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = address::socket_path(&text);
    let _ = address::tcp_address(&text, 0);
    let _ = is_seat(&text);
}
