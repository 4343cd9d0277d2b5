//! Finds all sequences that could be 32 random bytes in a text or a file, in every spelling.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// How 32 bytes are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Base64 or base64url, with or without padding.
    Base64,
    Hex,
    /// `[1, 2, …]`, `[0a, 1b, …]`, `[0x0a, …]`.
    List,
    /// Plain or escaped.
    Raw,
}

pub type Bytes = [u8; 32];

/// The number of base64 characters of 32 bytes.
const CHARACTERS: usize = 43;
/// A longer run of characters comes from a test that floods the log.
const LONGEST: usize = 1 << 16;

/// Reports each sequence in the line, as written and with its escapes decoded.
pub fn in_line(line: &[u8], found: &mut impl FnMut(Spelling, Bytes)) {
    in_words(line, found);
    lists(line, found);
    in_bytes(line, found);
    // One kind of escape at a time: text with one kind may contain what looks like the other.
    for sign in [b'%', b'\\'] {
        if memchr::memchr(sign, line).is_some() {
            let unescaped = unescaped(line, sign);
            in_words(&unescaped, found);
            in_bytes(&unescaped, found);
        }
    }
}

/// Reports each 32 consecutive bytes that look random.
pub fn in_bytes(bytes: &[u8], found: &mut impl FnMut(Spelling, Bytes)) {
    // Most of a log is text and most of a file is empty. It is very rare that 16 random bytes are
    // all ASCII.
    const BLOCK: usize = 16;
    let mut start = None;
    for at in (0..bytes.len() + BLOCK).step_by(BLOCK) {
        let block = bytes.get(at..bytes.len().min(at + BLOCK));
        if block.is_some_and(|block| !block.is_ascii()) {
            start.get_or_insert(at.saturating_sub(BLOCK));
        } else if let Some(start) = start.take() {
            random(&bytes[start..bytes.len().min(at + BLOCK)], found);
        }
    }
}

fn random(bytes: &[u8], found: &mut impl FnMut(Spelling, Bytes)) {
    // 16 are expected. Fewer than 6 occur once in ten thousand times.
    let (mut high, mut zeros) = (0_u32, 0_u32);
    for (at, byte) in bytes.iter().enumerate() {
        high += u32::from(*byte >= 0x80);
        zeros += u32::from(*byte == 0);
        if at >= 32 {
            let left = bytes[at - 32];
            high -= u32::from(left >= 0x80);
            zeros -= u32::from(left == 0);
        }
        if at >= 31
            && high >= 6
            && zeros <= 2
            && let Ok(window) = bytes[at - 31..=at].try_into()
        {
            found(Spelling::Raw, window);
        }
    }
}

/// Reports words of base64 and of hexadecimal digits.
pub fn in_words(text: &[u8], found: &mut impl FnMut(Spelling, Bytes)) {
    let is_base64 =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+' | b'/');
    let mut start = None;
    for at in 0..=text.len() {
        if text.get(at).is_some_and(|byte| is_base64(*byte)) {
            start.get_or_insert(at);
        } else if let Some(start) = start.take()
            && (CHARACTERS..LONGEST).contains(&(at - start))
        {
            base64(&text[start..at], found);
            hex(&text[start..at], found);
        }
    }
}

fn base64(run: &[u8], found: &mut impl FnMut(Spelling, Bytes)) {
    const EITHER: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let (upper, lower) = (u8::is_ascii_uppercase, u8::is_ascii_lowercase);
    if !run.iter().any(upper) || !run.iter().any(lower) {
        return;
    }
    for window in run.windows(CHARACTERS) {
        if !looks_random(window) {
            continue;
        }
        let standard: Vec<_> = window
            .iter()
            .map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                other => *other,
            })
            .collect();
        let bytes = EITHER.decode(standard).ok();
        if let Some(bytes) = bytes.and_then(|bytes| bytes.try_into().ok()) {
            found(Spelling::Base64, bytes);
        }
    }
}

