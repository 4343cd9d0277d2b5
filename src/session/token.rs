//! Session tokens and their digests.

use std::{
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRng, rngs::SysRng};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind};

/// The client's secret: 32 bytes from the operating system's CSPRNG.
///
/// The token's text has 43 characters: base64url without padding (RFC 4648 §5). OWASP ASVS 5.0
/// (7.2.3) requires at least 128 bits, and NIST SP 800-63B-4 §5.1 requires at least 64 bits. A
/// token has 256 bits.
///
/// The type has no `Display`, `Serialize`, `PartialEq` or `Hash`, and its `Debug` prints no part of
/// the token. Code can therefore not compare, store or log a token by accident. Only
/// [`expose`](Self::expose) returns the text.
///
/// # Test vectors
///
/// An implementation in another language decodes the 43 characters and hashes the 32 bytes with
/// SHA-256.
///
/// | 32 bytes | token | digest (hex) |
/// |---|---|---|
/// | `00` × 32 | `AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA` | `66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925` |
/// | `00 01 … 1f` | `AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8` | `630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd` |
/// | `ff` × 32 | `__________________________________________8` | `af9613760f72635fbdb44a5a0a63c39f12af30f950a6ee5c971be188e89c4051` |
///
/// ```
/// use tower_user_session::session::SessionToken;
///
/// let token = SessionToken::parse(b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8").unwrap();
/// assert_eq!(token.digest().as_bytes()[..4], [0x63, 0x0d, 0xcd, 0x29]);
/// assert_eq!(token.expose(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
/// ```
pub struct SessionToken([u8; Self::BYTES]);

impl SessionToken {
    const BYTES: usize = 32;
    /// The length of a token's text, in characters and bytes.
    pub const CHARACTERS: usize = 43;

    /// Generates a token with the operating system's CSPRNG.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Rng`] if the generator fails. There is no fallback.
    pub fn generate() -> Result<Self, Error> {
        Self::generate_from(&mut SysRng)
    }

    fn generate_from<R: TryRng>(rng: &mut R) -> Result<Self, Error>
    where
        R::Error: std::error::Error + Send + Sync + 'static,
    {
        let mut bytes = [0; Self::BYTES];
        rng.try_fill_bytes(&mut bytes)
            .map_err(|error| Error::new(ErrorKind::Rng, error))?;
        // All zeros show that the generator wrote nothing. No other defect can be detected here.
        if bytes == [0; Self::BYTES] {
            return Err(Error::from_kind(ErrorKind::Rng));
        }
        Ok(Self(bytes))
    }

    /// Parses a token's text. Returns `None` unless the text has exactly 43 canonical characters.
    ///
    /// It rejects padding, white space, quotes, percent encoding, the standard base64 alphabet, and
    /// a last character whose unused bits are not zero.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != Self::CHARACTERS {
            return None;
        }
        // The decoder needs space for a complete last group.
        let mut bytes = [0; Self::BYTES + 1];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        bytes[..length].try_into().ok().map(Self)
    }

    /// Returns the digest of this token. A store never has the token itself.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.0).into())
    }

    /// Returns the token's text. The text must be sent to the client only: in a cookie, or once in
    /// the response to a client without cookies.
    pub fn expose(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(..)")
    }
}

/// SHA-256 of a token's 32 bytes. A store keeps and accepts digests only.
///
/// An attacker cannot sign in with a leaked table of digests. The time that the lookup of a digest
/// takes reveals nothing about a token. A plain hash is enough for a secret of 256 random bits
/// (OWASP ASVS 5.0, 6.5.2 by analogy).
///
/// `Debug` prints no part of the digest, because a driver may log the parameters of a statement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Creates a digest from its 32 bytes, which a store or a remote service received.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first eight bytes. Different digests rarely have the same.
    pub(crate) fn first_bytes(&self) -> u64 {
        u64::from_le_bytes(self.0.first_chunk().copied().unwrap_or_default())
    }
}

impl Hash for TokenDigest {
    /// Writes eight bytes only, because a digest is uniformly distributed.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.first_bytes());
    }
}

