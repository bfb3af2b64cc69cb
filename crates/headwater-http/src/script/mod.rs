//! What the configuration computes per request: regular expressions, variables, complex values.

pub mod complex;
pub mod core_variables;
pub mod pattern;
pub mod pattern_list;
pub mod variables;

pub use complex::{Complex, NameValue, Part, Predicates};
pub use pattern::Pattern;
pub use variables::{Slot, VarIndex, VariableDef, VariableSource, Variables};
