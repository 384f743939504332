//! The stories, each told on real servers. One binary, so that it links once.

mod alerts;
mod attempts;
mod branches;
mod drills;
mod exactness;
mod idle;
mod loss;
mod memory;
mod moments;
mod month;
mod names;
mod pools;
mod promotion;
mod pushed;
mod random_targets;
mod rebuild;
mod recovery_point;
mod small_disk;
mod survival;
mod tracing;
mod verified;
