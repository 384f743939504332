//! Restores of real PostgreSQL servers: a source, a repository, a compute directory, and the bus in memory.

mod copy;
mod damage;
mod damaged;
mod drills;
mod extensions;
mod faults;
mod full;
mod hazards;
mod holders;
mod last_commit;
mod life;
mod moments;
mod purge;
mod registration;
mod scheduler;
mod sweeps;
mod targets;
mod world;
