//! The client against a scripted server (for what a real one does rarely) and against real ones.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod base_backup;
mod base_backup_14_scripted;
mod base_backup_scripted;
mod login_scripted;
mod real;
mod script;
mod tls;
mod wal_real;
mod wal_scripted;
