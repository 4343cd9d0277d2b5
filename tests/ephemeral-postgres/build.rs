//! Unpacks the PostgreSQL that a `pglite-rs-lib-*` crate contains into `OUT_DIR/postgres`, and
//! passes the path to the library. Downloads nothing and never fails the build: without it the
//! library uses an installed PostgreSQL.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "bundled")]
    match bundled::unpack() {
        Ok(Some(folder)) => println!(
            "cargo:rustc-env=EPHEMERAL_POSTGRES_BUNDLED={}",
            folder.display()
        ),
        Ok(None) => {} // no such crate for this target
        Err(error) => println!("cargo:warning=the bundled PostgreSQL is not available: {error}"),
    }
}

#[cfg(feature = "bundled")]
mod bundled {
    use std::error::Error;
    use std::io::Read;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::{env, fs};

    /// The same versions as in Cargo.toml.
    const VERSION: &str = "0.2.7";
    const TARGETS: [&str; 4] = [
        "aarch64-apple-darwin",
        "aarch64-unknown-linux-gnu",
        "x86_64-apple-darwin",
        "x86_64-unknown-linux-gnu",
    ];

    pub(crate) fn unpack() -> Result<Option<PathBuf>, Box<dyn Error>> {
        let target = env::var("TARGET")?;
        if !TARGETS.contains(&target.as_str()) {
            return Ok(None);
        }
        let archive = find_archive(&target)?;
        let folder = Path::new(&env::var("OUT_DIR")?).join("postgres");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let mut packed = ruzstd::decoding::StreamingDecoder::new(fs::File::open(archive)?)?;
        let mut unpacked = Vec::new();
        packed.read_to_end(&mut unpacked)?;
        tar::Archive::new(unpacked.as_slice()).unpack(&folder)?;
        Ok(Some(folder))
    }

    /// The archive inside the sources of the crate that contains it. Only this file uses that
    /// dependency.
    fn find_archive(target: &str) -> Result<PathBuf, Box<dyn Error>> {
        let package = format!("pglite-rs-lib-{target}");
        let folder = match in_registry(&format!("{package}-{VERSION}")) {
            Some(folder) => folder,
            None => where_cargo_says(&package, target)?,
        };
        Ok(folder.join("lib/pglite-runtime.tar.zst"))
    }

    /// The usual place, which is cheap to check.
    fn in_registry(versioned: &str) -> Option<PathBuf> {
        let home = match env::var_os("CARGO_HOME") {
            Some(home) => PathBuf::from(home),
            None => Path::new(&env::var_os("HOME")?).join(".cargo"),
        };
        let registries = fs::read_dir(home.join("registry/src")).ok()?;
        registries
            .flatten()
            .map(|registry| registry.path().join(versioned))
            .find(|folder| folder.is_dir())
    }

    /// Vendored sources, for example, are elsewhere.
    fn where_cargo_says(package: &str, target: &str) -> Result<PathBuf, Box<dyn Error>> {
        let metadata = Command::new(env::var_os("CARGO").ok_or("CARGO is not set")?)
            .args([
                "metadata",
                "--format-version=1",
                "--offline",
                "--filter-platform",
                target,
            ])
            .output()?;
        let metadata = String::from_utf8(metadata.stdout)?;
        // Cheaper than a JSON parser. Paths that contain `"` or `\` are not supported.
        let manifests = metadata
            .split("\"manifest_path\":\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        let folder = manifests
            .filter_map(|manifest| Path::new(manifest).parent())
            .find(|folder| {
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                name == package || name == format!("{package}-{VERSION}")
            });
        Ok(folder
            .ok_or_else(|| format!("cargo does not know where {package} lies"))?
            .to_path_buf())
    }
}
