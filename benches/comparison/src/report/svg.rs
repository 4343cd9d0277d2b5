//! Horizontal bars, drawn by hand: a few kilobytes, in the reader's font.

use std::fmt::Write as _;

/// A chart of groups, with one bar per series in each.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) unit: &'static str,
    pub(super) series: Vec<String>,
    pub(super) groups: Vec<Group>,
    /// Whether a group's bars are drawn behind each other instead of below.
    pub(super) stacked: bool,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) label: String,
    /// `None` if a series has no value.
    pub(super) bars: Vec<Option<Bar>>,
    pub(super) highlighted: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub(super) value: f64,
    /// From the minimum to the maximum.
    pub(super) range: Option<(f64, f64)>,
}

const COLOURS: [&str; 3] = ["#2563a8", "#8fb8de", "#d8a24a"];
const WIDTH: f64 = 860.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 90.0;
const BAR: f64 = 13.0;
const GAP: f64 = 10.0;
const TOP: f64 = 64.0;

impl Chart {
    pub(super) fn draw(&self) -> String {
        let height = TOP
            + self
                .groups
                .iter()
                .map(|group| self.height(group) + GAP)
                .sum::<f64>()
            + 34.0;
        let most = self.most();
        let step = step(most);
        let x = |value: f64| LEFT + value / most * (WIDTH - LEFT - RIGHT);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
             height=\"{height:.0}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <title>{0}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"600\">{0}</text>\n",
            escape(&self.title)
        );
        self.draw_legend(&mut svg);
        let bottom = height - 26.0;
        let mut tick = 0.0;
        while tick <= most {
            let at = x(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" stroke=\"#e4e4e4\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{}</text>",
                TOP - 6.0,
                bottom + 16.0,
                short(tick)
            );
            tick += step;
        }
        let mut y = TOP;
        for group in &self.groups {
            let height = self.height(group);
            let weight = if group.highlighted {
                " font-weight=\"700\""
            } else {
                ""
            };
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\"{weight}>{}</text>",
                LEFT - 10.0,
                y + height / 2.0 + 4.0,
                escape(&group.label)
            );
            self.draw_group(&mut svg, group, y, &x);
            y += height + GAP;
        }
        svg + "</svg>\n"
    }

    fn height(&self, group: &Group) -> f64 {
        let bars = group.bars.iter().flatten().count().max(1);
        if self.stacked {
            BAR * 1.5
        } else {
            BAR * bars as f64
        }
    }

    fn most(&self) -> f64 {
        let of_group = |group: &Group| -> f64 {
            let bars = group.bars.iter().flatten();
            if self.stacked {
                bars.map(|bar| bar.value).sum()
            } else {
                bars.map(|bar| bar.range.map_or(bar.value, |range| range.1))
                    .fold(0.0, f64::max)
            }
        };
        self.groups
            .iter()
            .map(of_group)
            .fold(f64::MIN_POSITIVE, f64::max)
            * 1.02
    }

    fn draw_legend(&self, svg: &mut String) {
        let mut x = 16.0;
        for (series, colour) in self.series.iter().zip(COLOURS) {
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"36\" width=\"11\" height=\"11\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"46\">{}</text>",
                x + 16.0,
                escape(series)
            );
            x += 40.0 + 6.6 * series.chars().count() as f64;
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"46\" text-anchor=\"end\" fill=\"#666\">{}</text>",
            WIDTH - 16.0,
            escape(self.unit)
        );
    }

    fn draw_group(&self, svg: &mut String, group: &Group, top: f64, x: &impl Fn(f64) -> f64) {
        let (mut y, mut before, mut total) = (top, 0.0, 0.0);
        let height = if self.stacked { BAR * 1.5 } else { BAR };
        for (bar, colour) in group.bars.iter().zip(COLOURS) {
            let Some(bar) = bar else { continue };
            let (from, to) = (x(before), x(before + bar.value));
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                y + 1.0,
                (to - from).max(0.5),
                height - 2.0
            );
            total += bar.value;
            if self.stacked {
                before += bar.value;
                continue;
            }
            let mut label_at = to;
            if let Some((least, most)) = bar.range {
                let middle = y + height / 2.0;
                let _ = writeln!(
                    svg,
                    "<line x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\" stroke=\"#222\" stroke-opacity=\"0.55\"/>",
                    x(least),
                    x(most)
                );
                label_at = label_at.max(x(most));
            }
            label(svg, label_at, y + height / 2.0, bar.value);
            y += height;
        }
        if self.stacked {
            label(svg, x(before), top + height / 2.0, total);
        }
    }
}

fn label(svg: &mut String, x: f64, middle: f64, value: f64) {
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\" fill=\"#444\">{}</text>",
        x + 5.0,
        middle + 4.0,
        short(value)
    );
}

/// Four to eight ticks.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf(most.log10().floor());
    let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0].map(|n| n * power);
    steps
        .into_iter()
        .find(|step| most / step <= 8.0)
        .unwrap_or(most)
}

pub(super) fn short(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.2}M", value / 1e6)
    } else if value >= 1e4 {
        format!("{:.0}k", value / 1e3)
    } else if value >= 1e3 {
        format!("{:.1}k", value / 1e3)
    } else if value >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
