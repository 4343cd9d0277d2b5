//! `Cookie` headers, as they come and by the grammar, read by the crate and by the reference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reference::{
    cookie_header::{check, visible},
    grammar::{Choices, cookie_lines},
};

fuzz_target!(|bytes: &[u8]| {
    if let [b'\n', raw @ ..] = bytes {
        let lines = raw.split(|&byte| byte == b'\n');
        let lines = lines.map(|line| line.iter().copied().map(visible).collect::<Vec<u8>>());
        check(&lines.collect::<Vec<_>>());
    } else {
        check(&cookie_lines(&mut Choices(bytes)));
    }
});
