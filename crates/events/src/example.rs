//! One example of every message: the golden files are made from these, and tests begin with them.

mod commands;
mod events;
mod values;

pub use commands::commands;
pub use events::events;
pub use values::{
    at, backup_summary, drill_summary, drills, instance, mark, restore_summary, restored, schedule,
};
