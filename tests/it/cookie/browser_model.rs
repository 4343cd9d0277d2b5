//! The browser model follows the rules of RFC 6265bis that it models.

use crate::support::reference::browser::{Browser, Refusal};

/// The model rejects each cookie that a browser rejects. Otherwise tests that use it would prove
/// nothing.
#[test]
fn the_browser_model_follows_the_prefix_rules() {
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
