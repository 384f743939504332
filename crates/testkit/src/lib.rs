//! Real peers for tests: NATS, PostgreSQL, an S3 server, an OTLP receiver, a faulty network, our own binaries.
//!
//! What must stay true:
//!
//! - Everything listens on loopback, on a port reserved across processes ([`port`]), so tests run in parallel.
//! - A server keeps its port and its files when it is killed and started again.
//! - Nothing outlives its test: dropped servers are killed, and a watchdog kills them when the test
//!   process itself is killed.
//! - Waiting is for facts, with a deadline that names the fact ([`wait_until`]). Nothing sleeps and hopes.
//!
//! The servers come from [`provision`]; `cargo xtask setup` installs them.
#![allow(
    clippy::disallowed_methods,
    reason = "for tests: the environment and the clock of the machine are part of what is tested"
)]

mod child;
mod fake_clock;
pub mod http;
pub mod nats;
pub mod otlp;
pub mod port;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod s3;
mod tools;
mod wait;

pub use fake_clock::FakeClock;
pub use tools::{temporary_directory, tool};
pub use wait::{START_TIMEOUT, wait_until};
