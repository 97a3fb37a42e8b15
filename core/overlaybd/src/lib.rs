//! Layer formats, lazily read images and front ends of overlaybd.
//!
//! This crate moves bytes: it knows nothing of Python, of configuration files or of credentials.
//! It reaches disk, clock and network only through the traits of [`sys`] and [`fetch`], so that the
//! same code runs on a real machine and in a simulated world with faults on demand.

pub mod apply;
pub mod audit;
pub mod blob;
pub mod cache;
pub mod device;
pub mod disk;
pub mod engine;
pub mod erofs;
pub mod error;
pub mod ext4;
pub mod fetch;
pub mod fs;
pub mod gzip;
pub mod image;
pub mod inspect;
pub mod layer;
pub mod limits;
pub mod lsmt;
pub mod merkle;
pub mod metrics;
pub mod progress;
pub mod qcow2;
pub mod serve;
pub mod sink;
pub mod sync;
pub mod sys;
pub mod tar;
pub mod trace;
pub mod zfile;

pub use error::{Error, Kind, Result};
