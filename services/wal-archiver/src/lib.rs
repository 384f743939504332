//! The WAL archiver: keeps every branch's WAL chain unbroken in the repository.
//!
//! One task a branch streams over the branch's physical slot. What must stay true:
//!
//! - WAL is confirmed to PostgreSQL only when the repository has it; the slot holds everything else.
//! - Foreign or damaged WAL is refused, and nothing of it is stored.
//! - Archiving goes on with the bus down; what it would have said is said later, from the repository.
//! - A gap is never passed over in silence.
//! - Memory is bounded by configuration: a read buffer for each branch, one budget for all uploads.

mod announcer;
mod archiver;
mod assignments;
mod branch_task;
mod config;
mod confirm;
mod error;
mod haste;
mod health;
mod index;
mod known_beginning;
mod lease;
mod metrics;
mod position;
mod proof;
mod pushed;
mod receiver;
mod relations;
mod segment_spool;
mod session;
mod slot_risk;
mod start_point;
mod status;
mod uploader;
mod window;

pub use archiver::Archiver;
pub use config::ArchiverConfig;
pub use health::check_repository;
