//! `zektor series`: how the backups and the WAL of a branch have grown.

use std::time::Duration;

use events::query::{self, BackupPoint, SeriesView, WalPoint};

use crate::arguments::{Metric, SeriesArguments};
use crate::failure::Failure;
use crate::moment;
use crate::output::{Reply, day, exact, minute, size, span, table};
use crate::session::Session;

/// Columns of a sparkline; more points than this share them.
const WIDTH: usize = 60;
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Shows series.
pub(crate) async fn series(session: &Session, given: SeriesArguments) -> Result<Reply, Failure> {
    let parsed = |text: Option<&String>| text.map(|text| moment::parse(text)).transpose();
    let (from, to) = (parsed(given.from.as_ref())?, parsed(given.to.as_ref())?);
    moment::in_order(from, to)?;
    let question = query::Series {
        instance: given.instance,
        branch: given.branch,
        from,
        to,
    };
    let mut view = session.ask_patiently(&question).await?;
    match given.metric {
        None => {}
        Some(Metric::Wal) => view.backups.clear(),
        Some(Metric::BackupSize | Metric::BackupDuration) => view.wal.clear(),
    }
    let text = text(&view, given.metric);
    Reply::new(&view, text)
}

fn text(view: &SeriesView, metric: Option<Metric>) -> String {
    let wanted = |one: Metric| metric.is_none_or(|metric| metric == one);
    let mut parts = Vec::new();
    if wanted(Metric::Wal) {
        parts.push(of_wal(&view.wal));
    }
    let (sizes, durations) = (wanted(Metric::BackupSize), wanted(Metric::BackupDuration));
    if sizes || durations {
        parts.push(of_backups(&view.backups, sizes, durations));
        if view.earlier_left_out {
            parts.push(format!(
                "Only the newest {} backups of this time are shown; those before them: --to {}\n",
                view.backups.len(),
                view.backups
                    .first()
                    .map_or_else(String::new, |one| exact(one.at))
            ));
        }
    }
    parts.join("\n")
}

fn of_wal(days: &[WalPoint]) -> String {
    if days.is_empty() {
        return "No WAL came or went in this time.\n".to_owned();
    }
    let line = sparkline(days.iter().map(|point| point.stored_bytes));
    let rows = days.iter().map(|point| {
        vec![
            day(point.day),
            size(point.added_bytes),
            size(point.pruned_bytes),
            size(point.stored_bytes),
        ]
    });
    let rows = table(&["day (utc)", "added", "pruned", "stored"], rows.collect());
    format!("WAL stored  {line}\n\n{rows}\n")
}

fn of_backups(backups: &[BackupPoint], sizes: bool, durations: bool) -> String {
    if backups.is_empty() {
        return "No backup ended in this time.\n".to_owned();
    }
    let mut text = String::new();
    let mut header = vec!["backup", "ended (utc)"];
    if sizes {
        let line = sparkline(backups.iter().map(|point| point.size_bytes));
        text.push_str(&format!("Backup size      {line}\n"));
        header.extend(["stored", "of"]);
    }
    if durations {
        let line = sparkline(backups.iter().map(|point| point.duration_ms));
        text.push_str(&format!("Backup duration  {line}\n"));
        header.push("took");
    }
    let rows = backups.iter().map(|point| {
        let mut row = vec![point.id.to_string(), minute(point.at)];
        if sizes {
            row.extend([size(point.size_bytes), size(point.logical_bytes)]);
        }
        row.extend(durations.then(|| span(Duration::from_millis(point.duration_ms))));
        row
    });
    text.push_str(&format!("\n{}\n", table(&header, rows.collect())));
    text
}

/// A line as high as the values are, from nothing to the largest; of points that share a column the largest counts.
fn sparkline(values: impl Iterator<Item = u64>) -> String {
    let values: Vec<u64> = values.collect();
    let share = values.len().div_ceil(WIDTH).max(1);
    let most = u128::from(values.iter().copied().max().unwrap_or(0).max(1));
    let level = |points: &[u64]| {
        let highest = u128::from(points.iter().copied().max().unwrap_or(0));
        let level = usize::try_from(highest * (LEVELS.len() as u128 - 1) / most);
        level.ok().and_then(|level| LEVELS.get(level))
    };
    values.chunks(share).filter_map(level).collect()
}

#[cfg(test)]
mod tests {
    use events::example;
    use events::query::{BackupPoint, SeriesView, WalPoint};

    use super::{Duration, Metric, WIDTH, size, span, sparkline, text};

    #[test]
    fn a_line_is_as_high_as_its_values() {
        assert_eq!(sparkline([0, 1, 7, 14].into_iter()), "▁▁▄█");
        assert_eq!(sparkline([0, 0].into_iter()), "▁▁");
        assert_eq!(sparkline([u64::MAX, u64::MAX / 2].into_iter()), "█▄");
        assert_eq!(sparkline(std::iter::empty()), "");
        let many = sparkline((0..1000).map(|value| value % 17));
        assert!(many.chars().count() <= WIDTH, "{many}");
    }

    #[test]
    fn only_what_was_asked_for_is_shown() {
        let view = SeriesView {
            backups: vec![BackupPoint {
                id: example::backup_summary().backup_id,
                at: example::at(0),
                size_bytes: 3 << 20,
                logical_bytes: 5 << 20,
                duration_ms: 90_000,
            }],
            wal: vec![WalPoint {
                day: example::at(0),
                added_bytes: 7 << 20,
                pruned_bytes: 0,
                stored_bytes: 9 << 20,
            }],
            earlier_left_out: false,
        };
        let shown = |metric| {
            let text = text(&view, metric);
            let values = [size(3 << 20), span(Duration::from_secs(90)), size(9 << 20)];
            values.map(|value| text.contains(&value))
        };
        assert!(!text(&view, None).contains("Only the newest"));
        let cut = SeriesView {
            earlier_left_out: true,
            ..view.clone()
        };
        assert!(text(&cut, None).contains("Only the newest 1 backups"));
        assert!(!text(&cut, Some(Metric::Wal)).contains("Only the newest"));
        assert_eq!(shown(None), [true, true, true], "{}", text(&view, None));
        assert_eq!(shown(Some(Metric::Wal)), [false, false, true]);
        assert_eq!(shown(Some(Metric::BackupSize)), [true, false, false]);
        assert_eq!(shown(Some(Metric::BackupDuration)), [false, true, false]);
    }
}
