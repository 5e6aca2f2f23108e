//! The URI that the caller requested, as the envelope has it. Behind a trusted proxy, scheme and
//! host are those that the caller sent to the first proxy: in `X-Forwarded-Proto` and `-Host`, or
//! in `Forwarded` (RFC 7239).

use axum::http::{HeaderMap, header, request::Parts};

use crate::gateway::wire::{self, Gateway};

/// The URI that the caller requested, without the query.
pub(super) fn requested(gateway: &Gateway, parts: &Parts) -> String {
    let forwarded = wire::forwarded_headers(gateway, parts);
    let forwarded = |header, parameter| {
        let headers = forwarded?;
        list_first(headers, header)
            .or_else(|| forwarded_first(headers, parameter))
            .filter(|value| !value.is_empty())
    };
    let scheme = match forwarded("x-forwarded-proto", "proto") {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => "http",
        _ if gateway.is_tls => "https",
        _ => "http",
    };
    let host = forwarded("x-forwarded-host", "host")
        .or_else(|| wire::header_text(&parts.headers, header::HOST))
        .or_else(|| parts.uri.authority().map(|authority| authority.as_str()))
        .unwrap_or("localhost");
    format!("{scheme}://{host}{}", parts.uri.path())
}

/// The first value of a list: each proxy appends to it, so that is what the caller sent.
fn list_first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let first = wire::header_text(headers, name)?.split(',').next().map(str::trim);
    first.filter(|value| !value.is_empty())
}

/// A parameter of the first element of `Forwarded`, which is the proxy nearest to the caller. No
/// scheme or host contains a comma, a semicolon or a quote.
fn forwarded_first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let first = list_first(headers, "forwarded")?;
    let mut pairs = first.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| found.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"'))
}
