//! Line charts with logarithmic axes, drawn by hand.

use std::fmt::Write as _;

use super::svg::{escape, short};

/// A chart of values by a rate, in panels below each other. Each panel has a scale of its own for
/// the values. All panels have the same scale for the rates.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) title: String,
    pub(super) unit: &'static str,
    pub(super) panels: Vec<Panel>,
}

#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) lines: Vec<Line>,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) label: String,
    pub(super) color: &'static str,
    /// The rate and the value, by rising rate.
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 44.0;
/// The height of a panel: its title, its lines, and the marks below them.
const PANEL: f64 = 270.0;
const PANEL_TITLE: f64 = 22.0;
const PANEL_MARKS: f64 = 34.0;

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
        let height = TOP + PANEL * self.panels.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <title>{0}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"600\">{0}</text>\n\
             <text x=\"{1:.1}\" y=\"24\" text-anchor=\"end\" fill=\"#666\">{2}, by requests a second</text>\n",
            escape(&self.title),
            WIDTH - 16.0,
            escape(self.unit)
        );
        let points = self.panels.iter().flat_map(Panel::points);
        let rates = Axis::of(points.map(|point| point.0));
        for (n, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut svg, rates, TOP + PANEL * n as f64);
        }
        svg + "</svg>\n"
    }
}

impl Panel {
    fn points(&self) -> impl Iterator<Item = &(f64, f64)> + Clone {
        self.lines.iter().flat_map(|line| line.points.iter())
    }

    fn draw(&self, svg: &mut String, rates: Axis, top: f64) {
        let values = Axis::of(self.points().map(|point| point.1));
        let (upper, lower) = (top + PANEL_TITLE, top + PANEL - PANEL_MARKS);
        let x = |rate| LEFT + rates.place(rate) * (WIDTH - LEFT - RIGHT);
        let y = |value| lower - values.place(value) * (lower - upper);
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"600\">{}</text>",
            top + 12.0,
            escape(&self.title)
        );
        for mark in rates.marks() {
            let at = x(mark);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{upper}\" x2=\"{at:.1}\" y2=\"{lower:.1}\" stroke=\"#e4e4e4\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{}</text>",
                lower + 16.0,
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
            let points = || {
                let points = line.points.iter();
                points.map(|(rate, value)| (x(*rate), y(*value)))
            };
            let joined: Vec<_> = points().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let at = upper + 10.0 + 18.0 * n as f64;
            let _ = write!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\
                 <line x1=\"{:.1}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"{1}\" stroke-width=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                joined.join(" "),
                line.color,
                WIDTH - RIGHT + 14.0,
                WIDTH - RIGHT + 42.0,
                WIDTH - RIGHT + 50.0,
                at + 4.0,
                escape(&line.label)
            );
            // A line of one point would not be visible.
            for (x, y) in points() {
                let color = line.color;
                let _ = write!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>"
                );
            }
            svg.push('\n');
        }
    }
}
