//! Making a connection: addresses one after another, through a proxy or not, with TLS or not.

use std::fmt;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::abroad;
use super::conn::{Conn, Limits, Socket, Wire};
use super::head;
use super::names::Names;
use super::proxy::Proxy;
use super::url::Url;

/// Time for the look-up of a name, and again for connecting to all of its addresses.
const CONNECT: Duration = Duration::from_secs(5);
/// Least time for one address, if there are several.
const ONE_ADDRESS: Duration = Duration::from_millis(500);

/// How to get to a host.
pub(super) struct Way<'a> {
    pub names: &'a Names,
    /// The proxy, and TLS towards it.
    pub proxy: Option<(&'a Proxy, Option<Arc<ClientConfig>>)>,
    /// TLS towards the host.
    pub tls: Option<Arc<ClientConfig>>,
    /// Whether nobody but a server has named the host.
    pub abroad: bool,
}

impl Way<'_> {
    /// A new connection over which requests for `url` can be sent.
    ///
    /// Errors: those of the network; `PermissionDenied` for a certificate that is refused, `InvalidInput` for a name
    /// that cannot be in one.
    pub fn connect(&self, url: &Url, limits: Limits) -> io::Result<Conn> {
        let Some((proxy, proxy_tls)) = &self.proxy else {
            let wire = Wire::Plain(self.tcp(url, self.abroad, limits)?);
            return Ok(Conn::new(secured(wire, self.tls.as_ref(), &url.host)?));
        };
        let there = self.tcp(&proxy.url, false, limits).map_err(|e| of_proxy(proxy, e))?;
        let wire = secured(Wire::Plain(there), proxy_tls.as_ref(), &proxy.url.host).map_err(|e| of_proxy(proxy, e))?;
        let mut conn = Conn::new(wire);
        if self.tls.is_some() {
            tunnel(&mut conn, url, proxy).map_err(|e| of_proxy(proxy, e))?;
            conn = Conn::new(secured(conn.wire, self.tls.as_ref(), &url.host)?);
        }
        Ok(conn)
    }

    fn tcp(&self, url: &Url, abroad: bool, limits: Limits) -> io::Result<Socket> {
        let mut addresses = self.names.resolve(&url.host, url.port, limits.end.min(Instant::now() + CONNECT))?;
        if abroad {
            addresses = abroad::far_ones(addresses)?;
        }
        let end = limits.end.min(Instant::now() + CONNECT.min(limits.patience));
        let mut result = Err(io::Error::new(io::ErrorKind::TimedOut, "no time left to connect"));
        for (i, address) in addresses.iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            let time = (left / (addresses.len() - i) as u32).max(ONE_ADDRESS).min(left);
            if time.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(address, time) {
                Ok(tcp) => {
                    tcp.set_nodelay(true)?;
                    if i > 0 {
                        self.names.works(&url.host, address.ip());
                    }
                    return Ok(Socket::new(tcp, limits));
                }
                Err(e) => result = Err(e),
            }
        }
        self.names.forget(&url.host);
        result
    }
}

/// Has the proxy make a connection of its own.
fn tunnel(conn: &mut Conn, url: &Url, proxy: &Proxy) -> io::Result<()> {
    let place = url.endpoint();
    let mut fields = vec![("Host", place.as_str())];
    fields.extend(proxy.authorization.as_deref().map(|value| ("Proxy-Authorization", value)));
    let text = head::request("CONNECT", &place, &fields).ok_or(io::ErrorKind::InvalidInput)?;
    conn.wire.write_all(text.as_bytes())?;
    let answer = head::answer(conn)?;
    if !(200..300).contains(&answer.status) {
        return Err(io::Error::other(format!("status {} to CONNECT", answer.status)));
    }
    if !conn.early().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes before the tunnel is used"));
    }
    Ok(())
}

fn secured(wire: Wire, tls: Option<&Arc<ClientConfig>>, host: &str) -> io::Result<Wire> {
    let Some(config) = tls else { return Ok(wire) };
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let conn = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(conn, wire);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Wire::Tls(Box::new(stream)))
}

/// What went wrong on the way to a proxy, not to the server behind it.
#[derive(Debug)]
pub(super) struct OfProxy {
    /// `host:port` of the proxy.
    pub endpoint: String,
    pub error: io::Error,
}

impl fmt::Display for OfProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proxy {}: {}", self.endpoint, self.error)
    }
}

impl std::error::Error for OfProxy {}

fn of_proxy(proxy: &Proxy, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), OfProxy { endpoint: proxy.url.endpoint(), error })
}
