//! A door for fuzzing: an answer out of bytes, without a server.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::body::WireBody;
use super::conn::{Conn, Limits, Socket, Wire};
use super::head;
use super::pool::Pool;
use crate::fetch::Response;

/// What is made of an answer of these bytes, which must fit a socket's buffer; then the connection ends.
///
/// # Errors
/// Those of reading the head.
pub fn answer(bytes: &[u8]) -> io::Result<Response> {
    let (mut server, client) = UnixStream::pair()?;
    server.write_all(bytes)?;
    server.shutdown(Shutdown::Write)?;
    let patience = Duration::from_secs(5);
    let limits = Limits { end: Instant::now() + patience, patience };
    let tcp = TcpStream::from(OwnedFd::from(client));
    let mut conn = Conn::new(Wire::Plain(Socket::new(tcp, limits)));
    let answer = head::answer(&mut conn)?;
    let pool = Pool::default();
    let slot = pool.enter("fuzz", limits.end).ok_or(io::ErrorKind::TimedOut)?;
    let body = WireBody::new(conn, answer.framing, slot.lease(), answer.keep);
    Ok(Response { status: answer.status, headers: answer.headers, body: Box::new(body), slot: Some(Box::new(slot)) })
}
