//! Inputs of the crate, derived from the bytes of a fuzzer, of proptest or of a generator. Near
//! misses are common here and rare among random bytes, so that each branch is reached quickly.

use super::{
    browser::Browser,
    cookie_header::{self, NAME, NEAR_MISSES, OTHER, Read, TOKEN, read, visible},
    return_to, token,
};

/// Successive choices. After the end of the bytes, each is the first one.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, number: usize) -> usize {
        usize::from(self.byte()) % number
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.byte()).collect()
    }
}

/// Derives one kind of input from these bytes, checks it, and returns the kind.
pub fn check(bytes: &[u8]) -> &'static str {
    let mut choices = Choices(bytes);
    match choices.below(4) {
        0 => cookie_header::check(&cookie_lines(&mut choices)),
        1 => token::check(&token_text(&mut choices)),
        2 => return_to::check(&place(&mut choices)),
        _ => sibling(&mut choices),
    }
}

/// The `Cookie` headers of a request.
pub fn cookie_lines(choices: &mut Choices<'_>) -> Vec<Vec<u8>> {
    let lines = choices.of(&[1, 1, 1, 2, 3, 0]);
    (0..lines).map(|_| line(choices)).collect()
}

fn line(choices: &mut Choices<'_>) -> Vec<u8> {
    if choices.below(8) == 7 {
        return choices.bytes(200).into_iter().map(visible).collect();
    }
    let (mut line, mut last) = (Vec::new(), None);
    for n in 0..choices.of(&[1, 2, 3, 4, 0, 6]) {
        if n > 0 {
            line.extend_from_slice(choices.of(&[
                b"; " as &[u8],
                b";",
                b" ;\t ",
                b";;",
                b",",
                b"  ",
            ]));
        }
        // Sometimes the same once more.
        let pair = match last {
            Some(last) if choices.below(4) == 3 => last,
            _ => pair(choices),
        };
        line.extend_from_slice(&pair);
        last = Some(pair);
    }
    line
}

fn pair(choices: &mut Choices<'_>) -> Vec<u8> {
    let name = match choices.below(8) {
        0..4 => NAME.as_bytes().to_vec(),
        4..7 => choices.of(&NEAR_MISSES).bytes().map(visible).collect(),
        _ => choices.bytes(20).into_iter().map(visible).collect(),
    };
    let between = choices.of(&["=", "=", "=", "=", "", " =", "= ", "==", "\t=", "=\""]);
    let value = token_text(choices).into_iter().map(visible).collect();
    [name, between.as_bytes().to_vec(), value].concat()
}

/// A token's text, or a near miss.
pub fn token_text(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut text = TOKEN.as_bytes().to_vec();
    match choices.below(10) {
        0..3 => {}
        3 => text = OTHER.as_bytes().to_vec(),
        // Any token at all: the last character carries four bits.
        4 => {
            let signs = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            text = (0..42).map(|_| choices.of(signs)).collect();
            text.push(choices.of(b"AEIMQUYcgkosw048"));
        }
        5 => text[choices.below(43)] = choices.byte(),
        6 => text[42] = choices.byte(),
        7 => text = vec![choices.byte(); choices.below(90)],
        8 => {
            let place = choices.below(44);
            let odd = choices.of(&["=", "==", "\"", "%41", "+", "/", " ", "\n", "\0", ""]);
            text.splice(place..place, odd.bytes());
            text.truncate(choices.of(&[64, 43, 44, 42]));
        }
        _ => text = choices.bytes(60),
    }
    text
}

/// A return path after signing in.
pub fn place(choices: &mut Choices<'_>) -> String {
    let mut place = choices
        .of(&["/", "/", "/", "/", "//", "\\", "", "https://", "?"])
        .to_owned();
    for _ in 0..choices.below(10) {
        place += choices.of(&[
            "a",
            "account",
            "/",
            "b.c",
            "?next=",
            "&x=y",
            "..",
            ".",
            "\\",
            "//",
            "@evil.example",
            "evil.example",
            ":",
            "%2f",
            "%5C",
            "%2e",
            "%2E%2e",
            "%25",
            "%252f",
            "%%32f",
            "%0a",
            "%1F",
            "%7f",
            "%C3%A4",
            "%",
            "%2",
            "#",
            " ",
            "\t",
            "\n",
            "\0",
            "\u{e4}",
            "\u{2028}",
            "\u{ff0f}",
            "javascript:",
            "/./",
            "/../",
            "~!$'()*+,;=[]{}|^`<>\"",
        ]);
    }
    match choices.below(16) {
        15 => place += &"a".repeat(2040 + choices.below(12)),
        14 => place += &String::from_utf8_lossy(&choices.bytes(30)),
        _ => {}
    }
    place
}

/// No cookie that a sibling subdomain makes a browser store is read as the session cookie, alone or
/// beside a genuine one.
fn sibling(choices: &mut Choices<'_>) -> &'static str {
    let mut browser = Browser::default();
    let signed_in = choices.below(2) == 1;
    if signed_in {
        let ours = format!("{NAME}={TOKEN}; Secure; Path=/; HttpOnly");
        browser
            .store("app.example.com", true, ours.as_bytes())
            .unwrap();
    }
    let mut planted = false;
    for _ in 0..=choices.below(3) {
        let attributes = choices.of(&["", "; Secure", "; Secure; Path=/", "; Path=/"]);
        let text = [
            &pair(choices),
            attributes.as_bytes(),
            b"; Domain=example.com",
        ]
        .concat();
        planted |= browser.store("evil.example.com", true, &text).is_ok();
    }
    let seen = read(&browser.request("app.example.com"));
    let right = if signed_in {
        Read::Token(TOKEN.to_owned())
    } else {
        Read::Nothing
    };
    assert_eq!(seen, right, "{:?}", browser.jar());
    match (planted, signed_in) {
        (true, true) => "sibling: planted beside ours",
        (true, false) => "sibling: planted",
        (false, _) => "sibling: refused by the browser",
    }
}
