//! What the stories of `tests/it` are told with: a whole stack of real processes, the `zektor` command as a
//! user runs it, and a database whose every state is remembered.

mod command;
mod ledger;
mod stack;

pub use command::Answer;
pub use ledger::{DIGEST, Ledger, Point};
pub use stack::{Builder, Stack, Store};

/// Long enough for a takeover (ack wait 30 s) on a busy machine.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(180);
