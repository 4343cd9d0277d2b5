//! The results of a run, as text and as a chart.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::{
    checker::{RECOVERY, recoveries, stale, violations},
    record::{History, Operation, Outcome},
};

/// Operations, failures, faults, violations and recovery times.
pub fn text(history: &History) -> String {
    let mut counts: BTreeMap<Operation, [usize; 4]> = BTreeMap::new();
    for record in &history.records {
        let [all, errors, unknown, abandoned] = counts.entry(record.operation).or_default();
        *all += 1;
        match record.result {
            Outcome::Unavailable => *errors += 1,
            Outcome::Unknown => *unknown += 1,
            Outcome::Abandoned => *abandoned += 1,
            _ => {}
        }
    }
    let mut text = String::new();
    let mut line = |words: String| {
        let _ = writeln!(text, "{words}");
    };
    line(format!(
        "{:>12}{:>12}{:>12}{:>12}{:>12}",
        "", "invoked", "failed", "unknown", "abandoned"
    ));
    for (operation, [all, errors, unknown, abandoned]) in counts {
        let name = format!("{operation:?}");
        line(format!(
            "{name:>12}{all:>12}{errors:>12}{unknown:>12}{abandoned:>12}"
        ));
    }
    let mut by_name: BTreeMap<_, Vec<Duration>> = BTreeMap::new();
    for (name, recovery) in recoveries(history) {
        by_name.entry(name).or_default().push(recovery);
    }
    line(format!(
        "{} faults; the last failed operation was invoked at most this long after the end of a fault:",
        history.faults.len()
    ));
    for (name, recoveries) in by_name {
        let longest = recoveries.iter().max().copied().unwrap_or_default();
        line(format!(
            "{:>22} x{:<4} {:>5} ms",
            name,
            recoveries.len(),
            longest.as_millis()
        ));
    }
    if !history.bound.is_zero() {
        line(format!(
            "found although ended, at most so long ago; {} ms are allowed:",
            history.bound.as_millis()
        ));
        for (name, (lookups, latest)) in latest_stale(history) {
            line(format!(
                "{name:>22} x{lookups:<4} {:>5} ms",
                latest.as_millis()
            ));
        }
    }
    let violations = violations(history);
    line(format!("{} violations", violations.len()));
    let mut by_rule: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for violation in &violations {
        by_rule.entry(violation.rule).or_default().push(violation);
    }
    for (rule, violations) in by_rule {
        line(format!("  {} times {rule:?}, as", violations.len()));
        for violation in violations.iter().take(3) {
            line(format!("    {:?}", violation.record));
        }
    }
    text
}

/// How many lookups found an ended session, and how long ago at most it had ended, by the fault
/// that was active or had just ended.
pub fn latest_stale(history: &History) -> BTreeMap<&'static str, (usize, Duration)> {
    let mut by_name = BTreeMap::new();
    for (lookup, since) in stale(history) {
        let mut faults = history
            .faults
            .iter()
            .filter(|fault| (fault.from..=fault.to + history.bound).contains(&lookup.invoked));
        let name = faults
            .next_back()
            .map_or("nothing broken", |fault| fault.name);
        let (lookups, latest) = by_name.entry(name).or_insert((0, Duration::ZERO));
        *lookups += 1;
        *latest = since.max(*latest);
    }
    by_name
}

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 50.0;
const TOP: f64 = 90.0;

/// The share of operations that failed, over time, with the faults behind it.
pub fn picture(history: &History) -> String {
    let end = history.records.iter().map(|record| record.returned).max();
    let end = end.unwrap_or_default().as_secs_f64().max(0.1);
    let x = |at: f64| LEFT + at / end * WIDTH;
    let y = |share: f64| TOP + HEIGHT * (1.0 - share);
    let bin = (end / 1200.0).max(0.1);
    let mut bins: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for record in &history.records {
        let bin = whole(record.invoked.as_secs_f64() / bin);
        let (asked, failed) = bins.entry(bin).or_default();
        *asked += 1.0;
        *failed += f64::from(u8::from(record.result.is_error()));
    }
    let (width, height) = (LEFT + WIDTH + 20.0, TOP + HEIGHT + 40.0);
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0} {height:.0}' \
         font-family='sans-serif' font-size='10'>\n\
         <rect width='100%' height='100%' fill='white'/>\n"
    );
    let mut add = |element: String| {
        let _ = writeln!(svg, "{element}");
    };
    for fault in &history.faults {
        let (from, to) = (x(fault.from.as_secs_f64()), x(fault.to.as_secs_f64()));
        add(format!(
            "<rect x='{from:.1}' y='{TOP}' width='{:.1}' height='{HEIGHT}' fill='#fde0c5'/>",
            (to - from).max(0.5)
        ));
        if history.faults.len() <= 40 {
            add(format!(
                "<text transform='translate({from:.1} {:.1}) rotate(-40)'>{}</text>",
                TOP - 4.0,
                fault.name
            ));
        }
    }
    for (share, label) in [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")] {
        let y = y(share);
        add(format!(
            "<path d='M{LEFT} {y}h{WIDTH}' stroke='#ccc'/><text x='4' y='{:.1}'>{label}</text>",
            y + 3.0
        ));
    }
    let mut line = String::new();
    for at in 0..=whole(end / bin) {
        let (asked, failed) = bins.get(&at).copied().unwrap_or_default();
        let share = if asked > 0.0 { failed / asked } else { 0.0 };
        let at = Duration::from_secs_f64(bin).as_secs_f64() * f64::from(u32::try_from(at).unwrap());
        let start = if line.is_empty() { 'M' } else { 'L' };
        let _ = write!(line, "{start}{:.1} {:.1}", x(at), y(share));
    }
    add(format!(
        "<path d='{line}' fill='none' stroke='#b00020' stroke-width='1.2'/>"
    ));
    for tenth in 0..=10 {
        let at = end * f64::from(tenth) / 10.0;
        add(format!(
            "<text x='{:.1}' y='{:.1}'>{at:.0} s</text>",
            x(at) - 8.0,
            TOP + HEIGHT + 16.0
        ));
    }
    add(format!(
        "<text x='{LEFT}' y='{:.1}'>operations that failed, of {} in all; shaded: something was \
         broken; recovery allowed: {} s</text></svg>",
        TOP + HEIGHT + 32.0,
        history.records.len(),
        RECOVERY.as_secs()
    ));
    svg
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small count, never negative"
)]
fn whole(number: f64) -> u64 {
    number as u64
}
