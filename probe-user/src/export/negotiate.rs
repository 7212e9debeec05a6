//! Which form of the metrics a scraper wants, by its `Accept` and `Accept-Encoding` headers. Pure.

/// A form that metrics can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0 text.
    OpenMetrics,
    /// Messages `io.prometheus.client.MetricFamily`, each behind its length.
    Protobuf,
}

/// How an answer is packed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// By gzip: a twentieth of the bytes, for a tenth more CPU time.
    Gzip,
}

/// The coding that an `Accept-Encoding` header prefers: gzip where it is named (RFC 9110, 12.5.3) and not liked less than no
/// coding. `*` names nothing.
#[must_use]
pub fn coding(accept: &str) -> Coding {
    let (mut gzip, mut identity) = (None, None);
    for range in accept.split(',') {
        let (name, parameter) = range.split_once(';').unwrap_or((range, "q=1"));
        let quality = parameter.trim().strip_prefix("q=").and_then(|value| thousandths(value.trim()));
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = gzip.max(quality),
            "identity" => identity = identity.max(quality),
            _ => {}
        }
    }
    if gzip > Some(0) && gzip >= identity { Coding::Gzip } else { Coding::Identity }
}

/// The form that an `Accept` header prefers: another than plain text only where it is named and not liked less than plain
/// text; protobuf before OpenMetrics, as it says more. Whatever cannot be understood is passed over; nobody is refused.
#[must_use]
pub fn format(accept: &str) -> Format {
    let mut best: [Option<u16>; 3] = [None; 3];
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let at = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "application/vnd.google.protobuf" => 0,
            "application/openmetrics-text" => 1,
            "text/plain" | "text/*" => 2,
            _ => continue,
        };
        // Protobuf is nothing without its message, and the way in which messages follow each other.
        let (mut quality, mut known, mut told) = (Some(1000), true, if at == 0 { 0 } else { 2 });
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key.trim() {
                "q" => quality = thousandths(value.trim()),
                "proto" if at == 0 => {
                    known &= value.trim() == "io.prometheus.client.MetricFamily";
                    told += 1;
                }
                "encoding" if at == 0 => {
                    known &= value.trim() == "delimited";
                    told += 1;
                }
                "version" if at == 1 => known = matches!(value.trim(), "1.0.0" | "0.0.1"),
                _ => {}
            }
        }
        if let (true, Some(quality)) = (known && told == 2, quality) {
            best[at] = best[at].max(Some(quality));
        }
    }
    match best {
        [Some(proto), open, plain] if proto > 0 && Some(proto) >= open.max(plain) => Format::Protobuf,
        [_, Some(open), plain] if open > 0 && Some(open) >= plain => Format::OpenMetrics,
        _ => Format::Text,
    }
}

/// A quality value (RFC 9110, 12.4.2: 0 to 1, at most three decimals) in thousandths.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.len() <= 3 && decimals.bytes().all(|b| b.is_ascii_digit());
    let value = format!("{whole}{decimals:0<3}");
    let value = value.parse().ok().filter(|value| digits && *value <= 1000);
    value.filter(|_| matches!(whole, "0" | "1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers() {
        for (accept, expected) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics),
            ("application/openmetrics-text;version=2.0.0", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=0.3,text/plain;q=0.5", Format::Text),
            ("application/openmetrics-text;q=7", Format::Text),
            // What Prometheus 3 sends.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            // Prometheus 3 where native histograms are asked for.
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
                 application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.2",
                Format::Protobuf,
            ),
            (
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=text,text/plain",
                Format::Text,
            ),
            ("application/vnd.google.protobuf;proto=other.Message;encoding=delimited", Format::Text),
            ("application/vnd.google.protobuf", Format::Text),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.2,\
                 application/openmetrics-text;q=0.6",
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(format(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn codings() {
        for (accept, expected) in [
            ("", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("br, GZIP;q=0.5", Coding::Gzip),
            ("x-gzip", Coding::Gzip),
            ("gzip; q=0.5, identity; q=0.6", Coding::Identity),
            ("identity;q=0.5, gzip;q=0.5", Coding::Gzip),
            ("gzip;q=0", Coding::Identity),
            ("gzip;q=7", Coding::Identity),
            ("gzip;level=9", Coding::Identity),
            ("*", Coding::Identity),
            ("deflate, br, zstd", Coding::Identity),
        ] {
            assert_eq!(coding(accept), expected, "{accept:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_has_an_answer(accept in ".{0,200}") {
            let _ = (format(&accept), coding(&accept));
        }
    }
}
