//! Ranged HTTP to a registry.
