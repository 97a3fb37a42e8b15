//! A connection: a socket, with TLS or not, that is read against a deadline and against silence.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

/// Bytes read at a time where nobody knows how many will come: heads of answers and lines of chunked bodies.
pub(super) const SMALL_READ: usize = 16 << 10;

/// Limits of what is under way.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// When everything ends.
    pub end: Instant,
    /// Longest silence.
    pub patience: Duration,
}

/// A socket that knows its limits, so that what reads it in small steps (TLS does) cannot exceed them.
pub(super) struct Socket {
    tcp: TcpStream,
    limits: Limits,
    /// The time-out that the kernel has for reads and writes.
    set: Duration,
}

impl Socket {
    pub fn new(tcp: TcpStream, limits: Limits) -> Self {
        Socket { tcp, limits, set: Duration::ZERO }
    }

    fn arm(&mut self) -> io::Result<()> {
        let left = self.limits.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the time for the request is over"));
        }
        // Rounded up, so that it rarely changes.
        let step = Duration::from_millis(10);
        let time = if left < self.limits.patience { left + step } else { self.limits.patience };
        if time != self.set {
            self.tcp.set_read_timeout(Some(time))?;
            self.tcp.set_write_timeout(Some(time))?;
            self.set = time;
        }
        Ok(())
    }

    fn explain(&self, e: io::Error) -> io::Error {
        if e.kind() == io::ErrorKind::WouldBlock {
            let what = format!("nothing came for {:.1} s", self.set.as_secs_f32());
            return io::Error::new(io::ErrorKind::TimedOut, what);
        }
        e
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.arm()?;
        self.tcp.read(buf).map_err(|e| self.explain(e))
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.arm()?;
        self.tcp.write(buf).map_err(|e| self.explain(e))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What bytes travel on; TLS may be in TLS, where the proxy has it too.
pub(super) enum Wire {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Wire>>),
}

impl Wire {
    fn socket(&mut self) -> &mut Socket {
        match self {
            Wire::Plain(socket) => socket,
            Wire::Tls(tls) => tls.sock.socket(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.read(buf),
            Wire::Tls(tls) => match tls.read(buf) {
                // Many servers close without the goodbye of TLS. Lengths of bodies are checked in any case.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                other => other,
            },
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.write(buf),
            Wire::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(socket) => socket.flush(),
            Wire::Tls(tls) => tls.flush(),
        }
    }
}

/// A wire with the bytes that were read from it too early.
pub(super) struct Conn {
    pub wire: Wire,
    early: Vec<u8>,
    at: usize,
}

impl Conn {
    pub fn new(wire: Wire) -> Self {
        Conn { wire, early: Vec::new(), at: 0 }
    }

    pub fn limit(&mut self, limits: Limits) {
        self.wire.socket().limits = limits;
    }

    /// Bytes that are there and not taken yet.
    pub fn early(&self) -> &[u8] {
        &self.early[self.at..]
    }

    /// Takes so many of them.
    pub fn consume(&mut self, n: usize) {
        self.at += n;
        if self.at == self.early.len() {
            self.early.clear();
            self.at = 0;
        }
    }

    /// Reads more of them; 0 at the end of the connection.
    pub fn read_more(&mut self) -> io::Result<usize> {
        self.early.drain(..self.at);
        self.at = 0;
        let len = self.early.len();
        self.early.resize(len + SMALL_READ, 0);
        let result = self.wire.read(&mut self.early[len..]);
        self.early.truncate(len + *result.as_ref().unwrap_or(&0));
        result
    }

    /// Whether a connection that nobody used for a while can be used again: the peer has neither closed it nor
    /// sent what nobody asked for.
    pub fn is_idle(&mut self) -> bool {
        let mut byte = 0u8;
        let fd = self.wire.socket().tcp.as_raw_fd();
        // SAFETY: the descriptor is open while the socket is borrowed, and one byte of room is given for one byte.
        let n = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
        self.early().is_empty() && n < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
    }
}

impl Read for Conn {
    /// Large reads go past the buffer.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.early().len().min(buf.len());
        if n > 0 {
            buf[..n].copy_from_slice(&self.early()[..n]);
            self.consume(n);
            return Ok(n);
        }
        self.wire.read(buf)
    }
}
