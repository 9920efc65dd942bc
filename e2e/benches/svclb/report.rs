//! What the bench says: figures, as one Markdown table for people and as JSON for machines.

use std::fmt::Write;

use serde::Serialize;

use crate::sample::Samples;

/// Which way a quantity is better.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// One line of the table.
#[derive(Clone, Serialize)]
pub(crate) struct Figure {
    /// `pod`, `datapath`, `control` or `scale`.
    pub(crate) part: &'static str,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// The median, or the quantile that the name tells.
    pub(crate) ours: f64,
    /// The same of what ours is compared with, where there is anything.
    pub(crate) theirs: Option<f64>,
    /// Above 1 in our favour.
    pub(crate) ratio: Option<f64>,
    /// Half the distance between the quartiles over the median; none of a single run.
    pub(crate) ours_spread: Option<f64>,
    pub(crate) theirs_spread: Option<f64>,
    /// Measurements of ours, and of theirs.
    pub(crate) ours_runs: usize,
    pub(crate) theirs_runs: usize,
    /// What `theirs` is.
    pub(crate) against: Option<&'static str>,
    /// What has to be known to read the line right.
    pub(crate) note: Option<String>,
    /// Which quantile it is, if not the median.
    #[serde(skip)]
    quantile: Option<f64>,
}

impl Figure {
    /// A figure that stands alone until [`Figure::against`] gives it something to stand beside.
    pub(crate) fn new(
        part: &'static str,
        name: impl Into<String>,
        unit: &'static str,
        better: Better,
        ours: &Samples,
    ) -> Self {
        Self {
            part,
            name: name.into(),
            unit,
            better,
            ours: ours.median(),
            theirs: None,
            ratio: None,
            ours_spread: ours.spread(),
            theirs_spread: None,
            ours_runs: ours.len(),
            theirs_runs: 0,
            against: None,
            note: None,
            quantile: None,
        }
    }

    /// Makes it a figure of the slowest or the largest instead: of the measurement that `fraction`
    /// of all do not exceed. `ours` are the same measurements.
    pub(crate) fn quantile(mut self, ours: &Samples, fraction: f64) -> Self {
        self.quantile = Some(fraction);
        self.ours = ours.quantile(fraction);
        self.ours_spread = None;
        self
    }

    /// Sets the figure against the same quantity of somebody else.
    pub(crate) fn against(mut self, who: &'static str, theirs: &Samples) -> Self {
        let value = self
            .quantile
            .map_or_else(|| theirs.median(), |fraction| theirs.quantile(fraction));
        self.theirs = Some(value);
        self.theirs_spread = if self.quantile.is_none() {
            theirs.spread()
        } else {
            None
        };
        self.theirs_runs = theirs.len();
        self.against = Some(who);
        let (numerator, denominator) = match self.better {
            Better::Lower => (value, self.ours),
            Better::Higher => (self.ours, value),
        };
        self.ratio = (denominator != 0.0).then(|| numerator / denominator);
        self
    }

    /// Adds what the reader has to know.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

/// "kernel", "CPUs" and so on, with what they are.
pub(crate) type Fact = (&'static str, String);

/// Where and on what the figures were measured.
#[derive(Clone, Serialize)]
pub(crate) struct Setting {
    /// UTC, RFC 3339.
    pub(crate) date: String,
    /// In the order of printing.
    pub(crate) facts: Vec<Fact>,
}

/// All that one run of the bench has to say.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) setting: Setting,
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    /// The report as Markdown whose table also reads well as plain text.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("Measured {}.\n\n", self.setting.date);
        for (name, value) in &self.setting.facts {
            let _ = writeln!(text, "- {name}: {value}");
        }
        let mut notes: Vec<&str> = Vec::new();
        let mut rows = vec![
            [
                "part",
                "figure",
                "unit",
                "ours",
                "theirs",
                "ratio",
                "spread",
                "runs",
                "theirs is",
            ]
            .map(String::from),
        ];
        rows.extend(self.figures.iter().map(|figure| row(figure, &mut notes)));
        let _ = write!(text, "\n{}", table(&rows));
        text.push_str(
            "\nOurs and theirs are medians where the figure says nothing else; a ratio above 1 is in \
             our favour; the spread is half the distance between the quartiles, of ours and of \
             theirs.\n",
        );
        for (index, note) in notes.iter().enumerate() {
            let _ = writeln!(text, "\n[{}] {note}", index + 1);
        }
        text
    }
}

/// The cells of one figure. Equal notes share a number.
fn row<'a>(figure: &'a Figure, notes: &mut Vec<&'a str>) -> [String; 9] {
    let mark = figure.note.as_deref().map_or(String::new(), |note| {
        let index = notes
            .iter()
            .position(|known| *known == note)
            .unwrap_or_else(|| {
                notes.push(note);
                notes.len() - 1
            });
        format!(" [{}]", index + 1)
    });
    let none = || "–".to_owned();
    let percent = |spread: Option<f64>| spread.map_or_else(none, |s| format!("±{:.0}%", s * 100.0));
    let compared = figure.theirs.is_some();
    [
        figure.part.to_owned(),
        format!("{}{mark}", figure.name),
        figure.unit.to_owned(),
        number(figure.ours),
        figure.theirs.map_or_else(none, number),
        figure.ratio.map_or_else(none, number),
        match compared {
            true => format!(
                "{} / {}",
                percent(figure.ours_spread),
                percent(figure.theirs_spread)
            ),
            false => percent(figure.ours_spread),
        },
        match compared && figure.ours_runs != figure.theirs_runs {
            true => format!("{} / {}", figure.ours_runs, figure.theirs_runs),
            false => figure.ours_runs.to_string(),
        },
        figure.against.map_or_else(none, str::to_owned),
    ]
}

/// Three significant digits, whole numbers of more kept whole, with separators from 10,000 on.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 10_000.0 {
        let digits = format!("{value:.0}");
        let (sign, digits) = digits
            .strip_prefix('-')
            .map_or(("", digits.as_str()), |d| ("-", d));
        let groups: Vec<&str> = digits
            .as_bytes()
            .rchunks(3)
            .rev()
            .filter_map(|group| std::str::from_utf8(group).ok())
            .collect();
        return format!("{sign}{}", groups.join(","));
    }
    let decimals = match magnitude {
        m if m >= 100.0 || m == 0.0 => 0,
        m if m >= 10.0 => 1,
        m if m >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// A Markdown table with aligned columns; the first row is the head. Numbers stand right.
fn table(rows: &[[String; 9]]) -> String {
    const RIGHT: [bool; 9] = [false, false, false, true, true, true, true, true, false];
    let width: [usize; 9] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    });
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = width[column];
            let _ = match RIGHT[column] {
                true => write!(text, "| {cell:>width$} "),
                false => write!(text, "| {cell:<width$} "),
            };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, right) in RIGHT.iter().enumerate() {
                let dashes = "-".repeat(width[column] - 1);
                let _ = match right {
                    true => write!(text, "| {dashes}: "),
                    false => write!(text, "| :{dashes} "),
                };
            }
            text.push_str("|\n");
        }
    }
    text
}
