//! What the stories of `tests/it` are told with: a whole stack of real processes, the `zektor` command as a
//! user runs it, and a database whose every state is remembered.

mod command;
mod ledger;
pub mod oracle;
mod stack;
pub mod workload;

pub use command::Answer;
pub use ledger::{DIGEST, Ledger, Point};
pub use stack::{Builder, Stack, Store};

/// Long enough for a takeover (ack wait 30 s) on a busy machine.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(180);

/// How often a story is told: as often as `name` says, for measuring by hand, or `few` times.
#[must_use]
pub fn rounds(name: &str, few: usize) -> usize {
    // clippy.toml: configuration is read once; this is a test's own.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own setting, read where it is used"
    )]
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(few)
}
