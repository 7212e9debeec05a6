//! The BPF edge: the embedded object, what the kernel offers, loading, attaching, reading maps. The only place that
//! names aya.

mod adopt;
mod bell;
pub mod facts;
pub mod format;
mod functions;
#[cfg(test)]
mod kernels;
mod loader;
mod maps;
mod missed;
mod object;
mod paths;
mod retire;
mod tracer;
mod vector_table;

pub use bell::Bell;
pub use loader::{LoadError, Loaded, Sizes};
pub use tracer::{TraceSizes, Tracer};
