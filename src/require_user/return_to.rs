//! The local path to return to after a sign-in.

use std::fmt::{self, Write as _};

use http::Uri;

/// Maximum length of a path, in bytes.
const LONGEST: usize = 2048;
/// The query parameter with the path.
const PARAMETER: &str = "next";

/// A path of this site, with its query, to return to after a sign-in.
///
/// It prevents open redirects (CWE-601): no browser can interpret a valid value as another site.
/// The parser rejects:
///
/// * a text that does not begin with exactly one `/`;
/// * `\`, white space, control characters, characters that are not ASCII, and a fragment;
/// * in the path: `//`, the segments `.` and `..`, a percent-encoded slash, backslash, dot, percent
///   sign or control character, and a `%` without two hexadecimal digits after it;
/// * more than 2,048 bytes.
///
/// ```
/// use tower_user_session::require_user::ReturnTo;
///
/// assert_eq!(ReturnTo::parse("/account?tab=2").unwrap().as_str(), "/account?tab=2");
/// assert!(ReturnTo::parse("//elsewhere.example").is_none());
/// assert!(ReturnTo::parse("https://elsewhere.example").is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// Parses the value of a form field or a query parameter. The value must be decoded once
    /// before.
    ///
    /// Returns `None` if the value is unsafe.
    pub fn parse(place: &str) -> Option<Self> {
        let graphic = place
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        if !graphic || place.len() > LONGEST || place.contains('#') {
            return None;
        }
        let path = place.split('?').next().unwrap_or_default();
        let here = path.starts_with('/') && !path.contains("//");
        let plain = !path
            .split('/')
            .any(|segment| [".", ".."].contains(&segment));
        let lower = path.to_ascii_lowercase();
        let encoded = ["%2f", "%5c", "%2e", "%25"]
            .iter()
            .any(|code| lower.contains(code));
        let control = lower.contains("%0") || lower.contains("%1") || lower.contains("%7f");
        // Decoding `%%32f` twice yields a slash.
        let whole = path.split('%').skip(1).all(|after| {
            let code = after.as_bytes().get(..2);
            code.is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit))
        });
        (here && plain && whole && !encoded && !control).then(|| Self(place.to_owned()))
    }

    /// Returns the path of a request's URI, if it is safe.
    pub fn from_uri(uri: &Uri) -> Option<Self> {
        uri.path_and_query()
            .and_then(|place| Self::parse(place.as_str()))
    }

    /// Returns the path, which can be used as a `Location` header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns `page` with this path as its parameter `next`.
    pub(super) fn appended_to(&self, page: &str) -> String {
        let separator = if page.contains('?') { '&' } else { '?' };
        let mut whole = format!("{page}{separator}{PARAMETER}=");
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                whole.push(char::from(byte));
            } else {
                // This cannot fail, because the target is a string.
                let _ = write!(whole, "%{byte:02X}");
            }
        }
        whole
    }
}

#[cfg(feature = "serde")]
impl ReturnTo {
    /// Deserializes an optional parameter or field. A missing or unsafe value is `None`.
    ///
    /// ```
    /// use tower_user_session::require_user::ReturnTo;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct SignInQuery {
    ///     #[serde(default, deserialize_with = "ReturnTo::deserialize_or_none")]
    ///     next: Option<ReturnTo>,
    /// }
    ///
    /// let query: SignInQuery = serde_json::from_str(r#"{"next": "//elsewhere.example"}"#).unwrap();
    /// assert_eq!(query.next, None);
    /// ```
    ///
    /// # Errors
    ///
    /// If the value is not a string.
    pub fn deserialize_or_none<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Self>, D::Error> {
        let place: Option<String> = serde::Deserialize::deserialize(deserializer)?;
        Ok(place.as_deref().and_then(Self::parse))
    }
}

/// Serializes the path as a string.
#[cfg(feature = "serde")]
impl serde::Serialize for ReturnTo {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Fails for an unsafe value. [`ReturnTo::deserialize_or_none`] yields `None` instead.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for ReturnTo {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let place = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        Self::parse(&place).ok_or_else(|| serde::de::Error::custom("unsafe path to return to"))
    }
}

impl fmt::Display for ReturnTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_on_this_site_are_parsed() {
        for place in [
            "/",
            "/account",
            "/a/b/",
            "/a?next=//b",
            "/a?x=%2F%5C..&y=:",
            "/%C3%A4",
            "/a.b",
        ] {
            assert_eq!(
                ReturnTo::parse(place).map(|to| to.0),
                Some(place.to_owned()),
                "{place}"
            );
        }
        let long = format!("/{}", "a".repeat(LONGEST));
        for place in [
            "",
            "account",
            "//b",
            "/\\b",
            "\\\\b",
            "/a\\b",
            "/a//b",
            "//",
            "https://b",
            "/..//b",
            "javascript:alert(1)",
            "/%2Fb",
            "/%5cb",
            "/a/%2e%2e/b",
            "/a/../b",
            "/./b",
            "/%252Fb",
            "/%%32fb",
            "/a%",
            "/a%4/b",
            "/a b",
            "/a\tb",
            "/a\r\nb",
            "/a\0",
            "/%0a",
            "/%1F",
            "/%7f",
            "/ä",
            "/a#b",
            " /a",
            "?a",
            &long,
        ] {
            assert_eq!(ReturnTo::parse(place), None, "{place:?}");
        }
        assert!(ReturnTo::parse(&long[..LONGEST]).is_some());
    }

    #[test]
    fn a_path_is_encoded_as_a_parameter() {
        let to = ReturnTo::parse("/a?b=c&d=%20#".trim_end_matches('#')).unwrap();
        assert_eq!(
            to.appended_to("/sign-in"),
            "/sign-in?next=/a%3Fb%3Dc%26d%3D%2520"
        );
        assert_eq!(
            to.appended_to("/sign-in?x=1"),
            "/sign-in?x=1&next=/a%3Fb%3Dc%26d%3D%2520"
        );
    }
}
