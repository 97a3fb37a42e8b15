//! Host names to addresses, remembered for a while: ureq would ask (and start a thread) for each request.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Life of an answer. Short enough that a moved registry is found again within a minute.
const TTL: Duration = Duration::from_secs(60);
/// Names kept; a process talks to a handful of registries and their storage hosts.
const MAX_NAMES: usize = 256;

/// The system's resolver with a memory.
#[derive(Default)]
pub(super) struct CachingResolver {
    system: DefaultResolver,
    known: Mutex<HashMap<String, (Instant, ResolvedSocketAddrs)>>,
}

impl fmt::Debug for CachingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachingResolver")
    }
}

impl Resolver for CachingResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let name = match (uri.scheme(), uri.authority()) {
            (Some(scheme), Some(authority)) => DefaultResolver::host_and_port(scheme, authority),
            _ => None,
        };
        let Some(name) = name else { return self.system.resolve(uri, config, timeout) };
        if let Some((since, addrs)) = self.known.lock().get(&name) {
            if since.elapsed() < TTL {
                return Ok(addrs.clone());
            }
        }
        let addrs = self.system.resolve(uri, config, timeout)?;
        let mut known = self.known.lock();
        if known.len() >= MAX_NAMES {
            known.clear();
        }
        known.insert(name, (Instant::now(), addrs.clone()));
        Ok(addrs)
    }
}