/// Hashing that uses a part of the digest itself, for maps of live sessions or of few entries.
///
/// A client cannot choose the digest of a live session. However, a client can find tokens whose
/// digests have the same first bytes. Do not use this hashing for a large map of digests that no
/// lookup has verified.
pub(crate) type DigestHashing = BuildHasherDefault<DigestHasher>;

/// Returns the eight bytes that the `Hash` of a [`TokenDigest`] writes.
#[derive(Default)]
pub(crate) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, part: u64) {
        self.0 = part;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn hex(digest: TokenDigest) -> String {
        use std::fmt::Write as _;
        digest
            .as_bytes()
            .iter()
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }

    /// B09
    #[test]
    fn known_answers() {
        let counting: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        for (bytes, text, digest) in [
            (
                [0; 32],
                "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925",
            ),
            (
                counting,
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
                "630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd",
            ),
            (
                [0xff; 32],
                "__________________________________________8",
                "af9613760f72635fbdb44a5a0a63c39f12af30f950a6ee5c971be188e89c4051",
            ),
        ] {
            assert_eq!(SessionToken(bytes).expose(), text);
            assert_eq!(
                hex(SessionToken::parse(text.as_bytes()).unwrap().digest()),
                digest
            );
        }
    }

    /// A19: a token has one encoding. The last character has four bits of the token. Its other two
    /// bits must be 0.
    #[test]
    fn only_the_canonical_encoding_is_parsed() {
        let token = SessionToken::generate().unwrap().expose();
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        for byte in 0..=u8::MAX {
            let mut last = token.clone().into_bytes();
            last[42] = byte;
            let place = alphabet.iter().position(|&c| c == byte);
            let canonical = place.is_some_and(|place| place % 4 == 0);
            assert_eq!(
                SessionToken::parse(&last).is_some(),
                canonical,
                "last byte {byte:#x}"
            );

            let mut middle = token.clone().into_bytes();
            middle[20] = byte;
            assert_eq!(
                SessionToken::parse(&middle).is_some(),
                place.is_some(),
                "byte {byte:#x}"
            );
        }
        for length in (0..=64).chain([4096, 65_536]) {
            let text = vec![b'A'; length];
            assert_eq!(
                SessionToken::parse(&text).is_some(),
                length == 43,
                "length {length}"
            );
        }
    }

    /// B02, B03: a million tokens are distinct, and each of the 256 bits is set half of the time.
    #[test]
    fn tokens_are_random() {
        let mut seen = HashSet::new();
        let mut ones = [0_u32; 256];
        let samples = 100_000_u32;
        for n in 0..1_000_000_u32 {
            let token = SessionToken::generate().unwrap();
            if n < samples {
                for (bit, count) in ones.iter_mut().enumerate() {
                    *count += u32::from(token.0[bit / 8] >> (bit % 8) & 1);
                }
            }
            assert!(seen.insert(token.0));
        }
        assert_eq!(SessionToken::generate().unwrap().expose().len(), 43);
        // Five standard deviations of a binomial distribution: 5 * sqrt(n) / 2.
        let bound = 5.0 * f64::from(samples).sqrt() / 2.0;
        for (bit, count) in ones.iter().enumerate() {
            let off = (f64::from(*count) - f64::from(samples) / 2.0).abs();
            assert!(off < bound, "bit {bit} is set {count} times in {samples}");
        }
    }

    /// B01, B04: a generator that writes nothing, or fails after a partial write, yields no token.
    #[test]
    fn a_broken_generator_yields_no_token() {
        struct Broken(Result<(), fmt::Error>);
        impl TryRng for Broken {
            type Error = fmt::Error;
            fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
                self.0.map(|()| 0)
            }
            fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
                self.0.map(|()| 0)
            }
            fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
                if self.0.is_err() {
                    bytes[0] = 1;
                }
                self.0
            }
        }
        for broken in [Ok(()), Err(fmt::Error)] {
            let error = SessionToken::generate_from(&mut Broken(broken)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Rng);
        }
    }

    /// I01
    #[test]
    fn debug_output_has_no_secret() {
        let token = SessionToken([7; 32]);
        assert_eq!(
            format!("{token:?} {:#?}", token.digest()),
            "SessionToken(..) TokenDigest(..)"
        );
    }
}
