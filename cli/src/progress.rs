//! What a wait looks like: a bar on a terminal, a plain line every few seconds elsewhere. Always on stderr.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::output::{note, size};

/// How often the same phase is said again without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const SPINNER_INTERVAL: Duration = Duration::from_millis(120);

/// A wait that is shown.
pub(crate) struct Progress {
    view: View,
    phase: String,
}

enum View {
    Bar(ProgressBar),
    Lines { last: Option<Instant> },
}

impl Progress {
    /// On the terminal, if stderr is one.
    pub(crate) fn start(phase: &str) -> Progress {
        let view = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(SPINNER_INTERVAL);
            View::Bar(bar)
        } else {
            View::Lines { last: None }
        };
        let mut progress = Progress {
            view,
            phase: String::new(),
        };
        progress.enter(phase);
        progress
    }

    /// A phase whose length is not known.
    pub(crate) fn enter(&mut self, phase: &str) {
        self.show(phase, 0, 0);
    }

    /// So many bytes of so many; zero in all if that is not known.
    pub(crate) fn show(&mut self, phase: &str, done: u64, total: u64) {
        let changed = self.phase != phase;
        phase.clone_into(&mut self.phase);
        match &mut self.view {
            View::Bar(bar) => {
                if changed {
                    bar.set_style(style(total > 0));
                } else if total > 0 && bar.length().is_none() {
                    bar.set_style(style(true));
                }
                bar.set_message(phase.to_owned());
                if total > 0 {
                    bar.set_length(total);
                    bar.set_position(done.min(total));
                } else {
                    bar.unset_length();
                }
            }
            View::Lines { last } => {
                if changed || last.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
                    *last = Some(Instant::now());
                    note(&line(phase, done, total));
                }
            }
        }
    }
}

/// What an attempt is said to do; every one but the first says that it is another one.
pub(crate) fn attempt(number: u32, what: &str) -> String {
    attempt_after(number, None, what)
}

/// The same, where it may be known why the one before came to nothing.
pub(crate) fn attempt_after(number: u32, problem: Option<&str>, what: &str) -> String {
    match (number, problem) {
        (0 | 1, _) => what.to_owned(),
        (_, None) => format!(
            "attempt {number}, since the one before did not come to its end (the log of its service says why): {what}"
        ),
        (_, Some(problem)) => {
            format!("attempt {number}, since the one before came to nothing ({problem}): {what}")
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

fn line(phase: &str, done: u64, total: u64) -> String {
    if total == 0 {
        return phase.to_owned();
    }
    let percent = u128::from(done.min(total)) * 100 / u128::from(total);
    format!("{phase}: {} of {} ({percent} %)", size(done), size(total))
}

fn style(with_length: bool) -> ProgressStyle {
    let template = match with_length {
        true => "{spinner} {msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {elapsed}",
        false => "{spinner} {msg} {elapsed}",
    };
    let style = if with_length {
        ProgressStyle::default_bar()
    } else {
        ProgressStyle::default_spinner()
    };
    // Fails only for a template that is not one.
    style
        .clone()
        .template(template)
        .unwrap_or(style)
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::{attempt, attempt_after, line, style};

    #[test]
    fn another_attempt_is_said_to_be_one() {
        assert_eq!(attempt(1, "taken by w"), "taken by w");
        let second = attempt(2, "taken by w");
        assert!(
            second.starts_with("attempt 2") && second.ends_with("taken by w"),
            "{second}"
        );
        let third = attempt_after(3, Some("connection refused"), "taken by w");
        assert!(third.contains("connection refused"), "{third}");
    }

    #[test]
    fn lines_are_plain() {
        assert_eq!(line("copying", 0, 0), "copying");
        assert_eq!(
            line("copying", 512, 1024),
            "copying: 512 B of 1.0 KiB (50 %)"
        );
        assert!(line("copying", u64::MAX, 1024).ends_with("(100 %)"));
        let _ = (style(true), style(false));
    }
}
