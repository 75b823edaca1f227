//! Where a server is found: a table's name, a path, or a `unix://` URL, all of which mean a unix socket; or a `tcp://`
//! or `udp://` URL, which means a TCP or UDP port.
//!
//! Names live in one directory per user: `$RINGTABLE_DIR`, else `$XDG_RUNTIME_DIR/ringtable`, else a folder of the
//! user's under `/tmp`. Where no address is given, `$RINGTABLE_URL` is the one, else the name `default`.
//!
//! Paths are absolute from here on: a process that goes to another folder, or whose environment changes, still means
//! the server that it meant when the address was given.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Longest path of a unix socket, in bytes (`sun_path`, without its final zero).
pub const SOCKET_PATH_SIZE_MAX: usize = 107;
/// Longest file name of a socket with a longer path, in bytes: what is left of that beside `/proc/self/fd/NUMBER/`,
/// by which such a socket is reached.
pub const FILE_NAME_SIZE_MAX: usize = SOCKET_PATH_SIZE_MAX - "/proc/self/fd/2147483647/".len();

/// Why an address means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// A name with characters that could make it a path, or none at all.
    #[error(
        "'{0}' is no name for a table: use letters, digits, '.', '-' and '_' (at most 64, not beginning with '.'), \
         a path with a '/' in it, unix:///path, tcp://HOST:PORT or udp://HOST:PORT"
    )]
    Name(String),
    /// A URL of another kind.
    #[error(
        "'{0}' is no address of a table: of URLs, unix:///path, tcp://HOST:PORT and udp://HOST:PORT are \
         understood"
    )]
    Url(String),
    /// A path that is no file's.
    #[error("'{0}' is no path of a socket: it has to end with the name of a file")]
    NoFile(String),
    /// The URL of a port where a unix socket is wanted.
    #[error("'{0}' is no unix socket, which a server has in any case: give it a name, and the port besides")]
    NotUnix(String),
    /// What follows `tcp://` or `udp://` means nothing.
    #[error(
        "'{address}' is no {protocol} address: use HOST:PORT, the host an IP address (version 6 in brackets, as in \
         [::1]) or localhost, the port from {port_least} to 65535"
    )]
    Port {
        /// TCP or UDP.
        protocol: &'static str,
        /// The address.
        address: String,
        /// The least port that is allowed.
        port_least: u16,
    },
    /// The path fits no socket address, and its file name is too long to reach it through its folder.
    #[error(
        "the socket path '{path}' has {size} bytes, and its file name {name_size}: at most {SOCKET_PATH_SIZE_MAX} are \
         allowed, or any number if the file name has at most {FILE_NAME_SIZE_MAX}"
    )]
    TooLong {
        /// The path.
        path: String,
        /// Its size.
        size: usize,
        /// The size of its last part.
        name_size: usize,
    },
    /// A relative path, and the process is in a folder that cannot be told.
    #[error("'{path}' is relative to the current folder, which cannot be told: {error}")]
    NoFolder {
        /// The path.
        path: String,
        /// What the system said.
        error: String,
    },
}

/// The absolute path of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPath {
    path: PathBuf,
    is_named: bool,
}

impl SocketPath {
    fn new(path: &Path, directory: Option<&Path>) -> Result<Self, AddressError> {
        let path = absolute(path)?;
        let name_size = match path.file_name() {
            // What ends with a slash or a dot is a folder, though it has a last part.
            Some(name) if path.as_os_str().as_bytes().ends_with(name.as_bytes()) && !has_zero(&path) => name.len(),
            _ => return Err(AddressError::NoFile(path.display().to_string())),
        };
        let size = path.as_os_str().len();
        if size > SOCKET_PATH_SIZE_MAX && name_size > FILE_NAME_SIZE_MAX {
            return Err(AddressError::TooLong { path: path.display().to_string(), size, name_size });
        }
        let is_named = path.parent() == directory;
        Ok(Self { path, is_named })
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.path
    }