/// Whether the kind of character changes as often as in random text (27 times), unlike in a name of
/// several words. Fewer than 18 changes occur once in a thousand times.
fn looks_random(word: &[u8]) -> bool {
    let kind = |byte: u8| match byte {
        b'A'..=b'Z' => 0,
        b'a'..=b'z' => 1,
        b'0'..=b'9' => 2,
        _ => 3,
    };
    let changes = word
        .windows(2)
        .filter(|pair| kind(pair[0]) != kind(pair[1]));
    let mut kinds = [0; 4];
    for byte in word {
        kinds[kind(*byte)] += 1;
    }
    kinds[0] >= 5 && kinds[1] >= 5 && kinds[2] > 0 && changes.count() >= 18
}

fn hex(run: &[u8], found: &mut impl FnMut(Spelling, Bytes)) {
    for word in run.split(|byte| !byte.is_ascii_hexdigit()) {
        for window in word.windows(64) {
            let bytes: Option<Vec<_>> = window.chunks(2).map(|digits| number(digits, 16)).collect();
            if let Some(bytes) = bytes.and_then(|bytes| bytes.try_into().ok())
                && is_various(&bytes)
            {
                found(Spelling::Hex, bytes);
            }
        }
    }
}

/// 32 random bytes have about 30 distinct values.
fn is_various(bytes: &Bytes) -> bool {
    let different: std::collections::BTreeSet<_> = bytes.iter().collect();
    different.len() >= 16
}

/// Consecutive numbers.
fn lists(text: &[u8], found: &mut impl FnMut(Spelling, Bytes)) {
    let (mut decimal, mut hexadecimal) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let length = rest
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        let word = &rest[..length];
        at += length;
        let digits = word.strip_prefix(b"0x").unwrap_or(word);
        let of = |radix, longest| {
            Some(digits)
                .filter(|d| d.len() <= longest)
                .and_then(|d| number(d, radix))
        };
        collect(&mut decimal, of(10, 3), found);
        collect(&mut hexadecimal, of(16, 2), found);
        let gap = text[at..]
            .iter()
            .take_while(|byte| !byte.is_ascii_alphanumeric());
        let gap = &text[at..at + gap.count()];
        at += gap.len();
        if gap
            .iter()
            .any(|byte| !matches!(byte, b',' | b' ' | b'\t' | b':' | b';'))
        {
            collect(&mut decimal, None, found);
            collect(&mut hexadecimal, None, found);
        }
    }
    collect(&mut decimal, None, found);
    collect(&mut hexadecimal, None, found);
}

fn collect(list: &mut Vec<u8>, next: Option<u8>, found: &mut impl FnMut(Spelling, Bytes)) {
    if let Some(next) = next {
        return list.push(next);
    }
    for window in list.windows(32) {
        if let Ok(bytes) = window.try_into()
            && is_various(&bytes)
        {
            found(Spelling::List, bytes);
        }
    }
    list.clear();
}

fn number(digits: &[u8], radix: u32) -> Option<u8> {
    u8::from_str_radix(str::from_utf8(digits).ok()?, radix).ok()
}

/// Decodes `%41`, or `\x41`, `\101` and `\n`, once.
fn unescaped(text: &[u8], sign: u8) -> Vec<u8> {
    let mut all = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if *byte != sign {
            all.push(*byte);
            at += 1;
            continue;
        }
        let after = |skip: usize, length: usize, radix| {
            let digits = text.get(at + skip..at + skip + length)?;
            let is_digit = |digit: &u8| char::from(*digit).is_digit(radix);
            digits.iter().all(is_digit).then(|| number(digits, radix))?
        };
        let simple = |name: &u8| match name {
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'0' => Some(0),
            b'\\' | b'"' | b'\'' => Some(*name),
            _ => None,
        };
        let (byte, length) = match (byte, text.get(at + 1)) {
            (b'%', _) => (after(1, 2, 16), 3),
            (b'\\', Some(b'x')) => (after(2, 2, 16), 4),
            (b'\\', Some(b'0'..=b'3')) if after(1, 3, 8).is_some() => (after(1, 3, 8), 4),
            (b'\\', Some(name)) => (simple(name), 2),
            _ => (None, 1),
        };
        all.push(byte.unwrap_or(text[at]));
        at += if byte.is_some() { length } else { 1 };
    }
    all
}
