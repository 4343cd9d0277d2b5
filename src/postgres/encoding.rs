//! Text that the database's encoding can store.

/// Returns the text if the encoding can store it. A parameter that cannot be converted would fail the statement, and
/// with it the application's transaction.
///
/// `SQL_ASCII` stores any bytes. Of the other encodings only LATIN1 is known here; in the rest, text beyond ASCII is
/// left out.
pub(super) fn storable<'a>(encoding: &str, text: Option<&'a str>) -> Option<&'a str> {
    text.filter(|text| match encoding {
        "UTF8" | "SQL_ASCII" => true,
        "LATIN1" => text.chars().all(|c| u32::from(c) <= 0xFF),
        _ => text.is_ascii(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_an_encoding_cannot_store_is_left_out() {
        for (encoding, text, stored) in [
            ("UTF8", "Phone \u{1f4f1}", true),
            ("SQL_ASCII", "Phone \u{1f4f1}", true),
            ("LATIN1", "Téléphone", true),
            ("LATIN1", "Phone \u{1f4f1}", false),
            ("LATIN1", "\u{100}", false),
            ("LATIN9", "Téléphone", false),
            ("WIN1251", "Phone", true),
        ] {
            assert_eq!(
                storable(encoding, Some(text)).is_some(),
                stored,
                "{encoding}: {text}"
            );
        }
    }
}
