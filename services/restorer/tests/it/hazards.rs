//! What a branch must not do as its source does.
