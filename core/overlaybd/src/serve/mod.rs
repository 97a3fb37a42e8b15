//! Front ends: request in, completion out.
