//! Parser for notification payloads. `0002_announce_sessions.sql` defines the format.

use crate::{
    feed::Invalidation,
    session::{SessionId, UserKey},
};

/// Parses `ended <id> …`, `changed <id> …`, `users <hash> …` or `everything`. An id has 32
/// hexadecimal digits, and a hash has 16. Any other payload, which a later version may send, counts
/// as `everything`.
pub(super) fn parse(payload: &str) -> Invalidation {
    let invalidation = match payload.split_once(' ') {
        Some(("ended" | "changed", ids)) => {
            let ids = ids
                .split(' ')
                .map(|id| digits::<32>(id).map(u128::to_be_bytes));
            ids.map(|id| id.map(SessionId::from_bytes))
                .collect::<Option<_>>()
                .map(Invalidation::Sessions)
        }
        Some(("users", hashes)) => {
            let hashes = hashes.split(' ').map(digits::<16>);
            hashes
                .map(|hash| u64::try_from(hash?).ok().map(UserKey::from_hash))
                .collect::<Option<_>>()
                .map(Invalidation::Users)
        }
        _ => None,
    };
    invalidation.unwrap_or(Invalidation::All)
}

/// Parses a number of exactly `N` hexadecimal digits.
fn digits<const N: usize>(text: &str) -> Option<u128> {
    let all = text.len() == N && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    all.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payload of a later version, or a forged payload, invalidates everything.
    #[test]
    fn unknown_payload_invalidates_everything() {
        let one = "0123456789abcdef0123456789abcdef";
        let named = |text: &str| match parse(text) {
            Invalidation::Sessions(ids) => (ids.len(), 0),
            Invalidation::Users(users) => (0, users.len()),
            _ => (0, 0),
        };
        assert_eq!(named(&format!("ended {one}")), (1, 0));
        assert_eq!(named(&format!("changed {one} {one}")), (2, 0));
        assert_eq!(named("users 0123456789abcdef ffffffffffffffff"), (0, 2));
        let user = UserKey::from_hash(0x0123_4567_89ab_cdef);
        assert_eq!(
            parse("users 0123456789abcdef"),
            Invalidation::Users(vec![user])
        );
        for unknown in [
            "",
            "everything",
            "ended",
            "ended ",
            "began 0123456789abcdef0123456789abcdef",
            "ended 0123456789abcdef0123456789abcde",
            "ended 0123456789abcdef0123456789abcdef ",
            "ended 01234567-89ab-cdef-0123-456789abcdef",
            "ended 0123456789abcdef0123456789abcdeg",
            "ended +123456789abcdef0123456789abcdef",
            "ended \u{1d7d8}123456789abcdef0123456789ab",
            "users",
            "users ",
            "users 0123456789abcdef0123456789abcdef",
            "users 0123456789abcde",
            "users +123456789abcdef",
            "users 0123456789abcdef ",
            "user 0123456789abcdef",
            "v3 ended 0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(parse(unknown), Invalidation::All, "{unknown}");
        }
        assert_eq!(parse(&"x".repeat(8_000)), Invalidation::All);
    }
}
