//! What the compiler does not check: who uses whom, how long files are, what the schemas say.

mod arrows;
mod lint;
mod sizes;

use anyhow::{Result, bail};

use crate::say::complain;
use crate::schemas;

/// A check's name, and how it is run.
type Check = (&'static str, fn() -> Result<()>);

/// Runs every check, each with a line of its own, also after one has failed.
pub(crate) fn run(with_lint: bool) -> Result<()> {
    let checks: [Check; 3] = [
        ("arrows", arrows::check),
        ("sizes", sizes::check),
        ("schemas", schemas::check),
    ];
    let lints: [Check; 3] = [
        ("fmt", lint::fmt),
        ("clippy", lint::clippy),
        ("deny", lint::deny),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks
        .into_iter()
        .chain(lints.into_iter().filter(|_| with_lint))
    {
        if let Err(error) = check() {
            complain(&format!("{name}: {error:#}"));
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("not right: {}", failed.join(", "));
    }
    Ok(())
}
