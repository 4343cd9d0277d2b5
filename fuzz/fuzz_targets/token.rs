//! Tokens, as they come and by the grammar, read by the crate and by the reference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reference::{
    grammar::{Choices, token_text},
    token::check,
};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&token_text(&mut Choices(bytes)));
});
