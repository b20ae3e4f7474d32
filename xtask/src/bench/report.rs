//! The table, and `target/bench.json`.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use local::workspace_root;
use serde::Serialize;
use time::OffsetDateTime;

use super::{Bench, Machine, target_directory};

/// Where `--record` puts the table, and between which lines.
const DOCUMENT: &str = "docs/PERFORMANCE.md";
const BEGIN: &str = "<!-- cargo bench -- --record: begin -->";
const END: &str = "<!-- end -->";

#[derive(Serialize)]
pub(super) struct Row {
    name: String,
    ours: f64,
    reference: Option<f64>,
    unit: &'static str,
    /// `ours` ÷ `reference`.
    ratio: Option<f64>,
    /// The most that the ratio may be or, without a reference, the value.
    target: Option<f64>,
    met: Option<bool>,
}

impl Row {
    pub(super) fn alone(name: impl Into<String>, unit: &'static str, ours: f64) -> Self {
        Self { name: name.into(), ours, reference: None, unit, ratio: None, target: None, met: None }
    }

    pub(super) fn beside(name: impl Into<String>, unit: &'static str, ours: f64, reference: f64) -> Self {
        Self { reference: Some(reference), ratio: Some(ours / reference), ..Self::alone(name, unit, ours) }
    }

    pub(super) fn at_most(self, target: f64) -> Self {
        let met = self.ratio.unwrap_or(self.ours) <= target;
        Self { target: Some(target), met: Some(met), ..self }
    }
}

/// Sizes of the functions' binaries, and of what Lambda is sent.
pub(super) fn sizes(bench: &Bench) -> Result<Vec<Row>> {
    bench.progress("sizes");
    let mut rows = Vec::new();
    // Binaries with debug information are large, and one shows as much as all.
    for function in bench.functions.iter().take(if bench.quick { 1 } else { usize::MAX }) {
        let path = bench.binary(function)?;
        let binary = fs::read(&path)?;
        // A zip of one file is what gzip makes of it, and a hundred bytes.
        let zip = Command::new("gzip").arg("--stdout").arg(&path).output()?;
        ensure!(zip.status.success(), "gzip failed");
        let has_sdk = binary.windows(14).any(|window| window == b"secretsmanager");
        let megabytes = |bytes: &[u8]| bytes.len() as f64 / 1e6;
        rows.push(Row::alone(format!("size {function}: binary"), "MB", megabytes(&binary)).at_most(12.0));
        let limit = if has_sdk { 4.0 } else { 2.0 };
        rows.push(Row::alone(format!("size {function}: zip"), "MB", megabytes(&zip.stdout)).at_most(limit));
    }
    Ok(rows)
}

/// Says what was measured. The figures of a development build would only mislead.
pub(super) fn finish_quickly(rows: &[Row], took: Duration) -> Result<()> {
    ensure!(rows.iter().all(|row| row.ours.is_finite() && row.ours > 0.0), "a row has no figure:\n{}", table(rows));
    println!("{} rows can be measured; {:.0} s.", rows.len(), took.as_secs_f64());
    Ok(())
}

/// Prints and stores the figures; with `record`, also in the document.
pub(super) fn finish(rows: &[Row], machine: &Machine, took: Duration, record: bool) -> Result<()> {
    let table = table(rows);
    let file = target_directory().join("bench.json");
    fs::write(&file, serde_json::to_string_pretty(rows)?)?;
    let (met, missed): (Vec<_>, Vec<_>) = rows.iter().filter_map(|row| row.met).partition(|met| *met);
    println!(
        "{table}\n{}; {:.0} s; {} targets met, {} missed; the figures are in {} as well.",
        machine.name(),
        took.as_secs_f64(),
        met.len(),
        missed.len(),
        file.display()
    );
    let noise = machine.noise();
    println!("{}", noise.as_deref().unwrap_or("The machine was quiet."));
    if record {
        ensure!(noise.is_none(), "figures of a busy machine are not recorded");
        let date = OffsetDateTime::now_utc().date();
        put_between(&workspace_root().join(DOCUMENT), &format!("{}, {date}:\n\n{table}", machine.name()))?;
    }
    Ok(())
}

/// Puts figures in the place of those that a document had.
pub(super) fn put_between(path: &Path, figures: &str) -> Result<()> {
    let document = fs::read_to_string(path)?;
    let name = path.display();
    let (before, rest) = document.split_once(BEGIN).with_context(|| format!("{name} has no {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{name} has no {END}"))?;
    Ok(fs::write(path, format!("{before}{BEGIN}\n{}\n{END}{after}", figures.trim_end()))?)
}

pub(super) fn table(rows: &[Row]) -> String {
    let head =
        "| what | ours | reference | unit | ratio | target | met |\n| --- | --: | --: | --- | --: | --: | --- |\n";
    let mut table = head.to_owned();
    for row in rows {
        let number =
            |value: Option<f64>, digits: usize| value.map_or(String::new(), |value| format!("{value:.digits$}"));
        let digits = if row.ours < 100.0 { 2 } else { 0 };
        table += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            row.name,
            number(Some(row.ours), digits),
            number(row.reference, digits),
            row.unit,
            number(row.ratio, 2),
            row.target.map_or(String::new(), |target| format!("≤ {target}")),
            row.met.map_or("", |met| if met { "yes" } else { "**no**" }),
        );
    }
    table
}
