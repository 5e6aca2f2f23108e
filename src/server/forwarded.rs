//! The caller behind trusted proxies, from `X-Forwarded-For`, or where there is none from
//! `Forwarded` (RFC 7239). Each proxy appends the address that it got the request from. Only the
//! entries of trusted proxies can be trusted, and the one before them.
//! `axum-client-ip` takes the last address, or the header of one product; it has no list of
//! trusted proxies.

use std::{
    iter,
    net::{IpAddr, SocketAddr},
};

use http::HeaderMap;
use ipnet::IpNet;

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED: &str = "forwarded";

/// The last address that is not a trusted proxy's; the first address if all are. `None` if the
/// header is missing or malformed there.
pub(super) fn caller(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let is_listed = headers.contains_key(X_FORWARDED_FOR);
    let name = if is_listed { X_FORWARDED_FOR } else { FORWARDED };
    let hops = headers.get_all(name).iter().rev().flat_map(|value| rsplit(value.as_bytes(), b','));
    let mut first = None;
    for hop in hops {
        // Earlier entries may not even be text.
        let hop = if is_listed { hop } else { rsplit(hop, b';').find_map(node)? };
        let ip = address(str::from_utf8(hop).ok()?.trim())?;
        if !trusted.iter().any(|net| net.contains(&ip)) {
            return Some(ip);
        }
        first = Some(ip);
    }
    first
}

/// The parts between the separators that are not quoted, the last one first. Backwards, because
/// callers wrote the first parts, which may have a quote without its end.
fn rsplit(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        for (at, byte) in text.iter().enumerate().rev() {
            if *byte == b'"' && !is_escaped(&text[..at]) {
                is_quoted = !is_quoted;
            } else if *byte == separator && !is_quoted {
                rest = Some(&text[..at]);
                return Some(&text[at + 1..]);
            }
        }
        rest = None;
        Some(text)
    })
}

/// Whether the byte after these is escaped. Asked for quotes only: for each byte of a row of
/// backslashes it would take the square of their number.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The value of a pair of `Forwarded` whose name is `for`, without its quotes.
fn node(pair: &[u8]) -> Option<&[u8]> {
    let (name, value) = pair.trim_ascii().split_at_checked("for=".len())?;
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    name.eq_ignore_ascii_case(b"for=").then_some(bare.unwrap_or(value))
}

/// Parses an address. It may have a port, and brackets.
fn address(hop: &str) -> Option<IpAddr> {
    // The port may be a name that hides it (RFC 7239, section 6.3).
    let hop = hop.split_once(":_").map_or(hop, |(hop, _)| hop);
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let ip = bare.parse().or_else(|_| hop.parse().map(|addr: SocketAddr| addr.ip()));
    ip.ok().map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// The caller according to these values of a header.
    fn caller_of(name: &'static str, values: &[&[u8]]) -> Option<String> {
        let trusted: [IpNet; 2] =
            ["10.0.0.0/8".parse().unwrap(), "2001:db8:f::/48".parse().unwrap()];
        let header = |value: &&[u8]| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        caller(&values.iter().map(header).collect(), &trusted).map(|ip| ip.to_string())
    }

    #[test]
    fn the_caller_is_the_last_untrusted_hop() {
        let cases: [(&[&[u8]], Option<&str>); 15] = [
            (&[], None),
            (&[b"203.0.113.9"], Some("203.0.113.9")),
            (&[b"203.0.113.9, 2001:db8::7"], Some("2001:db8::7")),
            (&[b"198.51.100.1,203.0.113.9, 10.1.2.3"], Some("203.0.113.9")),
            (&[b"198.51.100.1", b"203.0.113.9", b"10.1.2.3, 2001:db8:f::1"], Some("203.0.113.9")),
            (&[b"10.9.9.9, 10.1.2.3"], Some("10.9.9.9")),
            (&[b"203.0.113.9:4711"], Some("203.0.113.9")),
            (&[b"[2001:db8::7]:443, ::ffff:10.0.0.1"], Some("2001:db8::7")),
            (&[b"[2001:db8::7]"], Some("2001:db8::7")),
            (&[b"::ffff:203.0.113.9"], Some("203.0.113.9")),
            (&[b"[::ffff:203.0.113.9]:80"], Some("203.0.113.9")),
            (&[b"203.0.113.9, unknown"], None),
            (&[b"203.0.113.9, "], None),
            (&[b"\xff, 203.0.113.9"], Some("203.0.113.9")),
            (&[b"203.0.113.9, \xff"], None),
        ];
        for (values, expected) in cases {
            assert_eq!(caller_of(X_FORWARDED_FOR, values).as_deref(), expected, "{values:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        let cases: [(&[&[u8]], Option<&str>); 15] = [
            (&[b"for=203.0.113.9"], Some("203.0.113.9")),
            (&[b"For=\"203.0.113.9:4711\""], Some("203.0.113.9")),
            (&[b"for=\"[2001:db8:cafe::17]\""], Some("2001:db8:cafe::17")),
            (
                &[b"proto=https;FOR=\"[2001:db8:cafe::17]:80\";by=10.0.0.1"],
                Some("2001:db8:cafe::17"),
            ),
            (&[b"for=198.51.100.1, for=203.0.113.9;proto=http, for=10.1.2.3"], Some("203.0.113.9")),
            (&[b"for=198.51.100.1", b"for=203.0.113.9, for=10.1.2.3"], Some("203.0.113.9")),
            (&[b"for=\"203.0.113.9:_hidden\""], Some("203.0.113.9")),
            (&[b"for=10.0.0.2, for=10.0.0.1"], Some("10.0.0.2")),
            // A separator in a quoted value, which a caller chose.
            (&[b"for=203.0.113.9;host=\"a, for=9.9.9.9\""], Some("203.0.113.9")),
            (&[b"for=203.0.113.9;host=\"a\\\", for=9.9.9.9;\""], Some("203.0.113.9")),
            // A quote of the caller without its end.
            (&[b"for=\"9.9.9.9, for=203.0.113.9"], Some("203.0.113.9")),
            (&[b"for=unknown"], None),
            (&[b"for=_hidden, for=10.0.0.1"], None),
            (&[b"proto=https"], None),
            (&[b""], None),
        ];
        for (values, expected) in cases {
            let shown: Vec<_> =
                values.iter().map(|value| value.escape_ascii().to_string()).collect();
            assert_eq!(caller_of(FORWARDED, values).as_deref(), expected, "{shown:?}");
        }
    }

    #[test]
    fn a_row_of_backslashes_takes_linear_time() {
        // With the square of it, this test takes hours.
        let row = [&[b'\\'; 8_000_000][..], b"\""].concat();
        assert_eq!(rsplit(&row, b',').count(), 1);
    }

    #[test]
    fn a_callers_forwarded_does_not_replace_the_proxys_list() {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED, HeaderValue::from_static("for=9.9.9.9"));
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("203.0.113.9"));
        assert_eq!(caller(&headers, &[]).map(|ip| ip.to_string()), Some("203.0.113.9".to_owned()));
    }
}
