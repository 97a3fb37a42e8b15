//! Bodies of answers: where they end, and what becomes of the connection then.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::conn::{Conn, Limits};
use super::pool::Lease;
use crate::fetch::Body;

/// Longest line before a chunk of a chunked body, and lines after the last.
const MAX_LINE: usize = 4096;
const MAX_TRAILERS: usize = 64;

/// How a body ends.
pub(super) enum Framing {
    Length(u64),
    /// Bytes left of the chunk that is being read, None before the next one.
    Chunked(Option<u64>),
    /// With the connection.
    Close,
}

/// A body on its connection, which goes back to the pool when all of it has been read.
pub(super) struct WireBody {
    conn: Option<Conn>,
    framing: Framing,
    lease: Lease,
    keep: bool,
}

impl WireBody {
    /// `keep`: whether the connection can be used again after the body.
    pub fn new(conn: Conn, framing: Framing, lease: Lease, keep: bool) -> Self {
        let mut body = WireBody { conn: Some(conn), framing, lease, keep };
        if matches!(body.framing, Framing::Length(0)) {
            body.end();
        }
        body
    }

    fn end(&mut self) {
        if let Some(conn) = self.conn.take().filter(|_| self.keep) {
            self.lease.give_back(conn);
        }
    }
}

impl Read for WireBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(conn) = self.conn.as_mut().filter(|_| !buf.is_empty()) else { return Ok(0) };
        let result = match &mut self.framing {
            Framing::Close => conn.read(buf).map(|n| (n, n == 0)),
            Framing::Length(left) => sized(conn, buf, left).map(|n| (n, *left == 0)),
            Framing::Chunked(left) => chunked(conn, buf, left).map(|n| (n, n == 0)),
        };
        match result {
            Ok((n, false)) => Ok(n),
            Ok((n, true)) => {
                self.end();
                Ok(n)
            }
            Err(e) => {
                if e.kind() != io::ErrorKind::Interrupted {
                    self.keep = false;
                    self.end();
                }
                Err(e)
            }
        }
    }
}

impl Body for WireBody {
    fn renew(&mut self, timeout: Duration, patience: Duration) {
        if let Some(conn) = &mut self.conn {
            conn.limit(Limits { end: Instant::now() + timeout, patience });
        }
    }
}

/// Reads some of `left` bytes.
fn sized(conn: &mut Conn, buf: &mut [u8], left: &mut u64) -> io::Result<usize> {
    let n = buf.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    let n = conn.read(&mut buf[..n])?;
    if n == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed in the middle of the body"));
    }
    *left -= n as u64;
    Ok(n)
}

/// Reads some of a chunk; 0 at the end of the last one.
fn chunked(conn: &mut Conn, buf: &mut [u8], left: &mut Option<u64>) -> io::Result<usize> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "malformed chunked body");
    let chunk = match left {
        Some(chunk) => chunk,
        None => {
            let line = line(conn)?;
            let size = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
            let digits = !size.is_empty() && size.len() <= 16 && size.iter().all(u8::is_ascii_hexdigit);
            let size = std::str::from_utf8(size).ok().filter(|_| digits);
            let size = size.and_then(|size| u64::from_str_radix(size, 16).ok()).ok_or_else(bad)?;
            if size == 0 {
                for _ in 0..MAX_TRAILERS {
                    if self::line(conn)?.is_empty() {
                        return Ok(0);
                    }
                }
                return Err(bad());
            }
            left.insert(size)
        }
    };
    let n = sized(conn, buf, chunk)?;
    if *chunk == 0 {
        *left = None;
        if !line(conn)?.is_empty() {
            return Err(bad());
        }
    }
    Ok(n)
}

fn line(conn: &mut Conn) -> io::Result<Vec<u8>> {
    loop {
        if let Some(end) = conn.early().iter().position(|b| *b == b'\n') {
            let line = conn.early()[..end].trim_ascii_end().to_vec();
            conn.consume(end + 1);
            return Ok(line);
        }
        if conn.early().len() > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed chunked body"));
        }
        if conn.read_more()? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
