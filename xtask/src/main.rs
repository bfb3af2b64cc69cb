//! Repository chores: generated documents and the tidy checks.

fn main() {}
