//! What a browser does with `Set-Cookie`, written from RFC 6265bis only: parsing (§5.6), storing
//! with the prefix rules (§5.7) and sending (§5.8). It knows https origins.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

const LONGEST_LIFE: i64 = 400 * 24 * 60 * 60;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
    pub domain: String,
    pub host_only: bool,
    pub path: String,
    pub secure: bool,
    pub http_only: bool,
    pub same_site: SameSite,
    /// Seconds from now; `None` for a cookie that ends with the browser session.
    pub life: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Default,
    Lax,
    Strict,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Control,
    TooLong,
    Empty,
    OtherDomain,
    Insecure,
    SameSiteNone,
    Prefix,
}

#[derive(Default)]
pub struct Browser {
    jar: Vec<Stored>,
}

impl Browser {
    /// Stores each `Set-Cookie` of a response from this host.
    pub fn receive(&mut self, host: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        for value in headers.get_all(header::SET_COOKIE) {
            self.store(host, true, value.as_bytes())?;
        }
        Ok(())
    }

    /// Stores what `https://host/` (or `http://host/`) sets, or returns why not. An expired cookie
    /// is removed.
    pub fn store(&mut self, host: &str, https: bool, set_cookie: &[u8]) -> Result<(), Refusal> {
        let new = parse(set_cookie)?.accepted_from(host, https)?;
        self.jar.retain(|old| {
            (&old.name, &old.domain, old.host_only, &old.path)
                != (&new.name, &new.domain, new.host_only, &new.path)
        });
        if new.life.is_none_or(|life| life > 0) {
            self.jar.push(new);
        }
        Ok(())
    }

    pub fn jar(&self) -> &[Stored] {
        &self.jar
    }

    /// Returns the headers of a request for `https://host/`.
    pub fn request(&self, host: &str) -> HeaderMap {
        let mut sent: Vec<&Stored> = self
            .jar
            .iter()
            .filter(|cookie| {
                let matches = if cookie.host_only {
                    cookie.domain == host
                } else {
                    domain_matches(host, &cookie.domain)
                };
                matches && cookie.path == "/"
            })
            .collect();
        sent.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let line = sent
            .iter()
            .map(|cookie| {
                let mut text = cookie.name.clone();
                if !text.is_empty() {
                    text.push(b'=');
                }
                text.extend_from_slice(&cookie.value);
                text
            })
            .collect::<Vec<_>>()
            .join(&b"; "[..]);
        let mut headers = HeaderMap::new();
        if !line.is_empty() {
            headers.insert(header::COOKIE, HeaderValue::from_bytes(&line).unwrap());
        }
        headers
    }

    /// Advances the time.
    pub fn wait(&mut self, time: Duration) {
        let seconds = i64::try_from(time.as_secs()).unwrap();
        for cookie in &mut self.jar {
            cookie.life = cookie.life.map(|life| life - seconds);
        }
        self.jar
            .retain(|cookie| cookie.life.is_none_or(|life| life > 0));
    }
}

/// §5.6: a cookie's name, value and attributes.
#[derive(Debug)]
pub struct Parsed {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
    pub attributes: Vec<(String, String)>,
}

