//! The requests: each contestant gets the same ones, except for the name and form of its secret.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderValue, Request, header::COOKIE};

use crate::data::{self, Numbers};

/// The bytes of the `Cookie` header, which has five cookies.
pub(crate) const HEADER_BYTES: usize = 612;

/// How many unknown tokens there are.
const UNKNOWN: u32 = 20_000;

/// Which contestant's cookie a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cookie {
    Ours,
    TowerSessions,
    AxumSession,
}

impl Cookie {
    fn pair(self, session: u32) -> String {
        match self {
            Self::Ours => format!("__Host-session={}", data::token(session)),
            Self::TowerSessions => format!("id={}", data::tower_sessions_id(session)),
            Self::AxumSession => format!("session={}", data::axum_session_id(session)),
        }
    }
}

/// A header with this pair in the middle of other cookies.
pub(crate) fn header(pair: &str) -> String {
    let before = format!(
        "_ga=GA1.1.1034567890.1700000000; consent={}; ",
        "necessary%2Cstatistics%2C".repeat(4)
    );
    let after = "; csrftoken=kQ3vJ8mZpX2sT7wY5uR1nB6cD9fG4hL0; preferences=";
    let filling = HEADER_BYTES - before.len() - pair.len() - after.len();
    format!(
        "{before}{pair}{after}{}",
        "theme-dark_".repeat(60)[..filling].to_owned()
    )
}

/// One request per session in use, with the user who must be returned.
#[derive(Debug)]
pub(crate) struct Requests {
    headers: Vec<HeaderValue>,
    /// With unknown tokens.
    unknown: Vec<HeaderValue>,
    numbers: Numbers,
    checked: bool,
}

impl Requests {
    pub(crate) fn new(cookie: Cookie, numbers: Numbers) -> Arc<Self> {
        let header = |session| {
            let header = header(&cookie.pair(session));
            HeaderValue::try_from(header).expect("cookies are ASCII")
        };
        let headers = (0..numbers.known()).map(|n| header(numbers.session(n)));
        let unknown = (0..UNKNOWN).map(|n| header(numbers.sessions + n));
        Arc::new(Self {
            headers: headers.collect(),
            unknown: unknown.collect(),
            numbers,
            checked: true,
        })
    }

    /// The same for a service that cannot know the user.
    pub(crate) fn unchecked(&self) -> Arc<Self> {
        Arc::new(Self {
            headers: self.headers.clone(),
            unknown: Vec::new(),
            numbers: self.numbers,
            checked: false,
        })
    }

    pub(crate) fn known(&self) -> u32 {
        self.numbers.known()
    }

    pub(crate) fn header(&self, n: u32) -> &HeaderValue {
        &self.headers[n as usize]
    }

    /// The user of the n-th request.
    pub(crate) fn user(&self, n: u32) -> i64 {
        self.numbers.user_of(self.numbers.session(n))
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.checked
    }

    pub(crate) fn is_right(&self, n: u32, answer: Option<i64>) -> bool {
        !self.checked || answer == Some(self.user(n))
    }

    pub(crate) fn request(&self, n: u32) -> Request<Body> {
        with_cookie(self.header(n))
    }

    /// A request with an unknown token.
    pub(crate) fn unknown(&self, n: u32) -> Request<Body> {
        with_cookie(&self.unknown[n as usize % self.unknown.len()])
    }
}

fn with_cookie(header: &HeaderValue) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    request.headers_mut().insert(COOKIE, header.clone());
    request
}

/// A small generator: choosing the next session must cost next to nothing.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let high = (u128::from(self.next()) * u128::from(bound)) >> 64;
        u32::try_from(high).unwrap_or(0)
    }

    /// Uniform over (0, 1].
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}
