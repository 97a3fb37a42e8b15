//! The parts of a URL that a request needs.

/// An absolute `http` or `https` URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// `https`.
    pub tls: bool,
    /// Name or address, an IPv6 address without brackets, in lower case.
    pub host: String,
    pub port: u16,
    /// `user:password` before the host, as it stands.
    pub user: Option<String>,
    /// Path and query, never empty.
    pub path: String,
}

impl Url {
    /// None for what is no such URL, or holds a character that must not get into a request.
    pub fn parse(url: &str) -> Option<Url> {
        if !url.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let (scheme, rest) = url.split('#').next()?.split_once("://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, authority),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port)
            }
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        let port = match port.strip_prefix(':') {
            Some("") | None if port.len() < 2 => default_port(tls),
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().filter(|p| *p > 0)?,
            _ => return None,
        };
        let named = !host.is_empty() && !host.contains(['"', '<', '>', '\\', '[', ']']);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        named.then(|| Url { tls, host: host.to_ascii_lowercase(), port, user, path })
    }

    /// Host and port as in a `Host` header: without the port if that is the usual one.
    pub fn authority(&self) -> String {
        if self.port == default_port(self.tls) {
            bracketed(&self.host)
        } else {
            self.endpoint()
        }
    }

    /// Host and port, both always there.
    pub fn endpoint(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

fn default_port(tls: bool) -> u16 {
    if tls {
        443
    } else {
        80
    }
}
