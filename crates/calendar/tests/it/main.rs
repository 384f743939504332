//! Fires held against two independent judges: croner, and a clock that is read every minute.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod by_croner;
mod by_minute;
mod model;
mod zones;
