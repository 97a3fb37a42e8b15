//! The real network: HTTP/1.1 on sockets, with connections kept, TLS that is verified, and proxies.
//!
//! A client of our own, since bodies are to be read straight into the reader's buffer, silence and slowness are to
//! be noticed, and a proxy is to be chosen for each request; of HTTP it needs ranged GETs only.

mod abroad;
mod body;
mod conn;
mod dial;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
mod names;
mod pool;
mod proxy;
#[cfg(test)]
mod tests;
mod tls;
mod url;

pub use tls::TlsOptions;

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;

use self::body::WireBody;
use self::conn::{Conn, Limits};
use self::dial::{OfProxy, Way};
use self::head::Answer;
use self::names::Names;
use self::pool::Pool;
use self::proxy::{Environment, Proxy};
use self::url::Url;
use super::{public_url, Http, Request, Response, Via};
use crate::error::{Error, Kind, Result};

/// Settings of a [`Client`], all optional.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// `User-Agent`; empty: `overlaybd/<version>`.
    pub user_agent: String,
    /// TLS towards everybody.
    pub tls: TlsOptions,
    /// TLS towards single hosts instead, by `host` or `host:port` as in URLs.
    pub hosts: HashMap<String, TlsOptions>,
}

/// An HTTP client on sockets. Certificates are read for the first `https` connection, and again when they changed.
pub struct Client {
    options: ClientOptions,
    environment: Environment,
    names: Names,
    pool: Pool,
    configs: tls::Configs,
}

impl Client {
    /// A client; opens nothing yet.
    pub fn new(mut options: ClientOptions) -> Self {
        if options.user_agent.is_empty() {
            options.user_agent = concat!("overlaybd/", env!("CARGO_PKG_VERSION")).into();
        }
        Client {
            options,
            environment: Environment::read(|name| std::env::var(name).ok()),
            names: Names::default(),
            pool: Pool::default(),
            configs: tls::Configs::default(),
        }
    }

    /// TLS towards the host of a URL, None for plain HTTP.
    fn tls(&self, url: &Url) -> Result<Option<Arc<ClientConfig>>> {
        if !url.tls {
            return Ok(None);
        }
        let hosts = &self.options.hosts;
        let options = hosts.get(&url.authority()).or_else(|| hosts.get(&url.endpoint())).unwrap_or(&self.options.tls);
        self.configs.get(options).map(Some)
    }

    /// A new connection for requests for `url`.
    fn connect(&self, url: &Url, proxy: Option<&Proxy>, abroad: bool, limits: Limits, shown: &str) -> Result<Conn> {
        let place = |e: Error| e.context(format!("GET {}", public_url(shown)));
        let proxy_tls = proxy.map(|proxy| self.tls(&proxy.url)).transpose().map_err(place)?.flatten();
        let tls = self.tls(url).map_err(place)?;
        let way = Way { names: &self.names, proxy: proxy.map(|proxy| (proxy, proxy_tls)), tls, abroad };
        way.connect(url, limits).map_err(|e| translate(e, shown))
    }

    fn proxy(&self, url: &Url, via: &Via) -> Result<Option<Proxy>> {
        let text = match via {
            Via::Direct => None,
            Via::Environment | Via::Abroad => self.environment.of(url),
            Via::Proxy(text) => Some(text.as_str()),
        };
        let Some(text) = text else { return Ok(None) };
        let proxy = Proxy::parse(text);
        // What stands before the last `@` may be a password, whatever it looks like.
        let shown = || match text.rsplit_once('@') {
            Some((_, place)) => format!("…@{}: user and password must be percent-encoded", public_url(place)),
            None => public_url(text),
        };
        proxy.map(Some).ok_or_else(|| Error::new(Kind::Invalid, format!("not a usable proxy: {}", shown())))
    }

