//! The printed figures.

/// All measurements, and how many results were late.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) late: u64,
    figures: Vec<Figure>,
}

struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    aim: &'static str,
}

impl Report {
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &'static str, aim: &'static str) {
        self.figures.push(Figure {
            name: name.to_owned(),
            value,
            unit,
            aim,
        });
    }

    pub(crate) fn print(&self) {
        println!("\n{:<44} {:>12} {:<8} aim", "", "", "");
        for figure in &self.figures {
            println!(
                "{:<44} {:>12.2} {:<8} {}",
                figure.name.replace('_', " "),
                figure.value,
                figure.unit,
                figure.aim
            );
        }
        println!();
        for figure in &self.figures {
            println!(
                "measured {} {:.2} {} (aim {})",
                figure.name, figure.value, figure.unit, figure.aim
            );
        }
    }
}

/// The value below which this percentage of the values lies.
pub(crate) fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(place).copied().unwrap_or(f64::NAN)
}