    /// The folder that the socket lies in.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// The name of the socket in its folder.
    pub fn file_name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Whether it lay in the directory of names when the address was given.
    pub fn is_named(&self) -> bool {
        self.is_named
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(formatter)
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// At a unix socket.
    Unix(SocketPath),
    /// At a TCP port.
    Tcp(SocketAddr),
    /// At a UDP port.
    Udp(SocketAddr),
}

impl Location {
    /// The address that means this location in every process: an absolute path, or the URL of a port.
    pub fn address(&self) -> OsString {
        match self {
            Self::Unix(socket) => socket.as_path().into(),
            Self::Tcp(_) | Self::Udp(_) => self.to_string().into(),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.fmt(formatter),
            Self::Tcp(address) => write!(formatter, "tcp://{address}"),
            Self::Udp(address) => write!(formatter, "udp://{address}"),
        }
    }
}

/// The location that `address` means to a client.
///
/// # Errors
/// If it is no name, path, `unix://`, `tcp://` or `udp://` URL, or too long.
pub fn location(address: impl AsRef<OsStr>) -> Result<Location, AddressError> {
    let address = address.as_ref();
    let text = address.to_str().unwrap_or_default();
    if let Some(tcp) = text.strip_prefix("tcp://") {
        tcp_address(tcp, 1).map(Location::Tcp)
    } else if let Some(udp) = text.strip_prefix("udp://") {
        udp_address(udp, 1).map(Location::Udp)
    } else {
        socket_path(address).map(Location::Unix)
    }
}

/// The TCP address that `HOST:PORT` means. Names are not looked up, since that may take its time: `localhost` alone is
/// known, as 127.0.0.1.
///
/// # Errors
/// If the host is anything else, or the port none from `port_least` up.
pub fn tcp_address(address: &str, port_least: u16) -> Result<SocketAddr, AddressError> {
    port_address("TCP", address, port_least)
}

/// The UDP address that `HOST:PORT` means.
///
/// # Errors
/// As [`tcp_address`].
pub fn udp_address(address: &str, port_least: u16) -> Result<SocketAddr, AddressError> {
    port_address("UDP", address, port_least)
}

fn port_address(protocol: &'static str, address: &str, port_least: u16) -> Result<SocketAddr, AddressError> {
    let numeric = match address.strip_prefix("localhost:") {
        Some(port) => &format!("127.0.0.1:{port}"),
        None => address,
    };
    match numeric.parse::<SocketAddr>() {
        Ok(found) if found.port() >= port_least => Ok(found),
        _ => Err(AddressError::Port { protocol, address: address.into(), port_least }),
    }
}

/// The address that is meant where none is given: `$RINGTABLE_URL`, else the name `default`.
pub fn default_address() -> OsString {
    std::env::var_os("RINGTABLE_URL").filter(|value| !value.is_empty()).unwrap_or_else(|| "default".into())
}

/// The directory of this user's sockets.
///
/// # Errors
/// If it is given as a relative path, and the current folder cannot be told.
pub fn directory() -> Result<PathBuf, AddressError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let given = set("RINGTABLE_DIR")
        .or_else(|| set("XDG_RUNTIME_DIR").map(|runtime| runtime.join("ringtable")))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/ringtable-{}", rustix::process::geteuid().as_raw())));
    // Without the slash at the end, which would make of a link the folder that it leads to.
    Ok(absolute(&given)?.components().collect())
}

