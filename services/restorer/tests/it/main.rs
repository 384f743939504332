//! Restores of real PostgreSQL servers: a source, a repository, a compute directory, and the bus in memory.

mod copy;
mod faults;
mod hazards;
mod life;
mod registration;
mod scheduler;
mod targets;
mod world;
