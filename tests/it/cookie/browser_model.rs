//! The model of a browser, held to the rules that it is a model of.

use crate::support::reference::browser::{Browser, Refusal};

/// The model itself: it must refuse what browsers refuse, or it proves nothing.
#[test]
fn the_browser_model_keeps_to_the_rules_of_the_prefixes() {
    let store = |text: &str| Browser::default().store("app.example.com", true, text.as_bytes());
    assert_eq!(store("__Host-a=1; Secure; Path=/"), Ok(()));
    assert_eq!(store("__Host-a=1; Path=/"), Err(Refusal::Prefix));
    assert_eq!(store("__Host-a=1; Secure"), Err(Refusal::Prefix));
    assert_eq!(store("__hOST-a=1; Secure; Path=/x"), Err(Refusal::Prefix));
    assert_eq!(
        store("__Host-a=1; Secure; Path=/; Domain=example.com"),
        Err(Refusal::Prefix)
    );
    assert_eq!(store("__Secure-a=1"), Err(Refusal::Prefix));
    assert_eq!(store("__Secure-a=1; Secure; Domain=example.com"), Ok(()));
    assert_eq!(store("=__Host-a=1; Secure; Path=/"), Err(Refusal::Prefix));
    assert_eq!(store("a=1; SameSite=None"), Err(Refusal::SameSiteNone));
    assert_eq!(store("a=1; Domain=evil.com"), Err(Refusal::OtherDomain));
    assert_eq!(store("a=\u{1}"), Err(Refusal::Control));
    let mut browser = Browser::default();
    assert_eq!(
        browser.store("app.example.com", false, b"a=1; Secure"),
        Err(Refusal::Insecure)
    );
}
