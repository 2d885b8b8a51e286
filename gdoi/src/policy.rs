//! Policies and keys of the model, and the payloads that tell them: the only place where both are known.

pub(crate) mod algorithms;
pub(crate) mod selectors;
pub(crate) mod size;
pub(crate) mod streams;
pub(crate) mod take;
pub(crate) mod tell;
pub(crate) mod tree;
