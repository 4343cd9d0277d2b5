//! The ids of `tests/CATALOGUE.md` and the test names of `SECURITY.md` match the tests.

use std::{collections::BTreeSet, path::Path};

/// The Rust source text of a file, or of all files in a folder.
pub fn source(path: &Path) -> String {
    if path.is_dir() && !path.ends_with("target") {
        let entries = std::fs::read_dir(path).unwrap();
        return entries
            .map(|entry| source(&entry.unwrap().path()))
            .collect();
    }
    let is_source = path.extension().is_some_and(|extension| extension == "rs");
    let text = is_source.then(|| std::fs::read_to_string(path).unwrap());
    text.unwrap_or_default()
}

/// The source text of the library, of its tests and of the examples.
fn sources() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "tests/it", "examples"];
    folders.map(|folder| source(&root.join(folder))).concat()
}

/// The case ids in a text: a letter from A to P and two digits.
fn ids(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|sign: char| !sign.is_alphanumeric());
    words.filter(|word| {
        let bytes = word.as_bytes();
        matches!(bytes, [b'A'..=b'P', tens, ones] if tens.is_ascii_digit() && ones.is_ascii_digit())
    })
}

/// L06: the doc comment of a test names each case, except those that the catalogue marks "No test:".
#[test]
fn each_case_is_named_by_a_test_and_no_other_is() {
    let (sources, mut named, mut doc) = (sources(), BTreeSet::new(), Vec::new());
    for line in sources.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.extend(ids(text));
        } else if line == "#[test]" || line.starts_with("#[tokio::test") {
            named.extend(doc.drain(..));
        } else if !line.starts_with("#[") {
            doc.clear();
        }
    }
    let catalogue = include_str!("../CATALOGUE.md").lines();
    let rows = catalogue.filter(|line| line.starts_with("| ") && !line.contains("*No test:*"));
    let rows: Vec<&str> = rows.filter_map(|row| ids(row.get(..6)?).next()).collect();
    let listed: BTreeSet<&str> = rows.iter().copied().collect();
    assert_eq!(rows.len(), listed.len(), "a case is listed twice");
    let difference: Vec<_> = listed.symmetric_difference(&named).collect();
    assert!(
        difference.is_empty(),
        "listed or named, but not both: {difference:?}"
    );
}

/// Each name in `SECURITY.md` that looks like a test's path is the name of a function in the sources.
#[test]
fn each_test_that_security_md_names_exists() {
    let (sources, security) = (sources(), include_str!("../../SECURITY.md"));
    let quoted = security.split('`').skip(1).step_by(2);
    let path = |text: &&str| {
        text.contains("::")
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b':'))
    };
    let names: BTreeSet<&str> = quoted.filter(path).collect();
    for name in &names {
        let function = name.rsplit("::").next().unwrap();
        assert!(
            sources.contains(&format!("fn {function}(")),
            "no test is called {name}"
        );
    }
    assert!(names.len() > 50, "{}", names.len());
}
