//! LSMT layers against files that upstream made, against a plain model, and against faults.

mod golden;
mod support;
