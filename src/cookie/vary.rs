//! The header `Vary`, for responses that depend on credentials.

use http::{
    HeaderMap, HeaderValue,
    header::{self, Entry},
};

/// The names of the header fields with credentials, for `Vary`.
pub(crate) static VARY_COOKIE: HeaderValue = HeaderValue::from_static("cookie");
pub(crate) static VARY_AUTHORIZATION: HeaderValue = HeaderValue::from_static("authorization");

/// Adds a header's name, in lower case, to `Vary`, unless `Vary` has the name or `*`.
pub(crate) fn vary_by(headers: &mut HeaderMap, name: &'static HeaderValue) {
    // This fails if the map is full. A response with so many fields is not cached, because no
    // server or proxy passes it on.
    match headers.try_entry(header::VARY) {
        Ok(Entry::Vacant(entry)) => {
            let _ = entry.try_insert(name.clone());
        }
        Ok(Entry::Occupied(mut entry)) if !entry.iter().any(|value| lists(value, name)) => {
            entry.append(name.clone());
        }
        Ok(Entry::Occupied(_)) | Err(_) => {}
    }
}

/// Returns whether this value of `Vary` lists the name or `*`.
fn lists(value: &HeaderValue, name: &HeaderValue) -> bool {
    value.as_bytes().split(|&byte| byte == b',').any(|field| {
        let field = field.trim_ascii();
        field == b"*" || field.eq_ignore_ascii_case(name.as_bytes())
    })
}