/// The socket that `address` means.
///
/// # Errors
/// If it is no name, path or `unix://` URL, or too long.
pub fn socket_path(address: impl AsRef<OsStr>) -> Result<SocketPath, AddressError> {
    let address = address.as_ref();
    let bytes = address.as_bytes();
    let shown = || address.to_string_lossy().into_owned();
    if let Some(path) = bytes.strip_prefix(b"unix://") {
        if !path.starts_with(b"/") {
            return Err(AddressError::Url(shown()));
        }
        return SocketPath::new(Path::new(OsStr::from_bytes(path)), directory().ok().as_deref());
    }
    if bytes.starts_with(b"tcp://") || bytes.starts_with(b"udp://") {
        return Err(AddressError::NotUnix(shown()));
    }
    if bytes.windows(3).any(|part| part == b"://") {
        return Err(AddressError::Url(shown()));
    }
    if bytes.contains(&b'/') {
        return SocketPath::new(Path::new(address), directory().ok().as_deref());
    }
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !(1..=64).contains(&bytes.len()) || bytes.starts_with(b".") || !bytes.iter().all(allowed) {
        return Err(AddressError::Name(shown()));
    }
    let directory = directory()?;
    let mut file = address.to_owned();
    file.push(".sock");
    SocketPath::new(&directory.join(file), Some(&directory))
}

fn absolute(path: &Path) -> Result<PathBuf, AddressError> {
    std::path::absolute(path)
        .map_err(|error| AddressError::NoFolder { path: path.display().to_string(), error: error.to_string() })
}

fn has_zero(path: &Path) -> bool {
    path.as_os_str().as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_urls_mean_sockets() {
        let path = |address: &str| socket_path(address).unwrap().as_path().to_owned();
        assert_eq!(path("default"), directory().unwrap().join("default.sock"));
        assert_eq!(path("/run/x.sock"), Path::new("/run/x.sock"));
        assert_eq!(path("./x.sock"), std::env::current_dir().unwrap().join("x.sock"));
        assert_eq!(path("unix:///run/x.sock"), Path::new("/run/x.sock"));
    }

    #[test]
    fn what_lies_in_the_directory_of_names_is_named() {
        assert!(socket_path("default").unwrap().is_named());
        assert!(socket_path(directory().unwrap().join("default.sock")).unwrap().is_named());
        assert!(!socket_path("/run/x.sock").unwrap().is_named());
    }

    #[test]
    fn a_long_path_needs_a_short_file_name() {
        let long = format!("/{}", "x".repeat(SOCKET_PATH_SIZE_MAX));
        assert_eq!(
            socket_path(&long),
            Err(AddressError::TooLong { path: long, size: SOCKET_PATH_SIZE_MAX + 1, name_size: SOCKET_PATH_SIZE_MAX })
        );
        let folder = "x".repeat(200);
        assert!(socket_path(format!("/{folder}/{}", "y".repeat(FILE_NAME_SIZE_MAX))).is_ok());
        assert!(socket_path(format!("/{folder}/{}", "y".repeat(FILE_NAME_SIZE_MAX + 1))).is_err());
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
        assert_eq!(location("udp://localhost:1").unwrap().to_string(), "udp://127.0.0.1:1");
        assert!(matches!(location("udp://[::1]:6379"), Ok(Location::Udp(_))));
        assert_eq!(tcp_address("127.0.0.1:0", 0).unwrap().port(), 0);
        assert_eq!(location("default").unwrap(), Location::Unix(socket_path("default").unwrap()));
    }

    #[test]
    fn anything_else_is_refused() {
        for address in [
            "",
            ".hidden",
            "a b",
            "unix://relative",
            "redis://host",
            "tcp://127.0.0.1:1",
            "udp://127.0.0.1:1",
            "ä",
            "/",
            "/x/",
            "./x/..",
            "/x\0y",
        ] {
            assert!(socket_path(address).is_err(), "{address:?}");
        }
        for address in ["", "1", ":1", "localhost", "localhost:", "example.org:1", "127.0.0.1:65536", "::1:1", "[::1]"]
        {
            assert!(tcp_address(address, 0).is_err(), "{address:?}");
        }
        assert!(tcp_address("127.0.0.1:0", 1).is_err());
        assert!(location("tcp://127.0.0.1:0").is_err() && location("udp://127.0.0.1:0").is_err());
    }
}
