//! LSMT layers against files that upstream made, against a plain model, and against faults.

mod boots;
mod crash;
mod disk;
mod golden;
mod growth;
mod holes;
mod limits;
mod live;
mod live_threads;
mod model;
mod stacks;
mod support;
mod threads;
mod warp;
mod warp_model;
