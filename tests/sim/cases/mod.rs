//! The behaviours, by what they are about.
