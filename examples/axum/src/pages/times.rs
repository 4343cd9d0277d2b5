//! Times on pages: relative, with the exact one on hover.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// Shows "3 minutes ago".
pub(super) fn ago(time: SystemTime, now: SystemTime) -> Markup {
    // The clocks of two statements can differ by less than a second.
    let since = now.duration_since(time).unwrap_or_default();
    let words = match in_words(since) {
        Some(words) => format!("{words} ago"),
        None => "just now".to_owned(),
    };
    element(time, &words)
}

/// Shows "in 30 days".
pub(super) fn until(time: SystemTime, now: SystemTime) -> Markup {
    let left = time.duration_since(now).unwrap_or_default();
    let words = match in_words(left) {
        Some(words) => format!("in {words}"),
        None => "in less than a minute".to_owned(),
    };
    element(time, &words)
}

/// Shows "29 November 2026, 14:53 UTC".
pub(super) fn exactly(time: SystemTime) -> Markup {
    element(time, &exact(time))
}

/// The script replaces the title with the time in the user's own time zone.
fn element(time: SystemTime, words: &str) -> Markup {
    let machine = OffsetDateTime::from(time).format(&Rfc3339);
    html! {
        time datetime=[machine.ok()] title=(exact(time)) { (words) }
    }
}

fn exact(time: SystemTime) -> String {
    let format =
        format_description!("[day padding:none] [month repr:long] [year], [hour]:[minute] UTC");
    let exact = OffsetDateTime::from(time).format(format);
    exact.unwrap_or_default()
}

/// Returns the duration in the largest unit that fits, rounded, or `None` below a minute.
fn in_words(time: Duration) -> Option<String> {
    const UNITS: [(u64, &str); 3] = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let seconds = time.as_secs();
    let (length, unit) = UNITS.into_iter().find(|(length, _)| seconds >= *length)?;
    let number = (seconds + length / 2) / length;
    Some(format!(
        "{number} {unit}{}",
        if number == 1 { "" } else { "s" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_and_exact() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_964_000);
        for (seconds, words) in [
            (0, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (150, "3 minutes ago"),
            (3_600, "1 hour ago"),
            (86_400, "1 day ago"),
            (13 * 86_400, "13 days ago"),
        ] {
            let time = now - Duration::from_secs(seconds);
            let markup = ago(time, now).into_string();
            assert!(markup.contains(&format!(">{words}</time>")), "{markup}");
            assert!(
                markup.contains("November 2026, ") && markup.contains(" UTC\""),
                "{markup}"
            );
            assert!(markup.contains("datetime=\"2026-11-"), "{markup}");
        }
        let later = until(now + Duration::from_secs(30 * 86_400), now).into_string();
        assert!(later.contains(">in 30 days</time>"), "{later}");
        assert!(
            ago(now + Duration::from_secs(1), now)
                .into_string()
                .contains("just now")
        );
    }
}
