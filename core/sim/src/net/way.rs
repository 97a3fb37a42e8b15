//! The way to a blob, as Python decides on it: the mirror first, tokens and links as long as they are good.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overlaybd::error::{Error, Kind, Result};
use overlaybd::fetch::{Headers, Locate, Target, Via};
use overlaybd::sync::sim;

use super::SimRegistry;

/// Longest time of a request where another endpoint could be asked, and how long one that failed is not asked.
const SHARE: Duration = Duration::from_secs(10);
const LACKING: Duration = Duration::from_secs(60);

const MIRROR: u32 = 0;
const REGISTRY: u32 = 1;

/// One blob's.
pub struct Way {
    registry: SimRegistry,
    digest: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    token: u64,
    link: Option<String>,
    /// Until when the mirror is not asked.
    avoided: Duration,
}

impl Way {
    pub fn new(registry: SimRegistry, digest: &str) -> Self {
        Way { registry, digest: digest.into(), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn avoid(&self, time: Duration) {
        self.known().avoided = sim::now().unwrap_or_default() + time;
    }
}

impl Locate for Way {
    fn locate(&self) -> Result<Arc<Target>> {
        sim::step();
        let known = self.known();
        let mirror = self.registry.0.habits.mirror && sim::now().unwrap_or_default() >= known.avoided;
        let endpoint = if mirror { MIRROR } else { REGISTRY };
        let host = if mirror { "mirror" } else { "registry" };
        // Who has a link is not to tell the object store more than that.
        let (url, headers) = match known.link.clone().filter(|_| !mirror) {
            Some(link) => (link, vec![]),
            None => {
                let headers: Headers = vec![("Authorization".into(), format!("Bearer {}", known.token))];
                (format!("http://{host}/v2/a/blobs/{}", self.digest), headers)
            }
        };
        Ok(Arc::new(Target { url, headers, via: Via::Environment, endpoint, limit: mirror.then_some(SHARE) }))
    }

    fn refused(&self, status: u16, headers: &[(String, String)], target: &Arc<Target>) -> Result<bool> {
        if (300..400).contains(&status) {
            let location = headers.iter().find(|(name, _)| name == "Location").map(|(_, value)| value);
            let link = location.filter(|location| location.starts_with("http://"));
            if target.endpoint == REGISTRY {
                self.known().link = link.cloned();
            }
            return Ok(link.is_some());
        }
        {
            let mut known = self.known();
            if known.link.as_ref() == Some(&target.url) {
                known.link = None;
                return Ok(true);
            }
            if target.url.starts_with("http://store/") {
                return Ok(true); // one that another reader has given up already
            }
        }
        if !matches!(status, 401 | 403) {
            return Ok(false);
        }
        // The server of tokens is asked.
        let weather = self.registry.weather();
        sim::sleep(Duration::from_millis(sim::draw(50)));
        if weather.away.is_some() || sim::draw(4000) < weather.bad {
            return Err(Error::new(Kind::Io, "no token"));
        }
        let token = self.registry.0.token.load(std::sync::atomic::Ordering::Relaxed);
        let used = format!("Bearer {token}");
        let mut known = self.known();
        known.token = token;
        Ok(!target.headers.iter().any(|(_, value)| *value == used))
    }

    fn failed(&self, status: Option<u16>, _: &Error, target: &Arc<Target>) -> bool {
        self.known().link.take_if(|link| *link == target.url);
        if target.endpoint == MIRROR {
            self.avoid(if status.is_some_and(|status| status < 500) { LACKING } else { LACKING / 6 });
            return true;
        }
        self.registry.0.habits.mirror && sim::now().unwrap_or_default() >= self.known().avoided
    }

    fn distrusted(&self, target: &Arc<Target>) {
        if target.endpoint == MIRROR {
            self.avoid(LACKING * 10);
        }
    }
}
