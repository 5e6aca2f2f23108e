//! The two text formats of the metrics page, and which one a scraper asks for. As the libraries of
//! Prometheus do: OpenMetrics only for those who name it, Prometheus' own format for all others.

use axum::http::{HeaderMap, header::ACCEPT};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Format {
    /// Prometheus' text format, version 0.0.4.
    Plain,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The one that the header `Accept` prefers.
    pub(in crate::server) fn accepted(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges = values.flat_map(|value| value.split(',')).filter_map(preference);
        let mut best = (Self::Plain, 0.0);
        for (format, weight) in ranges {
            if weight > best.1 {
                best = (format, weight);
            }
        }
        best.0
    }

    pub(in crate::server) const fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The format that a media range names, and its weight (RFC 9110, section 12.5.1). `None` for
/// every other range.
fn preference(range: &str) -> Option<(Format, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let format = match parts.next()?.to_ascii_lowercase().as_str() {
        "text/plain" => Format::Plain,
        "application/openmetrics-text" => Format::OpenMetrics,
        _ => return None,
    };
    let versions: &[&str] = match format {
        Format::Plain => &["0.0.4"],
        Format::OpenMetrics => &["0.0.1", "1.0.0"],
    };
    let mut weight = 1.0;
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.to_ascii_lowercase().as_str() {
            "q" => weight = value.parse().ok()?,
            "version" if !versions.contains(&value) => return None,
            _ => {}
        }
    }
    Some((format, weight))
}

/// A page of OpenMetrics in Prometheus' format: a counter is declared with its suffix `_total`, and
/// no line marks the end. `prometheus-client` writes OpenMetrics only.
pub(super) fn plain(open_metrics: &str) -> String {
    let mut page = String::with_capacity(open_metrics.len() + (1 << 10));
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(line) = line.strip_prefix("# HELP ") {
            help = line;
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let help = help.split_once(' ').map_or("", |(_, help)| help);
            page += &format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            page += line;
            page.push('\n');
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_are_for_those_who_prefer_them() {
        let old_prometheus = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let new_prometheus = "application/vnd.google.protobuf;encoding=delimited;q=0.6,\
            application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, expected) in [
            (None, Format::Plain),
            (Some(""), Format::Plain),
            (Some("*/*"), Format::Plain),
            (Some("text/html,application/xml;q=0.9,*/*;q=0.8"), Format::Plain),
            (Some("text/plain"), Format::Plain),
            (Some("text/plain;version=0.0.4"), Format::Plain),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("Application/OpenMetrics-Text; Version=1.0.0; Q=0.1"), Format::OpenMetrics),
            (Some("application/openmetrics-text;version=2.0.0"), Format::Plain),
            (Some("application/openmetrics-text;q=0"), Format::Plain),
            (Some("application/openmetrics-text;q=0.4, text/plain;q=0.5"), Format::Plain),
            (Some("text/plain;q=0.4, application/openmetrics-text;q=0.5"), Format::OpenMetrics),
            (Some(old_prometheus), Format::OpenMetrics),
            (Some(new_prometheus), Format::OpenMetrics),
        ] {
            let headers = accept.map(|accept| (ACCEPT, accept.parse().unwrap()));
            assert_eq!(Format::accepted(&headers.into_iter().collect()), expected, "{accept:?}");
        }
    }
}
