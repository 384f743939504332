//! What records say, from bytes laid out by hand; real ones are compared in `tests/golden.rs`.
