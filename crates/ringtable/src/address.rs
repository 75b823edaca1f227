//! Where a server is found: a table's name, a path, or a `unix://` URL, all of which mean a unix socket; or a `tcp://`
//! URL, which means a TCP port.
//!
//! Names live in one directory per user: `$RINGTABLE_DIR`, else `$XDG_RUNTIME_DIR/ringtable`, else a folder of the
//! user's under `/tmp`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Longest path of a unix socket, in bytes (`sun_path`, without its final zero).
pub const SOCKET_PATH_SIZE_MAX: usize = 107;

/// Why an address means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// A name with characters that could make it a path, or none at all.
    #[error(
        "'{0}' is no name for a table: use letters, digits, '.', '-' and '_' (at most 64, not beginning with '.'), \
         a path with a '/' in it, unix:///path or tcp://HOST:PORT"
    )]
    Name(String),
    /// A URL of another kind.
    #[error("'{0}' is no address of a table: of URLs, unix:///path and tcp://HOST:PORT are understood")]
    Url(String),
    /// A `tcp://` URL where a unix socket is wanted.
    #[error("'{0}' is no unix socket, which a server has in any case: give it a name, and the port besides")]
    NotUnix(String),
    /// What follows `tcp://` means nothing.
    #[error(
        "'{address}' is no TCP address: use HOST:PORT, the host an IP address (version 6 in brackets, as in [::1]) or \
         localhost, the port from {port_least} to 65535"
    )]
    Tcp {
        /// The address.
        address: String,
        /// The least port that is allowed.
        port_least: u16,
    },
    /// The path does not fit a socket address.
    #[error(
        "the socket path '{path}' has {size} bytes, at most {SOCKET_PATH_SIZE_MAX} are allowed: choose a shorter \
         $RINGTABLE_DIR"
    )]
    TooLong {
        /// The path.
        path: String,
        /// Its size.
        size: usize,
    },
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// At a unix socket.
    Unix(PathBuf),
    /// At a TCP port.
    Tcp(SocketAddr),
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(formatter),
            Self::Tcp(address) => write!(formatter, "tcp://{address}"),
        }
    }
}

/// The location that `address` means to a client.
///
/// # Errors
/// If it is no name, path, `unix://` or `tcp://` URL, or too long.
pub fn location(address: &str) -> Result<Location, AddressError> {
    match address.strip_prefix("tcp://") {
        Some(tcp) => tcp_address(tcp, 1).map(Location::Tcp),
        None => socket_path(address).map(Location::Unix),
    }
}

/// The TCP address that `HOST:PORT` means. Names are not looked up, since that may take its time: `localhost` alone is
/// known, as 127.0.0.1.
///
/// # Errors
/// If the host is anything else, or the port none from `port_least` up.
pub fn tcp_address(address: &str, port_least: u16) -> Result<SocketAddr, AddressError> {
    let numeric = match address.strip_prefix("localhost:") {
        Some(port) => &format!("127.0.0.1:{port}"),
        None => address,
    };
    match numeric.parse::<SocketAddr>() {
        Ok(found) if found.port() >= port_least => Ok(found),
        _ => Err(AddressError::Tcp { address: address.into(), port_least }),
    }
}

/// The directory of this user's sockets.
pub fn directory() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("RINGTABLE_DIR")
        .or_else(|| set("XDG_RUNTIME_DIR").map(|runtime| runtime.join("ringtable")))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/ringtable-{}", rustix::process::geteuid().as_raw())))
}

/// The socket that `address` means.
///
/// # Errors
/// If it is no name, path or `unix://` URL, or too long.
pub fn socket_path(address: &str) -> Result<PathBuf, AddressError> {
    let path = if let Some(path) = address.strip_prefix("unix://") {
        if !path.starts_with('/') {
            return Err(AddressError::Url(address.into()));
        }
        PathBuf::from(path)
    } else if address.starts_with("tcp://") {
        return Err(AddressError::NotUnix(address.into()));
    } else if address.contains("://") {
        return Err(AddressError::Url(address.into()));
    } else if address.contains('/') {
        PathBuf::from(address)
    } else {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !(1..=64).contains(&address.len()) || address.starts_with('.') || !address.bytes().all(allowed) {
            return Err(AddressError::Name(address.into()));
        }
        directory().join(format!("{address}.sock"))
    };
    check_size(&path)?;
    Ok(path)
}

fn check_size(path: &Path) -> Result<(), AddressError> {
    let size = path.as_os_str().len();
    if size > SOCKET_PATH_SIZE_MAX {
        return Err(AddressError::TooLong { path: path.display().to_string(), size });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_urls_mean_sockets() {
        assert_eq!(socket_path("default").unwrap(), directory().join("default.sock"));
        assert_eq!(socket_path("/run/x.sock").unwrap(), Path::new("/run/x.sock"));
        assert_eq!(socket_path("./x.sock").unwrap(), Path::new("./x.sock"));
        assert_eq!(socket_path("unix:///run/x.sock").unwrap(), Path::new("/run/x.sock"));
    }

    #[test]
    fn tcp_urls_mean_ports() {
        for (address, shown) in [
            ("tcp://127.0.0.1:65535", "tcp://127.0.0.1:65535"),
            ("tcp://localhost:1", "tcp://127.0.0.1:1"),
            ("tcp://[::1]:6379", "tcp://[::1]:6379"),
        ] {
            let found = location(address).unwrap();
            assert!(matches!(found, Location::Tcp(_)));
            assert_eq!(found.to_string(), shown);
        }
        assert_eq!(tcp_address("127.0.0.1:0", 0).unwrap().port(), 0);
        assert_eq!(location("default").unwrap(), Location::Unix(directory().join("default.sock")));
    }

    #[test]
    fn anything_else_is_refused() {
        for address in ["", ".hidden", "a b", "unix://relative", "redis://host", "tcp://127.0.0.1:1", "ä"] {
            assert!(socket_path(address).is_err(), "{address:?}");
        }
        for address in ["", "1", ":1", "localhost", "localhost:", "example.org:1", "127.0.0.1:65536", "::1:1", "[::1]"]
        {
            assert!(tcp_address(address, 0).is_err(), "{address:?}");
        }
        assert!(tcp_address("127.0.0.1:0", 1).is_err());
        assert!(location("tcp://127.0.0.1:0").is_err());
        assert!(matches!(socket_path(&format!("/{}", "x".repeat(107))), Err(AddressError::TooLong { size: 108, .. })));
    }
}
