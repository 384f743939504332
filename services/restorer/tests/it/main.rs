//! Restores of real PostgreSQL servers: a source, a repository, a compute directory, and the bus in memory.

mod copy;
mod faults;
mod life;
mod targets;
mod world;
