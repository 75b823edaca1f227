//! Where a server is found: a table's name, a path, or a `unix://` URL, all of which mean a unix socket.
//!
//! Names live in one directory per user: `$RINGTABLE_DIR`, else `$XDG_RUNTIME_DIR/ringtable`, else a folder of the
//! user's under `/tmp`.

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
         a path with a '/' in it, or unix:///path"
    )]
    Name(String),
    /// A URL of another kind.
    #[error("'{0}' is no address of a table: only unix:///path URLs are understood")]
    Url(String),
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
    fn anything_else_is_refused() {
        for address in ["", ".hidden", "a b", "unix://relative", "redis://host", "tcp://127.0.0.1:1", "ä"] {
            assert!(socket_path(address).is_err(), "{address:?}");
        }
        assert!(matches!(socket_path(&format!("/{}", "x".repeat(107))), Err(AddressError::TooLong { size: 108, .. })));
    }
}
