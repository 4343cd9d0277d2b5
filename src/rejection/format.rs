//! Format of a rejection's body: content negotiation.

use http::{HeaderMap, HeaderValue, header};

use crate::rejection::kind::RejectionKind;

/// The format in which a client receives a rejection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Headers only, with this content type (gRPC and gRPC-Web).
    Grpc(HeaderValue),
    Html,
    /// Problem details (RFC 9457).
    Json,
    Text,
}

impl Format {
    pub(super) fn of(request: &HeaderMap) -> Self {
        grpc(request).map_or_else(|| accepted(request), Self::Grpc)
    }

    pub(super) fn content_type(&self) -> HeaderValue {
        match self {
            Self::Grpc(content_type) => content_type.clone(),
            Self::Html => HeaderValue::from_static("text/html; charset=utf-8"),
            Self::Json => HeaderValue::from_static("application/problem+json"),
            Self::Text => HeaderValue::from_static("text/plain; charset=utf-8"),
        }
    }

    pub(super) const fn body(&self, kind: RejectionKind) -> &'static str {
        match (self, kind) {
            (Self::Grpc(_), _) => "",
            (Self::Text, kind) => line(kind),
            (Self::Html, RejectionKind::Unauthenticated) => {
                "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Sign in</title><p>Please sign in.\n"
            }
            (Self::Html, RejectionKind::ReauthenticationRequired) => {
                "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Sign in again</title><p>Please sign in again to continue.\n"
            }
            (Self::Html, RejectionKind::Forbidden) => {
                "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Not allowed</title><p>You are not allowed to do this.\n"
            }
            (Self::Html, RejectionKind::Unavailable) => {
                "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Unavailable</title><p>The service is unavailable at the moment. Please try again.\n"
            }
            (Self::Json, RejectionKind::Unauthenticated) => {
                r#"{"title":"Unauthorized","status":401,"detail":"Please sign in."}"#
            }
            (Self::Json, RejectionKind::ReauthenticationRequired) => {
                r#"{"title":"Unauthorized","status":401,"detail":"Please sign in again to continue."}"#
            }
            (Self::Json, RejectionKind::Forbidden) => {
                r#"{"title":"Forbidden","status":403,"detail":"You are not allowed to do this."}"#
            }
            (Self::Json, RejectionKind::Unavailable) => {
                r#"{"title":"Service Unavailable","status":503,"detail":"The service is unavailable at the moment. Please try again."}"#
            }
        }
    }
}

/// Returns the line for the user. The line has no `%` and is ASCII. Therefore it needs no encoding
/// as a `grpc-message`.
pub(super) const fn line(kind: RejectionKind) -> &'static str {
    match kind {
        RejectionKind::Unauthenticated => "Please sign in.",
        RejectionKind::ReauthenticationRequired => "Please sign in again to continue.",
        RejectionKind::Forbidden => "You are not allowed to do this.",
        RejectionKind::Unavailable => "The service is unavailable at the moment. Please try again.",
    }
}

/// Returns the content type of the response to a gRPC or gRPC-Web request.
fn grpc(request: &HeaderMap) -> Option<HeaderValue> {
    let content_type = request.get(header::CONTENT_TYPE)?;
    match content_type.as_bytes().strip_prefix(b"application/grpc")? {
        [] | [b'+' | b';', ..] => Some(HeaderValue::from_static("application/grpc")),
        rest if rest.starts_with(b"-web") => Some(content_type.clone()),
        _ => None,
    }
}

/// Returns the format with the highest weight (RFC 9110 §12.5.1). If several formats have this
/// weight, returns the first of them.
///
/// A client that accepts everything, or none of the formats, is treated as a program and receives
/// plain text.
fn accepted(request: &HeaderMap) -> Format {
    let lines = request.get_all(header::ACCEPT).iter();
    let ranges = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    let mut best = (0, Format::Text);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let format = match &*media_type {
            "text/html" | "application/xhtml+xml" => Format::Html,
            "application/json" | "application/problem+json" | "application/*" => Format::Json,
            "text/plain" | "text/*" | "*/*" => Format::Text,
            _ => continue,
        };
        let weight = parts.find_map(weight).unwrap_or(1_000);
        if weight > best.0 {
            best = (weight, format);
        }
    }
    best.1
}

/// Returns whether the client accepts `text/html` by name.
pub(crate) fn accepts_html(request: &HeaderMap) -> bool {
    let mut lines = request.get_all(header::ACCEPT).iter();
    lines.any(|line| {
        let mut parts = line.as_bytes().windows(9);
        parts.any(|part| part.eq_ignore_ascii_case(b"text/html"))
    })
}

/// Parses a weight, in thousandths.
fn weight(parameter: &str) -> Option<u32> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value: f32 = value.trim().parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the product is between 0 and 1,000"
    )]
    let thousandths = (value.clamp(0.0, 1.0) * 1_000.0) as u32;
    Some(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_the_client_prefers() {
        use Format::{Html, Json, Text};
        for (accept, format) in [
            (&[][..], Text),
            (&["*/*"], Text),
            (
                &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
                Html,
            ),
            (&["application/json, text/plain, */*"], Json),
            (&["application/problem+json"], Json),
            (&["application/*"], Json),
            (&["TEXT/HTML"], Html),
            (&["text/plain"], Text),
            (&["text/html;q=0.5, application/json"], Json),
            (&["text/html;q=0.5", "application/json;q=0.9"], Json),
            (&["text/html;level=1;Q=0.2, application/json;q=0.1"], Html),
            (&["text/html;q=0, application/json;q=0.1"], Json),
            (&["text/html;q=0"], Text),
            (&["text/html;q=nonsense"], Html),
            (&["image/png"], Text),
            (&["", ",;,"], Text),
        ] {
            let headers: HeaderMap = accept
                .iter()
                .map(|value| (header::ACCEPT, HeaderValue::from_static(value)))
                .collect();
            let mut all = HeaderMap::new();
            all.extend(headers);
            for value in accept {
                all.append(header::ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(Format::of(&all), format, "{accept:?}");
        }
    }

    /// No line needs an escape in any format.
    #[test]
    fn every_kind_has_one_line_in_every_format() {
        for kind in [
            RejectionKind::Unauthenticated,
            RejectionKind::Forbidden,
            RejectionKind::ReauthenticationRequired,
            RejectionKind::Unavailable,
        ] {
            let line = line(kind);
            let plain = |byte: u8| (b' '..=b'~').contains(&byte) && !b"%<>&\"\\".contains(&byte);
            assert!(line.bytes().all(plain), "{line}");
            assert_eq!(Format::Text.body(kind), line);
            let page = Format::Html.body(kind);
            assert!(
                page.contains(line) && page.trim_end().lines().count() == 1,
                "{page}"
            );
            let problem: serde_json::Value = serde_json::from_str(Format::Json.body(kind)).unwrap();
            assert_eq!(problem["detail"], line);
            assert_eq!(problem["status"], kind.status().as_u16());
            assert_eq!(problem["title"], kind.status().canonical_reason().unwrap());
        }
    }
}
