//! The search finds each token in each spelling, and nothing else.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose};
use sha2::{Digest as _, Sha256};

use super::spellings::{Bytes, Spelling, in_bytes, in_line};

fn found_in(line: &[u8]) -> Vec<(Spelling, Bytes)> {
    let mut all = Vec::new();
    in_line(line, &mut |spelling, bytes| all.push((spelling, bytes)));
    all
}

fn spelled(bytes: &Bytes) -> Vec<(Spelling, Vec<u8>)> {
    let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let percent = |text: &str| {
        text.bytes().fold(String::new(), |mut all, byte| {
            let _ = write!(all, "%{byte:02X}");
            all
        })
    };
    let url = general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let standard = general_purpose::STANDARD.encode(bytes);
    let encoded = standard
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    let mut octal = String::new();
    let mut percent_bytes = String::new();
    for byte in bytes {
        let _ = write!(octal, "\\{byte:03o}");
        let _ = write!(percent_bytes, "%{byte:02x}");
    }
    let pretty = format!("{bytes:#?}").replace('\n', " ");
    let texts = [
        (Spelling::Base64, percent(&url)),
        (Spelling::Base64, url),
        (Spelling::Base64, standard),
        (Spelling::Base64, encoded),
        (Spelling::Hex, hex.to_uppercase()),
        (Spelling::Hex, format!("\\\\x{hex}")),
        (Spelling::Hex, hex),
        (Spelling::List, format!("{bytes:?}")),
        (Spelling::List, format!("{bytes:02x?}")),
        (Spelling::List, format!("{bytes:#04x?}").replace('\n', " ")),
        (Spelling::List, pretty),
        (Spelling::Raw, bytes.escape_ascii().to_string()),
        (Spelling::Raw, octal),
        (Spelling::Raw, percent_bytes),
    ];
    let texts = texts.map(|(spelling, text)| (spelling, text.into_bytes()));
    let raw = (Spelling::Raw, bytes.to_vec());
    texts.into_iter().chain([raw]).collect()
}

/// I03: each spelling of a token, alone or inside a longer text.
#[test]
fn every_spelling_is_found() {
    // The same tokens in every run. One in some thousand does not look random, and none of these is
    // such a token.
    for number in 0..200_u32 {
        let bytes: Bytes = Sha256::digest(number.to_be_bytes()).into();
        for (spelling, text) in spelled(&bytes) {
            for around in ["", " ", "session_", "/", "zz"] {
                let mut line = format!("a line {around}").into_bytes();
                line.extend_from_slice(&text);
                line.extend_from_slice(around.as_bytes());
                assert!(
                    found_in(&line).contains(&(spelling, bytes)),
                    "{number} as {spelling:?}: {}",
                    String::from_utf8_lossy(&line)
                );
            }
        }
    }
}

/// Names, addresses and statements are no secrets.
#[test]
fn text_that_is_not_random_is_not_found() {
    for line in [
        "it::every_log: a_name_of_several_words_that_is_as_long_as_a_token_or_even_longer",
        "/usr/lib/postgresql/15/bin/a_somewhat_longer_path_that_names/SeveralThings/InCamelCase",
        "2026-11-24 13:17:35.123 UTC [4711] LOG:  duration: 0.123 ms  bind s12: SELECT 1, 2, 3",
        "session 123e4567-e89b-42d3-a456-426614174000 of 123e4567-e89b-42d3-a456-426614174001",
    ] {
        assert_eq!(found_in(line.as_bytes()), [], "{line}");
    }
    let mut zeros = Vec::new();
    in_bytes(&[0; 4096], &mut |_, bytes| zeros.push(bytes));
    assert!(zeros.is_empty());
}
