//! The `staticfire` binary.

fn main() {}
