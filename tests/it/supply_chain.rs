//! What the library is built from.

use std::{collections::BTreeSet, path::Path};

use crate::support::sources;

const MANIFEST: &str = include_str!("../../Cargo.toml");
const LOCK: &str = include_str!("../../Cargo.lock");
const SECURITY: &str = include_str!("../../SECURITY.md");

/// The lines of one section of the manifest, without comments.
fn section<'a>(manifest: &'a str, header: &str) -> Vec<&'a str> {
    let lines = manifest.lines().skip_while(move |line| *line != header);
    let lines = lines.skip(1).take_while(|line| !line.starts_with('['));
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split('.');
    parts.map(|part| part.parse().unwrap_or_default()).collect()
}

/// The version that `Cargo.toml` asks for at least.
fn stated(name: &str) -> &'static str {
    let dependencies = section(MANIFEST, "[dependencies]");
    let line = dependencies.into_iter().find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(" ="))
    });
    let (_, version) = line.unwrap().split_once('=').unwrap();
    let version = version
        .split_once("version =")
        .map_or(version, |(_, rest)| rest);
    version.split('"').nth(1).unwrap()
}

/// The versions that `Cargo.lock` has.
fn resolved(lock: &str, name: &str) -> Vec<String> {
    let name = format!("name = \"{name}\"");
    let packages = lock.split("[[package]]");
    packages
        .filter(|package| package.lines().any(|line| line == name))
        .map(|package| package.split("version = \"").nth(1).unwrap())
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect()
}

/// L01: the manifest excludes the versions that have advisories, and so does what it is tested with.
/// `postgres-protocol` comes with `tokio-postgres`, whose 0.7.18 asks for it.
#[test]
fn versions_with_advisories_are_excluded() {
    for (name, least) in [("tokio-postgres", "0.7.18"), ("time", "0.3.47")] {
        let version = stated(name);
        assert!(numbers(version) >= numbers(least), "{name} {version}");
    }
    for (name, least) in [
        ("tokio-postgres", "0.7.18"),
        ("postgres-protocol", "0.6.12"),
        ("time", "0.3.47"),
    ] {
        let versions = resolved(LOCK, name);
        assert!(!versions.is_empty());
        for version in versions {
            assert!(numbers(&version) >= numbers(least), "{name} {version}");
        }
    }
    let deny = include_str!("../../deny.toml");
    for header in ["[advisories]", "[licenses]", "[sources]"] {
        assert!(!section(deny, header).is_empty(), "{header}");
    }
    assert!(section(deny, "[advisories]").contains(&"ignore = []"));
}

/// L02: no `unsafe` is let in by any file, and nothing runs when the library is built.
#[test]
fn no_unsafe_and_no_build_script() {
    assert!(section(MANIFEST, "[workspace.lints.rust]").contains(&"unsafe_code = \"forbid\""));
    assert_eq!(section(MANIFEST, "[lints]"), ["workspace = true"]);
    // Whatever a lint says: the word stands in no code.
    for (path, text) in sources() {
        let code = text.lines().filter(|line| !line.trim().starts_with("//"));
        for line in code {
            let mut words = line.split(|sign: char| !sign.is_alphanumeric() && sign != '_');
            assert!(!words.any(|word| word == "unsafe"), "{path}: {line}");
        }
    }
    let package = section(MANIFEST, "[package]");
    assert!(
        !package
            .iter()
            .any(|line| line.starts_with("build") || line.starts_with("links"))
    );
    assert!(!MANIFEST.contains("[build-dependencies]"));
    assert!(
        !Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("build.rs")
            .exists()
    );
}

/// L02: a direct dependency is listed in SECURITY.md, with what it is for, before it is one.
#[test]
fn dependencies_are_few_and_listed() {
    let in_manifest = section(MANIFEST, "[dependencies]");
    let in_manifest: BTreeSet<&str> = in_manifest
        .into_iter()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let (_, table) = SECURITY.split_once("\n| crate | for | from |\n").unwrap();
    let table = table.lines().take_while(|line| line.starts_with('|'));
    let listed: BTreeSet<&str> = table
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split("(feature").next().unwrap().split('`'))
        .filter(|name| name.starts_with(|sign: char| sign.is_ascii_lowercase()))
        .collect();
    assert_eq!(in_manifest, listed);
    assert!(listed.len() <= 26, "{}", listed.len());
}
