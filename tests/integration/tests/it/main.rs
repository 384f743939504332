//! The stories, each told on real servers. One binary, so that it links once.

mod branches;
mod exactness;
mod loss;
mod memory;
mod rebuild;
mod survival;
mod tracing;
mod verified;
