//! The planner: examples as tables, and random histories held against an oracle that walks every segment.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod clocks;
mod examples;
mod histories;
mod leftovers;
mod lines;
mod oracle;
mod table;
mod world;
