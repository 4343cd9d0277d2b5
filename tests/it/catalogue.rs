//! The list of cases in tests/CATALOGUE.md, and what SECURITY.md says is tested, held to the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// The tests that name a case, by its id.
type Named = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The Rust files in a folder and, where that is asked for, in the folders in it.
fn files(folder: &Path, deep: bool, into: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && deep {
            files(&path, deep, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Every test of the library, of `tests/` and of the examples, with its doc comment.
pub fn tests() -> BTreeMap<String, String> {
    let mut places = vec![(String::new(), root())];
    for example in std::fs::read_dir(root().join("examples")).unwrap() {
        let example = example.unwrap();
        let package = format!("example-{} ", example.file_name().display());
        places.push((package, example.path()));
    }
    let mut all = BTreeMap::new();
    for (package, place) in places {
        for (folder, deep) in [("src", true), ("tests/it", true), ("tests", false)] {
            let folder = place.join(folder);
            let mut found = Vec::new();
            files(&folder, deep, &mut found);
            for file in found {
                let inside = file.strip_prefix(&folder).unwrap().with_extension("");
                let parts = inside.iter().map(|part| part.display().to_string());
                let parts: Vec<_> = parts.filter(|part| part != "mod").collect();
                let module = format!("{package}{}", parts.join("::"));
                let source = std::fs::read_to_string(&file).unwrap();
                tests_of(&source, &module, &mut all);
            }
        }
    }
    all
}

fn tests_of(source: &str, module: &str, into: &mut BTreeMap<String, String>) {
    let (mut doc, mut is_test, mut inner) = (String::new(), false, String::new());
    for line in source.lines() {
        if let Some(name) = line
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(" {"))
        {
            inner = format!("{name}::");
        } else if line == "}" {
            inner.clear();
        }
        let line = line.trim();
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
        } else if line == "#[test]" || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((before, rest)) = line.split_once("fn ")
            && (before.is_empty() || before == "async ")
        {
            let name = rest.split(['(', '<']).next().unwrap();
            if is_test {
                let doc = std::mem::take(&mut doc);
                into.insert(format!("{module}::{inner}{name}"), doc);
            }
            is_test = false;
            doc.clear();
        } else if !is_test && !line.starts_with("#[") {
            doc.clear();
        }
    }
}

/// The ids in a text: a letter from A to P and two digits.
fn ids(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|sign: char| !sign.is_alphanumeric());
    words.filter(|word| {
        let id = word.len() == 3 && word.starts_with(|sign| ('A'..='P').contains(&sign));
        id && word[1..].bytes().all(|digit| digit.is_ascii_digit())
    })
}

