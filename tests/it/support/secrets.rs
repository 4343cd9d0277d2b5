//! The spellings of a token and of its digest, none of which may be in a text.

use std::fmt::Debug;

use base64::{Engine as _, engine::general_purpose};
use tower_user_session::session::SessionToken;

/// The value of a session column, which may be in the servers' logs only.
pub const SESSION_VALUE: &str = "s3cret-of-the-application";

/// Each spelling of a token and its digest.
pub struct Secrets(Vec<String>);

impl Secrets {
    pub fn of(token: &SessionToken) -> Self {
        let text = token.expose();
        let token_bytes = general_purpose::URL_SAFE_NO_PAD.decode(&text).unwrap();
        let mut all = vec![text];
        for bytes in [&token_bytes[..], token.digest().as_bytes()] {
            let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
            let hex = hex.collect::<Vec<_>>().concat();
            all.push(hex.to_uppercase());
            all.push(hex);
            let list = format!("{bytes:?}");
            all.push(list.trim_matches(['[', ']']).to_owned());
            all.push(general_purpose::URL_SAFE_NO_PAD.encode(bytes));
            all.push(general_purpose::STANDARD.encode(bytes));
            // As `{:#?}` prints a list.
            all.push(pretty(bytes));
        }
        Self(all)
    }

    pub fn assert_not_in(&self, what: &str, text: &str) {
        for secret in &self.0 {
            assert!(
                !text.contains(secret.as_str()),
                "{what} contains {secret}: {text}"
            );
        }
    }

    pub fn assert_not_in_debug_of(&self, what: &str, value: &impl Debug) {
        self.assert_not_in(what, &format!("{value:?}"));
        self.assert_not_in(what, &format!("{value:#?}"));
    }
}

fn pretty(bytes: &[u8]) -> String {
    let list = format!("{:#?}", &bytes[..4]);
    list.trim_matches(['[', ']']).to_owned()
}
