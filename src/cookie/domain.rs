//! Validation of the `Domain` of a cookie that subdomains share.

use crate::error::{Error, ErrorKind};

/// Second-level labels under which most country registries delegate names: `co.uk`, `com.au`.
const SECOND_LEVELS: [&str; 9] = ["ac", "co", "com", "edu", "gob", "gov", "mil", "net", "org"];

/// Country domains whose registries delegate names directly. For example, `co.de` is an ordinary
/// name.
const WITHOUT_SECOND_LEVELS: [&str; 9] = ["be", "ca", "ch", "cz", "de", "dk", "eu", "fi", "nl"];

/// Other public suffixes under which applications run. Browsers have the complete list. This table
/// only detects a mistake earlier than the first sign-in would.
const PUBLIC_SUFFIXES: [&str; 44] = [
    "appspot.com",
    "asn.au",
    "asso.fr",
    "azurestaticapps.net",
    "azurewebsites.net",
    "blogspot.com",
    "cloudapp.net",
    "cloudfront.net",
    "com.de",
    "deno.dev",
    "duckdns.org",
    "eu.org",
    "firebaseapp.com",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "glitch.me",
    "go.jp",
    "go.kr",
    "gouv.fr",
    "gv.at",
    "herokuapp.com",
    "id.au",
    "ltd.uk",
    "me.uk",
    "myshopify.com",
    "ne.jp",
    "netlify.app",
    "ngrok.io",
    "onrender.com",
    "or.at",
    "or.jp",
    "or.kr",
    "pages.dev",
    "plc.uk",
    "re.kr",
    "readthedocs.io",
    "run.app",
    "trycloudflare.com",
    "uk.com",
    "us.com",
    "vercel.app",
    "web.app",
    "workers.dev",
];

/// Checks the `Domain` of a cookie.
///
/// # Errors
///
/// [`ErrorKind::Configuration`] if no browser would store a cookie with this `Domain`: for an
/// invalid host name, an IP address, a single label, and a public suffix that is recognized.
pub(crate) fn check(domain: &str) -> Result<(), Error> {
    match fault(&domain.to_ascii_lowercase()) {
        None => Ok(()),
        Some(context) => Err(Error::from_kind(ErrorKind::Configuration).with_message(context)),
    }
}

fn fault(domain: &str) -> Option<&'static str> {
    let labels: Vec<&str> = domain.split('.').collect();
    let is_label = |label: &&str| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(inside)
    };
    if domain.len() > 253 || !labels.iter().all(is_label) {
        return Some(
            "invalid cookie domain: it must be a host name in ASCII, without a leading dot",
        );
    }
    let last = labels.last().copied().unwrap_or_default();
    // A host that ends in a number is an IPv4 address (WHATWG URL, "ends in a number").
    let number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if number {
        return Some("invalid cookie domain: it must not be an IP address");
    }
    if labels.len() == 1 {
        return Some("invalid cookie domain: it must not be a single label");
    }
    let of_a_country = last.len() == 2 && !WITHOUT_SECOND_LEVELS.contains(&last);
    let delegated = labels.len() == 2 && of_a_country && SECOND_LEVELS.contains(&labels[0]);
    if delegated || PUBLIC_SUFFIXES.contains(&domain) {
        return Some("invalid cookie domain: it must not be a public suffix");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// H01, L03: a domain that no browser accepts is rejected when the cookie is configured.
    #[test]
    fn domains_that_browsers_reject_are_rejected() {
        for domain in [
            "",
            ".example.com",
            "example.com.",
            "exa mple.com",
            "a..b",
            "[::1]",
            "[::ffff:1.2.3.4]",
        ] {
            assert!(
                fault(domain).is_some_and(|fault| fault.contains("host name")),
                "{domain}"
            );
        }
        for domain in [
            "127.0.0.1",
            "1.2.3.4",
            "127.1",
            "0x7f.1",
            "10.0.0.0x1",
            "2130706433",
            "0x7f000001",
            "a.1",
        ] {
            assert!(
                fault(domain).is_some_and(|fault| fault.contains("IP address")),
                "{domain}"
            );
        }
        for domain in ["localhost", "com", "intranet", "x"] {
            assert!(
                fault(domain).is_some_and(|fault| fault.contains("single label")),
                "{domain}"
            );
        }
        for domain in [
            "co.uk",
            "com.au",
            "org.br",
            "github.io",
            "or.jp",
            "vercel.app",
            "web.app",
        ] {
            assert!(
                fault(domain).is_some_and(|fault| fault.contains("public suffix")),
                "{domain}"
            );
        }
        for domain in ["CO.UK", "Github.IO"] {
            assert!(check(domain).is_err(), "{domain}");
        }
        for domain in [
            "example.com",
            "app.example.co.uk",
            "example.github.io",
            "co.de",
            "com.example",
            "a.b.c.d",
            "xn--bcher-kva.example",
            "1.example",
        ] {
            assert_eq!(fault(domain), None, "{domain}");
        }
    }

    /// The tables are sorted, in lower case, and have no entry that a rule covers.
    #[test]
    fn the_tables_are_sorted() {
        assert!(
            SECOND_LEVELS.is_sorted()
                && WITHOUT_SECOND_LEVELS.is_sorted()
                && PUBLIC_SUFFIXES.is_sorted()
        );
        for suffix in PUBLIC_SUFFIXES {
            assert_eq!(suffix, suffix.to_ascii_lowercase());
            assert!(suffix.contains('.'));
        }
    }
}