fn named(tests: &BTreeMap<String, String>) -> Named {
    let mut named = Named::new();
    for (name, doc) in tests {
        for id in ids(doc) {
            named.entry(id.to_owned()).or_default().insert(name.clone());
        }
    }
    named
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The list as it should be: with the tests that name each case, and the number of those without any.
fn corrected(catalogue: &str, named: &Named) -> String {
    let (mut text, mut waiting, mut other) = (String::new(), 0, 0);
    for line in catalogue.lines() {
        let cells: Vec<&str> = line.split(" | ").collect();
        match cells[..] {
            [id, weight, what, shown] if ids(id).next().is_some() => {
                let tests = named.get(&id[2..]).into_iter().flatten();
                let tests: Vec<_> = tests.map(|name| format!("`{name}`")).collect();
                let shown = match shown.strip_suffix(" |").unwrap() {
                    reason if tests.is_empty() && reason.starts_with("not here: ") => reason,
                    _ if tests.is_empty() => {
                        *(if weight == "**0**" {
                            &mut waiting
                        } else {
                            &mut other
                        }) += 1;
                        "in preparation"
                    }
                    _ => &tests.join(", "),
                };
                let _ = writeln!(text, "{id} | {weight} | {what} | {shown} |");
            }
            _ => text = text + line + "\n",
        }
    }
    let count = |line: &&str| line.starts_with("In preparation: ");
    let line = catalogue.lines().find(count).unwrap();
    let counted = format!("In preparation: {waiting} that a release waits for, {other} others.");
    text.replace(line, &counted)
}

/// L06: each case is listed once, with exactly the tests that name it; and those that nothing shows yet
/// are counted in the open.
#[test]
fn the_catalogue_and_the_tests_name_the_same() {
    let catalogue = read("tests/CATALOGUE.md");
    let named = named(&tests());
    let rows = catalogue.lines().filter_map(|line| line.strip_prefix("| "));
    let listed: Vec<&str> = rows.filter_map(|row| ids(&row[..4]).next()).collect();
    let once: BTreeSet<&str> = listed.iter().copied().collect();
    assert_eq!(once.len(), listed.len(), "a case is listed twice");
    assert!(once.len() > 140, "{}", once.len());
    for (id, tests) in &named {
        assert!(
            once.contains(&**id),
            "{id} is not listed, and named by {tests:?}"
        );
    }

    let right = corrected(&catalogue, &named);
    if std::env::var_os("CATALOGUE").is_some_and(|value| value == "write") {
        std::fs::write(root().join("tests/CATALOGUE.md"), &right).unwrap();
        return;
    }
    for (stands, right) in catalogue.lines().zip(right.lines()) {
        assert_eq!(stands, right, "CATALOGUE=write corrects it");
        if right.starts_with("In preparation") || right.ends_with("| in preparation |") {
            println!("{right}");
        }
    }
}

/// Every test that SECURITY.md names is one.
#[test]
fn what_is_said_to_be_tested_is() {
    let tests = tests();
    let modules: BTreeSet<&str> = tests
        .keys()
        .filter_map(|name| name.split("::").next())
        .collect();
    let text = read("SECURITY.md");
    let mut said = 0;
    for line in text.lines() {
        // The last column, and whatever else looks like a test.
        let shown = line.rsplit(" | ").next().filter(|_| line.starts_with("| "));
        let shown: Vec<&str> = quoted(shown.unwrap_or_default()).collect();
        for name in quoted(line) {
            let looks = name.contains("::") && modules.contains(name.split("::").next().unwrap());
            if looks || (shown.contains(&name) && name.contains("::")) {
                assert!(tests.contains_key(name), "no test is called {name}");
                said += 1;
            }
        }
    }
    assert!(said > 50, "{said}");
}

/// The reader of the sources itself.
#[test]
fn tests_are_found_as_cargo_names_them() {
    // The bar keeps the reader of this file from finding them here.
    let source = "
| /// A01: not a test.
| fn helper() {}
|
| /// B02, A1: a test,
| /// C03: on two lines.
| #[tokio::test(start_paused = true)]
| #[expect(unused, reason = \"\")]
| async fn first() {
|     /// D04: inside.
|     fn helper() {}
| }
|
| proptest! {
|     /// E05
|     #[test]
|     fn second(n in 0..1) {}
| }
|
| mod tests {
|     /// F06
|
|     #[test]
|     fn third() {}
| }
";
    let mut found = BTreeMap::new();
    tests_of(
        &source.replace("| ", "").replace('|', ""),
        "a::b",
        &mut found,
    );
    let found: Vec<(&str, Vec<&str>)> = found
        .iter()
        .map(|(name, doc)| (&**name, ids(doc).collect()))
        .collect();
    assert_eq!(
        found,
        [
            ("a::b::first", vec!["B02", "C03"]),
            ("a::b::second", vec!["E05"]),
            ("a::b::tests::third", vec![]),
        ]
    );
    let tests = tests();
    assert!(tests.contains_key("catalogue::tests_are_found_as_cargo_names_them"));
    assert!(tests.contains_key("session::token::tests::known_answers"));
    assert!(tests.contains_key("example-axum csrf::safe_methods_are_allowed"));
    assert!(tests.len() > 200, "{}", tests.len());
}
