//! Ranged HTTP to a registry: one GET behind a trait, where to send it behind another, and the loop between.
//!
//! [`Http`] moves bytes, [`Locate`] knows URL and credentials (the binding puts Python behind it), and
//! [`Source`] makes of both a read that ends in the right bytes or in one clear error. Nothing here
//! follows redirects or knows what a token is.

mod answer;
mod blob;
mod client;
mod lane;
mod resolve;
mod source;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use blob::RemoteBlob;
pub use client::{Client, ClientOptions};
pub use lane::{Lane, Urgent, LANE};
pub use source::{Fetched, Source, Stream};

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Result;

/// Names and values of a message's headers, in order.
pub type Headers = Vec<(String, String)>;

/// One ranged GET.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Absolute `http` or `https` URL.
    pub url: &'a str,
    /// Headers besides `Range` and those of the connection.
    pub headers: &'a [(String, String)],
    /// First byte wanted.
    pub first: u64,
    /// Last byte wanted, inclusive as in the `Range` header.
    pub last: u64,
    /// Time left for everything, the body included.
    pub timeout: Duration,
}

/// What came back. The body has not been read yet; dropping it early may cost the connection.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Headers; names in any case.
    pub headers: Headers,
    /// The body, without transfer coding.
    pub body: Box<dyn Read + Send>,
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

/// Policy of one blob: where its bytes are, and with which headers they are to be had. Called from any
/// thread.
pub trait Locate: Send + Sync {
    /// URL and headers for the next GET. Quick when nothing has changed.
    ///
    /// Errors: as for [`Http::get`].
    fn locate(&self) -> Result<(String, Headers)>;

    /// The server answered `status` (3xx, 400, 401, 403 or 410) to a GET of `url` with the headers
    /// `sent`: make the next [`Locate::locate`] better. False if there is nothing left to try.
    fn refused(&self, status: u16, headers: &[(String, String)], url: &str, sent: &[(String, String)]) -> Result<bool>;
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
}

impl FetchStats {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
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
