//! Doors for fuzzing: an answer out of bytes, without a server, and the texts that configuration and servers bring.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::body::WireBody;
use super::conn::{Conn, Limits, Socket, Wire};
use super::head;
use super::pool::Pool;
use super::proxy::{Environment, Proxy};
use super::url::Url;
use crate::fetch::{date, Response};

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

/// Looks at a URL, a proxy, exceptions from it and a date, and holds what is made of them to what must be so.
///
/// # Panics
/// If it is not.
pub fn texts([url, proxy, exceptions, date]: [&str; 4]) {
    let parsed = Url::parse(url);
    if let Some(url) = &parsed {
        assert!(!url.host.is_empty() && url.port > 0 && url.path.starts_with('/'), "{url:?}");
        let scheme = if url.tls { "https" } else { "http" };
        let again = Url::parse(&format!("{scheme}://{}{}", url.endpoint(), url.path)).expect("its own URL");
        let (user, tls, port) = (None, url.tls, url.port);
        assert_eq!(again, Url { user, tls, port, host: url.host.clone(), path: url.path.clone() });
        assert!(!url.authority().contains(char::is_whitespace));
        let head = head::request("GET", &url.path, &[("Host", &url.authority())]).expect("what a URL may hold");
        assert_eq!(head.matches("\r\n").count(), 3, "a URL that makes lines of its own");
    }
    if let Some(proxy) = Proxy::parse(proxy) {
        assert!(!proxy.url.host.is_empty());
    }
    let variable = |name: &str| match name {
        "http_proxy" => Some(proxy.to_owned()),
        "no_proxy" => Some(exceptions.to_owned()),
        _ => None,
    };
    if let Some(url) = &parsed {
        let _ = Environment::read(variable).of(url);
    }
    if let Some(seconds) = date::parse(date) {
        assert!(seconds <= 253_402_300_800, "{seconds} s are beyond the year 9999");
    }
}
