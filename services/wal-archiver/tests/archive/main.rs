//! The archiver as a process, with a real PostgreSQL, a real NATS and a repository in a directory.

mod disturbed;
mod gaps;
mod plain;
mod timelines;
mod world;
