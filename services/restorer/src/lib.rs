//! The restorer: builds a branch at a point in time, and owns the compute it runs on.
//!
//! `plan` decides what a restore will do and refuses what cannot succeed. What must stay true: the source
//! branch's prefix is only read; recovery is never told "absent" for "could not ask" and never given WAL
//! beyond the plan's end; nobody can connect before the source's passwords are gone; a restore that failed
//! leaves nothing behind.

pub mod attempt;
pub mod branches;
pub mod collations;
pub mod compute;
pub mod config;
pub mod control;
pub mod damage;
pub mod drill;
pub mod error;
pub mod extensions;
pub mod fetch;
mod freshness;
pub mod handlers;
mod hazards;
pub mod index;
pub mod metrics;
pub mod moments;
pub mod opening;
pub mod outcome;
pub mod plan;
mod planning;
pub mod preflight;
pub mod questions;
mod raise;
pub mod recovery;
pub mod restorer;
pub mod served;
pub mod server_sql;
pub mod settings;
pub mod site;
pub mod voice;
pub mod window;
