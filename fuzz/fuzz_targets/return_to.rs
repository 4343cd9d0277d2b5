//! Places to return to, as they come and by the grammar, beside the rule and the URL standard.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reference::{
    grammar::{Choices, place},
    return_to::check,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = str::from_utf8(bytes) {
        check(text);
    }
    check(&place(&mut Choices(bytes)));
});
