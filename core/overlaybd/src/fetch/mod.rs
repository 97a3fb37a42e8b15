//! Ranged HTTP to a registry: one GET behind a trait, where to send it behind another, and the loop between.
//!
//! [`Http`] moves bytes, [`Locate`] knows URL and credentials (the binding puts Python behind it), and
//! [`Source`] makes of both a read that ends in the right bytes or in one clear error. Nothing here
//! follows redirects or knows what a token is.

mod answer;
mod blob;
mod date;
mod http;
mod intake;
mod lane;
mod outage;
mod proven;
mod served;
mod source;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use blob::RemoteBlob;
#[cfg(fuzzing)]
pub use http::fuzzing::{answer as fuzzed_answer, texts as fuzzed_texts};
pub use http::{Client, ClientOptions, TlsOptions};
pub use intake::Stream;
pub use lane::{Lane, Urgent, LANE};
pub use outage::Outage;
pub use source::{Fetched, Source};

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;

use crate::error::{Error, Result};

/// Names and values of a message's headers, in order.
pub type Headers = Vec<(String, String)>;

/// How to reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// As `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say.
    Environment,
    /// The same to a place that only a server has named, not the configuration: without a proxy it is refused
    /// (`Denied`) if it is this machine, its link, or a service that a cloud has for its guests.
    Abroad,
    /// Without a proxy, whatever these say.
    Direct,
    /// Through this HTTP proxy (`http[s]://[USER:PASSWORD@]HOST[:PORT]`).
    Proxy(String),
}

/// One ranged GET.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Absolute `http` or `https` URL.
    pub url: &'a str,
    /// Headers besides `Range` and those of the connection.
    pub headers: &'a [(String, String)],
    /// The way there.
    pub via: &'a Via,
    /// First byte wanted.
    pub first: u64,
    /// Last byte wanted, inclusive as in the `Range` header.
    pub last: u64,
    /// Time left for everything, the body included.
    pub timeout: Duration,
    /// Longest silence of the server before it is given up.
    pub patience: Duration,
}

/// The body of an answer, without transfer coding. Dropping it before its end costs the connection.
pub trait Body: Read + Send {
    /// Sets new limits from now on, as those of [`Request`]: a body may be read long after it was asked for.
    fn renew(&mut self, timeout: Duration, patience: Duration);
}

/// What came back. The body has not been read yet.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Headers; names in any case.
    pub headers: Headers,
    /// The body.
    pub body: Box<dyn Body>,
    /// Counts as a request under way until it is dropped; a body may outlive it.
    pub slot: Option<Box<dyn Send>>,
}

impl Response {
    /// The first header of that name, compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// The network, as far as this crate needs it.
pub trait Http: Send + Sync {
    /// Sends one ranged GET and returns as soon as the head of the answer is there, whatever its
    /// status. Redirects are not followed.
    ///
    /// Errors: `Io` and `TimedOut` for what may pass; any other kind is taken as final. Messages carry
    /// no part of `request.headers` and no query of the URL.
    fn get(&self, request: &Request<'_>) -> Result<Response>;
}

/// Where to send a GET. Headers may hold secrets, so this cannot be printed.
pub struct Target {
    /// Absolute URL of the blob there.
    pub url: String,
    /// Headers to send.
    pub headers: Headers,
    /// The way there.
    pub via: Via,
    /// The locator's own name for what it sends us to.
    pub endpoint: u32,
    /// Longest time for one GET, where another endpoint could be asked instead.
    pub limit: Option<Duration>,
}

/// Policy of one blob: where its bytes are, and with which headers they are to be had. Called from any
/// thread. There may be several endpoints; a locator names the one that is best just now.
pub trait Locate: Send + Sync {
    /// The target of the next GET. Quick when nothing has changed.
    ///
    /// Errors: as for [`Http::get`].
    fn locate(&self) -> Result<Arc<Target>>;

    /// `target` answered `status` (3xx, 400, 401, 403 or 410): make the next [`Locate::locate`] better.
    /// False if there is nothing left to try.
    fn refused(&self, status: u16, headers: &[(String, String)], target: &Arc<Target>) -> Result<bool>;

    /// A GET of `target` failed: no answer, or none that is of use (then `status` says which). True if
    /// [`Locate::locate`] now names another endpoint, to be tried at once.
    fn failed(&self, _status: Option<u16>, _error: &Error, _target: &Arc<Target>) -> bool {
        false
    }

    /// Bytes that came from `target` proved wrong: prefer another endpoint.
    fn distrusted(&self, _target: &Arc<Target>) {}

    /// As [`Locate::distrusted`], of `len` bytes that do not match the blob's tree: somebody should know.
    fn mismatched(&self, target: &Arc<Target>, _offset: u64, _len: u64) {
        self.distrusted(target);
    }

    /// What a message about a failure should say of the credentials that were tried.
    fn note(&self) -> Option<String> {
        None
    }
}

/// Counters of everything that was fetched.
#[derive(Debug, Default)]
pub struct FetchStats {
    /// GETs sent, repetitions included.
    pub requests: AtomicU64,
    /// GETs that brought no usable answer and were repeated or given up.
    pub failures: AtomicU64,
    /// Bytes of blobs received and kept.
    pub bytes: AtomicU64,
    /// Answers thrown away because they did not match the tree of their blob.
    pub mismatches: AtomicU64,
    /// `failures` by the status that was answered, 0 without an answer.
    pub statuses: Mutex<BTreeMap<u16, u64>>,
}

impl FetchStats {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts a GET that failed.
    pub(crate) fn failed(&self, status: Option<u16>) {
        Self::add(&self.failures, 1);
        *self.statuses.lock().entry(status.unwrap_or(0)).or_default() += 1;
    }
}

/// The URL as it may appear in messages: without user information, query and fragment, which may hold
/// secrets (signed URLs do).
pub fn public_url(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
        }
        None => url.to_owned(),
    }
}
