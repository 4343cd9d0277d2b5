//! The `User-Agent` header, cleaned for a list of sessions.

use http::{HeaderMap, header};

/// Maximum length of the stored text, in bytes.
const LONGEST: usize = 256;

/// Invisible characters that change how the text around them is displayed.
///
/// They are three general categories of Unicode 16: Cf (format, including the direction of text),
/// Zl (line separators) and Zp (paragraph separators).
const INVISIBLE: &[(char, char)] = &[
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e007f}'),
];

/// Returns the request's `User-Agent`, truncated, without control, format and separator characters.
pub(crate) fn of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::USER_AGENT)?;
    let text = String::from_utf8_lossy(value.as_bytes());
    let mut bounded = String::new();
    for c in text.chars().filter(|c| is_visible(*c)) {
        if bounded.len() + c.len_utf8() > LONGEST {
            break;
        }
        bounded.push(c);
    }
    (!bounded.is_empty()).then_some(bounded)
}

fn is_visible(c: char) -> bool {
    !c.is_control()
        && !INVISIBLE
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&c))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn cleaned(text: &str) -> Option<String> {
        let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
        of(&HeaderMap::from_iter([(header::USER_AGENT, value)]))
    }

    /// M15: characters that a list of sessions must not display, one on a line.
    #[test]
    fn invisible_characters_are_removed() {
        for invisible in [
            '\u{80}',
            '\u{85}',
            '\u{9f}', // controls
            '\u{ad}',
            '\u{61c}',
            '\u{180e}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{feff}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e007f}',
        ] {
            let text = format!("Pho{invisible}ne");
            assert_eq!(cleaned(&text).as_deref(), Some("Phone"), "{invisible:?}");
        }
        for visible in [
            ' ',
            'é',
            '\u{a0}',
            '中',
            '\u{1f4f1}',
            '\u{fffd}',
            '\u{2027}',
            '\u{202f}',
        ] {
            let text = format!("Pho{visible}ne");
            assert_eq!(cleaned(&text).as_deref(), Some(&*text), "{visible:?}");
        }
        assert_eq!(cleaned("\u{202e}\u{200b}"), None);
    }

    #[test]
    fn long_values_are_truncated() {
        assert_eq!(cleaned(&"x".repeat(1_000)), Some("x".repeat(LONGEST)));
        assert_eq!(cleaned(&"é".repeat(1_000)), Some("é".repeat(LONGEST / 2)));
        assert_eq!(
            cleaned(&"\u{1f4f1}".repeat(65)),
            Some("\u{1f4f1}".repeat(64))
        );
    }
}
