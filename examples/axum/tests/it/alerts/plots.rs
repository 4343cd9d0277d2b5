//! Draws the panels of the dashboard, as a picture for readers without Grafana.

use std::fmt::Write as _;

use super::prometheus::Panel;

const COLORS: [&str; 7] = [
    "#2563a8", "#d8a24a", "#5b9a68", "#b4513c", "#8fb8de", "#7a6aa0", "#555555",
];
const WIDTH: f64 = 430.0;
const HEIGHT: f64 = 192.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 66.0;
const BOTTOM: f64 = 24.0;

/// Returns an SVG with two panels in a row.
#[expect(clippy::cast_precision_loss, reason = "there are few panels")]
pub(super) fn draw(panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(2);
    let (width, height) = (2.0 * WIDTH, rows as f64 * HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"11\" fill=\"#222\">\n\
         <title>The dashboard during an outage of the database and one of the feed</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let points = panels.iter().flat_map(points);
    let last = points.map(|point| point.0).fold(1.0, f64::max);
    for (number, panel) in panels.iter().enumerate() {
        let (x, y) = ((number % 2) as f64 * WIDTH, (number / 2) as f64 * HEIGHT);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        draw_panel(&mut svg, panel, last);
        svg.push_str("</g>\n");
    }
    svg + "</svg>\n"
}

fn points(panel: &Panel) -> impl Iterator<Item = &(f64, f64)> {
    panel.series.iter().flat_map(|series| &series.points)
}

/// Draws one panel. `last` is the end of the time axis.
fn draw_panel(svg: &mut String, panel: &Panel, last: f64) {
    let most = points(panel).map(|point| point.1).fold(0.0, f64::max);
    let most = if most > 0.0 { most * 1.1 } else { 1.0 };
    let x = |time: f64| LEFT + time / last * (WIDTH - LEFT - 16.0);
    let y = |value: f64| HEIGHT - BOTTOM - value / most * (HEIGHT - TOP - BOTTOM);
    let unit = match &*panel.unit {
        "s" => "seconds",
        "short" => "",
        _ => "per second",
    };
    let _ = writeln!(
        svg,
        "<text x=\"12\" y=\"20\" font-size=\"13\" font-weight=\"600\">{}</text>\
         <text x=\"{:.0}\" y=\"20\" text-anchor=\"end\" fill=\"#666\">{unit}</text>",
        panel.title,
        WIDTH - 16.0
    );
    for quarter in 0..3 {
        let value = most / 1.1 * f64::from(quarter) / 2.0;
        let at = y(value);
        let digits = if value >= 10.0 || value == 0.0 {
            0
        } else if value >= 0.1 {
            1
        } else {
            4
        };
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{value:.digits$}</text>",
            WIDTH - 16.0,
            LEFT - 6.0,
            at + 4.0
        );
    }
    let mut time = 0.0;
    while time <= last {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{time:.0} s</text>",
            x(time),
            HEIGHT - 8.0
        );
        time += 30.0;
    }
    draw_series(svg, panel, x, y);
}

/// Draws the lines and the legend, which is wrapped.
#[expect(clippy::cast_precision_loss, reason = "a legend is short")]
fn draw_series(svg: &mut String, panel: &Panel, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
    let (mut left, mut top) = (12.0, 29.0);
    for (series, color) in panel.series.iter().zip(COLORS.iter().cycle()) {
        let line = series
            .points
            .iter()
            .fold(String::new(), |mut line, (time, value)| {
                let _ = write!(line, "{:.1},{:.1} ", x(*time), y(*value));
                line
            });
        let width = 24.0 + 6.0 * series.legend.chars().count() as f64;
        if left + width > WIDTH {
            (left, top) = (12.0, top + 13.0);
        }
        let _ = writeln!(
            svg,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
             <rect x=\"{left:.0}\" y=\"{top}\" width=\"9\" height=\"9\" fill=\"{color}\"/>\
             <text x=\"{:.0}\" y=\"{}\">{}</text>",
            left + 13.0,
            top + 8.0,
            series.legend
        );
        left += width;
    }
}
