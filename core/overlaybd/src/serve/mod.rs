//! Front ends: request in, completion out.

pub mod pool;
