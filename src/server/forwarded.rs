//! The caller behind trusted proxies, from `X-Forwarded-For`. Each proxy appends the address that
//! it got the request from. Only the entries of trusted proxies can be trusted, and the one before
//! them.
//! `axum-client-ip` takes the last address, or the header of one product; it has no list of
//! trusted proxies.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

const HEADER: &str = "x-forwarded-for";

/// The last address that is not a trusted proxy's; the first address if all are. `None` if the
/// header is missing or malformed there.
pub(super) fn caller(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let hops = headers
        .get_all(HEADER)
        .iter()
        .rev()
        .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    let mut first = None;
    for hop in hops {
        // Earlier entries may not even be text.
        let ip = address(str::from_utf8(hop).ok()?.trim())?;
        if !trusted.iter().any(|net| net.contains(&ip)) {
            return Some(ip);
        }
        first = Some(ip);
    }
    first
}

/// Parses one entry. Some proxies append the port.
fn address(hop: &str) -> Option<IpAddr> {
    let ip = hop.parse().or_else(|_| hop.parse().map(|addr: SocketAddr| addr.ip()));
    ip.ok().map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_caller_is_the_last_untrusted_hop() {
        let trusted: [IpNet; 2] =
            ["10.0.0.0/8".parse().unwrap(), "2001:db8:f::/48".parse().unwrap()];
        let caller_of = |values: &[&[u8]]| {
            let headers = values
                .iter()
                .map(|value| (HEADER.parse().unwrap(), HeaderValue::from_bytes(value).unwrap()));
            caller(&headers.collect(), &trusted).map(|ip| ip.to_string())
        };
        let cases: [(&[&[u8]], Option<&str>); 12] = [
            (&[], None),
            (&[b"203.0.113.9"], Some("203.0.113.9")),
            (&[b"203.0.113.9, 2001:db8::7"], Some("2001:db8::7")),
            (&[b"198.51.100.1,203.0.113.9, 10.1.2.3"], Some("203.0.113.9")),
            (&[b"198.51.100.1", b"203.0.113.9", b"10.1.2.3, 2001:db8:f::1"], Some("203.0.113.9")),
            (&[b"10.9.9.9, 10.1.2.3"], Some("10.9.9.9")),
            (&[b"203.0.113.9:4711"], Some("203.0.113.9")),
            (&[b"[2001:db8::7]:443, ::ffff:10.0.0.1"], Some("2001:db8::7")),
            (&[b"203.0.113.9, unknown"], None),
            (&[b"203.0.113.9, "], None),
            (&[b"\xff, 203.0.113.9"], Some("203.0.113.9")),
            (&[b"203.0.113.9, \xff"], None),
        ];
        for (values, expected) in cases {
            assert_eq!(caller_of(values).as_deref(), expected, "{values:?}");
        }
    }
}