pub fn parse(set_cookie: &[u8]) -> Result<Parsed, Refusal> {
    let control = |byte: &u8| matches!(byte, 0..=8 | 10..=31 | 127);
    if set_cookie.iter().any(control) {
        return Err(Refusal::Control);
    }
    let mut parts = set_cookie.split(|&byte| byte == b';');
    let pair = parts.next().unwrap_or_default();
    let (name, value) = match pair.iter().position(|&byte| byte == b'=') {
        Some(at) => (trim(&pair[..at]), trim(&pair[at + 1..])),
        None => (&b""[..], trim(pair)),
    };
    if name.len() + value.len() > 4096 {
        return Err(Refusal::TooLong);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(trim(bytes)).into_owned();
    let attributes = parts
        .map(|part| match part.iter().position(|&byte| byte == b'=') {
            Some(at) => (
                text(&part[..at]).to_ascii_lowercase(),
                text(&part[at + 1..]),
            ),
            None => (text(part).to_ascii_lowercase(), String::new()),
        })
        .filter(|(_, value)| value.len() <= 1024)
        .collect();
    Ok(Parsed {
        name: name.to_vec(),
        value: value.to_vec(),
        attributes,
    })
}

impl Parsed {
    /// The last attribute of this name, which §5.7 uses.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let mut all = self.attributes.iter().rev();
        all.find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    fn life(&self) -> Option<i64> {
        let max_age = self.attributes.iter().rev().find_map(|(name, value)| {
            let digits = value.strip_prefix('-').unwrap_or(value);
            let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            (name == "max-age" && number).then(|| {
                if value.starts_with('-') {
                    0
                } else {
                    digits.parse().unwrap_or(i64::MAX)
                }
            })
        });
        // The model reads one date, that of a removal.
        let expires = self
            .attribute("expires")
            .and_then(|date| date.contains("1970").then_some(0));
        max_age.or(expires).map(|life| life.min(LONGEST_LIFE))
    }

    fn accepted_from(self, host: &str, https: bool) -> Result<Stored, Refusal> {
        if self.name.is_empty() && self.value.is_empty() {
            return Err(Refusal::Empty);
        }
        let domain = self
            .attribute("domain")
            .map(|domain| {
                domain
                    .strip_prefix('.')
                    .unwrap_or(domain)
                    .to_ascii_lowercase()
            })
            .filter(|domain| !domain.is_empty());
        if let Some(domain) = &domain {
            // A name without a dot stands for a public suffix.
            if !domain_matches(host, domain) || !domain.contains('.') {
                return Err(Refusal::OtherDomain);
            }
        }
        let secure = self.attribute("secure").is_some();
        if secure && !https {
            return Err(Refusal::Insecure);
        }
        let same_site = match self.attribute("samesite").map(str::to_ascii_lowercase) {
            Some(value) if value == "none" => SameSite::None,
            Some(value) if value == "strict" => SameSite::Strict,
            Some(value) if value == "lax" => SameSite::Lax,
            _ => SameSite::Default,
        };
        if same_site == SameSite::None && !secure {
            return Err(Refusal::SameSiteNone);
        }
        let path = self.attribute("path");
        let (secure_prefix, host_prefix) = (
            begins(&self.name, "__Secure-"),
            begins(&self.name, "__Host-"),
        );
        if (secure_prefix || host_prefix) && !secure {
            return Err(Refusal::Prefix);
        }
        if host_prefix && (domain.is_some() || path != Some("/")) {
            return Err(Refusal::Prefix);
        }
        let nameless = self.name.is_empty();
        if nameless && (begins(&self.value, "__Secure-") || begins(&self.value, "__Host-")) {
            return Err(Refusal::Prefix);
        }
        Ok(Stored {
            host_only: domain.is_none(),
            domain: domain.unwrap_or_else(|| host.to_owned()),
            // Requests of this model are for "/", whose default path is the same.
            path: path
                .filter(|path| path.starts_with('/'))
                .unwrap_or("/")
                .to_owned(),
            secure,
            http_only: self.attribute("httponly").is_some(),
            same_site,
            life: self.life(),
            name: self.name,
            value: self.value,
        })
    }
}

/// §4.1.3: prefixes are recognized in any case.
fn begins(text: &[u8], prefix: &str) -> bool {
    let start = text.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

fn domain_matches(host: &str, domain: &str) -> bool {
    host == domain
        || host
            .strip_suffix(domain)
            .is_some_and(|rest| rest.ends_with('.'))
}

fn trim(bytes: &[u8]) -> &[u8] {
    let white = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes
        .iter()
        .position(|byte| !white(byte))
        .unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|byte| !white(byte))
        .map_or(start, |at| at + 1);
    &bytes[start..end]
}
