//! An open image: stack of lowers, an upper, and the device they make.
