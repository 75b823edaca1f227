//! What people write by hand and programs read: addresses, a server's answer to a join.

use crate::address::{self, FILE_NAME_SIZE_MAX, Location, SOCKET_PATH_SIZE_MAX};
use crate::client::fuzzing::is_answer;

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match address::location(&*text) {
        Ok(found @ Location::Unix(_)) => {
            let Location::Unix(socket) = &found else { return };
            let sizes = [socket.as_path().as_os_str().len(), socket.file_name().len()];
            assert!(socket.as_path().is_absolute());
            assert!(sizes[0] <= SOCKET_PATH_SIZE_MAX || sizes[1] <= FILE_NAME_SIZE_MAX);
            assert!(text.contains('/') || socket.is_named(), "a name leads out of its folder");
            assert_eq!(address::location(found.address()), Ok(found));
        }
        Ok(found @ (Location::Tcp(address) | Location::Udp(address))) => {
            assert!(address.port() > 0);
            assert_eq!(address::location(found.to_string()), Ok(found));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = address::socket_path(&*text);
    let _ = address::tcp_address(&text, 0);
    let _ = is_answer(&text);
}
