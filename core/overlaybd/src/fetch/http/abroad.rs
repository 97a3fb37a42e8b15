//! Addresses that a server must not send its clients to: those of this machine, of its link, and of the services
//! that clouds have for their own guests, which believe whoever reaches them.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// Services of clouds that are at no address which is special by itself: Alibaba, Azure, Oracle, AWS, Google.
const SERVICES: [&str; 5] = ["100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"];

/// Whether an address is for configurations alone to name.
pub(super) fn is_near(ip: IpAddr) -> bool {
    let ip = plain(ip);
    let special = match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    };
    special
        || ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || SERVICES.iter().any(|service| service.parse() == Ok(ip))
}

/// The address of version 4 that one of version 6 stands for, if it does.
fn plain(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = ip.to_canonical() else { return ip.to_canonical() };
    let words = six.segments();
    let low = |high: u16, low: u16| IpAddr::from((u32::from(high) << 16 | u32::from(low)).to_be_bytes());
    match words {
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] => low(a, b),
        [0x2002, a, b, ..] => low(a, b),
        [0, 0, 0, 0, 0, 0, a, b] if a != 0 => low(a, b),
        _ => IpAddr::V6(six),
    }
}

/// Keeps the addresses that a server may send its clients to.
///
/// Errors: `PermissionDenied` if none is left.
pub(super) fn far_ones(addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let near = addresses.first().map(SocketAddr::ip);
    let far: Vec<_> = addresses.into_iter().filter(|address| !is_near(address.ip())).collect();
    match (far.is_empty(), near) {
        (true, Some(ip)) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("a server sends us to {ip}, which only a configuration may name"),
        )),
        _ => Ok(far),
    }
}

#[cfg(test)]
mod tests {
    use super::is_near;

    #[test]
    fn addresses_are_told_in_all_their_forms() {
        for near in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "255.255.255.255",
            "224.0.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2002:7f00:1::",
            "fd00:ec2::254",
            "fd20:ce::254",
        ] {
            assert!(is_near(near.parse().unwrap()), "{near}");
        }
        for far in ["10.0.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8", "fd00::1", "2001:db8::1", "64:ff9b::808:808"] {
            assert!(!is_near(far.parse().unwrap()), "{far}");
        }
    }
}
