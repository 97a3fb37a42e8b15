//! Listening sockets: `unix:PATH` and `HOST:PORT`.

use std::fs;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::net;
use crate::error::{Error, Kind, Result};

/// Send buffer of a unix socket: room for a large reply at once, so that decoding and sending overlap.
const SEND_BUFFER: i32 = 2 << 20;

/// Pause after a failed accept (no descriptors left), which would otherwise fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket. Dropping it removes the name of a unix socket.
pub struct Listener {
    socket: Socket,
    address: String,
}

enum Socket {
    Unix { listener: UnixListener, path: PathBuf, inode: (u64, u64) },
    Tcp(TcpListener),
}

impl Listener {
    /// Binds `address`. A unix socket is accessible to its owner only, and takes the place of one that
    /// nobody listens on any more.
    ///
    /// Errors: `Invalid` for what is no address; `Exists` if it is in use; else those of the system.
    pub fn bind(address: &str) -> Result<Listener> {
        match address.strip_prefix("unix:") {
            Some(path) => Self::bind_unix(Path::new(path)),
            None => Self::bind_tcp(address),
        }
        .map_err(|e| e.context(format!("listening on {address}")))
    }

    fn bind_unix(path: &Path) -> Result<Listener> {
        let failed = |e: io::Error| match e.raw_os_error() {
            Some(libc::EADDRINUSE) => Error::new(Kind::Exists, "the address is in use"),
            None => Error::new(Kind::Invalid, "unix socket").because(e),
            Some(_) => Error::io("unix socket", e),
        };
        let mut bound = bind_private(path);
        if bound.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EADDRINUSE)) && is_stale(path) {
            fs::remove_file(path).map_err(failed)?;
            bound = bind_private(path);
        }
        let listener = bound.map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        let socket = Socket::Unix { listener, path: path.to_path_buf(), inode: (meta.dev(), meta.ino()) };
        Ok(Listener { socket, address: format!("unix:{}", path.display()) })
    }

    fn bind_tcp(address: &str) -> Result<Listener> {
        let full = if address.starts_with(':') { format!("127.0.0.1{address}") } else { address.to_string() };
        let addresses: Vec<_> = full
            .to_socket_addrs()
            .map_err(|e| Error::new(Kind::Invalid, "neither unix:PATH nor HOST:PORT").because(e))?
            .collect();
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::AddrInUse => Error::new(Kind::Exists, "the address is in use"),
            _ => Error::io("TCP socket", e),
        };
        let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?.to_string();
        Ok(Listener { socket: Socket::Tcp(listener), address })
    }

    /// Where it listens, in the form that `bind` takes.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next connection, if there is one.
    pub fn accept(&self) -> Option<OwnedFd> {
        let accepted: io::Result<OwnedFd> = match &self.socket {
            Socket::Unix { listener, .. } => listener.accept().map(|(stream, _)| {
                let fd = stream.as_raw_fd();
                // Beyond the system's limit only with privilege; without, up to the limit.
                if !net::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER) {
                    net::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER);
                }
                stream.into()
            }),
            Socket::Tcp(listener) => listener.accept().map(|(stream, _)| {
                let fd = stream.as_raw_fd();
                net::set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
                net::set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
                stream.into()
            }),
        };
        match accepted {
            Ok(socket) => Some(socket),
            Err(e) => {
                if e.kind() != io::ErrorKind::WouldBlock {
                    std::thread::sleep(ACCEPT_PAUSE);
                }
                None
            }
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        match &self.socket {
            Socket::Unix { listener, .. } => listener.as_raw_fd(),
            Socket::Tcp(listener) => listener.as_raw_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix { path, inode, .. } = &self.socket {
            // Only its own: another server may have taken the name meanwhile.
            if fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == *inode) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Whether `path` is a socket on which nobody listens.
fn is_stale(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// Binds and listens like `UnixListener::bind`, but with mode 0600 from the first moment.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let name = path.as_os_str().as_bytes();
    // SAFETY: an all-zero address is valid; the fields that matter are set below.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.contains(&0) || name.len() >= address.sun_path.len() {
        let what = format!("a socket's path has 1 to {} bytes", address.sun_path.len() - 1);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    // SAFETY: plain system call; the descriptor it returns is owned by nobody else.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let (raw, size) = (fd.as_raw_fd(), std::mem::size_of_val(&address) as libc::socklen_t);
    // SAFETY: plain system calls on an open descriptor; `address` is as long as said. Linux gives the name
    // the mode that the socket itself has when it is bound.
    let failed = unsafe {
        libc::fchmod(raw, 0o600) != 0
            || libc::bind(raw, (&raw const address).cast(), size) != 0
            || libc::listen(raw, 128) != 0
    };
    if failed {
        return Err(io::Error::last_os_error());
    }
    Ok(fd.into())
}
