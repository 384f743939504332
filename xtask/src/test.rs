//! Everything that proves the tree: set-up, build, tests, checks. `.ci/run` is exactly this.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::say::{complain, say};
use crate::{check, orphans, setup, workspace};

/// One part, as the summary shows it.
struct Step {
    name: &'static str,
    took: Duration,
    right: bool,
}

/// Runs every part. Without servers or a build nothing after them makes sense; other failures do not keep
/// the rest from being told.
pub(crate) fn run() -> Result<()> {
    let mut steps = Vec::new();
    let able = step(&mut steps, "set-up", set_up) && step(&mut steps, "build", build);
    if able {
        let _ = step(&mut steps, "tests", tests);
        let _ = step(&mut steps, "check", || check::run(true));
    }
    summary(&steps)
}

fn step(steps: &mut Vec<Step>, name: &'static str, part: impl FnOnce() -> Result<()>) -> bool {
    say(&format!("== {name}"));
    let begin = Instant::now();
    let outcome = part();
    if let Err(error) = &outcome {
        complain(&format!("error: {error:#}"));
    }
    steps.push(Step {
        name,
        took: begin.elapsed(),
        right: outcome.is_ok(),
    });
    outcome.is_ok()
}

fn set_up() -> Result<()> {
    setup::run()?;
    orphans::remove()
}

/// Programs too: the integration tests start them from the target directory.
fn build() -> Result<()> {
    workspace::cargo(&["build", "--quiet", "--workspace", "--all-targets"])
}

/// With nextest where it is installed; it does not run documentation tests.
fn tests() -> Result<()> {
    if !workspace::has("nextest") {
        return workspace::cargo(&["test", "--quiet", "--workspace", "--no-fail-fast"]);
    }
    let shown = [
        "--status-level=slow",
        "--final-status-level=fail",
        "--no-fail-fast",
    ];
    let whole = [
        &["nextest", "run", "--workspace", "--cargo-quiet"][..],
        &shown,
    ]
    .concat();
    let units = workspace::cargo(&whole);
    let documentation = workspace::cargo(&["test", "--quiet", "--workspace", "--doc"]);
    units.and(documentation)
}

fn summary(steps: &[Step]) -> Result<()> {
    say("== summary");
    for step in steps {
        let outcome = if step.right { "ok" } else { "FAILED" };
        say(&format!(
            "{:<10} {outcome:<6} {:>6.1} s",
            step.name,
            step.took.as_secs_f64()
        ));
    }
    let failed: Vec<_> = steps
        .iter()
        .filter(|step| !step.right)
        .map(|step| step.name)
        .collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
