//! A token's text: base64url without padding (RFC 4648 §5), decoded by hand.

use sha2::{Digest as _, Sha256};
use tower_user_session::session::SessionToken;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The 32 bytes that this text encodes, or why it encodes none.
pub fn decode(text: &[u8]) -> Result<[u8; 32], &'static str> {
    if text.len() != 43 {
        return Err("token: another length");
    }
    let (mut bytes, mut bits, mut number) = (Vec::new(), 0, 0_u32);
    for sign in text {
        let Some(place) = ALPHABET.iter().position(|known| known == sign) else {
            return Err("token: another alphabet");
        };
        number = number << 6 | u32::try_from(place).unwrap();
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(number >> bits & 0xff).unwrap());
        }
    }
    // Two bits are left over. They must be zero, so that there is one spelling (§3.5).
    if number & 0b11 != 0 {
        return Err("token: spare bits");
    }
    Ok(bytes.try_into().unwrap())
}

/// Panics unless the crate reads this text as the reference does, and returns its kind.
pub fn check(text: &[u8]) -> &'static str {
    let token = SessionToken::parse(text);
    match decode(text) {
        Ok(bytes) => {
            let token = token.unwrap_or_else(|| panic!("{text:?} is a token"));
            assert_eq!(token.expose().as_bytes(), text);
            assert_eq!(token.digest().as_bytes()[..], Sha256::digest(bytes)[..]);
            "token: canonical"
        }
        Err(kind) => {
            assert!(token.is_none(), "{text:?} is no token");
            kind
        }
    }
}