    /// The head of the request, for the server or for a proxy that is to send it on.
    fn text(&self, request: &Request<'_>, url: &Url, proxy: Option<&Proxy>) -> Option<String> {
        let (host, range) = (url.authority(), format!("bytes={}-{}", request.first, request.last));
        let mut fields = vec![("Host", host.as_str()), ("User-Agent", &self.options.user_agent), ("Range", &range)];
        // Compressed, the bytes would not be those of the blob.
        fields.push(("Accept-Encoding", "identity"));
        fields.extend(request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        match proxy.filter(|_| !url.tls) {
            Some(proxy) => {
                fields.extend(proxy.authorization.as_deref().map(|value| ("Proxy-Authorization", value)));
                head::request("GET", &format!("http://{host}{}", url.path), &fields)
            }
            None => head::request("GET", &url.path, &fields),
        }
    }
}

impl Http for Client {
    fn get(&self, request: &Request<'_>) -> Result<Response> {
        let place = |e: Error| e.context(format!("GET {}", public_url(request.url)));
        let unusable = || Error::new(Kind::Invalid, format!("GET {}: not a usable URL", public_url(request.url)));
        let limits = Limits { end: Instant::now() + request.timeout, patience: request.patience };
        let url = Url::parse(request.url).ok_or_else(unusable)?;
        let proxy = self.proxy(&url, request.via).map_err(place)?;
        let text = self.text(request, &url, proxy.as_ref()).ok_or_else(unusable)?;
        let through = proxy.as_ref().map_or(String::new(), |proxy| proxy.url.endpoint());
        let abroad = *request.via == Via::Abroad;
        // What was connected to by the leave of a configuration is not for those who have none.
        let kind = format!("{}{}", if url.tls { "s:" } else { "" }, if abroad { "abroad:" } else { "" });
        let key = format!("{kind}{} {through}", url.endpoint());
        let Some(slot) = self.pool.enter(&key, limits.end) else {
            return Err(place(Error::new(Kind::TimedOut, "other requests to this host took all the time")));
        };
        let mut kept = slot.idle();
        let (conn, answer) = loop {
            let (mut conn, old) = match kept.take() {
                Some(conn) => (conn, true),
                None => (self.connect(&url, proxy.as_ref(), abroad, limits, request.url)?, false),
            };
            conn.limit(limits);
            match send(&mut conn, &text) {
                Ok(answer) => break (conn, answer),
                // A kept connection that the server closes at this very moment fails before any answer: that says
                // nothing about the server, so it is no attempt.
                Err(e) if old && is_hangup(&e) => {}
                Err(e) => return Err(translate(e, request.url)),
            }
        };
        let body = WireBody::new(conn, answer.framing, slot.lease(), answer.keep);
        let (headers, body) = (answer.headers, Box::new(body));
        Ok(Response { status: answer.status, headers, body, slot: Some(Box::new(slot)) })
    }
}

fn send(conn: &mut Conn, text: &str) -> io::Result<Answer> {
    conn.wire.write_all(text.as_bytes())?;
    conn.wire.flush()?;
    head::answer(conn)
}

fn is_hangup(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Chooses the kind: what may pass is `Io` or `TimedOut`, what a repetition cannot mend is something else.
fn translate(e: io::Error, url: &str) -> Error {
    let what = format!("GET {}", public_url(url));
    let proxy = e.get_ref().and_then(|inner| inner.downcast_ref::<OfProxy>());
    let who = proxy.map_or("the server".to_owned(), |proxy| format!("the proxy {}", proxy.endpoint));
    let source = proxy.map_or(&e, |proxy| &proxy.error);
    if let Some(tls) = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        let error = Error::new(Kind::Denied, what);
        return match tls {
            rustls::Error::InvalidCertificate(_) if tls::is_authority(tls) => error.because(format!(
                "{who}'s certificate is one for an authority (CA:TRUE): to accept it, make it the caFile itself"
            )),
            rustls::Error::InvalidCertificate(why) => {
                error.because(format!("{who}'s certificate is not trusted: {why}"))
            }
            rustls::Error::AlertReceived(alert) => error.because(format!("{who} refused TLS: {alert:?}")),
            _ => Error::new(Kind::Io, error.what()).because(format!("TLS with {who}: {tls}")),
        };
    }
    let kind = match e.kind() {
        io::ErrorKind::TimedOut => Kind::TimedOut,
        io::ErrorKind::InvalidInput => Kind::Invalid,
        io::ErrorKind::FileTooLarge => Kind::Limit,
        // Ours, not that of a firewall, which may pass.
        io::ErrorKind::PermissionDenied if e.raw_os_error().is_none() => Kind::Denied,
        _ => Kind::Io,
    };
    Error::new(kind, what).because(e)
}
