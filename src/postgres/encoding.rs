//! Text that the encoding of the database can represent.

/// Returns the text if the encoding can represent it. A parameter that the server cannot convert
/// would fail the statement, and therefore the application's transaction.
///
/// `SQL_ASCII` accepts any bytes. Of the other encodings, this function knows UTF-8 and LATIN1
/// only. For every other encoding it returns `None` if the text is not ASCII.
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
    fn text_that_an_encoding_cannot_represent_is_omitted() {
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
