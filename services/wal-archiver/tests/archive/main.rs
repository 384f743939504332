//! The archiver as a process, with a real PostgreSQL, a real NATS and a repository in a directory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accidents;
mod damage;
mod disturbed;
mod gaps;
mod index;
mod plain;
mod pruned;
mod pushed;
mod set_back;
mod timelines;
mod world;
