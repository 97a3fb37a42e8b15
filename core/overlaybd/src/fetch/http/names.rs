//! Host names to addresses, remembered for a while; a slow name server holds up nobody beyond his time.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Life of an answer. What is older is still used once, while a new one is asked for: a registry that moved is
/// found again within a minute, and a name server that is down is no reason to stop.
const TTL: Duration = Duration::from_secs(60);
/// Names kept; a process talks to a handful of registries and their storage hosts.
const MAX_NAMES: usize = 256;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// The system's resolver with a memory.
#[derive(Default)]
pub(super) struct Names {
    known: Mutex<HashMap<String, Arc<Name>>>,
}

#[derive(Default)]
struct Name {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    found: Option<(Instant, Vec<IpAddr>)>,
    failure: Option<String>,
    /// A thread of its own is asking; there is one for a name at most.
    asking: bool,
}

impl Names {
    /// Addresses of `host`, the one that worked last first. Never empty.
    ///
    /// Errors: the resolver's, or `TimedOut`.
    pub fn resolve(&self, host: &str, port: u16, until: Instant) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let name = {
            let mut known = self.known.lock();
            if known.len() >= MAX_NAMES && !known.contains_key(host) {
                known.clear();
            }
            Arc::clone(known.entry(host.to_owned()).or_default())
        };
        let mut state = name.state.lock();
        loop {
            let fresh = state.found.as_ref().is_some_and(|(since, _)| since.elapsed() < TTL);
            if !fresh && !state.asking {
                state.asking = true;
                state.failure = None;
                ask(Arc::clone(&name), host.to_owned()).inspect_err(|_| state.asking = false)?;
            }
            if let Some((_, ips)) = &state.found {
                return Ok(ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect());
            }
            if name.changed.wait_until(&mut state, until).timed_out() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer from the name server"));
            }
            if let Some(why) = state.failure.as_ref().filter(|_| !state.asking) {
                return Err(io::Error::new(io::ErrorKind::NotFound, why.clone()));
            }
        }
    }

    /// Takes note that `ip` works: it is tried first the next time.
    pub fn works(&self, host: &str, ip: IpAddr) {
        self.change(host, |state| {
            if let Some((_, ips)) = &mut state.found {
                if let Some(at) = ips.iter().position(|known| *known == ip) {
                    ips[..=at].rotate_right(1);
                }
            }
        });
    }

    /// Takes note that none of the addresses works: the resolver is asked again.
    pub fn forget(&self, host: &str) {
        self.change(host, |state| state.found = None);
    }

    fn change(&self, host: &str, change: impl FnOnce(&mut State)) {
        let name = self.known.lock().get(host).cloned();
        if let Some(name) = name {
            change(&mut name.state.lock());
        }
    }
}

/// Asks the system, which offers no limit of time, in a thread.
fn ask(name: Arc<Name>, host: String) -> io::Result<()> {
    let work = move || {
        let answer = (host.as_str(), 0).to_socket_addrs();
        let mut state = name.state.lock();
        state.asking = false;
        let answer = answer.map(|all| all.map(|a| a.ip()).take(MAX_ADDRESSES).collect::<Vec<_>>());
        match answer {
            Ok(ips) if !ips.is_empty() => state.found = Some((Instant::now(), ips)),
            Ok(_) => state.failure = Some("host not found".into()),
            Err(e) => state.failure = Some(format!("host not found: {e}")),
        }
        name.changed.notify_all();
    };
    std::thread::Builder::new().name("obd-resolve".into()).spawn(work).map(drop)
}
