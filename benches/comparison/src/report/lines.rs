//! Line charts with logarithmic axes, drawn by hand.

use std::fmt::Write as _;

use super::svg::{escape, short};

/// A chart of values by a rate.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) title: String,
    pub(super) unit: &'static str,
    pub(super) lines: Vec<Line>,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) label: String,
    pub(super) dashed: bool,
    pub(super) color: &'static str,
    /// The rate and the value, by rising rate.
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 220.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 40.0;

/// The range of an axis, from a power of ten times 1, 2 or 5 to another.
#[derive(Clone, Copy, Debug)]
struct Axis {
    least: f64,
    most: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(0.0, f64::max);
        let marks: Vec<f64> = marks().collect();
        let below = marks.iter().rfind(|mark| **mark <= least);
        let above = marks.iter().find(|mark| **mark >= most);
        Self {
            least: below.copied().unwrap_or(least),
            most: above.copied().unwrap_or(most),
        }
    }

    /// Where this value is, between 0 and 1.
    fn place(self, value: f64) -> f64 {
        (value / self.least).ln() / (self.most / self.least).ln().max(f64::MIN_POSITIVE)
    }

    fn marks(self) -> impl Iterator<Item = f64> {
        marks().filter(move |mark| *mark >= self.least * 0.999 && *mark <= self.most * 1.001)
    }
}

fn marks() -> impl Iterator<Item = f64> {
    (-2..7).flat_map(|power| [1.0, 2.0, 5.0].map(|n| n * 10_f64.powi(power)))
}

impl Lines {
    pub(super) fn draw(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let (rates, values) = (
            Axis::of(points().map(|point| point.0)),
            Axis::of(points().map(|point| point.1)),
        );
        let x = |rate| LEFT + rates.place(rate) * (WIDTH - LEFT - RIGHT);
        let y = |value| HEIGHT - BOTTOM - values.place(value) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"600\">{}</text>\n\
             <text x=\"{:.1}\" y=\"24\" text-anchor=\"end\" fill=\"#666\">{}, by requests a second</text>\n",
            escape(&self.title),
            WIDTH - 16.0,
            escape(self.unit)
        );
        for mark in rates.marks() {
            let (at, bottom) = (x(mark), HEIGHT - BOTTOM);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" stroke=\"#e4e4e4\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{}</text>",
                bottom + 16.0,
                short(mark)
            );
        }
        for mark in values.marks() {
            let at = y(mark);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{mark}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0
            );
        }
        for (n, line) in self.lines.iter().enumerate() {
            let points: Vec<String> = line
                .points
                .iter()
                .map(|(rate, value)| format!("{:.1},{:.1}", x(*rate), y(*value)))
                .collect();
            let dashes = if line.dashed {
                " stroke-dasharray=\"5 4\""
            } else {
                ""
            };
            let at = TOP + 10.0 + 18.0 * n as f64;
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dashes}/>\
                 <line x1=\"{:.1}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"{1}\" stroke-width=\"2\"{dashes}/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                points.join(" "),
                line.color,
                WIDTH - RIGHT + 14.0,
                WIDTH - RIGHT + 42.0,
                WIDTH - RIGHT + 50.0,
                at + 4.0,
                escape(&line.label)
            );
        }
        svg + "</svg>\n"
    }
}
