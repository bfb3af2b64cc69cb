//! The headwater binary and library facade.
