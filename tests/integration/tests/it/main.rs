//! The stories, each told on real servers. One binary, so that it links once.

mod exactness;
mod survival;
