//! The headwater binary.

fn main() {}
