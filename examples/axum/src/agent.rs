//! The name of a client, from its `User-Agent`.
//!
//! The client chooses the text, so the name is a help for the user and no proof.

/// The kind of a device, for its icon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Computer,
    Phone,
    Tablet,
    Program,
    Unknown,
}

/// Many browsers also name the browsers that they are compatible with. The first match counts.
const BROWSERS: [(&str, &str); 13] = [
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Vivaldi/", "Vivaldi"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
];

/// The first match counts: Android also names Linux.
const SYSTEMS: [(&str, &str, Device); 9] = [
    ("iPhone", "iPhone", Device::Phone),
    ("iPad", "iPad", Device::Tablet),
    ("Android", "Android", Device::Phone),
    ("CrOS", "ChromeOS", Device::Computer),
    ("Windows", "Windows", Device::Computer),
    ("Macintosh", "macOS", Device::Computer),
    ("FreeBSD", "FreeBSD", Device::Computer),
    ("Linux", "Linux", Device::Computer),
    ("X11", "Unix", Device::Computer),
];

const PROGRAMS: [&str; 5] = [
    "curl",
    "Wget",
    "HTTPie",
    "python-requests",
    "PostmanRuntime",
];

/// Returns a name such as "Chrome on Linux", and the kind of the device.
pub(crate) fn describe(user_agent: Option<&str>) -> (String, Device) {
    let Some(text) = user_agent else {
        return ("Unknown client".to_owned(), Device::Unknown);
    };
    let program = PROGRAMS.iter().find(|program| {
        let rest = text.strip_prefix(**program);
        rest.is_some_and(|rest| rest.starts_with('/'))
    });
    if let Some(program) = program {
        return ((*program).to_owned(), Device::Program);
    }
    let browser = BROWSERS.iter().find(|(part, _)| text.contains(part));
    let system = SYSTEMS.iter().find(|(part, ..)| text.contains(part));
    let name = match (browser, system) {
        (Some((_, browser)), Some((_, system, _))) => format!("{browser} on {system}"),
        (Some((_, browser)), None) => (*browser).to_owned(),
        (None, Some((_, system, _))) => format!("Unknown browser on {system}"),
        (None, None) => "Unknown client".to_owned(),
    };
    let device = match system {
        // A phone calls itself mobile, and a tablet does not.
        Some((_, "Android", _)) if !text.contains("Mobile") => Device::Tablet,
        Some((.., device)) => *device,
        None => Device::Unknown,
    };
    (name, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line of the file is a name, a kind and a `User-Agent`.
    #[test]
    fn clients_are_named() {
        let lines = include_str!("agents.txt").lines();
        assert!(lines.clone().count() > 10);
        for line in lines {
            let mut parts = line.splitn(3, " | ");
            let expected = (parts.next(), parts.next());
            let (name, device) = describe(parts.next());
            let device = format!("{device:?}");
            assert_eq!((Some(&*name), Some(&*device)), expected, "{line}");
        }
        assert_eq!(
            describe(None),
            ("Unknown client".to_owned(), Device::Unknown)
        );
    }
}
