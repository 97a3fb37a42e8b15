//! The real network: HTTP/1.1 with a keep-alive pool, TLS against the system's certificates, proxies by environment.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::Agent;

use super::resolve::CachingResolver;
use super::{public_url, Http, Request, Response};
use crate::error::{Error, Kind, Result};
use crate::limits;

/// Time for the look-up of a name, and again for a connection with its TLS handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest silence on a connection before the attempt is given up: a stalled transfer is continued on
/// a new connection rather than waited for.
const STALL: Duration = Duration::from_secs(10);
/// Idle connections kept for one host: as many as front ends have workers.
const IDLE_PER_HOST: usize = 32;
/// Idle connections older than this are not used again; servers close theirs after 60 s and more.
const IDLE_AGE: Duration = Duration::from_secs(50);

/// Bytes taken from a connection at a time: a quarter of the usual 1 MiB read.
const READ_BYTES: usize = 256 << 10;

/// Settings of a [`Client`], all optional.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// `User-Agent`; empty: `overlaybd/<version>`.
    pub user_agent: String,
    /// PEM file with further certificate authorities, trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Accept any server certificate. Only for tests and for those who really mean it.
    pub insecure: bool,
}

/// An HTTP client on sockets. Certificates are read when the first `https` request is made.
pub struct Client {
    options: ClientOptions,
    plain: Agent,
    tls: OnceLock<Agent>,
}

impl Client {
    /// A client; opens nothing yet.
    pub fn new(mut options: ClientOptions) -> Self {
        if options.user_agent.is_empty() {
            options.user_agent = concat!("overlaybd/", env!("CARGO_PKG_VERSION")).into();
        }
        let plain = agent(&options, TlsConfig::default());
        Client { options, plain, tls: OnceLock::new() }
    }

    fn agent(&self, url: &str) -> Result<&Agent> {
        if !url.get(..6).is_some_and(|s| s.eq_ignore_ascii_case("https:")) {
            return Ok(&self.plain);
        }
        if let Some(agent) = self.tls.get() {
            return Ok(agent);
        }
        let agent = agent(&self.options, tls_config(&self.options)?);
        Ok(self.tls.get_or_init(|| agent))
    }
}

fn agent(options: &ClientOptions, tls: TlsConfig) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(options.user_agent.as_str())
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(STALL))
        .timeout_per_write(Some(STALL))
        .max_idle_connections(4 * IDLE_PER_HOST)
        .max_idle_connections_per_host(IDLE_PER_HOST)
        .max_idle_age(IDLE_AGE)
        .input_buffer_size(READ_BYTES)
        .tls_config(tls)
        .build();
    Agent::with_parts(config, DefaultConnector::default(), CachingResolver::default())
}

fn tls_config(options: &ClientOptions) -> Result<TlsConfig> {
    // Errors of single files in the system's store are no reason to refuse the others.
    let mut roots: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    if let Some(path) = &options.ca_file {
        roots.extend(certificates(path)?);
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .disable_verification(options.insecure)
        .build())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let len = std::fs::metadata(path).map_err(|e| Error::io("open", e).in_file(path))?.len();
    if len > limits::MAX_PEM_BYTES {
        return Err(Error::new(Kind::Limit, format!("{len} bytes of certificates")).in_file(path));
    }
    let pem = std::fs::read(path).map_err(|e| Error::io("read", e).in_file(path))?;
    let mut certs = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        let item = item.map_err(|e| Error::new(Kind::Invalid, "not PEM").in_file(path).because(e))?;
        if let ureq::tls::PemItem::Certificate(cert) = item {
            certs.push(cert);
        }
    }
    if certs.is_empty() {
        return Err(Error::new(Kind::Invalid, "holds no certificate").in_file(path));
    }
    Ok(certs)
}

impl Http for Client {
    fn get(&self, request: &Request<'_>) -> Result<Response> {
        let agent = self.agent(request.url)?;
        let send = || {
            let range = format!("bytes={}-{}", request.first, request.last);
            let mut builder = agent.get(request.url).header("Range", range);
            for (name, value) in request.headers {
                builder = builder.header(name, value);
            }
            builder.config().timeout_global(Some(request.timeout)).build().call()
        };
        // A pooled connection that the server closes at this very moment fails before any answer:
        // that says nothing about the server, so it is not counted as an attempt.
        let answer = match send() {
            Err(ureq::Error::Io(e)) if is_hangup(&e) => send(),
            other => other,
        };
        let (parts, body) = answer.map_err(|e| translate(e, request.url))?.into_parts();
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let body = Box::new(body.into_with_config().limit(u64::MAX).reader());
        Ok(Response { status: parts.status.as_u16(), headers, body })
    }
}

fn is_hangup(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Chooses the kind: what may pass is `Io` or `TimedOut`, what a repetition cannot mend is something else.
fn translate(e: ureq::Error, url: &str) -> Error {
    let what = format!("GET {}", public_url(url));
    match e {
        ureq::Error::Io(e) if e.get_ref().is_some_and(|inner| inner.to_string().contains("certificate")) => {
            Error::new(Kind::Denied, what).because(e)
        }
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut => Error::new(Kind::TimedOut, what).because(e),
        ureq::Error::Io(e) => Error::new(Kind::Io, what).because(e),
        ureq::Error::Timeout(which) => Error::new(Kind::TimedOut, what).because(format!("no progress ({which})")),
        ureq::Error::HostNotFound => Error::new(Kind::Io, what).because("host not found"),
        ureq::Error::ConnectionFailed => Error::new(Kind::Io, what).because("connection failed"),
        // The texts of these quote the URL, query included.
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Error::new(Kind::Invalid, format!("{what}: not a usable URL")),
        ureq::Error::Rustls(e) => Error::new(Kind::Denied, what).because(e),
        ureq::Error::Protocol(e) => Error::new(Kind::Io, what).because(e),
        ureq::Error::LargeResponseHeader(..) => Error::new(Kind::Limit, what).because("header of the answer too large"),
        other => Error::new(Kind::Io, what).because(other),
    }
}
