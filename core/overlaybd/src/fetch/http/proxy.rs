//! Which HTTP proxy a request goes through: what the environment says, as curl and most others read it.

use std::net::IpAddr;

use super::url::Url;

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    pub url: Url,
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

impl Proxy {
    /// `[http[s]://][USER:PASSWORD@]HOST[:PORT]`; None if it is no such thing.
    pub fn parse(text: &str) -> Option<Proxy> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let url = Url::parse(&format!("{scheme}://{rest}"))?;
        // Else a password has a `/`, `?` or `#` that is not escaped, and what passes for the host is a part of it.
        if url.user.as_deref() != rest.rsplit_once('@').map(|(user, _)| user) {
            return None;
        }
        let authorization = url.user.as_deref().map(|user| format!("Basic {}", base64(&percent_decoded(user))));
        Some(Proxy { url, authorization })
    }
}

/// The proxies of the environment.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    http: Option<String>,
    https: Option<String>,
    exceptions: Vec<String>,
}

impl Environment {
    /// Reads it once; `get` gives a variable. A proxy that is none is an error when it is used.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let one = |name: &str| {
            let text = get(name).or_else(|| get(&name.to_ascii_uppercase()))?;
            (!text.trim().is_empty()).then(|| text.trim().to_owned())
        };
        let exceptions = one("no_proxy").unwrap_or_default();
        Environment {
            http: one("http_proxy").or_else(|| one("all_proxy")),
            https: one("https_proxy").or_else(|| one("all_proxy")),
            exceptions: exceptions.split([',', ' ']).filter(|e| !e.is_empty()).map(str::to_ascii_lowercase).collect(),
        }
    }

    /// The proxy for a URL, as it was written.
    pub fn of(&self, url: &Url) -> Option<&str> {
        let proxy = if url.tls { &self.https } else { &self.http }.as_deref()?;
        (!self.exceptions.iter().any(|exception| excepts(exception, url))).then_some(proxy)
    }
}

/// Whether an entry of `NO_PROXY` is for a URL: `*`, a domain with or without a dot before it, an address, a
/// network in CIDR form; each but the last with or without a port.
fn excepts(exception: &str, url: &Url) -> bool {
    if exception == "*" {
        return true;
    }
    if let Ok(ip) = url.host.parse::<IpAddr>() {
        if in_network(exception, ip) {
            return true;
        }
    }
    let (name, port) = match exception.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None => match exception.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') => (name, Some(port)),
            _ => (exception, None),
        },
    };
    if port.is_some_and(|port| port.parse() != Ok(url.port)) {
        return false;
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    let domain = name.strip_prefix('.').unwrap_or(name);
    !domain.is_empty() && url.host.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn in_network(text: &str, ip: IpAddr) -> bool {
    let Some((network, bits)) = text.split_once('/') else { return false };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (network, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) if bits <= 32 => {
            (u32::from(a) ^ u32::from(b)).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) if bits <= 128 => {
            (u128::from(a) ^ u128::from(b)).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (bytes.push(byte), rest = &after[2..]).1,
            None => (bytes.push(first), rest = after).1,
        }
    }
    bytes
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place <= group.len() { digit } else { '=' });
        }
    }
    text
}
