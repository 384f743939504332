//! The embedded stack: NATS and every service as child processes on one machine, in one directory.
//!
//! `zektor up` starts a supervisor, which starts the rest, restarts what dies, and takes all of it down with
//! itself. What must stay true: one supervisor a home; nothing listens but on loopback; the state file
//! is written last, when everything is ready, and only its owner can read it; what a killed supervisor
//! left behind is ended before anything is started again.

mod children;
mod home;
mod layout;
mod nats;
mod orphans;
mod process;
mod supervisor;

pub(crate) use home::Home;
pub(crate) use layout::{StackState, StateError};
pub(crate) use orphans::end_orphans;
pub(crate) use process::{ProcessId, ProcessView, is_supervisor, look_at};
pub(crate) use supervisor::{Supervisor, SupervisorError};
